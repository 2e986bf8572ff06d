#include "quick_check.h"

#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "python_types.h"

namespace octavo::capture {
namespace {

constexpr uint8_t often = 3;   // what changed so often is not expected to stay as it is
constexpr unsigned worth = 4;  // checks that must pass for what they were laid out for

uint64_t version_of(PyObject* dict) {
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
}

// The dictionary in which a base's attributes or items are found, or null.
PyObject* dictionary_of(PyObject* base) {
  if (PyDict_Check(base)) return base;
  PyObject** place = place_of_dictionary(base);
  return place ? *place : nullptr;
}

// What a dictionary's version vouches for.
bool found_in_dictionary(const Source& source, PyObject* base, PyObject* found) {
  if (!base || !found) return false;
  if (source.kind == SourceKind::dict_item) return PyDict_Check(base) != 0;
  return source.kind == SourceKind::attribute && !PyDict_Check(base) && dictionary_of(base) &&
         own_attribute(base, source.key.get()) == found;
}

bool reads_dictionary(const Guard& guard, PyObject* object) {
  switch (guard.kind) {
    case GuardKind::lacks_key:
    case GuardKind::length:
      return PyDict_Check(object);
    case GuardKind::keys:  // the order of an OrderedDict is no matter of its dictionary
      return PyDict_Check(object) && !PyODict_Check(object);
    case GuardKind::lacks_attribute:
      return !PyDict_Check(object) && dictionary_of(object);
    default:
      return false;
  }
}

// Holds of the same object for ever.
bool unchanging(const Guard& guard, PyObject* object) {
  switch (guard.kind) {
    case GuardKind::is:
      return true;
    case GuardKind::length:
      return PyTuple_Check(object);
    case GuardKind::equals:
      return !PyAnySet_Check(object) && Py_TYPE(object) != &PySlice_Type;
    default:
      return false;
  }
}

}  // namespace

// Lays a QuickCheck out.
class QuickCheck::Layout {
 public:
  Layout(QuickCheck& to, const Sources& sources, const Look* looks)
      : to_(to), looks_(looks), known_(sources.all().size()) {
    to_.changes_.resize(known_.size());
  }

  void add(const Source& source) {
    Known& known = known_[index(source)];
    const Known* base = source.base ? &known_[index(*source.base)] : nullptr;
    PyObject* object = looks_[source.id].object;
    PyObject* base_object = source.base ? looks_[source.base->id].object : nullptr;
    known.place.object = object;
    if (source.kind == SourceKind::fixed) {
      known.by = By::held;
    } else if (base && base->by != By::evaluation && steady(*source.base) &&
               found_in_dictionary(source, base_object, object)) {
      known.stage = watch(*source.base);
      known.by = By::dictionary;
    } else if (base && base->by != By::evaluation && source.kind == SourceKind::type) {
      known.stage = expect_type(*base, base_object, reinterpret_cast<PyTypeObject*>(object));
      known.by = By::type;
    } else {
      evaluate(source, known, base);
    }
    for (const Guard& guard : source.guards) add(guard, source, known, object);
    if (source.wanted) to_.wanted_.push_back(known.place);
  }

  Place place(const Source* source) const { return known_[index(*source)].place; }

  // An object that is its own dictionary is its own place.
  void finish() {
    for (Stage& stage : to_.stages_)
      for (Dictionary& dictionary : stage.dictionaries)
        if (!dictionary.place) dictionary.place = &dictionary.dict;
  }

 private:
  // What vouches for a source's object; then, in its stage, what comes later may look at it.
  enum class By : uint8_t { evaluation, held, expectation, dictionary, type };
  struct Known {
    By by = By::evaluation;
    size_t stage = 0;
    Place place;
    std::optional<size_t> watched;  // the stage in which its dictionary is checked
  };

  bool steady(const Source& source) const { return to_.changes_[index(source)] < often; }
  static size_t index(const Source& source) { return static_cast<size_t>(source.id); }
  Stage& stage(size_t number) {
    if (to_.stages_.size() <= number) to_.stages_.resize(number + 1);
    return to_.stages_[number];
  }
  // The first stage whose evaluations may look at the object.
  static size_t after(const Known& known) {
    return known.stage + (known.by == By::dictionary || known.by == By::type ? 1 : 0);
  }

  size_t watch(const Source& source) {
    Known& known = known_[index(source)];
    if (!known.watched) {
      PyObject* object = looks_[source.id].object;
      PyObject* const* place = PyDict_Check(object) ? nullptr : place_of_dictionary(object);
      PyObject* dict = place ? *place : object;
      known.watched = known.stage + (known.by == By::type ? 1 : 0);
      stage(*known.watched).dictionaries.push_back({place, dict, version_of(dict)});
      stage(*known.watched).holders.push_back(source.id);
    }
    return *known.watched;
  }

