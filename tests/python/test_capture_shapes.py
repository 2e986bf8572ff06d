"""Shape rules of the joint tracer: sizes, strides and types are those of the CPU's kernels.

Random operands, also permuted, expanded, channels-last, sliced, empty and without dimensions. What
a rule does not know it must leave to torch; what it says must be what eager gives.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from octavo import _aten

pytestmark = pytest.mark.peers
SEED = int(os.environ.get("OCTAVO_SEED", "0")) or random.randrange(1, 2**31)
ROUNDS = 60
aten = torch.ops.aten


class Draw:
    """Random operands from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def size(self, low: int = 1, high: int = 5) -> int:
        return self.random.randint(low, high)

    def sizes(self, rank: int | None = None, low: int = 1) -> list[int]:
        rank = self.random.randint(0, 4) if rank is None else rank
        return [self.size(low) for _ in range(rank)]

    def dtype(self) -> torch.dtype:
        return self.random.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16])

    def laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """The same sizes, in memory in another way."""
        way = self.random.choice(["plain", "plain", "permuted", "last", "sliced", "expanded"])
        rank = x.dim()
        if way == "permuted" and rank > 1:
            order = self.random.sample(range(rank), rank)
            back = [order.index(d) for d in range(rank)]
            return x.permute(order).contiguous().permute(back)
        if way == "last" and rank == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if way == "sliced" and rank:
            return torch.cat([x, x], -1)[..., : x.shape[-1]]
        if way == "expanded" and rank and x.shape[0] > 0:
            return x[:1].expand_as(x)
        return x

    def floats(self, *sizes: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        made = torch.randn(sizes, generator=self.generator).to(dtype or self.dtype())
        return self.laid_out(made)

    def bools(self, *sizes: int) -> torch.Tensor:
        return self.laid_out(torch.rand(sizes, generator=self.generator) > 0.5)

    def ints(self, high: int, *sizes: int) -> torch.Tensor:
        return self.laid_out(torch.randint(0, high, sizes, generator=self.generator))

    def broadcast(self, sizes: list[int]) -> list[int]:
        """Sizes that broadcast to `sizes`, or to more."""
        cut = sizes[self.random.randint(0, len(sizes)) :]
        return [n if self.random.random() < 0.7 else 1 for n in cut]


Case = tuple[Any, ...]
Make = Callable[[Draw], Case]
CASES: dict[str, Make] = {}


def case(*names: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        for name in names:
            CASES[name] = make
        return make

    return add


@case("relu", "hardswish", "hardtanh", "isnan", "logical_not")
def one(d: Draw) -> Case:
    return (d.floats(*d.sizes(low=d.random.choice([0, 1]))),)


@case("hardswish_backward")
def two(d: Draw) -> Case:
    sizes, dtype = d.sizes(), d.dtype()
    return d.floats(*sizes, dtype=dtype), d.floats(*sizes, dtype=dtype)


@case("hardtanh_backward")
def two_and_bounds(d: Draw) -> Case:
    return (*two(d), -1.0, 1.0)


@case("logical_and", "logical_or", "logical_xor")
def two_bools(d: Draw) -> Case:
    sizes = d.sizes()
    return d.bools(*sizes), d.random.choice([d.bools, d.floats])(*d.broadcast(sizes))


@case("where.self")
def where(d: Draw) -> Case:
    sizes = d.sizes()
    return (
        d.bools(*d.broadcast(sizes)),
        d.floats(*sizes),
        d.floats(*d.broadcast(sizes)),
    )


@case("masked_fill.Scalar")
def masked_fill(d: Draw) -> Case:
    sizes = d.sizes()
    a, b = d.random.choice([(sizes, d.broadcast(sizes)), (d.broadcast(sizes), sizes)])
    return d.floats(*a), d.bools(*b), 2.0


@case("masked_fill.Tensor")
def masked_fill_tensor(d: Draw) -> Case:
    x, mask, value = masked_fill(d)
    return x, mask, torch.tensor(value)


@case("mse_loss_backward")
def mse_loss_backward(d: Draw) -> Case:
    sizes, dtype = d.sizes(), torch.float32
    x, y = (d.floats(*sizes, dtype=dtype) for _ in range(2))
    reduction = d.random.randint(0, 2)
    return d.floats(*(() if reduction else sizes), dtype=dtype), x, y, reduction


@case("sum")
def whole_sum(d: Draw) -> Case:
    sizes = d.sizes()
    return (d.random.choice([d.floats(*sizes), d.ints(9, *sizes), d.bools(*sizes)]),)


@case("mean")
def whole_mean(d: Draw) -> Case:
    return (d.floats(*d.sizes()),)


@case("var.correction", "var_mean.correction")
def var(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size()))
    dims = d.random.sample(range(-x.dim(), 0), d.size(1, x.dim()))
    return x, d.random.choice([None, dims]), 0, d.random.random() < 0.5


@case("empty_like", "zeros_like", "ones_like", "rand_like", "randn_like")
def like(d: Draw) -> Case:
    x = d.floats(*d.sizes(low=d.random.choice([0, 1])))
    formats = [None, torch.preserve_format, torch.contiguous_format]
    if x.dim() == 4:
        formats.append(torch.channels_last)
    dtype = d.random.choice([None, torch.float64])
    return x, dtype, None, None, None, d.random.choice(formats)


@case("full_like")
def full_like(d: Draw) -> Case:
    x, *rest = like(d)
    return (x, 2, *rest)


@case("zeros", "ones", "rand", "randn")
def zeros(d: Draw) -> Case:
    return (d.sizes(low=0), d.random.choice([None, torch.float64]))


@case("full")
def full(d: Draw) -> Case:
    return (d.sizes(low=0), d.random.choice([1, 1.5, True]))


@case("scalar_tensor")
def scalar_tensor(d: Draw) -> Case:
    return (d.random.choice([1, 1.5, True]), d.random.choice([None, torch.int64]))


@case("new_zeros", "new_ones", "new_empty")
def new_zeros(d: Draw) -> Case:
    return d.floats(*d.sizes()), d.sizes(low=0)


@case("new_full")
def new_full(d: Draw) -> Case:
    return d.floats(*d.sizes()), d.sizes(low=0), d.random.choice([1, 1.5])


@case("arange")
def arange(d: Draw) -> Case:
    return (d.random.choice([d.random.randint(0, 9), 2.5]), None)


@case("arange.start_step")
def arange_start_step(d: Draw) -> Case:
    start, count = d.random.randint(-5, 5), d.random.randint(0, 9)
    return d.random.choice([(start, start + count, 2), (start, start - count, -3)])


@case("clone")
def clone(d: Draw) -> Case:
    formats = [None, torch.preserve_format, torch.contiguous_format]
    return d.floats(*d.sizes(low=d.random.choice([0, 1]))), d.random.choice(formats)


@case("_to_copy")
def to_copy(d: Draw) -> Case:
    x = d.floats(*d.sizes(low=d.random.choice([0, 1])))
    return x, d.random.choice([None, torch.float64, torch.bool])


@case("bernoulli.p")
def bernoulli(d: Draw) -> Case:
    return d.floats(*d.sizes()), 0.5


@case("stack")
def stack(d: Draw) -> Case:
    sizes, dtype = d.sizes(), d.dtype()
    tensors = [d.floats(*sizes, dtype=dtype) for _ in range(d.size(1, 3))]
    return tensors, d.random.randint(-len(sizes) - 1, len(sizes))


@case("index_select")
def index_select(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size(1, 4)))
    dim = d.random.randint(-x.dim(), x.dim() - 1)
    sizes = d.random.choice([(), (3,), (0,)])
    return x, dim, d.ints(x.shape[dim], *sizes)


