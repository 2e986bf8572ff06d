#include "write_watch.h"

#include <c10/core/CPUAllocator.h>

#include <mutex>
#include <unordered_map>

namespace octavo::aten {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<const c10::StorageImpl*, std::shared_ptr<WatchedStorage>> watched;
  std::size_t most = 1024;  // entries before those of storages that are gone are looked for
};

Registry& registry() {
  static auto* made = new Registry;  // hooks may be called while the process ends
  return *made;
}

void note_access(c10::StorageImpl* storage) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto found = all.watched.find(storage);
  if (found == all.watched.end()) return;
  found->second->armed = false;
  found->second->accesses.fetch_add(1, std::memory_order_release);
}

}  // namespace

std::optional<WriteWatch> WriteWatch::start(const c10::Storage& storage) {
  c10::StorageImpl* impl = storage.unsafeGetStorageImpl();
  if (storage.use_count() != 1 || !impl->data()) return std::nullopt;
  // Of torch's allocator: memory of an array, a file or another process has other writers.
  if (impl->data_ptr().get_deleter() != c10::GetCPUAllocator()->raw_deleter()) return std::nullopt;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  if (all.watched.size() >= all.most) {
    std::erase_if(all.watched, [](const auto& entry) { return entry.second->storage.expired(); });
    all.most = std::max<std::size_t>(1024, 2 * all.watched.size());
  }
  const auto found = all.watched.find(impl);
  std::shared_ptr<WatchedStorage> state = found == all.watched.end() ? nullptr : found->second;
  if (!state || !state->armed) {
    if (impl->has_materializer()) return std::nullopt;
    if (!state) {
      state = all.watched[impl] = std::make_shared<WatchedStorage>(impl);
    }
    state->armed = true;
    impl->set_materializer(&note_access);
  }
  WriteWatch watch;
  watch.state_ = state;
  watch.storage_ = impl;
  watch.data_ = impl->data();
  watch.accesses_ = state->accesses.load(std::memory_order_acquire);
  return watch;
}

}  // namespace octavo::aten
