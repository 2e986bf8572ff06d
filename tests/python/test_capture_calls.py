# Captured functions are written in every way that users write them.
# ruff: noqa: B009, C405, C408, E501, F821, N818, PLC3002, PLE0643, PLW0108, PLW2901, RET504
"""Calls inside captured functions: ways to pass arguments, builtins, exceptions, `with`."""

from __future__ import annotations

import contextlib
import math
import operator

import pytest
import torch

from capture_cases import assert_capture, tensors, whole
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))


def helper(a, b=2, /, c=3, *rest, d=4, **named):
    total = a * b + c * d
    for value in rest:
        total = total + value
    for name, value in named.items():
        total = total + value * len(name)
    return total


def recursive(x, n):
    return x if n == 0 else recursive(x + 1, n - 1)


def logged(fn):
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs) + 1

    return wrapper


@logged
def decorated(x, *, k=2):
    return x * k


FORMS = {
    "positional": lambda x: helper(x),
    "all": lambda x: helper(x, 5, 6, 7, 8, d=9, e=10, long=11),
    "star": lambda x: helper(*[x, 5], **{"c": 2, "z": 3}),
    "star twice": lambda x: helper(*[x], *(1, 2), **{"d": 2}, **{"z": 3}),
    "method star": lambda x: x.add(*[1], **{"alpha": 2}),
    "lambda default": lambda x: (lambda a, k=[3]: a * k[0])(x),
    "decorated": lambda x: decorated(x, k=3),
    "recursive": lambda x: recursive(x, 5),
    "operator": lambda x: operator.mul(x, 2) + operator.itemgetter(1)([1, 2]),
    "attrgetter": lambda x: operator.attrgetter("shape")(x)[0] * x,
    "math": lambda x: x * math.sqrt(4.0) + math.pi + math.floor(2.5),
    "type call": lambda x: x * int("3") + float("0.5") + len(str(12)) + bool(x.dim()),
    "min max": lambda x: x * min(3, 2) + max([1, 5, 2]) + abs(-3) + sum([1, 2]) + round(2.6) + pow(2, 3),
    "any all": lambda x: x + any(i > 2 for i in range(4)) + all([1, 0]) + divmod(7, 3)[1],
    "sorted": lambda x: x * sorted([3, 1, 2], reverse=True)[0] + sorted("ba", key=ord)[0].count("a"),
    "isinstance": lambda x: x + isinstance(x, (int, torch.Tensor)) + issubclass(bool, int) + callable(len),
    "getattr": lambda x: getattr(x, "sum")(dim=0) + hasattr(x, "nothing") + getattr(x, "nothing", 3),
    "conversions": lambda x: x + len(list("abc")) + len(set((1, 1))) + len(dict(a=1)) + len(tuple(range(3))),
    "next": lambda x: x + next(iter([4, 5])) + next(iter([]), 6),
    "slices": lambda x: x[slice(0, 1)] + [1, 2, 3][::-1][0] + (1, 2, 3)[1:][0],
    "bits": lambda x: x + (5 & 3 | 8 ^ 2) + (1 << 3) + (~4) + ord("a") + len(chr(97)) + hash(3),
    "functional": lambda x: torch.nn.functional.relu(x) + torch.nn.functional.gelu(x, approximate="tanh"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_call(form):
    assert_capture(FORMS[form], (X,), graphs=1, breaks=[])


def test_defaults_are_guarded():
    def inner(x, k=2):
        return x * k

    def run(x, k):
        inner.__defaults__ = (k,)
        return inner(x)

    assert_capture(run, (X, 2), (X, 3))


WRONG = {
    "missing argument": lambda x: helper(),
    "unknown name": lambda x: decorated(x, zzz=2),
    "too many": lambda x: recursive(x, 1, 2),
    "bad operand": lambda x: x + {},
    "bad shape": lambda x: x @ x,
    "no attribute": lambda x: x.nothing,
    "no key": lambda x: {"a": 1}["b"],
    "no index": lambda x: [x][3],
    "unpack": lambda x: (lambda a, b: a)(*[x, x, x]),
    "unbound": lambda x: unbound_name + x,
    "division": lambda x: x * (1 // 0),
    "not callable": lambda x: (x + 1)(3),
    "ambiguous": lambda x: 1 if x > 0 else 2,
    "not iterable": lambda x: [*5],
    "no len": lambda x: x + len(5),
    "int of text": lambda x: x + int("a"),
}  # fmt: skip


@pytest.mark.parametrize("form", WRONG)
def test_the_same_exception(form):
    assert_capture(WRONG[form], (X,))


def test_too_deep():
    with pytest.raises(RecursionError):
        capture.compile(recursive, backend="eager")(X, 100000)
    assert_capture(recursive, (X, 300), (X, 3))


def raises(x, n):
    y = x + 1
    if n > 2:
        raise ValueError(f"n is {n}", n)
    return y


def caught_in_caller(x, n):
    try:
        return raises(x, n) * 2
    except ValueError as error:
        return x - error.args[1]


def finally_runs(x, log, n):
    try:
        x = x + 1
        if n > 1:
            return x
        if n < 0:
            raise KeyError(n)
        x = x * 2
    except KeyError:
        log.append("caught")
        raise RuntimeError("from it") from None
    else:
        log.append("else")
    finally:
        log.append("finally")
    return x


def reraised(x, log):
    try:
        try:
            [].pop()
        except IndexError:
            log.append("first")
            raise
        finally:
            log.append("between")
    except Exception as error:
        log.append(type(error).__name__)
    return x + len(log)


def chained(x):
    try:
        raise KeyError("a")
    except KeyError as error:
        raise ValueError("b") from error


def in_context(x):
    try:
        raise KeyError("a")
    except KeyError:
        return undefined_here


def asserting(x, n):
    assert n > 2, f"too small: {n}"
    return x * n


def tensor_error_caught(x):
    try:
        return x @ x
    except RuntimeError as error:
        return x + len(str(error))


def in_loop(x, n):
    for i in range(4):
        try:
            if i == n:
                raise StopIteration
            if i == 3:
                break
        except StopIteration:
            continue
        finally:
            x = x + i
    else:
        x = x * 10
    return x


class Problem(Exception):
    def __init__(self, t, code):
        super().__init__(code)
        self.t = t
        self.code = code


def own_exception(x, n):
    try:
        if n > 1:
            raise Problem(x + 1, n)
    except Problem as p:
        return p.t * p.code
    return x


@pytest.mark.parametrize(
    ("fn", "args", "later", "graphs", "breaks"),
    [
        (raises, (X, 1), [(X, 3), (X, 1)], 1, []),
        (caught_in_caller, (X, 3), [(X, 1), (X, 3)], 1, []),
        (finally_runs, (X, [], 1), [(X, [], 2), (X, [], -1), (X, [], 1)], 1, []),
        (reraised, (X, []), [], 1, []),
        (chained, (X,), [], 0, None),
        (in_context, (X,), [], 0, None),
        (asserting, (X, 3), [(X, 1), (X, 4)], 1, []),
        (tensor_error_caught, (X,), [], None, None),
        (in_loop, (X, 1), [(X, 5), (X, 0)], 1, []),
        (own_exception, (X, 2), [(X, 1), (X, 3)], 1, []),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_exceptions(fn, args, later, graphs, breaks):
    assert_capture(fn, args, *later, graphs=graphs, breaks=breaks)


class Manager:
    def __init__(self, log, eat=False):
        self.log = log
        self.eat = eat

    def __enter__(self):
        self.log.append("enter")
        return 3

    def __exit__(self, kind, value, trace):
        self.log.append(kind.__name__ if kind else "exit")
        return self.eat


@contextlib.contextmanager
def managed(log):
    log.append("before")
    try:
        yield 4
    finally:
        log.append("after")


def own_manager(x, log):
    with Manager(log) as n:
        x = x * n
    return x


def eats(x, log):
    with Manager(log, eat=True):
        raise ValueError("eaten")
    return x + 1


def lets_through(x, log):
    with Manager(log):
        x = x + 1
        raise ValueError("seen")


def two(x, log):
    with Manager(log) as a, managed(log) as b:
        return x * a + b


def generator_manager(x, log):
    with managed(log) as n:
        x = x * n
    return x


def suppressed(x):
    with contextlib.suppress(KeyError), contextlib.nullcontext(x) as y:
        y = y + 1
        {}["a"]
    return y


def stacked(x, log):
    with contextlib.ExitStack() as stack:
        n = stack.enter_context(managed(log))
        stack.callback(log.append, "callback")
        return x * n


@pytest.mark.parametrize("fn", [own_manager, eats, lets_through, two, generator_manager, stacked])
def test_with(fn):
    assert_capture(fn, (X, []))


@pytest.mark.parametrize("fn", [own_manager, two, generator_manager])
def test_with_is_traced(fn):
    assert_capture(fn, (X, []), graphs=1, breaks=[])


def test_suppress():
    assert_capture(suppressed, (X,))


def gradless(x, w):
    with torch.no_grad():
        y = w * 2
    z = w * 3
    with torch.enable_grad():
        u = w * x
    return y, z, u, torch.is_grad_enabled()


def gradless_by_call(x, w):
    torch.set_grad_enabled(False)
    y = w * 2
    torch.set_grad_enabled(True)
    return y, w * 3


def gradless_left(x, w):
    torch.set_grad_enabled(False)
    return w * 2


@torch.no_grad()
def gradless_function(x, w):
    return w * x, torch.is_grad_enabled()


def gradless_break(x, w):
    with torch.no_grad():
        y = w * 2
        print("inside", torch.is_grad_enabled())
        z = w * 3
    return y, z, w * 4


def gradless_error(x, w):
    try:
        with torch.no_grad():
            raise ValueError("out of it")
    except ValueError:
        return w * 2, torch.is_grad_enabled()


def inference(x, w):
    with torch.inference_mode():
        y = x * 2
    return y.is_inference(), y + 0


def automatic(x, w):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = x @ w.T
    return y, x @ w.T


def automatic_type(x, w):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = torch.nn.functional.linear(x, w)
        z = y * 2 if y.dtype is torch.bfloat16 else y * 3
    return y, str(y.dtype), z


@pytest.mark.parametrize(
    ("fn", "breaks"),
    [
        (gradless, []),
        (gradless_by_call, []),
        (gradless_left, []),
        (gradless_function, []),
        (gradless_break, ["input_output"]),
        (gradless_error, []),
        (inference, None),
        (automatic, None),
        (automatic_type, None),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_grad_modes(fn, breaks):
    w = Y.clone().requires_grad_()
    assert_capture(fn, (X, w), (X, Y), breaks=breaks)


def test_called_under_another_mode():
    def run(x, w):
        return x * w, torch.is_grad_enabled()

    def outer(x, w, grad):
        with torch.set_grad_enabled(grad):
            return run(x, w)

    w = Y.clone().requires_grad_()
    assert_capture(outer, (X, w, True), (X, w, False), (X, w, True))


def test_whole_program_of_inlined_functions():
    whole(lambda x: decorated(helper(recursive(x, 2))), (X,), ops=6)