@case("select_backward")
def select_backward(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size(1, 4)))
    dim = d.random.randint(0, x.dim() - 1)
    return d.laid_out(x.select(dim, 0).clone()), list(x.shape), dim, 0


@case("slice_backward")
def slice_backward(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size(1, 4)))
    return d.laid_out(x[:1].clone()), list(x.shape), 0, 0, 1, 1


@case("index_put")
def index_put(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size(1, 4)))
    return x, [d.ints(x.shape[0], 2)], torch.ones((), dtype=x.dtype)


@case("repeat")
def repeat(d: Draw) -> Case:
    x = d.floats(*d.sizes())
    return x, [d.random.randint(0, 2) for _ in range(x.dim() + d.random.randint(0, 2))]


@case("constant_pad_nd")
def constant_pad(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size(1, 4)))
    return x, [d.random.randint(-1, 2) for _ in range(2 * d.size(1, x.dim()))], 0.0


@case("native_layer_norm")
def layer_norm(d: Draw) -> Case:
    x = d.floats(*d.sizes(d.size(1, 4)))
    over = list(x.shape[-d.size(1, x.dim()) :])
    weight, bias = (d.random.choice([None, d.floats(*over, dtype=x.dtype)]) for _ in range(2))
    return x, over, weight, bias, 1e-5


