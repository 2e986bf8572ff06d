# Captured functions are written in every way that users write them.
# ruff: noqa: E731, PLC3002, PLR0402, RUF007
"""Graph breaks: where a piece ends, why, and that everything goes on as Python would have it."""

from __future__ import annotations

import logging

import pytest
import torch

import octavo.capture as capture
from capture_cases import assert_capture, graphs_of, tensors
from octavo.capture import GraphBreakError

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))
log = logging.getLogger("test_capture_breaks")


def middle_of_expression(x):
    return (x + 1) * (x.sum().item() + 2) - (x * 3)


def in_arguments(x, y):
    return torch.add(x * 2, y.sum().item(), alpha=int(x.numel()))


def in_for(x):
    for i in range(3):
        x = x + i
        print("step", i)
        x = x * 2
    return x


def in_while(x):
    n = 0
    while n < 3:
        x = x * 2
        print(n)
        n += 1
    return x


def data_dependent(x):
    if x.sum() > 0:
        return x + 1
    return x - 1


def data_dependent_while(x):
    x = x.abs() + 0.1
    while x.sum() < 50:
        x = x * 2
    return x


def in_with(x, log):
    with Manager(log) as n:
        x = x * n
        print("within")
        x = x + 1
    return x * 2


class Manager:
    def __init__(self, log):
        self.log = log

    def __enter__(self):
        self.log.append("enter")
        return 3

    def __exit__(self, kind, value, trace):
        self.log.append("exit")


def in_no_grad(x, w):
    with torch.no_grad():
        a = w * x
        print("within", torch.is_grad_enabled())
        b = a + w
    return a, b, w * 2


def in_try(x):
    try:
        x = x + 1
        print("trying")
        x = x * 2
        raise ValueError("no")
    except ValueError as error:
        x = x - len(str(error))
        print("caught")
        x = x * 3
    finally:
        print("finally")
        x = x + 5
    return x


def callee(x):
    y = x + 1
    print("in the callee")
    return y * 2


def in_callee(x):
    return callee(x * 3) + 1


def deep_callee(x):
    def outer(y):
        return in_callee(y + 1) - 1

    return outer(x * 2) * 2


def in_callee_twice(x):
    return callee(x) + callee(x - 1)


def in_comprehension(x):
    return [callee(x + i) for i in range(2)]


def in_lambda(x):
    return (lambda y: callee(y) + 1)(x * 2)


def in_generator(x):
    def many():
        for i in range(2):
            print("yielding", i)
            yield x + i

    return [y * 2 for y in many()]


def in_closure(x):
    n = 1

    def bump():
        nonlocal n
        n += 1
        print("n", n)
        return n

    y = x + bump()
    return y * bump() + n


def in_method(x, net):
    return net(x) + 1


class Printing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x)
        print("shape", x.shape)
        return torch.relu(x)


def with_stack(x, y):
    return {"a": x + 1, "b": [y * 2, callee(x)], "c": (y, 3)}


def aliases(x):
    a = [x + 1]
    b = a
    d = {"a": a}
    print("break")
    b.append(x * 2)
    return a, b, d, a is b, d["a"] is a


def views(x):
    y = x.clone()
    v = y[0]
    print("break")
    v.add_(1)
    return y, v


def lambdas_survive(x):
    k = 2
    f = lambda y: y * k
    print("break")
    k = 3
    return f(x)


def iterator_survives(x):
    it = iter([x, x + 1, x + 2])
    first = next(it)
    print("break")
    return first, list(it)


def enumerated(x, xs):
    for i, (a, b) in enumerate(zip(xs, xs[1:], strict=False)):
        print(i)
        x = x + a * b
    return x


def prints_tensor(x):
    y = x + 1
    print(y)
    print(f"{y.sum().item():.3f}", y.shape)
    return y * 2


def logs(x):
    y = x + 1
    log.info("sum %s", y.shape)
    return y * 2


def to_python(x):
    a = x.sum().item()
    b = x.tolist()
    c = float(x.mean())
    d = int(x.max())
    return a, b, c, d, bool(x.sum() > 0), x.numpy().shape, x * a


def dynamic_shape(x):
    return x[x > 0] * 2, x.nonzero().shape, torch.unique(x.round())


def unknown_c(x):
    import zlib

    return x * len(zlib.compress(b"a" * 100))


def asked(x):
    y = x + 1
    capture.graph_break()
    return y * 2


def asked_of_torch(x):
    y = x + 1
    torch._dynamo.graph_break()
    return y * 2


@capture.disable
def disabled(x):
    return x * 5


def calls_disabled(x):
    return disabled(x + 1) * 2


def class_inside(x):
    class Local:
        k = 3

        def get(self):
            return x * self.k

    return Local().get() + 1


def imports_inside(x):
    import math
    from os import path

    return x * math.floor(2.5) + len(path.sep)


def starred_break(x):
    first, *rest = [x, callee(x), x + 2]
    return first + sum(rest)


def nested_loops(x):
    for i in range(2):
        for j in range(2):
            if j == 1 and i == 1:
                break
            x = x + i * j
            print(i, j)
        else:
            continue
        x = x * 10
    return x


