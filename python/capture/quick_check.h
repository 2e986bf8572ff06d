// What a full check of guards saw, laid out to be seen again in a few nanoseconds a thing.
//
// CPython gives every change of a dictionary a new version (PEP 509): while the version stands,
// what was found in the dictionary is still there, and guards that depend on it alone still hold.
// So a module costs a comparison for each of its dictionaries. Sources that no dictionary vouches
// for (arguments, list items, cells) are evaluated anew. The lists are checked in the order in
// which one vouches for the next: an object is looked at only after what holds it was found
// unchanged, so no pointer here dangles, though none is owned.
#pragma once
#include "evaluation.h"

namespace octavo::capture {

class QuickCheck {
 public:
  // `looks`: by source, of a full check that passed.
  void remember(const Sources& sources, const std::vector<std::pair<Source*, Source*>>& distinct,
                const std::vector<std::vector<SymbolPlace>>& symbols, const Look* looks);

  // True if all is as remembered; then `values` has the wanted sources' objects and the symbols'
  // numbers as GuardProgram::check() gives them, without conditions on the symbols, whose numbers
  // are in `numbers`. False says only that a full check must decide.
  bool check(const Sources& sources, const FrameView& frame, std::vector<Ref>& values,
             std::vector<int64_t>& numbers) const;

 private:
  // An object: found anew at each check, or known.
  struct Place {
    int look = -1;
    PyObject* object = nullptr;
  };
  struct Evaluation {
    enum class Kind : uint8_t { evaluate, expect, guard };
    Kind kind;
    int source;
    Place at;  // evaluate: of the base; expect: where it is, and what; guard: of what
    int into;  // evaluate: the look
    const Guard* check;
  };
  struct Dictionary {
    PyObject* const* place;  // where its holder has it; null: it is an object of its own
    PyObject* dict;
    uint64_t version;
  };
  struct OfType {
    PyObject* object;
    PyTypeObject* type;
  };
  struct TypeVersion {
    PyTypeObject* type;
    unsigned version;
  };
  struct FixedTensor {
    PyObject* object;
    PyTypeObject* type;
    uint64_t keys;
    uint32_t layout;  // in layouts_: sizes, then strides
    uint16_t rank;
    at::ScalarType dtype;
    bool requires_grad;
    c10::Device device;
  };
  // What can be checked once the stage before has passed.
  struct Stage {
    std::vector<Evaluation> evaluations;
    std::vector<Dictionary> dictionaries;
    std::vector<int> holders;  // of the dictionaries: sources
    std::vector<OfType> types;
    std::vector<TypeVersion> type_versions;
    std::vector<FixedTensor> tensors;
  };
  class Layout;

  bool check_evaluations(const Stage& stage, const Sources& sources, const FrameView& frame,
                         PyObject** looks, std::vector<PyObject*>& owned) const;
  bool check_known(const Stage& stage) const;
  bool check_identities(PyObject* const* looks) const;
  static PyObject* at(const Place& place, PyObject* const* looks) {
    return place.look < 0 ? place.object : looks[place.look];
  }

  bool known_ = false;
  std::vector<Stage> stages_;
  std::vector<int64_t> layouts_;
  size_t looks_ = 0;
  std::vector<Place> wanted_;
  std::vector<std::pair<Place, Place>> same_, distinct_;
  std::vector<int> loose_;       // tensors that are found anew at each check: all different
  std::vector<PyObject*> held_;  // the others, sorted
  std::vector<std::vector<std::pair<Place, int>>> symbols_;  // and the dimension
  // By source: how often a full check passed though its object, or its dictionary, had changed.
  // What changes at every call is not expected to stay.
  std::vector<uint8_t> changes_;
  mutable int suspect_ = -1;     // the source at which the last check ended
  mutable unsigned passed_ = 0;  // checks that passed
};

}  // namespace octavo::capture
