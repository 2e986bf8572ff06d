"""The backend octavo: random numbers are those that eager draws, in its order, and tensors written
in place keep their strides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from capture_cases import near
from octavo import capture

pytestmark = pytest.mark.peers


def dropout_then_write(x, y):
    x = F.dropout(x.tanh() * 2) + 1
    y.normal_()
    return x


def two_draws(x, y):
    return F.dropout(x * 2) + torch.rand_like(y) * torch.bernoulli(y.sigmoid())


def draw_of_a_result(x, y):
    a = F.dropout(x)
    y.T.normal_()
    return a + torch.rand_like(a * 2) * F.dropout(y.T).T


def transposed(x, y):
    t = x.T
    t.exponential_()
    y.T.bernoulli_(0.5)
    return F.dropout(y.T, inplace=True)


def written_before(x, y):
    t = x.T
    t.masked_fill_(t > 0, 1)  # torch's functional form gives row-major memory
    t.exponential_()
    return x + y


def each_kind(x, y):
    t = x.T
    t.cauchy_()
    y.T.log_normal_()
    (x + y).T.geometric_(0.5)
    return F.rrelu(y, training=True).T + t.random_(0, 10)


def part(x, y):
    x[:, 1:3].normal_()
    y.T[1:].exponential_()
    return x * y


def part_written_before(x, y):
    t = x.T[1:]
    t.masked_fill_(t > 0, 1)
    t.exponential_()
    return x * y


@pytest.mark.parametrize(
    "f",
    [
        dropout_then_write,
        two_draws,
        draw_of_a_result,
        transposed,
        written_before,
        each_kind,
        part,
        part_written_before,
    ],
)
def test_the_same_numbers(f):
    def drawn(function):
        torch.manual_seed(3)
        args = [torch.randn(7, 9), torch.randn(7, 9)]
        out = function(*args)
        return [out, *args, torch.rand(1)]

    for ours, theirs in zip(drawn(capture.compile(f, backend="octavo")), drawn(f), strict=True):
        near(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_strides_of_what_is_written():
    def f(x):
        t = (x * 2).T
        t.masked_fill_(t > 0, 1)
        return t, t.index_fill_(0, torch.tensor([1]), 3.0) * 2

    x = torch.randn(5, 6)
    for ours, theirs in zip(capture.compile(f, backend="octavo")(x), f(x), strict=True):
        near(ours, theirs)
        assert ours.stride() == theirs.stride()
