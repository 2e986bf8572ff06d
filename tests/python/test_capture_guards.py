# Captured functions are written in every way that users write them.
# ruff: noqa: B007, PLR0124, PLW0108, PLW0603, RUF005
"""Guards and the cache: what a later call may differ in, when it is captured again, when not."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch

from capture_cases import assert_capture, graphs_of, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))
FACTOR = 2
CONFIG = {"scale": 2, "deep": {"list": [1, 2]}}


class Box:
    kind = 3

    def __init__(self, t, n=0):
        self.t = t
        self.n = n

    def get(self):
        return self.t * self.kind


class Other(Box):
    def get(self):
        return self.t - 1


def tensor_kinds(x):
    return x * 2, x.dtype, x.shape, x.stride(), x.requires_grad, x.is_leaf, type(x).__name__


def optional(x, y=None):
    return x if y is None else x + y


def typed(x, v):
    if isinstance(v, bool):
        return x + 10
    if isinstance(v, int):
        return x * v
    if isinstance(v, str):
        return x * len(v)
    if isinstance(v, torch.Tensor):
        return x - v
    if isinstance(v, (list, tuple)):
        return x + sum(v)
    if isinstance(v, dict):
        return x + sum(v.values()) + len("".join(v))
    return x


def lists(x, items):
    for item in items:
        x = x + item
    return x * len(items)


def dicts(x, d):
    for key, value in d.items():
        x = x * len(key) + value
    return x, "extra" in d, list(d)


def objects(x, box):
    y = x + box.get() + box.n
    if hasattr(box, "extra"):
        y = y * 2
    return y


def same(x, y):
    return x + 1 if x is y else x - y


def same_lists(a, b):
    b.append(1)
    return len(a), a is b, torch.ones(2) * len(a)


def negative_zero(x, f):
    return x * f


def equal_kinds(x, k):
    return x * k, type(k).__name__


def of_callable(x, fn):
    return fn(x) + 1


SEQUENCES = {
    "tensors": (
        tensor_kinds,
        [(X,), (X.double(),), (X.T,), (X.clone().requires_grad_(),), (X[:1],), (X[:, ::2],)]
        + [(torch.nn.Parameter(X),), (X.int(),), (torch.ones(()),), (torch.ones(0, 4),)],
    ),
    "none": (optional, [(X,), (X, None), (X, Y), (X, X), (X,)]),
    "types": (
        typed,
        [(X, 2), (X, True), (X, 3), (X, "ab"), (X, "abc"), (X, Y), (X, [1, 2]), (X, (1, 2))]
        + [(X, {"a": 1}), (X, {"bb": 1}), (X, 2.5), (X, None), (X, 1), (X, [1, 2, 3])],
    ),
    "lists": (lists, [(X, [1, 2]), (X, [1, 2, 3]), (X, []), (X, [Y, 2]), (X, (1, 2)), (X, [1, 3])]),
    "dicts": (
        dicts,
        [(X, {"a": 1, "b": Y}), (X, {"b": 1, "a": Y}), (X, {}), (X, {"a": 1, "b": Y, "extra": 2})],
    ),
    "objects": (objects, [(X, Box(Y)), (X, Box(Y, 2)), (X, Other(Y)), (X, Box(Y.double()))]),
    "aliasing": (same, [(X, Y), (Y, X)]),
    "numbers": (equal_kinds, [(X, 1), (X, True), (X, 1.0), (X, 0.0), (X, -0.0), (X, float("nan"))]),
    "functions": (of_callable, [(X, torch.sin), (X, torch.cos), (X, torch.relu)]),
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_each_call_is_eagers(name, backwards):
    fn, calls = SEQUENCES[name]
    calls = calls[::-1] if backwards else calls
    nan = any(isinstance(v, float) and v != v for v in calls[0])
    assert_capture(fn, calls[0], *calls, *calls[::-1], steady=not nan)


def test_aliased_then_not():
    assert_capture(same, (X, X), (X, Y), (X, X), (Y, Y))
    a: list = []
    assert_capture(same_lists, (a, a), ([], []), (a, a), ([2], []))


def test_signed_zero_result():
    captured = capture.compile(negative_zero, backend="eager")
    for f in (0.0, -0.0, 0.0):
        assert torch.equal(torch.signbit(captured(X, f)), torch.signbit(X * f))


def test_identical_calls_are_not_captured_again():
    stats: list = []
    captured = capture.compile(objects, backend="eager", stats=stats)
    for _ in range(5):
        captured(torch.randn(2, 4), Box(torch.randn(2, 4)))
    assert len(stats) == 1


def test_global_number():
    global FACTOR

    def run(x):
        return x * FACTOR + CONFIG["scale"] + CONFIG["deep"]["list"][1]

    captured = capture.compile(run, backend="eager")
    try:
        for FACTOR in (2, 3, 2.0, 2):
            for scale in (2, 5):
                CONFIG["scale"] = scale
                CONFIG["deep"]["list"][1] = scale + 1
                assert torch.equal(captured(X), run(X))
    finally:
        FACTOR = 2


def test_builtin_is_shadowed():
    def run(x):
        return x * len([1, 2])

    captured = capture.compile(run, backend="eager")
    assert torch.equal(captured(X), X * 2)
    globals()["len"] = lambda items: 7
    try:
        assert torch.equal(captured(X), X * 7)
    finally:
        del globals()["len"]
    assert torch.equal(captured(X), X * 2)


def test_closure_changes():
    n, extra = 2, [1]

    def run(x):
        return x * n + extra[0]

    captured = capture.compile(run, backend="eager")
    assert torch.equal(captured(X), X * 2 + 1)
    n = 3
    assert torch.equal(captured(X), X * 3 + 1)
    extra = [5]
    assert torch.equal(captured(X), X * 3 + 5)
    extra[0] = 6
    assert torch.equal(captured(X), X * 3 + 6)


def test_function_is_replaced():
    def helper(x):
        return x + 1

    space = {"helper": helper}

    def run(x):
        return space["helper"](x) * 2

    captured = capture.compile(run, backend="eager")
    assert torch.equal(captured(X), (X + 1) * 2)
    space["helper"] = lambda x: x - 1
    assert torch.equal(captured(X), (X - 1) * 2)
    space["helper"] = helper
    helper.__code__ = (lambda x: x * 9).__code__
    assert torch.equal(captured(X), X * 9 * 2)


def test_defaults_change():
    def helper(x, k=2, *, j=1):
        return x * k + j

    captured = capture.compile(lambda x: helper(x), backend="eager")
    assert torch.equal(captured(X), X * 2 + 1)
    helper.__defaults__ = (4,)
    assert torch.equal(captured(X), X * 4 + 1)
    helper.__kwdefaults__ = {"j": 3}
    assert torch.equal(captured(X), X * 4 + 3)


def test_class_changes():
    class Local(Box):
        pass

    captured = capture.compile(objects, backend="eager")
    box = Local(Y)
    assert torch.equal(captured(X, box), objects(X, box))
    Local.kind = 8
    assert torch.equal(captured(X, box), objects(X, box))
    Local.get = lambda self: self.t * 100
    assert torch.equal(captured(X, box), objects(X, box))
    box.get = lambda: X
    assert torch.equal(captured(X, box), objects(X, box))
    box.extra = 1
    assert torch.equal(captured(X, box), objects(X, box))
    del box.extra
    box.__class__ = Other
    del box.get
    assert torch.equal(captured(X, box), objects(X, box))


def test_module_changes():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    captured = capture.compile(net, backend="eager")

    def agree():
        torch.manual_seed(0)
        expected = net(X)
        torch.manual_seed(0)
        assert torch.equal(captured(X), expected)

    agree()
    net.eval()
    agree()
    net[0].weight = torch.nn.Parameter(torch.ones(4, 4))
    agree()
    with torch.no_grad():
        net[0].weight.fill_(3)
    agree()
    net[1] = torch.nn.ReLU()
    agree()
    net.append(torch.nn.Linear(4, 2))
    agree()
    net[0].forward = lambda x: x * 5
    agree()
    net[2].bias = None
    agree()
    net[2].register_forward_hook(lambda m, a, out: out * 2)
    agree()


@pytest.mark.parametrize("state", ["grad", "dtype", "inference", "autocast", "deterministic"])
def test_state_of_torch(state):
    def run(x):
        return torch.zeros(2) + (x @ x.T).sum(), torch.is_grad_enabled()

    w = X.clone().requires_grad_()
    captured = capture.compile(run, backend="eager")

    def agree():
        got, expected = captured(w), run(w)
        assert torch.equal(got[0], expected[0])
        assert got[0].dtype == expected[0].dtype
        assert got[0].requires_grad == expected[0].requires_grad
        assert got[0].is_inference() == expected[0].is_inference()
        assert got[1] == expected[1]

    agree()
    if state == "grad":
        with torch.no_grad():
            agree()
    elif state == "dtype":
        torch.set_default_dtype(torch.float64)
        try:
            agree()
        finally:
            torch.set_default_dtype(torch.float32)
    elif state == "inference":
        with torch.inference_mode():
            agree()
    elif state == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            agree()
        with torch.autocast("cpu", dtype=torch.float16):
            agree()
    else:
        torch.use_deterministic_algorithms(True)
        try:
            agree()
        finally:
            torch.use_deterministic_algorithms(False)
    agree()


def test_limit_of_versions_warns_once_and_keeps_what_is_compiled():
    stats: list = []

    def run(x, n):
        return x * n

    captured = capture.compile(run, backend="eager", stats=stats, dynamic=False)
    for n in range(8):
        captured(X, n)
    assert len(stats) == 8
    with pytest.warns(RuntimeWarning, match="8 versions"):
        assert torch.equal(captured(X, 8), X * 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(12):
            assert torch.equal(captured(X, n), X * n)
    assert len(stats) == 8


def test_reset():
    stats: list = []
    captured = capture.compile(lambda x: x + 1, backend="eager", stats=stats)
    captured(X)
    captured(X)
    assert len(stats) == 1
    capture.reset()
    captured(X)
    assert len(stats) == 2


def test_reset_while_running():
    def run(x):
        y = x + 1
        capture.reset()
        return y * 2

    captured = capture.compile(run, backend="eager")
    for _ in range(3):
        assert torch.equal(captured(X), (X + 1) * 2)


def test_regions_do_not_share():
    def run(x):
        return x + 1

    seen = []

    def backend(name):
        return lambda gm, inputs: seen.append(name) or gm.forward

    one = capture.compile(run, backend=backend("one"))
    two = capture.compile(run, backend=backend("two"))
    one(X), two(X), one(X), two(X)
    assert seen == ["one", "two"]


def test_captured_is_freed_with_the_function():
    class Marked:
        pass

    marked = Marked()
    gone = weakref.ref(marked)

    def make(held):
        def run(x):
            return x + 1 if held is not None else x

        return capture.compile(run, backend="eager")

    captured = make(marked)
    captured(X)
    del captured, marked
    capture.reset()
    gc.collect()
    assert gone() is None


def test_arguments_are_not_kept():
    def run(x, box):
        return x + box.t

    captured = capture.compile(run, backend="eager")
    x, box = torch.ones(2), Box(torch.ones(2))
    gone = [weakref.ref(x), weakref.ref(box), weakref.ref(box.t)]
    captured(x, box)
    captured(x, box)
    del x, box
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def test_sizes_compile_at_most_twice():
    stats: list = []

    def run(x):
        return torch.relu(x @ x.T) * x.shape[0]

    captured = capture.compile(run, backend="eager", stats=stats)
    for size in range(2, 22):
        x = torch.randn(size, 4)
        assert torch.allclose(captured(x), run(x))
    assert graphs_of(stats) <= 2


def test_sizes_zero_and_one():
    def run(x):
        return x.sum(0) + x.shape[0]

    assert_capture(run, (torch.ones(3, 2),), *[(torch.ones(n, 2),) for n in (4, 1, 0, 5, 1, 2)])


def test_variables_that_are_bound_or_not():
    """Of a piece that is entered anew: a variable that it only drops may be gone already."""

    def numbers(x):
        for k in range(2):
            yield x * k

    def drops(x, i):
        for _ in numbers(x):
            del i
        return x + 1

    def reads(x, i):
        for y in numbers(x):
            kept = i  # noqa: F841
            if y is not None:
                i = None
                del i
        return x + 1

    def comes(x):
        seen = []
        late = x
        del late
        for k in numbers(x):
            try:
                seen.append("bound" if late is not None else "none")  # noqa: F821
            except UnboundLocalError:
                seen.append("unbound")
            late = k  # noqa: F841
        return seen

    for f in (drops, reads):
        with pytest.raises(UnboundLocalError):
            f(X, 1)
        with pytest.raises(UnboundLocalError):
            capture.compile(f, backend="eager")(X, 1)
    assert capture.compile(comes, backend="eager")(X) == comes(X) == ["unbound", "bound"]


class Slotted:
    __slots__ = ("n",)


def in_a_cell(x, filled, held):
    for last in [x][:filled]:

        def reads():
            return last  # noqa: B023

    print("break")
    last  # noqa: B018
    return x + 1


def in_a_slot(x, filled, held):
    if filled:
        held[0].n = 1
    print("break")
    held[0].n  # noqa: B018
    return x + 1


def of_a_tensor(x, filled, held):
    if filled:
        x.mark = 1
    print("break")
    x.mark  # noqa: B018
    return x + 1


@pytest.mark.parametrize("fn", [in_a_cell, in_a_slot, of_a_tensor])
def test_a_name_whose_value_is_not_used_must_be_there(fn):
    assert_capture(fn, (X, True, [Slotted()]), (X, False, [Slotted()]), steady=False)


def test_names_of_running_code_are_looked_up_late():
    """The dictionary of a module's names is not known as a whole: capture adds names of its own."""

    def fn(x, y):
        if "FACTOR" in globals():
            x = x + 1
        return torch.add(y, x, out=torch.empty(2, 4))

    assert_capture(fn, (X, Y), steady=False)