@case("native_layer_norm_backward")
def layer_norm_backward(d: Draw) -> Case:
    x, over, *_ = layer_norm(d)
    weight, bias = d.floats(*over, dtype=x.dtype), d.floats(*over, dtype=x.dtype)
    y, mean, rstd = aten.native_layer_norm(x, over, weight, bias, 1e-5)
    grad = d.floats(*y.shape, dtype=x.dtype)
    mask = [d.random.random() < 0.8 for _ in range(3)]
    return grad, x, over, mean, rstd, weight, bias, mask


def channels(d: Draw) -> tuple[torch.Tensor, list[torch.Tensor]]:
    x = d.floats(*d.sizes(d.random.choice([2, 3, 4, 4])))
    return x, [torch.rand(x.shape[1], generator=d.generator).to(x.dtype) for _ in range(4)]


@case("native_batch_norm")
def batch_norm(d: Draw) -> Case:
    x, (a, b, c, e) = channels(d)
    weight, bias = d.random.choice([(a, b), (None, None)])
    return x, weight, bias, c, e, d.random.random() < 0.5, 0.1, 1e-5


@case("_native_batch_norm_legit_functional")
def batch_norm_functional(d: Draw) -> Case:
    x, (a, b, c, e) = channels(d)
    return x, a, b, c, e, True, 0.1, 1e-5


@case("native_batch_norm_backward")
def batch_norm_backward(d: Draw) -> Case:
    x, (a, b, c, e) = channels(d)
    train = d.random.random() < 0.5
    y, mean, rstd = aten.native_batch_norm(x, a, b, c, e, train, 0.1, 1e-5)
    grad = d.random.choice([torch.randn_like(y), d.floats(*y.shape, dtype=y.dtype)])
    mask = [d.random.random() < 0.8 for _ in range(3)]
    return grad, x, a, c, e, mean, rstd, train, 1e-5, mask


@case("native_group_norm")
def group_norm(d: Draw) -> Case:
    sizes = [d.size(), 4, *d.sizes(d.size(1, 2))]
    x = torch.randn(sizes) if d.random.random() < 0.5 else d.floats(*sizes)
    w = torch.ones(4, dtype=x.dtype)
    weight, bias = d.random.choice([(w, w), (None, None)])
    return x, weight, bias, x.shape[0], 4, x[0, 0].numel(), 2, 1e-5


@case("native_group_norm_backward")
def group_norm_backward(d: Draw) -> Case:
    x, _, _, n, c, hw, group, eps = group_norm(d)
    x = x.contiguous()
    y, mean, rstd = aten.native_group_norm(x, None, None, n, c, hw, group, eps)
    weight = d.random.choice([torch.ones(4, dtype=x.dtype), None])
    mask = [True, weight is not None, weight is not None]
    return torch.randn_like(y), x, mean, rstd, weight, n, c, hw, group, mask


@case("convolution")
def convolution(d: Draw) -> Case:
    rank, groups = d.size(1, 3), d.random.choice([1, 1, 2])
    transposed = d.random.random() < 0.3
    inputs, outputs = groups * d.size(1, 3), groups * d.size(1, 3)
    dtype = d.random.choice([torch.float32, torch.float64])
    x = d.floats(d.size(), inputs, *(d.size(4, 7) for _ in range(rank)), dtype=dtype)
    kernel = [d.size(1, 3) for _ in range(rank)]
    pair = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    weight = d.floats(*pair, *kernel, dtype=dtype)
    bias = d.random.choice([None, torch.randn(outputs, dtype=dtype)])
    stride = [d.size(1, 2) for _ in range(rank)]
    padding = [d.random.randint(0, 1) for _ in range(rank)]
    dilation = [d.size(1, 2) if k < 3 else 1 for k in kernel]
    extra = [0] * rank
    return x, weight, bias, stride, padding, dilation, transposed, extra, groups


@case("convolution_backward")
def convolution_backward(d: Draw) -> Case:
    x, weight, bias, *rest = convolution(d)
    y = aten.convolution(x, weight, bias, *rest)
    grad = d.random.choice([torch.randn_like(y), d.floats(*y.shape, dtype=y.dtype)])
    sizes = None if bias is None else list(bias.shape)
    mask = [d.random.random() < 0.8, d.random.random() < 0.8, bias is not None]
    return grad, x, weight, sizes, *rest, mask


def attended(d: Draw) -> tuple[torch.Tensor, ...]:
    batch, heads, places, keys, width = (d.size(1, 4) for _ in range(5))
    dtype = d.dtype()
    q = d.floats(batch, heads, places, width, dtype=dtype)
    k, v = (d.floats(batch, heads, keys, width, dtype=dtype) for _ in range(2))
    return q, k, v


