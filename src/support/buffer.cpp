#include "support/buffer.h"

#include <sys/mman.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <unordered_map>

#include "support/buffer_bytes.h"
#include "support/error.h"
#include "support/hash.h"

namespace octavo {
namespace {
std::atomic<int64_t> held{0};
}  // namespace

void release_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

namespace {

// Of size and a sample: what differs elsewhere is told apart by its bytes.
uint64_t sample_of(const Buffer& buffer) {
  constexpr size_t step = 4096;
  uint64_t hash = fnv1a_seed ^ buffer.size();
  for (size_t at = 0; at < buffer.size(); at += step)
    hash = fnv1a({buffer.data() + at, std::min<size_t>(64, buffer.size() - at)}, hash);
  return hash;
}

constexpr size_t small = 16 << 10;  // not worth an entry

// Entries whose buffers are gone are swept out when they may be many.
template <class Key, class Entry>
struct Known {
  std::mutex mutex;
  std::unordered_multimap<Key, Entry> entries;
  size_t sweep_at = 256;

  template <class Gone>
  void add(Key key, Entry entry, const Gone& gone) {
    if (entries.size() >= sweep_at) {
      std::erase_if(entries, [&](const auto& known) { return gone(known.second); });
      sweep_at = std::max<size_t>(256, 2 * entries.size());
    }
    entries.emplace(std::move(key), std::move(entry));
  }
};

struct Form {
  std::weak_ptr<const Buffer> source;  // its address may be another's by now
  std::string how;
  std::weak_ptr<Buffer> made;
};

}  // namespace

std::shared_ptr<Buffer> held_once(std::shared_ptr<Buffer> made) {
  if (made->size() < small) return made;
  static auto& all = *new Known<uint64_t, std::weak_ptr<Buffer>>;  // may be outlived by buffers
  const uint64_t sample = sample_of(*made);
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto [first, last] = all.entries.equal_range(sample);
  for (auto at = first; at != last; ++at)
    if (auto other = at->second.lock(); other && other->size() == made->size() &&
                                        std::memcmp(other->data(), made->data(), made->size()) == 0)
      return other;
  all.add(sample, made, [](const std::weak_ptr<Buffer>& entry) { return entry.expired(); });
  return made;
}

std::shared_ptr<Buffer> made_once(const std::shared_ptr<const Buffer>& source,
                                  const std::string& how,
                                  const std::function<std::shared_ptr<Buffer>()>& make) {
  if (!source || source->size() < small) return make();
  static auto& all = *new Known<const Buffer*, Form>;
  {
    const std::lock_guard<std::mutex> lock(all.mutex);
    const auto [first, last] = all.entries.equal_range(source.get());
    for (auto at = first; at != last; ++at)
      if (at->second.how == how && at->second.source.lock() == source)
        if (auto made = at->second.made.lock()) return made;
  }
  auto made = held_once(make());
  const std::lock_guard<std::mutex> lock(all.mutex);
  all.add(source.get(), {source, how, made},
          [](const Form& form) { return form.source.expired() || form.made.expired(); });
  return made;
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
