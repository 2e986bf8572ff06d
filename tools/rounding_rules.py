"""What each ONNX op makes of a value and of the variance of its float32 rounding (rounding.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch.nn import functional

UNIT_VARIANCE = 2.0**-48 / 3.0
SIGMAS = 6.0
FUNCTION_ULPS = 4.0

Tensor = torch.Tensor
Pair = tuple[Tensor, Tensor | None]  # value and variance; None: exact


def _variance(x: Pair) -> Tensor:
    return torch.zeros_like(x[0]) if x[1] is None else x[1].expand_as(x[0])


def _worst_sum(*variances: Tensor) -> Tensor:
    """The variance of a sum of errors that may be correlated."""
    total = torch.sqrt(variances[0])
    for variance in variances[1:]:
        total = total + torch.sqrt(variance)
    return total.square()


def _product(x: Pair, weight: Pair, bias: Pair | None, terms: int, run: Callable[..., Any]) -> Pair:
    """A convolution or matrix product of `terms` terms: `run(x, weight, bias)`."""
    value, w = x[0], weight[0]
    b = None if bias is None else bias[0]
    magnitude = run(value.abs(), w.abs(), None if b is None else b.abs())
    variance = (terms + 1) * UNIT_VARIANCE * magnitude.square()
    if x[1] is not None:
        variance = variance + run(x[1], w.square(), None)
    if weight[1] is not None:
        variance = variance + run(value.square(), weight[1], None)
    return run(value, w, b), variance


def _function(x: Pair, value: Tensor, slope: Tensor, least: float = 0.0) -> Pair:
    """An elementwise function, given its values and slopes; `least` is the size of what its usual
    approximation adds up to reach small values."""
    own = 3 * FUNCTION_ULPS**2 * UNIT_VARIANCE * value.abs().clamp(min=least).square()
    return value, own + _variance(x) * slope.square()


def _clip(x: Pair, low: float | None, high: float | None) -> Pair:
    """Exact, and an error that cannot bring the value back inside the limits is forgotten."""
    value, variance = x[0], _variance(x)
    reach = SIGMAS * torch.sqrt(variance)
    outside = torch.zeros_like(value, dtype=torch.bool)
    if low is not None:
        outside |= value + reach < low
    if high is not None:
        outside |= value - reach > high
    return value.clamp(low, high), variance.masked_fill(outside, 0.0)


def _scaled(x: Pair, scale: float, shift: float) -> Pair:
    value = x[0] * scale + shift
    own = 2 * UNIT_VARIANCE * (x[0].abs() * abs(scale) + abs(shift)).square()
    return value, own + _variance(x) * scale * scale


def _binary(op: str, a: Pair, b: Pair) -> Pair:
    x, y = a[0], b[0]
    if not x.is_floating_point():
        exact: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "Add": torch.add,
            "Sub": torch.sub,
            "Mul": torch.mul,
            "Div": lambda p, q: torch.div(p, q, rounding_mode="trunc"),
        }
        return exact[op](x, y), None
    va, vb = _variance(a), _variance(b)
    match op:
        case "Add" | "Sub":
            value = x + y if op == "Add" else x - y
            variance = va + vb
        case "Mul":
            value = x * y
            variance = _worst_sum(va * y.square(), vb * x.square())
        case _:
            value = x / y
            variance = _worst_sum(va / y.square(), vb * (value / y).square())
    return value, variance + UNIT_VARIANCE * value.square()


def _mean(x: Pair, dims: Sequence[int], keep: bool, *, total: bool = False) -> Pair:
    value = x[0]
    count = 1
    for dim in dims:
        count *= value.shape[dim]
    scale = 1.0 if total else 1.0 / count
    dims = list(dims)
    magnitude = value.abs().sum(dims, keepdim=keep) * scale
    variance = (count + 1) * UNIT_VARIANCE * magnitude.square()
    variance = variance + _variance(x).sum(dims, keepdim=keep) * scale * scale
    return value.sum(dims, keepdim=keep) * scale, variance


def _softmax(x: Pair, axis: int) -> Pair:
    """p_i (e_i - sum p_j e_j) for errors e of the arguments; exp and the sum have their own."""
    value, variance = x[0], _variance(x)
    p = value.softmax(axis)
    argument = variance + UNIT_VARIANCE * (value - value.amax(axis, keepdim=True)).square()
    common = (p.square() * argument).sum(axis, keepdim=True)
    own = (3 * FUNCTION_ULPS**2 + value.shape[axis] + 1) * UNIT_VARIANCE
    return p, p.square() * (_worst_sum(argument, common) + own)


def _layer_norm(x: Pair, gamma: Pair, beta: Pair | None, epsilon: float) -> Pair:
    """Over the last axis, as the steps that define it."""
    centred = _binary("Sub", x, _mean(x, [-1], True))
    square = _binary("Mul", centred, centred)
    spread, variance = _mean(square, [-1], True)
    root = torch.sqrt(spread + epsilon)
    divided = _binary(
        "Div", centred, (root, variance / (4 * root.square()) + UNIT_VARIANCE * root.square())
    )
    scaled = _binary("Mul", divided, gamma)
    return _binary("Add", scaled, beta) if beta else scaled


def _moved(x: Pair, move: Callable[[Tensor], Tensor]) -> Pair:
    return move(x[0]), None if x[1] is None else move(x[1].expand_as(x[0]))


def _padding(shape: torch.Size, kernel: Sequence[int], attributes: dict[str, Any]) -> list[int]:
    """As functional.pad takes it, for two spatial axes."""
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID"):
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        return [left, right, top, bottom]
    assert set(attributes.get("dilations", (1, 1))) == {1}
    padding: list[int] = []
    strides = attributes.get("strides", (1, 1))
    for size, width, stride in zip(shape[:1:-1], kernel[::-1], strides[::-1], strict=True):
        total = max((-(-size // stride) - 1) * stride + width - size, 0)
        small = total // 2
        padding += [small, total - small] if auto == b"SAME_UPPER" else [total - small, small]
    return padding


def _convolve(inputs: list[Pair | None], attributes: dict[str, Any], transposed: bool) -> Pair:
    x, weight = _there(inputs[0]), _there(inputs[1])
    padding = _padding(x[0].shape, weight[0].shape[2:], attributes)
    groups = attributes.get("group", 1)
    keywords = {
        "stride": tuple(attributes.get("strides", (1, 1))),
        "dilation": tuple(attributes.get("dilations", (1, 1))),
    }

    def run(value: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if not transposed:
            padded = functional.pad(value, padding)
            return functional.conv2d(padded, w, b, groups=groups, **keywords)
        assert not any(padding) and not attributes.get("output_padding")
        return functional.conv_transpose2d(value, w, b, groups=groups, **keywords)

    terms = weight[0][0].numel() if not transposed else weight[0][:, 0].numel() // groups
    return _product(x, weight, inputs[2] if len(inputs) > 2 else None, terms, run)


def _there(x: Pair | None) -> Pair:
    assert x is not None
    return x


def _numbers(x: Pair | None) -> list[int]:
    return [int(v) for v in _there(x)[0].flatten()]


def _pool(x: Pair, attributes: dict[str, Any], *, average: bool) -> Pair:
    kernel = tuple(attributes["kernel_shape"])
    strides = tuple(attributes.get("strides", (1, 1)))
    padding = _padding(x[0].shape, kernel, attributes)
    if not average:
        ceil = bool(attributes.get("ceil_mode", 0))

        def highest(value: Tensor, fill: float) -> Tensor:
            padded = functional.pad(value, padding, value=fill)
            return functional.max_pool2d(padded, kernel, strides, ceil_mode=ceil)

        # whichever element is taken, its error is at most the largest
        return highest(x[0], -torch.inf), highest(_variance(x), 0.0)
    assert not any(padding) and not attributes.get("ceil_mode")
    count = kernel[0] * kernel[1]
    value, magnitude, variance = (
        functional.avg_pool2d(v, kernel, strides) for v in (x[0], x[0].abs(), _variance(x))
    )
    return value, variance / count + (count + 1) * UNIT_VARIANCE * magnitude.square()


def _resize(x: Pair, inputs: list[Pair | None], attributes: dict[str, Any]) -> Pair:
    assert attributes.get("mode", b"nearest") == b"nearest"
    if len(inputs) > 3 and inputs[3] is not None:
        size = [s // d for s, d in zip(_numbers(inputs[3]), x[0].shape, strict=True)]
    else:
        size = _numbers(inputs[2])
    assert size[:2] == [1, 1]
    factor = (float(size[2]), float(size[3]))
    return _moved(x, lambda v: functional.interpolate(v, scale_factor=factor, mode="nearest"))


def _slice(x: Pair, inputs: list[Pair | None], attributes: dict[str, Any]) -> Pair:
    if "starts" in attributes:
        starts, ends, axes = attributes["starts"], attributes["ends"], attributes.get("axes")
        steps = None
    else:
        starts, ends = _numbers(inputs[1]), _numbers(inputs[2])
        axes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] else None
        steps = _numbers(inputs[4]) if len(inputs) > 4 else None
    index = [slice(None)] * x[0].ndim
    for i, axis in enumerate(axes or range(len(starts))):
        step = steps[i] if steps else 1
        assert step > 0
        index[axis] = slice(starts[i], min(ends[i], 2**31), step)
    return _moved(x, lambda v: v[tuple(index)])


def _reshape(x: Pair, target: list[int]) -> Pair:
    shape = [x[0].shape[i] if d == 0 else d for i, d in enumerate(target)]
    return _moved(x, lambda v: v.reshape(shape))


def _axes(inputs: list[Pair | None], attributes: dict[str, Any], rank: int) -> list[int]:
    if "axes" in attributes:
        return list(attributes["axes"])
    return _numbers(inputs[1]) if len(inputs) > 1 else list(range(rank))


def _concat(pairs: list[Pair], axis: int) -> Pair:
    value = torch.cat([p[0] for p in pairs], axis)
    if all(p[1] is None for p in pairs):
        return value, None
    return value, torch.cat([_variance(p) for p in pairs], axis)


def _squeeze(x: Pair, axes: list[int], *, insert: bool) -> Pair:
    def move(v: Tensor) -> Tensor:
        if not insert:
            return v.squeeze(tuple(axes))
        for axis in sorted(a if a >= 0 else a + v.ndim + len(axes) for a in axes):
            v = v.unsqueeze(axis)
        return v

    return _moved(x, move)


def _gather(x: Pair, index: Tensor, axis: int) -> Pair:
    axis %= x[0].ndim

    def move(v: Tensor) -> Tensor:
        flat = v.index_select(axis, index.flatten() % v.shape[axis])
        return flat.reshape(v.shape[:axis] + index.shape + v.shape[axis + 1 :])

    return _moved(x, move)


def _batch_norm(x: Pair, parameters: list[Pair], epsilon: float) -> Pair:
    shape = (1, -1) + (1,) * (x[0].ndim - 2)
    gamma, beta, mean, spread = (p[0].reshape(shape) for p in parameters)
    slope = gamma / torch.sqrt(spread + epsilon)
    # a square root, a division, a few products and sums, none above this in any order
    magnitude = (x[0].abs() + mean.abs()) * slope.abs() + beta.abs()
    own = 6 * UNIT_VARIANCE * magnitude.square()
    return x[0] * slope + (beta - mean * slope), own + _variance(x) * slope.square()


def _gemm(inputs: list[Pair | None], attributes: dict[str, Any]) -> Pair:
    x, weight = _there(inputs[0]), _there(inputs[1])
    assert attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
    assert not attributes.get("transA", 0)
    if not attributes.get("transB", 0):
        weight = _moved(weight, lambda v: v.T)
    return _product(
        x, weight, inputs[2] if len(inputs) > 2 else None, x[0].shape[-1], functional.linear
    )


def _matmul(x: Pair, y: Pair) -> Pair:
    return _product(x, y, None, x[0].shape[-1], lambda a, b, _: a @ b)


def _leaky(x: Pair, slope: float) -> Pair:
    """Where rounding may change the sign, with the steeper of the two slopes."""
    value, variance = x[0], _variance(x)
    negative = value + SIGMAS * torch.sqrt(variance) < 0
    out = functional.leaky_relu(value, slope)
    passed = torch.where(negative, variance * slope * slope, variance)
    return out, passed + torch.where(value < 0, UNIT_VARIANCE * out.square(), 0.0)


def _constant(node: onnx.NodeProto) -> Pair:
    value = onnx.helper.get_attribute_value(node.attribute[0])
    if node.attribute[0].name == "value":
        value = onnx.numpy_helper.to_array(value).copy()
    tensor = torch.as_tensor(value)
    return (tensor.double() if tensor.is_floating_point() else tensor), None


def apply(node: onnx.NodeProto, inputs: list[Pair | None], opset: int) -> Pair:
    """The first output of `node`; an input that is left out is None."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Constant":
        return _constant(node)
    x = _there(inputs[0])
    match node.op_type:
        case "Conv" | "ConvTranspose":
            return _convolve(inputs, attributes, node.op_type == "ConvTranspose")
        case "Gemm":
            return _gemm(inputs, attributes)
        case "MatMul":
            return _matmul(x, _there(inputs[1]))
        case "BatchNormalization":
            parameters = [_there(p) for p in inputs[1:5]]
            return _batch_norm(x, parameters, attributes.get("epsilon", 1e-5))
        case "LayerNormalization":
            assert attributes.get("axis", -1) in (-1, x[0].ndim - 1)
            shift = inputs[2] if len(inputs) > 2 else None
            return _layer_norm(x, _there(inputs[1]), shift, attributes.get("epsilon", 1e-5))
        case "Softmax":
            axis = attributes.get("axis", -1 if opset >= 13 else 1)
            assert opset >= 13 or axis in (-1, x[0].ndim - 1)  # older: all axes from there on
            return _softmax(x, axis)
        case "Clip":
            limits = [None if p is None else float(p[0]) for p in inputs[1:3]]
            limits += [None] * (2 - len(limits))
            low = attributes.get("min", limits[0])
            return _clip(x, low, attributes.get("max", limits[1]))
        case "Relu":
            return _clip(x, 0.0, None)
        case "LeakyRelu":
            return _leaky(x, attributes.get("alpha", 0.01))
        case "HardSigmoid":
            scaled = _scaled(x, attributes.get("alpha", 0.2), attributes.get("beta", 0.5))
            return _clip(scaled, 0.0, 1.0)
        case "HardSwish":
            return _binary("Mul", x, _clip(_scaled(x, 1 / 6, 0.5), 0.0, 1.0))
        case "Sigmoid":
            value = x[0].sigmoid()
            return _function(x, value, value * (1 - value), least=0.5)  # 0.5 + an odd function
        case "Tanh":
            value = x[0].tanh()
            return _function(x, value, 1 - value.square())
        case "Erf":
            slope = 2 / torch.pi**0.5 * torch.exp(-x[0].square())
            return _function(x, torch.erf(x[0]), slope)
        case "Exp":
            return _function(x, x[0].exp(), x[0].exp())
        case "Sqrt":
            root = x[0].sqrt()
            return _function(x, root, 0.5 / root)
        case "Pow":
            exponent = float(_there(inputs[1])[0])
            return _function(x, x[0] ** exponent, exponent * x[0] ** (exponent - 1))
        case "Add" | "Sub" | "Mul" | "Div":
            return _binary(node.op_type, x, _there(inputs[1]))
        case "GlobalAveragePool":
            return _mean(x, range(2, x[0].ndim), True)
        case "ReduceMean" | "ReduceSum":
            dims = _axes(inputs, attributes, x[0].ndim)
            keep = bool(attributes.get("keepdims", 1))
            return _mean(x, dims, keep, total=node.op_type == "ReduceSum")
        case "MaxPool" | "AveragePool":
            return _pool(x, attributes, average=node.op_type == "AveragePool")
        case "Flatten":
            axis = attributes.get("axis", 1)
            return _moved(x, lambda v: v.reshape(v.shape[:axis].numel(), -1))
        case "Reshape":
            return _reshape(x, _numbers(inputs[1]))
        case "Transpose":
            order = attributes.get("perm", list(range(x[0].ndim))[::-1])
            return _moved(x, lambda v: v.permute(order))
        case "Squeeze" | "Unsqueeze":
            insert = node.op_type == "Unsqueeze"
            return _squeeze(x, _axes(inputs, attributes, x[0].ndim), insert=insert)
        case "Slice":
            return _slice(x, inputs, attributes)
        case "Concat":
            return _concat([_there(p) for p in inputs], attributes["axis"])
        case "Gather":
            return _gather(x, _there(inputs[1])[0], attributes.get("axis", 0))
        case "Resize":
            return _resize(x, inputs, attributes)
        case "Shape":
            return torch.tensor(x[0].shape), None
        case "Cast":
            to_float = attributes["to"] in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
            return (x[0].double() if to_float else x[0].long()), x[1]
        case "Identity" | "Dropout":
            return x
    raise ValueError(f"no rounding rule for {node.op_type} node {node.name}")
