#include "guards.h"

#include <algorithm>

namespace octavo::capture {

GuardProgram::GuardProgram(Sources sources, std::vector<std::pair<Source*, Source*>> distinct,
                           SizeGuards sizes)
    : sources_(std::move(sources)), distinct_(std::move(distinct)), sizes_(std::move(sizes)) {
  // Every other guard, and a value that is wanted, says that something is there.
  for (Source& source : sources_.all())
    if (source.wanted || source.guards.size() > 1)
      std::erase_if(source.guards, [](const Guard& g) { return g.kind == GuardKind::there; });
  for (Source& source : sources_.all())
    if (source.wanted) source.place = static_cast<int>(wanted_++);
}

bool GuardProgram::check(const FrameView& frame, std::vector<Ref>& values,
                         GuardFailure* failure) const {
  std::vector<int64_t> symbols;
  if (quick_.check(sources_, frame, values, symbols) &&
      std::all_of(sizes_.conditions.begin(), sizes_.conditions.end(),
                  [&](const Condition& one) { return capture::holds(one, symbols); }))
    return true;
  return check_all(frame, values, failure);
}

bool GuardProgram::check_all(const FrameView& frame, std::vector<Ref>& values,
                             GuardFailure* failure) const {
  const size_t count = sources_.all().size();
  constexpr size_t few = 256;
  Look small[few];
  std::vector<Look> large;
  Look* looks = small;
  if (count > few) {
    large.resize(count);
    looks = large.data();
  }
  bool all = true;
  size_t seen = 0;
  for (const Source& source : sources_.all()) {
    PyObject* base = source.base ? looks[source.base->id].object : nullptr;
    Look look = source.base && !base ? Look{} : evaluate(source, base, frame);
    looks[seen++] = look;
    for (const Guard& guard : source.guards)
      if (!holds(guard, look.object)) {
        if (failure) *failure = {&source, &guard};
        all = false;
        break;
      }
    if (!all) break;
    if (source.wanted && !look.object) {
      if (failure) *failure = {&source, nullptr};
      all = false;
      break;
    }
  }
  const auto object = [&](const Source* source) { return looks[source->id].object; };
  if (all)
    for (const auto& [a, b] : sources_.same())
      if (object(a) != object(b)) {
        if (failure) *failure = {a, nullptr};
        all = false;
        break;
      }
  if (all && sources_.tensors().size() > 1) {
    std::vector<PyObject*> tensors;
    tensors.reserve(sources_.tensors().size());
    for (const Source* source : sources_.tensors()) tensors.push_back(object(source));
    std::sort(tensors.begin(), tensors.end());
    if (std::adjacent_find(tensors.begin(), tensors.end()) != tensors.end()) {
      if (failure) *failure = {sources_.tensors().front(), nullptr};
      all = false;
    }
  }
  if (all)
    for (const auto& [a, b] : distinct_)
      if (looks[a->id].object == looks[b->id].object) {
        if (failure) *failure = {a, nullptr};
        all = false;
        break;
      }
  if (all) {
    values.resize(wanted_ + sizes_.symbols.size());
    for (const Source& source : sources_.all())
      if (source.wanted)
        values[static_cast<size_t>(source.place)] = Ref::borrow(looks[source.id].object);
    all = sizes_.symbols.empty() || check_sizes(looks, values, failure);
    if (all) quick_.remember(sources_, distinct_, sizes_.symbols, looks);
  }
  for (size_t n = 0; n < seen; ++n)
    if (looks[n].owned) Py_DECREF(looks[n].object);
  return all;
}

// Reads the symbols, of which each is one size however often it stands, and checks the conditions.
bool GuardProgram::check_sizes(const Look* looks, std::vector<Ref>& values,
                               GuardFailure* failure) const {
  std::vector<int64_t> symbols;
  for (const auto& places : sizes_.symbols) {
    int64_t value = -1;
    for (const SymbolPlace& place : places) {
      const int64_t read = size_at(looks[place.source->id].object, place.dim);
      if (read < 2 || (value >= 0 && read != value)) {
        if (failure) *failure = {place.source, nullptr, nullptr};
        return false;
      }
      value = read;
    }
    values[wanted_ + symbols.size()] = Ref::checked(PyLong_FromLongLong(value));
    symbols.push_back(value);
  }
  for (const Condition& condition : sizes_.conditions)
    if (!capture::holds(condition, symbols)) {
      if (failure) *failure = {nullptr, nullptr, &condition};
      return false;
    }
  return true;
}

size_t GuardProgram::guards() const {
  size_t count = distinct_.size() + sizes_.conditions.size();
  for (const auto& places : sizes_.symbols) count += places.size() > 1 ? 1 : 0;
  for (const Source& source : sources_.all()) count += source.guards.size();
  return count;
}

}  // namespace octavo::capture
