// Whether anybody may have written to a tensor's memory, by whatever tensor: a storage calls a hook
// of ours before it gives out a pointer for writing (c10's StorageMaterializer). Version counters
// do not see writes through `p.data`; this does.
#pragma once

#include <c10/core/Storage.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

namespace octavo::aten {

/// Of one storage; every watch of it shares one.
struct WatchedStorage {
  explicit WatchedStorage(c10::StorageImpl* impl)
      : storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(impl)) {}
  c10::weak_intrusive_ptr<c10::StorageImpl> storage;  // keeps its address from being used again
  std::atomic<std::uint64_t> accesses{0};             // pointers for writing that were given out
  std::atomic<bool> armed{false};                     // the hook is there, and was not called
};

/// The memory of a storage from now on.
class WriteWatch {
 public:
  /// Nothing where writes cannot be seen: another tensor, or an array made from one, shares the
  /// memory already; it is not torch's own; another hook is there.
  static std::optional<WriteWatch> start(const c10::Storage& storage);
  /// It is this storage's memory, and nobody may have written to it.
  bool untouched(const c10::Storage& storage) const {
    const c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
    return impl == storage_ && impl->data() == data_ && impl->has_materializer() &&
           state_->accesses.load(std::memory_order_acquire) == accesses_;
  }

 private:
  WriteWatch() = default;
  std::shared_ptr<WatchedStorage> state_;
  const c10::StorageImpl* storage_ = nullptr;
  const void* data_ = nullptr;
  std::uint64_t accesses_ = 0;
};

}  // namespace octavo::aten
