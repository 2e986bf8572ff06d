"""The backend octavo: NaN and infinity come out where they do in eager, through every kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from octavo import capture

pytestmark = pytest.mark.peers

PLAIN, PICTURE = (6, 24), (2, 8, 12, 12)
VALUES = (float("nan"), float("inf"), -float("inf"))

OF_PICTURES = {
    "conv": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "conv 1x1": lambda: nn.Conv2d(8, 16, 1),
    "depthwise": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "batch norm": lambda: nn.BatchNorm2d(8),
    "max pool": lambda: nn.MaxPool2d(2),
    "average pool": lambda: nn.AvgPool2d(2),
    "global pool": lambda: nn.AdaptiveAvgPool2d(1),
    "group norm": lambda: nn.GroupNorm(2, 8),
}
OF_ROWS = {
    "linear": lambda: nn.Linear(24, 16),
    "product": lambda: lambda x: x @ x.T,
    "layer norm": lambda: nn.LayerNorm(24),
    "softmax": lambda: nn.Softmax(-1),
    "log softmax": lambda: nn.LogSoftmax(-1),
    "sum": lambda: lambda x: x.sum(-1),
    "mean": lambda: lambda x: x.mean(-1),
    "amax": lambda: lambda x: x.amax(-1),
    "variance": lambda: lambda x: x.var(-1),
    "add": lambda: lambda x: x + x.flip(0),
    "multiply": lambda: lambda x: x * x.flip(0),
    "divide": lambda: lambda x: x / x.flip(0),
    "maximum": lambda: lambda x: torch.maximum(x, x.flip(0)),
}
TAILS = {
    "": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu tanh": lambda: nn.GELU("tanh"),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "clamp": lambda: lambda x: x.clamp(-1, 1),
    "exp": lambda: torch.exp,
    "erf": lambda: torch.erf,
}


def check(body, tail, shape, values=VALUES):
    with torch.no_grad():
        torch.manual_seed(0)
        body, tail = body(), tail()
        if isinstance(body, nn.Module):
            body.eval()
        x = torch.randn(shape)
        fast = capture.compile(lambda x: tail(body(x)), backend="octavo")
        torch.testing.assert_close(fast(x), tail(body(x)), rtol=1e-4, atol=1e-5)
        for value in values:
            bad = x.clone()
            bad.view(-1)[[3, x.numel() // 2 + 1]] = value
            ours, theirs = fast(bad), tail(body(bad))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True)


def values_of(tail):
    """torch's vectors make NaN of gelu(inf), its scalars inf, which is right and is ours."""
    return VALUES[:1] if tail == "gelu" else VALUES


@pytest.mark.parametrize("tail", TAILS)
def test_behind_a_convolution(tail):
    check(OF_PICTURES["conv"], TAILS[tail], PICTURE, values_of(tail))
    check(OF_PICTURES["depthwise"], TAILS[tail], PICTURE, values_of(tail))


@pytest.mark.parametrize("tail", TAILS)
def test_behind_a_product(tail):
    check(OF_ROWS["linear"], TAILS[tail], PLAIN, values_of(tail))
    check(OF_ROWS["add"], TAILS[tail], PLAIN, values_of(tail))


def test_attention():
    """torch's kernel drops some NaN, which depends on its blocks: the definition is the measure."""

    def attention(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    torch.manual_seed(0)
    fast = capture.compile(attention, backend="octavo")
    for value in VALUES:
        for bad in range(3):
            inputs = [torch.randn(1, 2, 6, 12) for _ in range(3)]
            inputs[bad][0, 0, 1, 3] = value
            q, k, v = inputs
            weights = torch.softmax(q @ k.transpose(-1, -2) / 12**0.5, -1)
            torch.testing.assert_close(fast(q, k, v), weights @ v, equal_nan=True)


@pytest.mark.parametrize("body", OF_PICTURES)
def test_of_pictures(body):
    check(OF_PICTURES[body], TAILS[""], PICTURE)
    check(OF_PICTURES[body], TAILS["relu"], PICTURE)


@pytest.mark.parametrize("body", OF_ROWS)
def test_of_rows(body):
    check(OF_ROWS[body], TAILS[""], PLAIN)
    check(OF_ROWS[body], TAILS["relu"], PLAIN)


def test_batch_norm_without_channels_raises():
    fast = capture.compile(
        lambda x: (F.batch_norm(x, None, None, training=True), x + 1)[1], backend="octavo"
    )
    with pytest.raises(IndexError, match="Dimension out of range"):
        fast(torch.randn(4))
