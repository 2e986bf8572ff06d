"""Programs of ATen operators compiled to Octavo's: operators and whole models against eager."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from octavo import _aten

aten = torch.ops.aten
SEED = int(os.environ.get("OCTAVO_TEST_SEED", time.time_ns() % 100_000))
EPSILON = 2.0**-24  # half a unit in the last place of float32, relative


def program_of(graph_module: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Any:
    """The program of an FX graph of ATen calls; its values come from running it on `inputs`."""
    builder = _aten.GraphBuilder()
    values: dict[torch.fx.Node, Any] = {}  # what eager gives
    handles: dict[torch.fx.Node, Any] = {}
    feed = iter(inputs)

    def look_up(table: dict[torch.fx.Node, Any], argument: Any) -> Any:
        return torch.fx.node.map_arg(argument, lambda node: table[node])

    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            values[node] = next(feed)
            handles[node] = builder.input(values[node])
        elif node.op == "get_attr":
            values[node] = getattr(graph_module, node.target)
            handles[node] = builder.constant(values[node])
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            result = node.target(*look_up(values, node.args), **look_up(values, node.kwargs))
            values[node] = result
            flat = [result] if isinstance(result, torch.Tensor) else list(result)
            made = builder.call(
                node.target._schema.name,
                node.target._schema.overload_name,
                list(look_up(handles, node.args)),
                dict(look_up(handles, node.kwargs)),
                flat,
            )
            handles[node] = made[0] if isinstance(result, torch.Tensor) else made
        elif node.op == "call_function":  # operator.getitem
            values[node] = node.target(*look_up(values, node.args))
            handles[node] = node.target(*look_up(handles, node.args))
        elif node.op == "output":
            for output in torch.fx.node.map_arg(node.args[0], lambda n: handles[n]):
                builder.output(output)
    return _aten.Program(builder)


def traced(f: Callable[..., Any], *inputs: torch.Tensor) -> Any:
    def listed(*arguments: torch.Tensor) -> list[torch.Tensor]:
        result = f(*arguments)
        return [result] if isinstance(result, torch.Tensor) else list(result)

    with torch.no_grad():
        graph = make_fx(listed)(*inputs)
        return program_of(graph, inputs)


def check(
    f: Callable[..., Any],
    *inputs: torch.Tensor,
    roundings: float = 8,
    opaque: Sequence[str] = (),
) -> Any:
    """`f` compiled gives eager's results.

    Float32 results may differ from eager's by what `roundings` roundings of values of the size of
    the exact result, and of the largest operand or result, can make: both forms round, in different
    orders.
    """
    program = traced(f, *inputs)
    floats = [x for x in inputs if x.is_floating_point()]
    expected = f(*inputs)
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    for _ in range(2):  # the second call reuses memory
        found = program.run(list(inputs))
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            assert mine.stride() == theirs.stride()
            if not theirs.is_floating_point():
                assert torch.equal(mine, theirs)
                continue
            sizes = [x[torch.isfinite(x)].abs().flatten() for x in (theirs, *floats)]
            scale = max((x.max().item() for x in sizes if x.numel()), default=0.0)
            tolerance = roundings * EPSILON
            torch.testing.assert_close(
                mine, theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=True
            )
    summary = program.summary()
    assert sorted(summary["opaque"]) == sorted(opaque), (summary, f"seed {SEED}")
    assert not summary["refused"], summary
    return program


def generator(salt: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(SEED + salt)


def random(*sizes: int, salt: int = 0) -> torch.Tensor:
    return torch.randn(sizes, generator=generator(salt))


SPECIAL = torch.tensor(
    [0.0, -0.0, 1.0, -1.0, 0.5, -3.0, 3.0, 7.5, -7.5, 1e-40, math.inf, -math.inf, math.nan]
)

UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": aten.relu,
    "neg": aten.neg,
    "abs": aten.abs,
    "exp": aten.exp,
    "log": aten.log,
    "sqrt": aten.sqrt,
    "rsqrt": aten.rsqrt,
    "square": aten.square,
    "sigmoid": aten.sigmoid,
    "tanh": aten.tanh,
    "erf": aten.erf,
    "floor": aten.floor,
    "ceil": aten.ceil,
    "round": aten.round,
    "reciprocal": aten.reciprocal,
    "silu": aten.silu,
    "gelu": aten.gelu,
    "gelu_tanh": lambda x: aten.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: aten.leaky_relu(x, 0.1),
    "clamp": lambda x: aten.clamp(x, -0.5, 2.0),
    "clamp_min": lambda x: aten.clamp_min(x, -0.5),
    "clamp_max": lambda x: aten.clamp_max(x, 0.5),
    "hardtanh": lambda x: aten.hardtanh(x, -1.0, 2.0),
    "hardswish": aten.hardswish,
    "hardsigmoid": aten.hardsigmoid,
    "elu": lambda x: aten.elu(x, 1.5),
    "softplus": aten.softplus,
    "add_scalar": lambda x: aten.add(x, 2.5),
    "rsub": lambda x: aten.rsub(x, 2.5),
    "div_scalar": lambda x: aten.div(x, 3.0),
    "pow2": lambda x: aten.pow(x, 2),
    "pow3": lambda x: aten.pow(x, 3),
    "pow_half": lambda x: aten.pow(x, 0.5),
    "pow_other": lambda x: aten.pow(aten.abs(x), 1.7),
    "gt": lambda x: aten.gt(x, 0.0),
    "le": lambda x: aten.le(x, 0.5),
    "eq": lambda x: aten.eq(x, 1.0),
    "ne": lambda x: aten.ne(x, 1.0),
    "isnan": aten.isnan,
    "masked_fill": lambda x: aten.masked_fill(x, aten.gt(x, 0.5), -1.0),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    f = UNARY[name]
    check(f, random(5, 7), roundings=16)
    special = SPECIAL.clone()
    if name == "gelu":  # torch's gelu of infinity is NaN
        special[special == math.inf] = 20.0
    check(f, special, roundings=16)
    check(f, random(4, 6).t(), roundings=16)
    check(f, random(6, 8)[:, ::2], roundings=16)
    check(f, random(), roundings=16)


BINARY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": aten.add,
    "add_alpha": lambda a, b: aten.add(a, b, alpha=0.5),
    "sub": aten.sub,
    "mul": aten.mul,
    "div": aten.div,
    "maximum": aten.maximum,
    "minimum": aten.minimum,
    "pow": lambda a, b: aten.pow(aten.abs(a), b),
    "lt": aten.lt,
    "ge": aten.ge,
    "ne": aten.ne,
    "where": lambda a, b: aten.where(aten.lt(a, b), a, b),
    "lerp": lambda a, b: aten.lerp(a, b, 0.25) if a.shape == b.shape else aten.add(a, b),
    "lerp_far": lambda a, b: aten.lerp(a, b, 0.75) if a.shape == b.shape else aten.add(a, b),
    "addcmul": lambda a, b: aten.addcmul(a, a, b, value=0.3),
    "addcdiv": lambda a, b: aten.addcdiv(a, b, aten.add(aten.abs(a), 1.0), value=-0.3),
    "logic": lambda a, b: aten.logical_and(aten.gt(a, 0.0), aten.logical_not(aten.gt(b, 0.0))),
    "mask_product": lambda a, b: aten.mul(a, aten.gt(b, 0.0)),
}

SHAPES = [
    ((3, 5), (3, 5)),
    ((4, 3, 5), (5,)),
    ((4, 3, 1), (4, 1, 5)),
    ((3, 5), ()),
    ((2, 1, 3, 4), (5, 1, 4)),
]


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_binary(name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = random(*shapes[0]), random(*shapes[1], salt=1)
    check(BINARY[name], a, b, roundings=16)


@pytest.mark.parametrize(
    "name", ["add", "sub", "mul", "div", "maximum", "minimum", "lt", "ge", "where"]
)
def test_binary_special(name: str) -> None:
    n = len(SPECIAL)
    check(BINARY[name], SPECIAL.repeat(n), SPECIAL.repeat_interleave(n))


SHAPE: dict[str, Callable[[torch.Tensor], Any]] = {
    "view": lambda x: aten.view(aten.relu(x), [6, 20]),
    "permute": lambda x: aten.exp(aten.permute(x, [2, 0, -2])),
    "permute_out": lambda x: aten.permute(aten.exp(x), [2, 0, 1]),
    "transpose": lambda x: aten.relu(aten.transpose(x, 0, 2)),
    "slice": lambda x: aten.relu(aten.slice(x, 1, 1, -1)),
    "slice_step": lambda x: aten.relu(aten.slice(x, 2, 0, 100, 2)),
    "select": lambda x: aten.relu(aten.select(x, 1, -1)),
    "expand": lambda x: aten.relu(aten.expand(aten.slice(x, 1, 0, 1), [-1, 9, -1])),
    "expand_out": lambda x: aten.expand(aten.exp(aten.slice(x, 1, 0, 1)), [-1, 9, -1]),
    "split": lambda x: [aten.relu(y) for y in aten.split(x, 2, 2)],
    "unbind": lambda x: [aten.relu(y) for y in aten.unbind(x, 0)],
    "cat": lambda x: aten.cat([x, aten.exp(x), x], 1),
    "stack": lambda x: aten.stack([x, aten.exp(x)], -1),
    "pad": lambda x: aten.constant_pad_nd(x, [1, 2, 0, 3], 0.5),
    "squeeze": lambda x: aten.relu(aten.squeeze(aten.slice(x, 1, 2, 3), 1)),
    "unsqueeze": lambda x: aten.relu(aten.unsqueeze(x, -1)),
    "clone": aten.clone,
    "same": lambda x: x,
    "slice_backward": lambda x: aten.slice_backward(x, [4, 9, 6], 1, 2, 7, 1),
    "select_backward": lambda x: aten.select_backward(x, [4, 5, 3, 6], 2, 1),
}


@pytest.mark.parametrize("name", SHAPE)
def test_shape(name: str) -> None:
    check(SHAPE[name], random(4, 5, 6))


REDUCE: dict[str, Callable[[torch.Tensor], Any]] = {
    "sum": aten.sum,
    "sum_dims": lambda x: aten.sum(x, [0, 2], True),
    "sum_last": lambda x: aten.sum(x, [-1]),
    "mean": aten.mean,
    "mean_dim": lambda x: aten.mean(x, [1], True),
    "var": lambda x: aten.var(x, [1], correction=1),
    "var_mean": lambda x: aten.var_mean(x, [0, 2], correction=0, keepdim=True),
    "softmax": lambda x: aten._softmax(x, -1, False),
    "softmax_first": lambda x: aten._softmax(x, 0, False),
    "log_softmax": lambda x: aten._log_softmax(x, 1, False),
}


@pytest.mark.parametrize("name", REDUCE)
def test_reduce(name: str) -> None:
    check(REDUCE[name], random(4, 5, 6), roundings=64)  # 30 elements and their squares
    check(REDUCE[name], random(6, 5, 4).permute(2, 1, 0), roundings=64)


PRODUCT: dict[str, tuple[Callable[..., torch.Tensor], list[tuple[int, ...]]]] = {
    "mm": (aten.mm, [(5, 7), (7, 3)]),
    "mm_left": (lambda a, b: aten.mm(aten.t(a), b), [(7, 5), (7, 3)]),
    "mm_right": (lambda a, b: aten.mm(a, aten.t(b)), [(5, 7), (3, 7)]),
    "addmm": (aten.addmm, [(3,), (5, 7), (7, 3)]),
    "addmm_scaled": (
        lambda c, a, b: aten.addmm(c, a, b, beta=0.5, alpha=2.0),
        [(5, 3), (5, 7), (7, 3)],
    ),
    "addmm_zero": (lambda c, a, b: aten.addmm(c, a, b, beta=0), [(5, 3), (5, 7), (7, 3)]),
    "bmm": (aten.bmm, [(4, 5, 7), (4, 7, 3)]),
    "bmm_right": (lambda a, b: aten.bmm(a, aten.transpose(b, 1, 2)), [(4, 5, 7), (4, 3, 7)]),
    "bmm_left": (lambda a, b: aten.bmm(aten.transpose(a, 1, 2), b), [(4, 7, 5), (4, 7, 3)]),
    "bmm_both": (
        lambda a, b: aten.bmm(aten.transpose(a, 1, 2), aten.transpose(b, 1, 2)),
        [(4, 7, 5), (4, 3, 7)],
    ),
    "baddbmm": (aten.baddbmm, [(4, 5, 3), (4, 5, 7), (4, 7, 3)]),
    "large": (lambda a, b: aten.mm(aten.t(a), aten.t(b)), [(70, 130), (90, 70)]),
    "one": (lambda a, b: aten.mm(aten.t(a), b), [(200, 1), (200, 32)]),
}


@pytest.mark.parametrize("name", PRODUCT)
def test_product(name: str) -> None:
    f, shapes = PRODUCT[name]
    # Sums of up to 200 products of either sign.
    check(f, *(random(*shape, salt=i) for i, shape in enumerate(shapes)), roundings=200)


BACKWARD: dict[str, Callable[..., Any]] = {
    "threshold": lambda g, x: aten.threshold_backward(g, x, 0.0),
    "sigmoid": aten.sigmoid_backward,
    "tanh": aten.tanh_backward,
    "silu": aten.silu_backward,
    "gelu": aten.gelu_backward,
    "gelu_tanh": lambda g, x: aten.gelu_backward(g, x, approximate="tanh"),
    "leaky_relu": lambda g, x: aten.leaky_relu_backward(g, x, 0.1, False),
    "hardtanh": lambda g, x: aten.hardtanh_backward(g, x, -1.0, 1.0),
    "hardsigmoid": aten.hardsigmoid_backward,
    "hardswish": aten.hardswish_backward,
    "softmax": lambda g, x: aten._softmax_backward_data(g, x, -1, torch.float32),
    "log_softmax": lambda g, x: aten._log_softmax_backward_data(g, x, -1, torch.float32),
    "mse": lambda g, x: aten.mse_loss_backward(aten.sum(g), x, g, 1),
    "mse_sum": lambda g, x: aten.mse_loss_backward(aten.sum(g), x, g, 2),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str) -> None:
    check(BACKWARD[name], random(6, 9), random(6, 9, salt=1), roundings=64)


def test_layer_norm() -> None:
    def f(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, g: torch.Tensor) -> Any:
        y, mean, rstd = aten.native_layer_norm(x, [16], w, b, 1e-5)
        grads = aten.native_layer_norm_backward(g, x, [16], mean, rstd, w, b, [True] * 3)
        return [y, mean, rstd, *grads]

    inputs = random(3, 4, 16), random(16, salt=1), random(16, salt=2), random(3, 4, 16, salt=3)
    check(f, *inputs, roundings=128)
    check(lambda x, w, b: aten.native_layer_norm(x, [16], w, b, 1e-5)[0], *inputs[:3], roundings=64)


def gradients(model: torch.nn.Module, loss: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The function of (x, parameters…) that gives the loss and all parameters' gradients."""
    names = [name for name, _ in model.named_parameters()]

    def f(x: torch.Tensor, *parameters: torch.Tensor) -> list[torch.Tensor]:
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in parameters]
            named = dict(zip(names, leaves, strict=True))
            value = loss(torch.func.functional_call(model, named, (x,)))
            return [value.detach(), *torch.autograd.grad(value, leaves)]

    return f


