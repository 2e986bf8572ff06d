#include "piece.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DefaultDtype.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/python_variable.h>

#include "arrays.h"
#include "python_types.h"
#include "vmap.h"

namespace octavo::capture {

GlobalState GlobalState::now() {
  const at::Context& context = at::globalContext();
  return {at::GradMode::is_enabled(),
          c10::InferenceMode::is_enabled(),
          at::autocast::is_autocast_enabled(at::kCPU),
          at::autocast::is_autocast_cache_enabled(),
          context.deterministicAlgorithms(),
          context.deterministicAlgorithmsWarnOnly(),
          vmap_depth() > 0,
          at::impl::torch_function_mode_enabled(),
          c10::get_default_dtype_as_scalartype(),
          at::autocast::get_autocast_dtype(at::kCPU),
          at::autocast::get_autocast_dtype(at::kCUDA)};
}

bool is_plain(const Piece& piece) {
  return piece.ended == Ended::returned && piece.ops == 0 && !piece.region->full_graph;
}

bool arrays_overlap(const Piece& piece, const std::vector<Ref>& values) {
  if (!piece.writes || piece.arrays.empty()) return false;
  std::vector<std::pair<const char*, const char*>> ranges;
  for (const int input : piece.inputs) {
    PyObject* value = values[static_cast<size_t>(input)].get();
    ranges.emplace_back();
    if (!is_array(value) && !is_tensor_object(value)) continue;
    const at::Tensor tensor = is_array(value) ? tensor_on(value) : THPVariable_Unpack(value);
    if (tensor.numel() == 0) continue;
    const auto* first = static_cast<const char*>(tensor.const_data_ptr());
    ranges.back() = {first, first + at::detail::computeStorageNbytes(
                                        tensor.sizes(), tensor.strides(), tensor.itemsize())};
  }
  for (const size_t n : piece.arrays)
    for (size_t other = 0; other < ranges.size(); ++other)
      if (other != n && ranges[n].first < ranges[other].second &&
          ranges[other].first < ranges[n].second)
        return true;
  return false;
}

Ref run_graph(const Piece& piece, const std::vector<Ref>& values) {
  if (!piece.compiled) return {};
  constexpr size_t few = 16;
  PyObject* small[few + 1];
  std::vector<PyObject*> large;
  PyObject** args = small + 1;
  if (piece.inputs.size() > few) {
    large.resize(piece.inputs.size() + 1);
    args = large.data() + 1;
  }
  for (size_t n = 0; n < piece.inputs.size(); ++n)
    args[n] = values[static_cast<size_t>(piece.inputs[n])].get();
  std::vector<Ref> on_arrays;
  for (const size_t n : piece.arrays) {
    on_arrays.push_back(Ref::checked(THPVariable_Wrap(tensor_on(args[n]))));
    args[n] = on_arrays.back().get();
  }
  const KeepsVmapDepth levels;
  Ref results = Ref::checked(PyObject_Vectorcall(
      piece.compiled.get(), args, piece.inputs.size() | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  if (piece.outputs == 0) return results;
  if (!PyTuple_Check(results.get()) && !PyList_Check(results.get())) {
    PyErr_SetString(PyExc_TypeError, "the backend's function must return a tuple or a list");
    throw PythonError{};
  }
  if (static_cast<size_t>(PySequence_Fast_GET_SIZE(results.get())) != piece.outputs) {
    PyErr_Format(PyExc_ValueError, "the backend's function returned %zd values for %zu outputs",
                 PySequence_Fast_GET_SIZE(results.get()), piece.outputs);
    throw PythonError{};
  }
  return results;
}

std::optional<Before> keep_for_failure(const Piece& piece, const std::vector<Ref>& values) {
  const bool ran = piece.ran;
  if (ran && !piece.risk.looks_at_values) return std::nullopt;
  std::optional<Before> kept(std::in_place);
  if (ran ? piece.risk.by_value : piece.risk.by_type || piece.risk.by_value)
    for (const int place : piece.written) {
      PyObject* written = values[static_cast<size_t>(place)].get();
      kept->keep_tensor(is_array(written) ? tensor_on(written) : THPVariable_Unpack(written));
    }
  if (!ran || piece.random) kept->keep_random_state();
  return kept;
}

Ref finish_piece(const Piece& piece, InterpreterFrame* frame, const std::vector<Ref>& values,
                 const Ref& results) {
  PyObject* const* outputs =
      piece.outputs > 0 && results ? PySequence_Fast_ITEMS(results.get()) : nullptr;
  const std::vector<Ref> at = run_recipe(piece.recipe, values, outputs);
  if (piece.ended == Ended::returned) return at[static_cast<size_t>(piece.recipe.result)];
  PyObject** slots = slots_of(frame);
  for (const auto& [slot, place] : piece.recipe.slots)
    Py_XSETREF(slots[slot], place < 0 ? nullptr : Py_NewRef(at[static_cast<size_t>(place)].get()));
  const int first = frame->f_code->co_nlocalsplus;
  std::vector<PyObject*> old(slots + first, slots + frame->stacktop);
  for (size_t n = 0; n < piece.recipe.stack.size(); ++n) {
    const int place = piece.recipe.stack[n];
    slots[first + static_cast<int>(n)] =
        place < 0 ? nullptr : Py_NewRef(at[static_cast<size_t>(place)].get());
  }
  frame->stacktop = first + static_cast<int>(piece.recipe.stack.size());
  for (PyObject* object : old) Py_XDECREF(object);
  return {};
}

}  // namespace octavo::capture
