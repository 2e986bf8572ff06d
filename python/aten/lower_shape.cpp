// Operators that move elements.
#include <algorithm>
#include <limits>
#include <numeric>

#include "lower.h"

namespace octavo::aten {
namespace {

using Values = std::vector<IrValue*>;

// Sizes are known: every change of shape alone is a reshape to what the result has.
Values reshape(Lowering& to, const Call& call) {
  return {to.reshape(to.tensor(call, "self"), call.output().sizes)};
}
Values identity(Lowering& to, const Call& call) { return {to.tensor(call, "self")}; }
bool accepts_copy(const Call& call) {
  return movable(call) && call.info("self").dtype == call.output().dtype;
}

// copy_ as a function: `src` in the shape of `self`.
bool accepts_copy_of(const Call& call) {
  return is_f32(call.info("self")) && is_f32(call.info("src")) && is_f32(call.output());
}
Values copy(Lowering& to, const Call& call) {
  return {to.expand(to.tensor(call, "src"), call.output().sizes)};
}

Values expand(Lowering& to, const Call& call) {
  return {to.expand(to.tensor(call, "self"), call.output().sizes)};
}

Values permute(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  std::vector<std::int64_t> perm = call.integers("dims");
  for (auto& axis : perm) axis = wrap(axis, x->shape().size());
  return {to.transpose(x, std::move(perm))};
}

Values transpose(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  const std::size_t rank = x->shape().size();
  if (rank == 0) return {x};
  std::vector<std::int64_t> perm(rank);
  std::iota(perm.begin(), perm.end(), 0);
  std::swap(perm[Call::at(static_cast<int>(wrap(call.integer("dim0"), rank)))],
            perm[Call::at(static_cast<int>(wrap(call.integer("dim1"), rank)))]);
  return {to.transpose(x, std::move(perm))};
}

Values t(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  return {x->shape().size() < 2 ? x : to.swap_last(x)};
}

IrValue* slice(Lowering& to, IrValue* x, std::int64_t axis, std::int64_t start, std::int64_t end,
               std::int64_t step = 1) {
  if (start == 0 && step == 1 && end >= Lowering::sizes(x)[static_cast<std::size_t>(axis)])
    return x;
  return to.apply(
      "slice", {x},
      {{"starts", Ints{start}}, {"ends", Ints{end}}, {"axes", Ints{axis}}, {"steps", Ints{step}}});
}

Values slice(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  const auto axis = wrap(call.integer("dim"), x->shape().size());
  return {slice(to, x, axis, call.given("start") ? call.integer("start") : 0,
                call.given("end") ? call.integer("end") : std::numeric_limits<std::int64_t>::max(),
                call.integer("step"))};
}

Values select(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  const auto axis = wrap(call.integer("dim"), x->shape().size());
  auto index = call.integer("index");
  if (index < 0) index += Lowering::sizes(x)[static_cast<std::size_t>(axis)];
  return {to.reshape(slice(to, x, axis, index, index + 1), call.output().sizes)};
}

// split, split_with_sizes, chunk, unbind: their results say where they end.
Values pieces(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  const auto axis = wrap(call.integer("dim"), x->shape().size());
  const bool gone = call.name() == "aten::unbind.int";
  Values results;
  std::int64_t start = 0;
  for (std::size_t i = 0; i < call.node().outputs.size(); ++i) {
    const auto& sizes = call.output(i).sizes;
    const std::int64_t length = gone ? 1 : sizes[static_cast<std::size_t>(axis)];
    results.push_back(to.reshape(slice(to, x, axis, start, start + length), sizes));
    start += length;
  }
  return results;
}

bool accepts_list(const Call& call) {
  const auto& list = call.list("tensors");
  return movable(call) && std::all_of(list.begin(), list.end(), [&](const auto& value) {
           return value && call.graph().values[Call::at(*value)].dtype == call.output().dtype;
         });
}
Values cat(Lowering& to, const Call& call) {
  const std::size_t rank = call.output().sizes.size();
  Values inputs;
  for (const auto& value : call.list("tensors")) {
    IrValue* x = to.get(*value);
    if (x->shape().size() == rank) inputs.push_back(x);  // torch lets empty vectors stand in a list
  }
  if (inputs.size() == 1) return inputs;
  return {to.apply("concat", std::move(inputs), {{"axis", wrap(call.integer("dim"), rank)}})};
}
Values stack(Lowering& to, const Call& call) {
  const std::size_t rank = call.output().sizes.size();
  const auto axis = wrap(call.integer("dim"), rank);
  std::vector<std::int64_t> sizes = call.output().sizes;
  sizes[static_cast<std::size_t>(axis)] = 1;
  Values inputs;
  for (const auto& value : call.list("tensors"))
    inputs.push_back(to.reshape(to.get(*value), sizes));
  if (inputs.size() == 1) return inputs;
  return {to.apply("concat", std::move(inputs), {{"axis", axis}})};
}

bool accepts_pad(const Call& call) {
  const auto pads = call.integers("pad");
  return floats(call) && std::all_of(pads.begin(), pads.end(), [](auto n) { return n >= 0; });
}
Values pad(Lowering& to, const Call& call) {
  IrValue* x = to.tensor(call, "self");
  const std::size_t rank = x->shape().size();
  const auto pads = call.integers("pad");
  Ints both(2 * rank, 0);
  for (std::size_t i = 0; i + 1 < pads.size(); i += 2) {
    const std::size_t axis = rank - 1 - i / 2;
    both[axis] = pads[i], both[rank + axis] = pads[i + 1];
  }
  return {to.apply("pad", {x, to.scalar(call.real("value"))}, {{"pads", std::move(both)}})};
}

// The gradient of a slice: zeros around it.
Values slice_backward(Lowering& to, const Call& call) {
  IrValue* grad = to.tensor(call, "grad_output");
  const auto sizes = call.integers("input_sizes");
  const std::size_t rank = sizes.size(),
                    axis = static_cast<std::size_t>(wrap(call.integer("dim"), rank));
  auto start = call.integer("start");
  if (start < 0) start += sizes[axis];
  start = std::clamp<std::int64_t>(start, 0, sizes[axis]);
  const auto length = Lowering::sizes(grad)[axis];
  Ints pads(2 * rank, 0);
  pads[axis] = start, pads[rank + axis] = sizes[axis] - start - length;
  return {to.apply("pad", {grad, to.scalar(0)}, {{"pads", std::move(pads)}})};
}
bool accepts_slice_backward(const Call& call) { return floats(call) && call.integer("step") == 1; }

Values select_backward(Lowering& to, const Call& call) {
  const auto sizes = call.integers("input_sizes");
  const std::size_t rank = sizes.size(),
                    axis = static_cast<std::size_t>(wrap(call.integer("dim"), rank));
  auto one = sizes;
  one[axis] = 1;
  IrValue* grad = to.reshape(to.tensor(call, "grad_output"), one);
  auto index = call.integer("index");
  if (index < 0) index += sizes[axis];
  Ints pads(2 * rank, 0);
  pads[axis] = index, pads[rank + axis] = sizes[axis] - index - 1;
  return {to.apply("pad", {grad, to.scalar(0)}, {{"pads", std::move(pads)}})};
}

// Tensors of one number.
bool accepts_fill(const Call& call) {
  return is_f32(call.output()) && (call.find("fill_value") < 0 || !call.is_tensor("fill_value"));
}
template <int number>
Values constant(Lowering& to, const Call& call) {
  return {to.expand(to.scalar(number), call.output().sizes)};
}
Values full(Lowering& to, const Call& call) {
  return {to.expand(to.scalar(call.real("fill_value")), call.output().sizes)};
}

bool has_rank(const Call& call) { return movable(call) && !call.info("self").sizes.empty(); }

constexpr Rule rules[] = {
    {"aten::view", movable, reshape, true},
    {"aten::reshape", movable, reshape, true},
    {"aten::_unsafe_view", movable, reshape, true},
    {"aten::flatten.using_ints", movable, reshape, true},
    {"aten::unflatten.int", movable, reshape, true},
    {"aten::unsqueeze", movable, reshape, true},
    {"aten::squeeze", movable, reshape, true},
    {"aten::squeeze.dim", movable, reshape, true},
    {"aten::squeeze.dims", movable, reshape, true},
    {"aten::expand", movable, expand, true},
    {"aten::permute", movable, permute, true},
    {"aten::transpose.int", movable, transpose, true},
    {"aten::t", movable, t, true},
    {"aten::slice.Tensor", has_rank, slice, true},
    {"aten::select.int", has_rank, select, true},
    {"aten::split.Tensor", has_rank, pieces, true},
    {"aten::split_with_sizes", has_rank, pieces, true},
    {"aten::chunk", has_rank, pieces, true},
    {"aten::unbind.int", has_rank, pieces, true},
    {"aten::alias", movable, identity, true},
    {"aten::detach", movable, identity, true},
    {"aten::clone", accepts_copy, identity},
    {"aten::contiguous", accepts_copy, identity},
    {"aten::copy", accepts_copy_of, copy},
    {"aten::cat", accepts_list, cat},
    {"aten::stack", accepts_list, stack},
    {"aten::constant_pad_nd", accepts_pad, pad},
    {"aten::slice_backward", accepts_slice_backward, slice_backward},
    {"aten::select_backward", floats, select_backward},
    {"aten::ones_like", accepts_fill, constant<1>},
    {"aten::zeros_like", accepts_fill, constant<0>},
    {"aten::ones", accepts_fill, constant<1>},
    {"aten::zeros", accepts_fill, constant<0>},
    {"aten::new_ones", accepts_fill, constant<1>},
    {"aten::new_zeros", accepts_fill, constant<0>},
    {"aten::zero", accepts_fill, constant<0>},
    {"aten::full", accepts_fill, full},
    {"aten::full_like", accepts_fill, full},
    {"aten::new_full", accepts_fill, full},
};

}  // namespace

std::span<const Rule> shape_rules() { return rules; }

}  // namespace octavo::aten