def test_mlp_forward_and_backward() -> None:
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(
        torch.nn.Linear(10, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 32),
        torch.nn.ReLU(),
        torch.nn.Linear(32, 1),
    )
    target = random(200, 1, salt=9)
    f = gradients(model, lambda y: torch.nn.functional.mse_loss(y, target))
    program = check(f, random(200, 10), *model.parameters(), roundings=200)
    assert program.summary()["regions"] == 1


def test_transformer_block() -> None:
    torch.manual_seed(SEED)
    block = torch.nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0.0, activation="gelu", batch_first=True
    )
    weights = random(2, 10, 32, salt=5)  # gradients of the mean of squares would be all rounding
    f = gradients(block, lambda y: (y * weights).mean())
    program = traced(f, random(2, 10, 32), *block.parameters())
    check(
        f, random(2, 10, 32), *block.parameters(), roundings=512, opaque=program.summary()["opaque"]
    )


def test_small_cnn_trains() -> None:
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 49, 5),
    )
    f = gradients(model, lambda y: torch.log_softmax(y, 1)[:, 0].mean())
    program = traced(f, random(4, 3, 16, 16), *model.parameters())
    opaque = program.summary()["opaque"]
    assert "aten::convolution" in opaque and "aten::addmm" not in opaque
    check(f, random(4, 3, 16, 16), *model.parameters(), roundings=512, opaque=opaque)


class Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm1 = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + x).mean((2, 3))


def test_residual_block_in_eval() -> None:
    torch.manual_seed(SEED)
    model = Residual().eval().requires_grad_(False)
    program = check(model, random(2, 8, 12, 12), roundings=256)
    assert program.summary()["regions"] == 1


def test_what_octavo_lacks_is_called_and_counted() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return aten.relu(aten.add(aten.lgamma(aten.exp(x)), aten.lgamma(x)))

    program = check(f, random(3, 4), opaque=["aten::lgamma"])
    assert program.summary()["opaque"] == {"aten::lgamma": 2}
    assert program.summary()["regions"] == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_other_types_are_called(dtype: torch.dtype) -> None:
    x = (random(4, 5) * 10).to(dtype)
    check(lambda a: aten.mul(aten.add(a, a), 3), x, opaque=["aten::add.Tensor", "aten::mul.Tensor"])


def test_type_promotion() -> None:
    x = random(4, 5)
    wide = torch.full((), 1.1, dtype=torch.float64)
    check(aten.mul, x, wide, opaque=["aten::mul.Tensor"])
    check(aten.add, x, torch.arange(5), opaque=["aten::add.Tensor"])


def test_empty_tensors() -> None:
    check(
        lambda x: aten.relu(aten.add(x, 1.0)),
        random(0, 3),
        opaque=["aten::add.Tensor", "aten::relu"],
    )
    check(lambda x: aten.sum(x, [0]), random(0, 3), opaque=["aten::sum.dim_IntList"])