  size_t expect_type(const Known& known, PyObject* object, PyTypeObject* type) {
    const size_t at = known.stage + (known.by == By::type ? 1 : 0);
    stage(at).types.push_back({object, type});
    return at;
  }

  void evaluate(const Source& source, Known& known, const Known* base) {
    const auto into = static_cast<int>(to_.looks_++);
    known.stage = base ? after(*base) : 0;
    known.by = By::evaluation;
    known.place = {into, nullptr};
    auto& evaluations = stage(known.stage).evaluations;
    evaluations.push_back(
        {Evaluation::Kind::evaluate, source.id, base ? base->place : Place{}, into, nullptr});
    const Look& look = looks_[source.id];
    // What holds attributes is expected to stay the object it is.
    const bool holder = look.object && !look.owned && !is_tensor_object(look.object) &&
                        (PyType_Check(look.object) || dictionary_of(look.object)) && steady(source);
    if (!holder) return;
    evaluations.push_back({Evaluation::Kind::expect, source.id, {into, look.object}, 0, nullptr});
    known.by = By::expectation;
    known.place = {-1, look.object};
  }

  void add(const Guard& guard, const Source& source, const Known& known, PyObject* object) {
    if (known.by != By::evaluation && object) {
      if (steady(source) && reads_dictionary(guard, object)) {
        watch(source);
        return;
      }
      // An expected object may be a new one in an old one's place: of it, little is for ever.
      if (unchanging(guard, object) && (known.by != By::expectation || guard.kind == GuardKind::is))
        return;
      if (guard.kind == GuardKind::type) {
        expect_type(known, object, Py_TYPE(object));
        return;
      }
      if (guard.kind == GuardKind::type_lookup && expect_version(known, object)) return;
      // The history of a view may come to be unknown.
      const bool view = guard.kind == GuardKind::tensor && guard.tensor->requires_grad &&
                        THPVariable_Unpack(object).is_view();
      if (guard.kind == GuardKind::tensor && !view && guard.tensor->order.empty() &&
          std::all_of(guard.tensor->sizes.begin(), guard.tensor->sizes.end(),
                      [](int64_t size) { return size >= 0; })) {
        add_tensor(*guard.tensor, known, object);
        return;
      }
    }
    stage(after(known))
        .evaluations.push_back({Evaluation::Kind::guard, source.id, known.place, 0, &guard});
  }

  // A type's version vouches for what is found in it and its bases.
  bool expect_version(const Known& known, PyObject* object) {
    auto* type = reinterpret_cast<PyTypeObject*>(object);
    const auto seen = types_.find(type);
    if (seen != types_.end() && seen->second <= known.stage) return true;
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG)) return false;
    types_[type] = known.stage;
    stage(known.stage).type_versions.push_back({type, type->tp_version_tag});
    return true;
  }

  void add_tensor(const TensorGuard& guard, const Known& known, PyObject* object) {
    const auto layout = static_cast<uint32_t>(to_.layouts_.size());
    to_.layouts_.insert(to_.layouts_.end(), guard.sizes.begin(), guard.sizes.end());
    to_.layouts_.insert(to_.layouts_.end(), guard.strides.begin(), guard.strides.end());
    stage(known.stage)
        .tensors.push_back({object, guard.type, guard.keys, layout,
                            static_cast<uint16_t>(guard.sizes.size()), guard.dtype,
                            guard.requires_grad, guard.device});
  }

  QuickCheck& to_;
  const Look* looks_;
  std::vector<Known> known_;
  std::unordered_map<PyTypeObject*, size_t> types_;
};

void QuickCheck::remember(const Sources& sources,
                          const std::vector<std::pair<Source*, Source*>>& distinct,
                          const std::vector<std::vector<SymbolPlace>>& symbols, const Look* looks) {
  if (suspect_ >= 0 && passed_ < worth && changes_[static_cast<size_t>(suspect_)] < often)
    ++changes_[static_cast<size_t>(suspect_)];
  auto changes = std::move(changes_);
  *this = QuickCheck();
  changes_ = std::move(changes);
  Layout layout(*this, sources, looks);
  for (const Source& source : sources.all()) layout.add(source);
  layout.finish();
  for (const auto& [a, b] : sources.same()) same_.emplace_back(layout.place(a), layout.place(b));
  for (const auto& [a, b] : distinct) distinct_.emplace_back(layout.place(a), layout.place(b));
  for (const Source* source : sources.tensors()) {
    const Place place = layout.place(source);
    if (place.look < 0)
      held_.push_back(place.object);
    else
      loose_.push_back(place.look);
  }
  std::sort(held_.begin(), held_.end());
  for (const auto& places : symbols) {
    symbols_.emplace_back();
    for (const SymbolPlace& place : places)
      symbols_.back().emplace_back(layout.place(place.source), place.dim);
  }
  known_ = loose_.size() <= 64;
}

