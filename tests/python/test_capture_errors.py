# Captured functions are written in every way that users write them.
# ruff: noqa: B018, F841, N812, N818
"""Errors of operators, and what is left of a piece whose graph raises."""

from __future__ import annotations

import traceback

import pytest
import torch
import torch.nn.functional as F

from capture_cases import assert_capture, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, W = tensors((2, 4), (4, 4))
INTEGERS = torch.arange(8).reshape(2, 4)


def behind_a_write(x, y, log):
    log.append(1)
    x.add_(1)
    log.append(2)
    y = F.linear(y, W)
    log.append(3)
    return y


def before_a_write(x, y, log):
    log.append(1)
    y = F.linear(y, W)
    log.append(2)
    x.add_(1)
    return y


def behind_a_write_in_try(x, y, log):
    try:
        x.mul_(2)
        log.append(x.sum())
        y = F.linear(y, W)
        log.append(3)
    except RuntimeError:
        log.append(4)
    return x + 1


def behind_a_write_into_a_view(x, y, log):
    x[:1].zero_()
    x.data.add_(1)
    return F.linear(y, W)


def behind_new_sizes(x, y, log):
    x.t_()
    x.unsqueeze_(0)
    return F.linear(y, W)


def behind_no_grad(x, y, log):
    with torch.no_grad():
        x.add_(1)
        return F.linear(y, W)


def behind_random_numbers(x, y, log):
    a = torch.rand_like(x)
    log.append(a)
    y = F.linear(y, W)
    return a


def dead(x, y, log):
    x.add_(1)
    F.linear(y, W)
    return x


FAILING = [
    behind_a_write,
    before_a_write,
    behind_a_write_in_try,
    behind_a_write_into_a_view,
    behind_new_sizes,
    behind_no_grad,
    behind_random_numbers,
    dead,
]


@pytest.mark.parametrize("fn", FAILING)
def test_type_that_the_kernel_refuses(fn):
    assert_capture(fn, (X, INTEGERS, []), (X, X, []), (X, INTEGERS, []))
    assert_capture(fn, (X, X, []), (X, INTEGERS, []), (X, X, []))


def looks_up(x, ids, log):
    x.add_(1)
    log.append(1)
    y = W[ids] + torch.rand(4)
    x.index_add_(0, ids, y)
    return y


def looks_up_in_try(x, ids, log):
    x.add_(1)
    try:
        x[0] += F.embedding(ids, W)[0]
    except IndexError as error:
        log.append(str(error))
    return x * 2


@pytest.mark.parametrize("fn", [looks_up, looks_up_in_try])
@pytest.mark.parametrize("grad", [False, True])
def test_value_that_the_kernel_refuses(fn, grad):
    good, bad = torch.tensor([0, 1]), torch.tensor([1, 9])
    x = X.clone().requires_grad_() * 1 if grad else X
    if grad:
        # Not a leaf, so it cannot be copied: made within.
        def run(x, ids, log):
            return fn((x.clone().requires_grad_() * 1), ids, log)

        assert_capture(run, (X, good, []), (X, bad, []), (X, good, []))
    else:
        assert_capture(fn, (x, good, []), (x, bad, []), (x, good, []))


def test_history_of_what_was_written():
    """After the error an argument is as eager has it: its gradient function and version too."""

    def run(x, ids):
        x.mul_(2)
        return x + W[ids]

    from octavo import capture

    def once(fn):
        leaf = X.clone().requires_grad_()
        x = leaf * 3
        fn(x, torch.tensor([0, 1]))
        with pytest.raises(IndexError):
            fn(x, torch.tensor([9, 0]))
        x.sum().backward()
        return x, x._version, leaf.grad, type(x.grad_fn)

    eager, captured = once(run), once(capture.compile(run, backend="eager"))
    assert torch.equal(eager[0], captured[0])
    assert torch.equal(eager[2], captured[2])
    assert eager[3] is captured[3]


def in_except(x):
    try:
        y = x + 1
        raise KeyError("k")
    except KeyError:
        raise ValueError("again")  # noqa: B904


def in_finally(x):
    try:
        y = x + 1
        raise KeyError("k")
    finally:
        raise ValueError("again")


def unbound_in_except(x):
    try:
        x.no_such
    except AttributeError:
        return nothing_of_this_name  # noqa: F821


def in_callee(x):
    try:
        in_except(x)
    except ValueError as error:
        return x * 2, repr(error.__context__), error.__traceback__.tb_lineno


def kept(x):
    try:
        raise ValueError("kept", 3)
    except ValueError as error:
        saved = error
    return x + 1, saved.args, type(saved.__traceback__).__name__


class Problem(Exception):
    def __init__(self, n):
        super().__init__("problem", n)
        self.n = n


def shown(x):
    said = []
    for error in (ValueError, ValueError("a"), ValueError("a", 2), KeyError("k"), Problem(4)):
        try:
            raise error
        except Exception as caught:
            said.append(f"{caught}|{caught!r}|{caught.args}")
    return x + 1, said


def shown_of_the_trace(x):
    try:
        raise KeyError("k")
    except KeyError as error:
        return x + 1, str(error), repr(error), f"{error}"


@pytest.mark.parametrize(
    "fn",
    [in_except, in_finally, unbound_in_except, in_callee, kept, shown, shown_of_the_trace],
)
def test_exceptions_have_their_context(fn):
    assert_capture(fn, (X,))


def star(x, what):
    return [x, *what]


def star_call(x, what):
    return torch.add(x, *what)


def star_star_call(x, what):
    return F.softmax(x, **what)


def unpacks(x, what):
    a, b = what
    return x + a + b


def twice_named(x, what):
    return F.softmax(x, dim=0, **what)


@pytest.mark.parametrize("fn", [star, star_call, star_star_call, unpacks, twice_named])
@pytest.mark.parametrize("what", [5, None, [1], {"dim": 1}, (1, 2), "ab"], ids=repr)
def test_what_cannot_be_unpacked(fn, what):
    assert_capture(fn, (X, what))


def test_negative_length():
    class Sized:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

    assert_capture(lambda x, n: x + len(Sized(n)), (X, 1), (X, -1))


def test_grad_mode_takes_a_bool():
    def run(x, mode):
        torch.set_grad_enabled(mode)
        return x + 1

    assert_capture(run, (X, True), (X, False), (X, []), (X, 1))


def test_error_of_the_backend_in_a_closure_shows_its_variables():
    """Whoever looks at the traceback's frame finds its cells."""
    held = 3

    def run(x):
        return x * held

    def backend(gm, inputs):
        raise ValueError("the backend's own")

    with pytest.raises(ValueError, match="the backend's own") as error:
        capture.compile(run, backend=backend)(X)
    frame = next(f for f, _ in traceback.walk_tb(error.tb) if f.f_code is run.__code__)
    assert frame.f_locals["held"] == 3


def test_inference_tensors_are_not_saved_behind_a_write():
    weight, count = torch.nn.Parameter(torch.ones(4)), torch.zeros(())

    def counted(x):
        count.add_(1)
        return x * weight

    def run(x):
        with torch.inference_mode():
            y = x * 2
        return counted(y)

    with pytest.raises(RuntimeError, match="saved for backward"):
        capture.compile(run, backend="eager")(X)
    assert count == 1
