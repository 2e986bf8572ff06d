#include "support/shared_buffers.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "support/hash.h"

namespace octavo {
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

}  // namespace octavo
