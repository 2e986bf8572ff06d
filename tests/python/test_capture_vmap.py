# Captured functions are written in every way that users write them.
# ruff: noqa: PLW0108
"""torch.vmap in captured functions, and torch's mode that looks up by tensors."""

from typing import Any

import pytest
import torch
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from capture_cases import assert_capture, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((3, 4), (3, 4))
ROWS, COLUMNS = torch.arange(3), torch.arange(4)


def whole(fn: Any, args: tuple[Any, ...], *later: Any, **more: Any) -> None:
    assert_capture(fn, args, *later, graphs=1, breaks=[], **more)


def dot(a, b):
    return (a * b).sum(-1)


def scaled(a, *, by):
    return a * by


CASES = {
    "one argument": lambda x, y: torch.vmap(torch.sin)(x),
    "two": lambda x, y: torch.vmap(dot)(x, y),
    "in_dims": lambda x, y: torch.vmap(dot, in_dims=(1, -1))(x, y),
    "none among in_dims": lambda x, y: torch.vmap(dot, in_dims=(0, None))(x, y),
    "out_dims": lambda x, y: torch.vmap(torch.cos, out_dims=1)(x),
    "a tuple comes out": lambda x, y: torch.vmap(lambda a: (a + 1, a.sum()))(x),
    "keywords": lambda x, y: torch.vmap(scaled)(x, by=y[0]),
    "closed over": lambda x, y: torch.vmap(lambda a: a @ y.T + x.shape[0])(x),
    "nested": lambda x, y: torch.vmap(
        torch.vmap(lambda i, j: i + 2 * j, (None, 0)), in_dims=(0, None)
    )(x, y),
    "not batched result": lambda x, y: torch.vmap(lambda a: y[0] * 2)(x),
    "within an expression": lambda x, y: torch.vmap(torch.exp)(x + 1) * y,
    "decorator": lambda x, y: torch.func.vmap(lambda a: a.new_ones(()) + a.sum())(x),
}


@pytest.mark.parametrize("fn", CASES.values(), ids=CASES.keys())
def test_vmap(fn):
    whole(fn, (X, Y), (X + 1, Y), (X[:2], Y[:2]))


BREAKS = {
    "nested arguments": lambda x, y: torch.vmap(lambda d: d["a"] + 1)({"a": x}) * 2,
    "chunks": lambda x, y: torch.vmap(torch.sin, chunk_size=2)(x) + y,
    "a dict comes out": lambda x, y: torch.vmap(lambda a: {"b": a + 1})(x)["b"] + y,
}


@pytest.mark.parametrize("fn", BREAKS.values(), ids=BREAKS.keys())
def test_vmap_by_torch(fn):
    assert_capture(fn, (X, Y))


ERRORS = {
    "sizes differ": lambda x, y: torch.vmap(dot)(x, y[:2]),
    "no such dimension": lambda x, y: torch.vmap(torch.sin, in_dims=5)(x),
    "raises within": lambda x, y: torch.vmap(lambda a: a @ y[:, :2])(x),
    "item within": lambda x, y: torch.vmap(lambda a: a * a.sum().item())(x),
    "randomness": lambda x, y: torch.vmap(lambda a: a + torch.rand_like(a))(x),
}


@pytest.mark.parametrize("fn", ERRORS.values(), ids=ERRORS.keys())
def test_errors(fn):
    assert_capture(fn, (X, Y), steady=False)
    assert torch.equal(torch.vmap(torch.neg)(X), -X)  # no level was left over


def test_a_graph_that_raises_leaves_no_level():
    def fn(table, at):
        with TransformGetItemToIndex():
            return torch.vmap(lambda i: table[i])(at) + 1

    captured = capture.compile(fn, backend="eager", fullgraph=True)
    assert torch.equal(captured(X, ROWS), X + 1)
    with pytest.raises(IndexError):
        captured(X, ROWS + 3)
    depth = torch._C._functorch.get_dynamic_layer_stack_depth()
    assert depth == 0
    assert torch.equal(captured(X, ROWS), X + 1)


def test_called_by_vmap():
    inner = capture.compile(lambda a: torch.vmap(torch.sin)(X) + a, backend="eager")
    assert torch.equal(torch.vmap(inner)(X[0]), torch.sin(X) + X[0][:, None, None])


def test_mapped_function_is_returned():
    captured = capture.compile(lambda x: (x + 1, torch.vmap(dot)), backend="eager")
    assert torch.equal(captured(X)[1](X, Y), dot(X, Y))


def test_masks_of_attention():
    def mask(kept, rows, columns):
        def allowed(b, i, j):
            return (j <= i) & kept[b, j]

        for dims in ((None, None, 0), (None, 0, None), (0, None, None)):
            allowed = torch.vmap(allowed, in_dims=dims)
        with TransformGetItemToIndex():
            return allowed(torch.arange(kept.shape[0]), rows, columns) * 1

    kept = X > 0
    whole(mask, (kept, ROWS, COLUMNS), (~kept, ROWS, COLUMNS), (kept[:, :3], ROWS, ROWS))


def test_index_by_tensors():
    def fn(x, i, j):
        with TransformGetItemToIndex():
            y = x[i, j] + x[1]
            z = x[:, :1] + x[None] + x[i]
        return y, z

    whole(fn, (X, ROWS[1], COLUMNS[2]))


def test_a_break_within_the_mode():
    def fn(x, i):
        with TransformGetItemToIndex():
            y = x[i] + 1
            print("within")
            y = y + x[i]
        return y * 2

    assert_capture(fn, (X, ROWS[1]))
