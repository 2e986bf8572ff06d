#include "meta_scope.h"

#include <utility>

#include "../aten/meta.h"
#include "object.h"

namespace octavo::capture {
namespace {

const aten::ShapingEntries& entries() {
  static const auto* found = [] {
    const Ref capsule = import("octavo._aten", "_shaping");
    const void* pointer = PyCapsule_GetPointer(capsule.get(), "octavo._aten._shaping");
    if (!pointer) throw PythonError{};
    return static_cast<const aten::ShapingEntries*>(pointer);
  }();
  return *found;
}

}  // namespace

MetaScope::MetaScope() : shaping_(entries().begin()) {}

MetaScope::~MetaScope() {
  if (shaping_) end();
}

int MetaScope::end() { return entries().end(std::exchange(shaping_, nullptr)); }

}  // namespace octavo::capture
