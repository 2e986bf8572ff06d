# Captured functions are written in every way that users write them.
# ruff: noqa: B010, PLW0603
"""Side effects of captured functions: on arguments, globals, closures, attributes, tensors."""

from __future__ import annotations

import collections

import pytest
import torch

from capture_cases import assert_capture, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))

STATE = {"n": 0, "log": []}
COUNT = 0
TABLE = [1, 2]


class Box:
    def __init__(self, t, n=0):
        self.t = t
        self.n = n


def change_lists(x, items, nested):
    items.append(x + 1)
    items[0] = x * 2
    nested[0].append(len(items))
    nested.extend([[1], items])
    del nested[1]
    items.sort(key=lambda t: t.numel())
    return len(items)


def extend_by_what_it_holds(x, items, d):
    """A generator sees what it has given so far; a list or deque itself is taken whole."""
    items.extend(sum(items) for _ in range(3))
    items += (len(items) for _ in range(2))
    items.extend(items)
    d.extend(len(d) + sum(d) for _ in range(3))
    d.extendleft(d[0] + n for n in range(2))
    d.extend(d)
    return x + len(items)


def change_dicts(x, d, e):
    d["new"] = x + 1
    d["old"] = d.pop("gone")
    e.update(d)
    e.setdefault("list", []).append(x)
    d.pop("none", None)
    del e["old"]
    return len(d)


def clear_all(x, items, d, s):
    items.clear()
    d.clear()
    s.clear()
    items.append(x + 1)
    return x


def change_sets(x, s):
    s.add(5)
    s.discard(1)
    s |= {7, 8}
    return x + len(s)


def change_attributes(x, box):
    box.t = box.t + x
    box.n += 1
    box.fresh = [x]
    box.fresh.append(box.n)
    setattr(box, "other", box)
    return box.t * 2


def delete_attribute(x, box):
    del box.n
    return x + hasattr(box, "n")


def swap(x, box, other):
    box.t, other.t = other.t, box.t
    return box.t - other.t


def in_place(x, y):
    x.add_(1)
    x *= 2
    y[0] = x[1]
    y[..., 1:3].mul_(3)
    x[x > 1] = 0
    return x + y


def in_place_view(x):
    v = x[:, :2]
    w = v.view(-1) if v.is_contiguous() else v
    v.add_(10)
    u = x.t()
    u[0] = 5
    return v, u, w, x


def aliased(x, y):
    x.add_(1)
    return y * 2, x is y


def aliased_view(x, y):
    x.mul_(2)
    return y + 1


def out_argument(x, y):
    torch.add(x, 1, out=y)
    return y * 2


def same_objects(x):
    a = [x]
    b = a
    c = x + 1
    b.append(c)
    return a, b, c, [c, c], (a, x), x


def cyclic(x):
    a = [x]
    a.append(a)
    d = {"a": a}
    d["d"] = d
    return a, d


def object_graph(x):
    p = Box(x + 1)
    q = Box(p, 2)
    p.back = q
    return p, [q, q]


def returns_arguments(x, items, box):
    return x, items, box, [items], x.view(-1), x.detach()


def global_number(x):
    global COUNT
    COUNT += 1
    return x + COUNT


def global_containers(x):
    STATE["n"] += 1
    STATE["log"].append(STATE["n"])
    TABLE[0] = TABLE[1] + 1
    return x * STATE["n"] + TABLE[0]