bool QuickCheck::check_evaluations(const Stage& stage, const Sources& sources,
                                   const FrameView& frame, PyObject** looks,
                                   std::vector<PyObject*>& owned) const {
  for (const Evaluation& step : stage.evaluations) {
    switch (step.kind) {
      case Evaluation::Kind::evaluate: {
        const Source& source = sources.all()[static_cast<size_t>(step.source)];
        PyObject* base = at(step.at, looks);
        const Look look = source.base && !base ? Look{} : evaluate(source, base, frame);
        if (look.owned) owned.push_back(look.object);
        looks[step.into] = look.object;
        if (!look.object && source.wanted) return false;
        break;
      }
      case Evaluation::Kind::expect:
        if (looks[step.at.look] == step.at.object) break;
        suspect_ = step.source;
        return false;
      case Evaluation::Kind::guard:
        if (!holds(*step.check, at(step.at, looks))) return false;
        break;
    }
  }
  return true;
}

bool QuickCheck::check_known(const Stage& stage) const {
  for (const Dictionary& one : stage.dictionaries)
    if (*one.place != one.dict || version_of(one.dict) != one.version) {
      suspect_ = stage.holders[static_cast<size_t>(&one - stage.dictionaries.data())];
      return false;
    }
  for (const OfType& one : stage.types)
    if (Py_TYPE(one.object) != one.type) return false;
  for (const TypeVersion& one : stage.type_versions)
    if (!PyType_HasFeature(one.type, Py_TPFLAGS_VALID_VERSION_TAG) ||
        one.type->tp_version_tag != one.version)
      return false;
  for (const FixedTensor& one : stage.tensors) {
    if (Py_TYPE(one.object) != one.type) return false;
    const at::Tensor& tensor = THPVariable_Unpack(one.object);
    if (!tensor.defined()) return false;
    const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
    if (impl->key_set().raw_repr() != one.keys || tensor.scalar_type() != one.dtype ||
        tensor.device() != one.device || impl->requires_grad() != one.requires_grad)
      return false;
    const auto sizes = impl->sizes(), strides = impl->strides();
    if (sizes.size() != one.rank) return false;
    const int64_t* layout = layouts_.data() + one.layout;
    for (size_t d = 0; d < one.rank; ++d)
      if (sizes[d] != layout[d] || strides[d] != layout[one.rank + d]) return false;
  }
  return true;
}

// Tensors found under unchanged dictionaries are the ones that differed; the others may not.
bool QuickCheck::check_identities(PyObject* const* looks) const {
  if (loose_.size() > 1 || (loose_.size() == 1 && !held_.empty()))
    for (size_t n = 0; n < loose_.size(); ++n) {
      PyObject* one = looks[loose_[n]];
      if (std::binary_search(held_.begin(), held_.end(), one)) return false;
      for (size_t m = n + 1; m < loose_.size(); ++m)
        if (one == looks[loose_[m]]) return false;
    }
  for (const auto& [a, b] : same_)
    if (at(a, looks) != at(b, looks)) return false;
  for (const auto& [a, b] : distinct_)
    if (at(a, looks) == at(b, looks)) return false;
  return true;
}

bool QuickCheck::check(const Sources& sources, const FrameView& frame, std::vector<Ref>& values,
                       std::vector<int64_t>& numbers) const {
  suspect_ = -1;
  if (!known_) return false;
  constexpr size_t few = 128;
  PyObject* small[few];
  std::vector<PyObject*> large;
  PyObject** looks = small;
  if (looks_ > few) {
    large.resize(looks_);
    looks = large.data();
  }
  std::vector<PyObject*> owned;
  bool all = true;
  for (const Stage& stage : stages_) {
    all = check_evaluations(stage, sources, frame, looks, owned) && check_known(stage);
    if (!all) break;
  }
  all = all && check_identities(looks);
  if (all) {
    values.resize(wanted_.size() + symbols_.size());
    for (size_t n = 0; n < wanted_.size(); ++n) values[n] = Ref::borrow(at(wanted_[n], looks));
    for (const auto& places : symbols_) {
      int64_t value = -1;
      for (const auto& [place, dim] : places) {
        const int64_t read = size_at(at(place, looks), dim);
        all = all && read >= 2 && (value < 0 || read == value);
        value = read;
      }
      if (!all) break;
      values[wanted_.size() + numbers.size()] = Ref::checked(PyLong_FromLongLong(value));
      numbers.push_back(value);
    }
  }
  for (PyObject* object : owned) Py_DECREF(object);
  if (all && passed_ < worth) ++passed_;
  return all;
}

}  // namespace octavo::capture