def test_inputs_of_other_strides_than_traced() -> None:
    program = traced(aten.exp, random(4, 6))
    x = random(6, 4).t()
    torch.testing.assert_close(program.run([x])[0], torch.exp(x))


def test_wrong_inputs_are_refused() -> None:
    program = traced(aten.exp, random(4, 6))
    with pytest.raises(Exception, match="input 0"):
        program.run([random(4, 5)])
    with pytest.raises(Exception, match="takes 1"):
        program.run([])


def adam_program(parameters: int, size: int) -> tuple[Any, list[torch.Tensor]]:
    """Adam's step as a program that writes its inputs: parameters, gradients, both moments."""
    builder = _aten.GraphBuilder()
    inputs = [random(size, size, salt=i).abs() for i in range(4 * parameters)]
    values = [builder.input(x) for x in inputs]

    def call(name: str, overload: str, *arguments: Any, **keywords: Any) -> Any:
        example = [inputs[0]]
        return builder.call(f"aten::{name}", overload, list(arguments), keywords, example)[0]

    for i in range(parameters):
        p, g, m, v = values[4 * i : 4 * i + 4]
        first = call("lerp", "Scalar", m, g, 0.1)
        second = call("addcmul", "", call("mul", "Tensor", v, 0.999), g, g, value=0.001)
        root = call("add", "Tensor", call("sqrt", "", second), 1e-8)
        for k, value in (
            (0, call("addcdiv", "", p, first, root, value=-0.01)),
            (2, first),
            (3, second),
        ):
            builder.write(4 * i + k, value)
    return _aten.Program(builder), inputs