@case("_scaled_dot_product_flash_attention_for_cpu")
def attention(d: Draw) -> Case:
    return (*attended(d), 0.0, d.random.random() < 0.5)


@case("_scaled_dot_product_flash_attention_for_cpu_backward")
def attention_backward(d: Draw) -> Case:
    q, k, v = attended(d)
    out, sums = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return d.floats(*out.shape, dtype=q.dtype), q, k, v, out, sums, 0.0, False


@case("embedding")
def embedding(d: Draw) -> Case:
    return d.floats(7, d.size()), d.ints(7, *d.sizes(low=d.random.choice([0, 1])))


@case("embedding_dense_backward")
def embedding_backward(d: Draw) -> Case:
    indices = d.ints(7, *d.sizes())
    return d.floats(*indices.shape, d.size(), dtype=torch.float32), indices, 7, -1, False


@case("native_dropout")
def dropout(d: Draw) -> Case:
    x = d.floats(*d.sizes(low=d.random.choice([0, 1])))
    return x, d.random.choice([0.0, 0.5, 0.5, 1.0]), d.random.choice([True, False, None])


@case("native_dropout_backward")
def dropout_backward(d: Draw) -> Case:
    sizes = d.sizes()
    return d.floats(*sizes), d.bools(*sizes), 2.0


@case("_adaptive_avg_pool2d")
def adaptive_pool(d: Draw) -> Case:
    return d.floats(*d.sizes(4), dtype=torch.float32), [d.size(), d.size()]


@case("_adaptive_avg_pool2d_backward")
def adaptive_pool_backward(d: Draw) -> Case:
    x, to = adaptive_pool(d)
    y = aten._adaptive_avg_pool2d(x, to)
    return d.random.choice([torch.randn_like(y), y.contiguous()]), x


def on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [on_meta(item) for item in value]
    return value


def seen(results: Any) -> Iterator[tuple[Any, ...] | None]:
    for x in results if isinstance(results, (tuple, list)) else (results,):
        yield None if x is None else (tuple(x.shape), _strides(x), x.dtype)


def _strides(x: torch.Tensor) -> tuple[int, ...]:
    """Of an empty tensor, and of a dimension of one element, no stride is ever used."""
    if x.numel() == 0:
        return ()
    return tuple(s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1)


FACTORIES = ("zeros", "ones", "rand", "randn", "full", "scalar_tensor", "arange")
# How many of the random calls a rule must know at least; the others are torch's.
FEW = {
    "native_group_norm": 0.2,
    "stack": 0.1,
    "native_dropout": 0.01,
    "constant_pad_nd": 0.05,
    "hardtanh_backward": 0.5,
}


@pytest.mark.parametrize("name", CASES)
def test_rules_give_what_the_cpu_gives(name: str) -> None:
    base, _, overload = name.partition(".")
    operator = getattr(getattr(aten, base), overload or "default")
    known = ran = 0
    for turn in range(ROUNDS):
        draw = Draw(SEED * 1000 + turn)
        arguments = CASES[name](draw)
        places = {a.name: n for n, a in enumerate(operator._schema.arguments)}
        given = dict(zip([a.name for a in operator._schema.arguments], arguments, strict=False))
        positional = [given.pop(a.name) for a in operator._schema.arguments if a.name in given
                      and not a.kwarg_only]  # fmt: skip
        try:
            expected = list(seen(operator(*positional, **given)))
        except (RuntimeError, IndexError, NotImplementedError, ZeroDivisionError):
            continue  # no such call
        ran += 1
        full_list: list[Any] = [on_meta(a) for a in arguments]
        if base.split("_")[0] in FACTORIES or base in FACTORIES:
            defaults = [a.default_value for a in operator._schema.arguments]
            full_list += defaults[len(full_list) :]
            if "_like" not in base:
                full_list[places["device"]] = torch.device("meta")
        try:
            results, by = _aten.shapes("aten::" + base, overload, full_list)
        except ZeroDivisionError:
            continue  # torch's own rule of batch norm, in Python, divides by the values - 1
        if by != "own":
            continue
        known += 1
        if "output_mask" in places:  # of what nobody asked for, some kernels give something
            asked = arguments[places["output_mask"]]
            expected = [e if a else None for e, a in zip(expected, asked, strict=True)]
        what = [on_meta(a) for a in arguments]
        assert list(seen(results)) == expected, f"{name}{what}, OCTAVO_SEED={SEED}"
    assert ran >= ROUNDS / 4
    assert known >= ran * FEW.get(name, 0.3), f"{known} of {ran}, OCTAVO_SEED={SEED}"