def test_operators_that_the_first_call_did_not_have():
    def fn(x, n):
        if n == 0 or x is None:
            return n
        return x.sin() + n

    assert_capture(fn, (None, 1), (X, 0), (X, 2), (X, 2), (None, 1), later_graphs=1, steady=False)
    many = [(None, "n" * n) for n in range(4)]  # by then nothing is expected of it any more
    assert_capture(fn, (None, 1), *many, (X, 2), later_graphs=0, steady=False)


def leafless(t):
    return t.detach().requires_grad_() + 0


@pytest.mark.parametrize("backend", ["eager", "octavo"])
def test_a_leaf_is_not_written_after_other_writes(backend):
    """torch refuses a leaf, whatever was written before: not twice."""

    def fn(p, q):
        p.mul_(2)
        q.mul_(2)
        return p + q

    captured = capture.compile(fn, backend=backend)
    for made in (leafless, leafless, lambda t: t.requires_grad_(), lambda t: t.requires_grad_()[:]):
        seen = []
        for run in (fn, captured):
            p, q = leafless(X), made(X.clone())
            try:
                seen.append((run(p, q).tolist(), p.tolist()))
            except RuntimeError as error:
                seen.append((str(error), p.tolist()))
        assert seen[0] == seen[1]


def test_memory_that_python_does_not_have():
    log = []

    def fn(x, word):
        log.append(word)
        try:
            return x, word * 10**15
        except MemoryError:
            log.append("none")
            return x + 1

    assert_capture(fn, (X, "ab"), watch=lambda: log, steady=False)
