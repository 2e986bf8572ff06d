#include "support/buffer.h"

#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "support/buffer_bytes.h"
#include "support/error.h"

namespace octavo {
namespace {
std::atomic<int64_t> held{0};
}  // namespace

void release_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

int64_t buffer_bytes() { return held.load(std::memory_order_relaxed); }

std::shared_ptr<Buffer> Buffer::allocate(size_t bytes) {
  std::shared_ptr<Buffer> buffer(new Buffer);
  // What is large lies on huge pages if there are any: outputs are fresh memory at every call, and
  // touching it costs a fault a page.
  constexpr size_t huge = size_t{2} << 20;
  const size_t alignment = bytes >= 2 * huge ? huge : 64;
  const size_t padded = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  buffer->data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, padded));
  if (!buffer->data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == huge) madvise(buffer->data_, padded, MADV_HUGEPAGE);  // a hint: it may fail
#endif
  buffer->size_ = bytes;
  buffer->owned_ = true;
  held.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
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
  if (!owned_) return;
  held.fetch_sub(static_cast<int64_t>(size_), std::memory_order_relaxed);
  std::free(data_);
}

std::byte* Buffer::mutable_data() {
  OCTAVO_CHECK(owned_);
  return data_;
}

}  // namespace octavo
