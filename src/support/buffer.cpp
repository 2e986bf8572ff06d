#include "support/buffer.h"

#include <cstdlib>
#include <new>

#include "support/error.h"

namespace octavo {

std::shared_ptr<Buffer> Buffer::allocate(size_t bytes) {
  std::shared_ptr<Buffer> buffer(new Buffer);
  const size_t padded = (bytes + 63) / 64 * 64;
  buffer->data_ = static_cast<std::byte*>(std::aligned_alloc(64, padded == 0 ? 64 : padded));
  if (!buffer->data_) throw std::bad_alloc();
  buffer->size_ = bytes;
  buffer->owned_ = true;
  return buffer;
}

std::shared_ptr<Buffer> Buffer::view(const void* data, size_t bytes,
                                     std::shared_ptr<const void> owner) {
  std::shared_ptr<Buffer> buffer(new Buffer);
  buffer->data_ = const_cast<std::byte*>(static_cast<const std::byte*>(data));
  buffer->size_ = bytes;
  buffer->owner_ = std::move(owner);
  return buffer;
}

Buffer::~Buffer() {
  if (owned_) std::free(data_);
}

std::byte* Buffer::mutable_data() {
  OCTAVO_CHECK(owned_);
  return data_;
}

}  // namespace octavo