def test_writes_go_into_the_inputs_memory() -> None:
    program, inputs = adam_program(3, 50)
    assert program.summary()["in_place"] == 9
    expected = [x.clone() for x in inputs]
    places = [x.data_ptr() for x in inputs]
    versions = [x._version for x in inputs]
    for _ in range(3):
        assert program.run(inputs) == []
        for i in range(0, len(inputs), 4):
            p, g, m, v = expected[i : i + 4]
            m.lerp_(g, 0.1)
            v.mul_(0.999).addcmul_(g, g, value=0.001)
            p.addcdiv_(m, v.sqrt().add_(1e-8), value=-0.01)
    for mine, theirs in zip(inputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=32 * EPSILON, atol=32 * EPSILON)
    assert [x.data_ptr() for x in inputs] == places
    assert all(inputs[i]._version > versions[i] for i in range(len(inputs)) if i % 4 != 1)


def test_writes_that_read_each_other() -> None:
    builder = _aten.GraphBuilder()
    a, b = random(3, 4), random(3, 4, salt=1)
    x, y = builder.input(a), builder.input(b)
    builder.write(0, y)
    builder.write(1, x)
    total = builder.call("aten::add", "Tensor", [x, y], {}, [a])[0]
    builder.output(total)
    program = _aten.Program(builder)
    before = a.clone(), b.clone()
    (result,) = program.run([a, b])
    assert torch.equal(a, before[1])
    assert torch.equal(b, before[0])
    assert torch.equal(result, before[0] + before[1])
