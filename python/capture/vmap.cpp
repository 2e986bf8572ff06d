// torch.vmap: its levels are entered and left while tracing, and by nodes of the graph.
#include "vmap.h"

#include <ATen/functorch/DynamicLayer.h>

#include "call_table.h"
#include "python_types.h"
#include "tracer.h"

namespace octavo::capture {
namespace {

constexpr const char* module_name = "torch._functorch.predispatch";

V enter_level(Tracer& t, Call& call) {
  if (!t.trace().sizes.symbols.empty()) throw NoSymbols{};
  Trace& trace = t.trace();
  PyObject* enter = well_known(module_name, "_vmap_increment_nesting");
  const Ref size = t.python_constant(call.args.at(0)), kind = t.python_constant(call.args.at(1));
  if (!size || !kind) give_up(Reason::wrong_call, "vmap");
  const Ref level =
      Ref::steal(PyObject_CallFunctionObjArgs(enter, size.get(), kind.get(), nullptr));
  if (!level) t.raise_python_error();
  Node* node = trace.graph.add(Node::Op::call_function, Ref::borrow(enter));
  node->args = {Arg::of(size), Arg::of(kind)};
  node->impure = true;
  return t.constant(level);
}

V leave_level(Tracer& t, Call&) {
  PyObject* leave = well_known(module_name, "_vmap_decrement_nesting");
  const Ref level = Ref::checked(PyObject_CallNoArgs(leave));
  t.trace().graph.add(Node::Op::call_function, Ref::borrow(leave))->impure = true;
  return t.constant(level);
}

}  // namespace

size_t vmap_depth() { return at::functorch::getDynamicLayerStack().size(); }

KeepsVmapDepth::~KeepsVmapDepth() {
  while (vmap_depth() > depth_) at::functorch::popDynamicLayerAndDeleteMetadata();
}

V Tracer::rewritten(const char* name) {
  PyObject* function = well_known("octavo.capture.rewritten", name);
  return lazy(function, trace_.sources.fixed(function));
}

void Tracer::count_mode(int& mode, bool begin) {
  if (begin && modes_ == 0) modes_begun_ = std::max(0, instructions_ - 1);
  mode += begin ? 1 : -1;
  modes_ += begin ? 1 : -1;
}

void add_vmap(CallTable& table) {
  const auto on = [&](const char* module, const char* name,
                      std::function<V(Tracer&, Call&)> handler) {
    table.handlers[well_known(module, name)] = std::move(handler);
  };
  on("torch", "vmap", [](Tracer& t, Call& call) {
    // The levels in the graph are numbered from the outermost.
    if (t.began_in_vmap()) give_up(Reason::unknown_call, "vmap in a function that vmap calls");
    return t.call(t.rewritten("vmap"), call);
  });
  on("copy", "deepcopy",
     [](Tracer& t, Call& call) { return t.call(t.rewritten("deepcopy"), call); });
  on(module_name, "_vmap_increment_nesting", enter_level);
  on(module_name, "_vmap_decrement_nesting", leave_level);
  on("octavo.capture.rewritten", "index_by_tensors", [](Tracer& t, Call& call) {
    t.index_by_tensors(t.truth(call.args.at(0)));
    return t.none();
  });
}

}  // namespace octavo::capture