@pytest.mark.parametrize(
    ("fn", "args", "later"),
    [
        (change_lists, (X, [Y], [[1], [2]]), [(X, [Y, X], [[1], [2], [3]])]),
        (extend_by_what_it_holds, (X, [1, 2], collections.deque([1], 9)), []),
        (change_dicts, (X, {"gone": Y}, {}), [(X, {"gone": X, "b": Y}, {"list": [1]})]),
        (clear_all, (X, [1], {"a": 2}, {3}), [(X, [], {}, set())]),
        (change_sets, (X, {1, 2}), [(X, {3})]),
        (change_attributes, (X, Box(Y)), [(X, Box(Y, 5))]),
        (delete_attribute, (X, Box(Y)), []),
        (swap, (X, Box(X), Box(Y)), []),
        (in_place, (X, Y), [(X.double(), Y.double())]),
        (in_place_view, (X,), [(X.T,)]),
        (out_argument, (X, Y), []),
        (same_objects, (X,), []),
        (cyclic, (X,), []),
        (object_graph, (X,), []),
        (returns_arguments, (X, [X, Y], Box(X)), [(X, [Y], Box(Y))]),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_effect(fn, args, later):
    assert_capture(fn, args, *later, breaks=[])


@pytest.mark.parametrize("fn", [aliased, aliased_view, swap])
def test_aliased_arguments(fn):
    if fn is swap:
        box = Box(X)
        assert_capture(fn, (X, box, box), (X, Box(X), Box(Y)), (X, box, box))
    else:
        assert_capture(fn, (X, X), (X, Y), (X, X), (X, X[0]), (X, X.view(-1)))


def test_globals():
    global COUNT
    from octavo import capture

    def run(fn):
        global COUNT
        COUNT, STATE["n"] = 0, 0
        STATE["log"], TABLE[:] = [], [1, 2]
        values = []
        for _ in range(3):
            values += [global_number_of(fn), COUNT, STATE["n"], list(STATE["log"]), list(TABLE)]
        return values

    def global_number_of(fn):
        return [fn[0](X).sum().item(), fn[1](X).sum().item()]

    eager = run((global_number, global_containers))
    captured = run(
        [capture.compile(f, backend="eager") for f in (global_number, global_containers)]
    )
    assert captured == eager
    COUNT = 0


def counter():
    count, total, log = 0, X, []

    def step(x):
        nonlocal count, total
        count += 1
        total = total + x
        log.append(count)
        return total * count, log, lambda: count

    return step


def never_bound():
    def step(x, n):
        nonlocal late
        if n:
            late = x
        return late + 1

    if False:
        late = 1
    return step


def test_closure():
    assert_capture(counter, (X,), (Y,), (X,), made=True, steady=False, breaks=[])


def test_unbound_cell():
    assert_capture(never_bound, (X, 0), (X, 1), (X, 0), made=True, steady=False)


def test_closure_shared_by_inner_functions():
    def run(x):
        n = 0
        seen = []

        def bump(by):
            nonlocal n
            n += by
            seen.append(n)
            return n

        y = x + bump(1)
        y = y * bump(2)
        return y, bump, seen, n

    assert_capture(run, (X,), graphs=1, ops=2, breaks=[])


def test_returned_closure_goes_on_sharing():
    def run(x, use):
        n = x

        def get():
            return n

        def put(v):
            nonlocal n
            n = v

        put(x + 1)
        use.extend([get, put])
        return get()

    from octavo import capture

    captured = capture.compile(run, backend="eager")
    use: list = []
    assert torch.equal(captured(X, use), X + 1)
    get, put = use
    put(3)
    assert get() == 3


def test_random_numbers():
    def run(x, p):
        a = torch.rand(4) + x
        b = torch.nn.functional.dropout(x, p)
        torch.rand(2)  # nobody reads it, and it moves the generator on
        return a, b, torch.randn_like(x), torch.randperm(4)

    assert_capture(run, (X, 0.5), (X, 0.2), graphs=1, breaks=[])


def test_seed_within():
    def run(x):
        torch.manual_seed(7)
        return x + torch.rand(4)

    assert_capture(run, (X,))


def test_python_random():
    import random

    def run(x):
        return x * random.random() + random.randint(0, 5)

    from octavo import capture

    def values(fn):
        random.seed(2)
        return [fn(X).sum().item() for _ in range(4)]

    assert values(capture.compile(run, backend="eager")) == values(run)


def test_buffers():
    def run(norm, x):
        return norm(x)

    norm = torch.nn.BatchNorm1d(4)
    assert_capture(run, (norm, X), (norm, Y), (norm, torch.ones(3, 4)), graphs=1, breaks=[])


def test_metadata_changes():
    def run(x):
        y = x.clone()
        y.t_()
        y.unsqueeze_(0)
        z = x.clone().requires_grad_()
        return y, y.shape, z, z.requires_grad, x.requires_grad_(), x.requires_grad

    assert_capture(run, (X,))


def test_detached_data():
    def run(x):
        x.data.add_(1)
        x.data = x.data * 2
        return x + 1

    assert_capture(run, (X,), (X.clone().requires_grad_(),))


def test_effect_then_exception():
    def run(x, items, box):
        items.append(x + 1)
        box.n = 5
        x.add_(1)
        if len(items) > 1:
            raise ValueError("after the effects")
        return x

    assert_capture(run, (X, [1], Box(Y)), (X, [], Box(Y)))


def test_function_attributes():
    def inner(x):
        return x + 1

    inner.calls = 0

    def run(x):
        inner.calls += 1
        return inner(x) * inner.calls

    def values(fn):
        inner.calls = 0
        return [fn(X).sum().item() for _ in range(3)] + [inner.calls]

    from octavo import capture

    assert values(capture.compile(run, backend="eager")) == values(run)


def test_dead_operator_that_fails():
    def run(x):
        x.lerp(x, 0.5)  # not for integers
        return x

    assert_capture(run, (X,), (X.int(),))


def reversed_while_it_changes(x, xs):
    total = x
    for y in reversed(xs):
        total = total + y
        xs[:1] = [x, y]
    return total, xs


def reversed_over_a_break(x, xs):
    total = x
    for y in reversed(xs):
        print(y.shape)
        total = total * 2 + y
    return total


def reversed_of_what_has_no_end(x, xs):
    return x, list(reversed(iter(xs)))


def dict_while_it_grows(x, xs):
    d = {"a": x}
    for k in d:
        d[k + "b"] = x
    return d


def dict_values_change(x, xs):
    d = {"a": x, "b": x}
    found = []
    for k, v in d.items():
        d["b"] = v + 1
        found.append((k, v))
    return found


def set_while_it_grows(x, xs):
    s = {1, 2}
    for k in s:
        s.add(k + 10)
    return x, s


def dict_over_a_break(x, xs):
    d = {"a": x, "b": x * 2}
    total = x
    for k, v in d.items():
        print(k)
        total = total + v
    return total


def exhausted_stays_so(x, xs):
    it = iter(xs)
    first = list(it)
    xs.append(x)
    return first, list(it)


@pytest.mark.parametrize(
    "fn",
    [
        reversed_while_it_changes,
        reversed_over_a_break,
        reversed_of_what_has_no_end,
        dict_while_it_grows,
        dict_values_change,
        set_while_it_grows,
        dict_over_a_break,
        exhausted_stays_so,
    ],
)
def test_iterators_are_live(fn):
    assert_capture(fn, (X, [X + 1, X + 2, X + 3]))


def test_dropped_generator_is_closed():
    """Its ``finally`` and the end of its ``with`` run when nothing holds it any more."""

    def numbers(x, log):
        try:
            yield x + 1
            yield x + 2
        finally:
            log.append("closed")

    def run(x, log):
        first = next(numbers(x, log))
        log.append("after")
        return first

    for attempt in range(2):
        log, expected = [], []
        assert torch.equal(capture.compile(run, backend="eager")(X, log), run(X, expected))
        assert log == expected == ["closed", "after"], attempt


def test_what_is_no_gradient():
    def fn(x):
        found = []
        for grad in (x.clone, x, x[0], x.double(), None, x * 2):
            try:
                y = x + 1
                x.grad = grad
            except (TypeError, RuntimeError) as error:
                found.append(str(error))
        return y, found, x.grad

    assert_capture(fn, (X,), steady=False)


def test_a_gradient_is_set_before_its_tensor_is_turned():
    def fn(x):
        x.grad = x * 2
        try:
            x.t_()
        except RuntimeError as error:
            return str(error)
        return x + 1, x.grad

    assert_capture(fn, (X,))


def test_a_list_that_is_written_is_as_before_when_the_graph_raises():
    def fn(x, y):
        torch._foreach_add_([y, x], 1)
        torch._foreach_mul_([x], [y.sum()])
        return torch.ones(2)[torch.tensor([x.shape[0] + 3])]

    larger = [torch.cat((t, t)) for t in (X, Y)]  # its sizes are symbols
    assert_capture(fn, (X, Y), larger, steady=False)
