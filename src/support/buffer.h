// Bytes that tensors share: 64-byte aligned memory of our own, or a view kept alive by its owner
// (a mapped file, a NumPy array).
#pragma once
#include <cstddef>
#include <memory>

namespace octavo {

class Buffer {
 public:
  // Uninitialised, aligned to 64 bytes, padded to a multiple of 64. Throws std::bad_alloc.
  static std::shared_ptr<Buffer> allocate(size_t bytes);
  // A view of memory that `owner` keeps alive.
  static std::shared_ptr<Buffer> view(const void* data, size_t bytes,
                                      std::shared_ptr<const void> owner);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const std::byte* data() const { return data_; }
  // InternalError for a view, which is read-only.
  std::byte* mutable_data();
  size_t size() const { return size_; }

 private:
  Buffer() = default;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  bool owned_ = false;
  std::shared_ptr<const void> owner_;
};

// Gives the heap's free pages back to the system. Small allocations that outlive large ones leave
// holes between them, which glibc keeps.
void release_free_memory();

}  // namespace octavo