def returns_in_try(x, log):
    try:
        y = x + 1
        print("in try")
        return y * 2
    finally:
        log.append(len(log))
        print("in finally")


P, D, T = "input_output", "data_dependent", "tensor_to_python"
CASES = [
    (middle_of_expression, (X,), 2, 5, [T]),
    (in_arguments, (X, Y), 2, 3, [T]),
    (in_for, (X,), 4, 4, [P, "iterator", P, P]),
    (in_while, (X,), 3, 3, [P] * 3),
    (data_dependent, (X,), 2, None, [D]),
    (data_dependent_while, (X,), None, None, None),
    (in_with, (X, []), 2, 3, [P]),
    (in_no_grad, (X, Y.clone().requires_grad_()), 2, 5, [P]),
    (in_try, (X,), None, 5, [P] * 3),
    (in_callee, (X,), None, 4, None),
    (deep_callee, (X,), None, None, None),
    (in_callee_twice, (X,), None, None, None),
    (in_comprehension, (X,), None, None, None),
    (in_lambda, (X,), None, None, None),
    (in_generator, (X,), None, None, None),
    (in_closure, (X,), None, None, None),
    (in_method, (X, Printing()), None, None, None),
    (with_stack, (X, Y), None, 4, None),
    (aliases, (X,), 2, 2, [P]),
    (views, (X,), 2, None, [P]),
    (lambdas_survive, (X,), 1, 1, [P]),
    (iterator_survives, (X,), None, 2, None),
    (enumerated, (X, [X, Y, X]), None, 4, None),
    (prints_tensor, (X,), None, None, None),
    (logs, (X,), 2, 2, None),
    (to_python, (X,), None, None, None),
    (dynamic_shape, (X,), None, None, None),
    (unknown_c, (X,), 1, 1, None),
    (asked, (X,), 2, 2, ["requested"]),
    (asked_of_torch, (X,), 2, 2, ["requested"]),
    (calls_disabled, (X,), 2, 2, ["disabled_call"]),
    (class_inside, (X,), None, None, None),
    (imports_inside, (X,), None, None, None),
    (starred_break, (X,), None, None, None),
    (nested_loops, (X,), None, None, None),
    (returns_in_try, (X, []), 2, 2, [P] * 2),
]


@pytest.mark.parametrize(
    ("fn", "args", "graphs", "ops", "breaks"), CASES, ids=[c[0].__name__ for c in CASES]
)
def test_break(fn, args, graphs, ops, breaks):
    x = args[0]
    later = [(-x, *args[1:]), (x[:1], *args[1:]), (x.double(), *args[1:])]
    if fn in (in_method, in_arguments, enumerated, in_no_grad, with_stack):
        later = later[:1]
    steady = fn is not class_inside  # its class is another one at each call
    assert_capture(fn, args, *later, graphs=graphs, ops=ops, breaks=breaks, steady=steady)


def test_backward_and_step_between_graphs():
    def train(net, x, y):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = ((net(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert_capture(train, (torch.nn.Linear(4, 4), X, Y), steady=False)


@pytest.mark.parametrize("fn", [in_for, data_dependent, prints_tensor, asked, calls_disabled])
def test_fullgraph_refuses(fn):
    whole = capture.compile(fn, backend="eager", fullgraph=True)
    with pytest.raises(GraphBreakError, match=r"test_capture_breaks\.py:\d+: .*fullgraph=True"):
        whole(X)


def test_fullgraph_allows_what_is_whole():
    stats: list = []
    whole = capture.compile(lambda x: x * 2 + 1, backend="eager", fullgraph=True, stats=stats)
    assert torch.equal(whole(X), X * 2 + 1)
    assert graphs_of(stats) == 1


def test_break_says_where():
    stats = assert_capture(in_for, (X,))
    line = in_for.__code__.co_firstlineno + 3
    assert stats[0]["break_at"].endswith(f"test_capture_breaks.py:{line}")
    assert stats[0]["reason"] == P
    assert stats[0]["hint"]
    assert stats[0]["explanation"]


def test_explain():
    explanation = capture.explain(in_for, backend="eager")(X)
    assert len(explanation.graphs) == 4
    assert explanation.ops == 4
    assert [one.reason for one in explanation.breaks] == [P, "iterator", P, P]
    assert 0 < explanation.coverage < 100
    assert "break at" in str(explanation)


def test_every_reason_has_an_explanation_and_a_hint():
    import re
    from pathlib import Path

    text = (Path(__file__).parents[2] / "python/capture/break_reasons.def").read_text()
    rows = re.findall(r'^OCTAVO_BREAK\((\w+), "([^"]+)", "([^"]+)"\)$', text, re.MULTILINE)
    assert len(rows) == text.count("OCTAVO_BREAK(")
    assert len({name for name, _, _ in rows}) == len(rows)


def test_two_iterators_of_one_dict_survive_a_break():
    """What is made for one of them alone must not be taken for the other's."""

    def breaks(v):
        print("break")
        return v + 1

    def fn(x, d):
        made = []
        for value in d.values():
            for key in d:
                made.append({k: breaks(v) for k, v in d.items()})
                made.append([breaks(value), key])
        return made

    assert_capture(fn, (X, {"k": X, "l": Y}), steady=False)
