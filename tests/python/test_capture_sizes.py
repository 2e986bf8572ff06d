"""Sizes and ints that differ from call to call: one graph for all, eager's results."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from conftest import printed_seed
from octavo import capture

pytestmark = pytest.mark.peers

SIZES = (2, 3, 5, 8, 13, 4)
F = torch.nn.functional

network = torch.nn.Sequential(
    torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1)
)
encoder = torch.nn.TransformerEncoder(
    torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2
).eval()


class Counted:
    """A backend that runs the graph as it is and remembers graphs and inputs."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.inputs: list[list[Any]] = []

    def __call__(self, gm: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs.append(gm)
        self.inputs.append(inputs)
        return gm.forward


def same(result: Any, expected: Any) -> None:
    assert type(result) is type(expected)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
        assert result.requires_grad == expected.requires_grad
        assert result.stride() == expected.stride()
    elif isinstance(expected, tuple | list):
        assert len(result) == len(expected)
        for r, e in zip(result, expected, strict=True):
            same(r, e)
    else:
        assert result == expected


def run(f: Callable[..., Any], calls: list[tuple[Any, ...]], **options: Any) -> Counted:
    """Calls f and its capture, compares, and gives the graphs."""
    backend = Counted()
    captured = capture.compile(f, backend=backend, **options)
    for args in calls:
        copies = copy.deepcopy(args)
        same(captured(*args), f(*copies))
        for a, b in zip(args, copies, strict=True):
            same(a, b)
    return backend


def attention(q):
    b, s, d = q.shape
    h = q.view(b, s, 2, d // 2).transpose(1, 2)
    return F.scaled_dot_product_attention(h, h, h).transpose(1, 2).reshape(b, s, d)


def in_place(x):
    y = x.clone()
    y[1:] += 1
    y.mul_(x.shape[0])
    return y


def made_sizes(x):
    y = torch.cat([x, x], 1).flatten()[: x.size(0) + 1]
    return y, y.shape[0], y.numel() * 2, tuple(x.shape)


rows = [(torch.randn(n, 4),) for n in SIZES]
planes = [(torch.randn(n, n + 2, 8),) for n in SIZES]
# name: function, calls, most graphs
PROGRAMS: dict[str, tuple[Callable[..., Any], list[Any], int]] = {
    "mlp": (network, rows, 2),
    "loss": (lambda x: (network(x) ** 2).mean(), rows, 2),
    "view": (lambda x: x.view(x.shape[0], -1).sum(1) / x.shape[0], rows, 2),
    "slice": (
        lambda x, y: torch.cat([x, y], 0)[: x.size(0) + 1] * x.numel(),
        [(torch.randn(n, 4), torch.randn(n + 1, 4)) for n in SIZES],
        2,
    ),
    "floats": (lambda x: x / math.sqrt(x.size(0)) + 1.0 / len(x) + float(len(x)) ** 0.5, rows, 2),
    "factories": (
        lambda x: torch.zeros(x.shape[0], 3) + torch.arange(x.size(0))[:, None],
        rows,
        2,
    ),
    "branch": (lambda x: x + 1 if x.shape[0] > 4 else x - 1, rows, 3),
    "parity": (lambda x: x * 2 if x.shape[0] % 2 == 0 else x * 3, rows, 3),
    "returned": (lambda x: (x.shape[0] * 2, x.sum()), rows, 2),
    "made_sizes": (made_sizes, rows, 2),
    "loop": (lambda x: sum(x[i] for i in range(x.shape[0])), rows, len(SIZES)),
    "index": (lambda x: x[x.shape[0] // 2], rows, 2),
    "truth": (lambda x: x + 1 if x.shape[0] else x, rows, 2),
    "least": (lambda x: x[: min(x.shape[0], 4)] * max(len(x), 3), rows, 4),
    "conv": (
        lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3), stride=2).mean((2, 3)).reshape(2 * len(x)),
        [(torch.randn(n, 3, n + 5, 9),) for n in SIZES],
        2,
    ),
    "attention": (attention, planes, 2),
    "encoder": (encoder, planes, 2),
    "in_place": (in_place, rows, 2),
    "expand": (
        lambda x: x.new_ones(1).expand(x.shape[0]).sum() + x.unfold(0, 2, 1).sum(),
        [(torch.randn(n),) for n in SIZES],
        2,
    ),
    "ints": (lambda x, n: x * n + n // 2, [(torch.randn(2), n) for n in SIZES], 2),
    "int_returned": (lambda x, n: (x + n, n, -n), [(torch.randn(2), n) for n in SIZES], 2),
    "same_shape": (
        lambda x, y: x + y if x.shape == y.shape else x.sum() + y.sum(),
        [(torch.randn(n), torch.randn(m)) for n, m in [(2, 2), (3, 3), (5, 5), (3, 4), (5, 6)]],
        3,
    ),
    "transposed": (lambda x: x.t() @ x, [(torch.randn(4, n).t(),) for n in SIZES], 2),
    "channels_last": (
        lambda x: F.relu(x + 1),
        [(torch.randn(n, 3, 5, n).to(memory_format=torch.channels_last),) for n in SIZES],
        2,
    ),
    "is_none": (lambda x, n=None: x if n is None else x * n, [(rows[0][0], n) for n in SIZES], 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name):
    f, calls, most = PROGRAMS[name]
    backend = run(f, calls)
    assert len(backend.graphs) <= most
    if most == 2:
        assert any(isinstance(x, int) for x in backend.inputs[-1])


def test_at_most_two_compiles_over_twenty_sizes():
    calls = [(torch.randn(n, 4),) for n in range(2, 22)]
    assert len(run(lambda x: network(x) * x.shape[0], calls).graphs) == 2


def test_placeholders():
    """Symbols come before the tensors whose sizes they are, as Dynamo orders them."""
    backend = run(
        lambda x, y: torch.cat([x, y]), [(torch.randn(n, 4), torch.randn(9, 4)) for n in (2, 3)]
    )
    names = [n.name for n in backend.graphs[-1].graph.nodes if n.op == "placeholder"]
    assert names == ["s0", "l_x_", "l_y_"]
    assert backend.inputs[-1][0] == 3


def test_equal_sizes_share_a_symbol():
    calls = [(torch.randn(n, 4), torch.randn(n, 4)) for n in SIZES]
    backend = run(lambda x, y: x + y, calls)
    assert len(backend.graphs) == 2
    assert sum(isinstance(x, int) for x in backend.inputs[-1]) == 1
    # They may differ later.
    f = lambda x, y: x.sum() + y.sum()  # noqa: E731
    backend = run(f, [*calls, (torch.randn(3, 4), torch.randn(6, 4)), *calls])
    assert len(backend.graphs) == 3


def test_zero_and_one_are_specialised():
    backend = run(lambda x: x.sum(0) * x.shape[0], [(torch.randn(n, 4),) for n in (5, 6, 1, 0, 7)])
    assert len(backend.graphs) == 4
    assert [any(isinstance(x, int) for x in i) for i in backend.inputs] == [
        False,
        True,
        False,
        False,
    ]


def test_layout_is_guarded():
    """A graph for dense tensors of any size is not for their slices."""
    calls = [(torch.randn(n, 4),) for n in (3, 4)]
    backend = run(lambda x: x.reshape(-1), [*calls, (torch.randn(5, 8)[:, ::2],), *calls])
    assert len(backend.graphs) == 3


def test_dynamic_from_the_start():
    backend = run(lambda x: x * 2, rows, dynamic=True)
    assert len(backend.graphs) == 1


def test_never_dynamic():
    backend = run(lambda x: x * 2, rows, dynamic=False)
    assert len(backend.graphs) == len(SIZES)


def test_marks():
    x = torch.randn(6, 4)
    capture.mark_dynamic(x, 0)
    assert len(run(lambda x: x * 2, [(x,), *rows]).graphs) == 1
    calls = [(torch.randn(n, 4),) for n in (3, 4, 5)]
    for (x,) in calls:
        capture.mark_static(x, 0)
    assert len(run(lambda x: x * 2, calls).graphs) == 3
    with pytest.raises(IndexError, match="dimension 2"):
        capture.mark_dynamic(torch.randn(2, 2), 2)


def test_parameters_keep_their_sizes():
    def f(layer, x):
        return layer(x)

    calls = [(torch.nn.Linear(4, n), torch.randn(2, 4)) for n in (2, 3)]
    backend = Counted()
    captured = capture.compile(f, backend=backend)
    for layer, x in calls:
        same(captured(layer, x), layer(x))
    assert not any(isinstance(x, int) for inputs in backend.inputs for x in inputs)


def test_gradients():
    inputs = [torch.randn(n, 4, requires_grad=True) for n in SIZES]
    captured = capture.compile(lambda x: (network(x) * x.shape[0]).sum(), backend="eager")
    for x in inputs:
        network.zero_grad()
        captured(x).backward()
        got = [x.grad, *(p.grad.clone() for p in network.parameters())]
        x.grad = None
        network.zero_grad()
        (network(x) * x.shape[0]).sum().backward()
        same(got, [x.grad, *(p.grad for p in network.parameters())])


def test_across_a_break():
    def f(x):
        n = x.shape[0] * 3
        capture.graph_break()
        return x[: n // 2] * n, n

    backend = run(f, rows)
    assert len(backend.graphs) == 2


@pytest.mark.parametrize("backend", ["torchscript", "onnxruntime", "openvino", "aot_eager"])
def test_backends_for_one_size(backend):
    """They are called for each size; the program is captured once for all."""
    stats: list[dict[str, Any]] = []
    captured = capture.compile(
        lambda x: torch.relu(network(x)).view(x.shape[0], 1) * 2, backend=backend, stats=stats
    )
    with torch.no_grad():
        for (x,) in rows:
            expected = torch.relu(network(x)).view(x.shape[0], 1) * 2
            torch.testing.assert_close(captured(x), expected, rtol=1e-5, atol=1e-5)
    assert len(stats) == 2


def expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(["n", "m", "x.shape[0]", str(rng.randint(-3, 7)), "x.numel()"])
    a, b = expression(rng, depth - 1), expression(rng, depth - 1)
    kind = rng.choice(["+", "-", "*", "//", "%", "/", "max", "min", "neg", "if", "float"])
    if kind in ("max", "min"):
        return f"{kind}({a}, {b})"
    if kind == "neg":
        return f"(-{a})"
    if kind == "float":
        return f"float({a})"
    if kind == "if":
        return f"({a} if {b} {rng.choice(['<', '<=', '==', '!=', '>', '>='])} {a} else {b})"
    return f"({a} {kind} {b})"


def test_random_expressions():
    """Python's numbers, for values that the graphs were not made with."""
    seed = printed_seed()
    rng = random.Random(seed)
    for _ in range(60):
        text = expression(rng, 4)
        space: dict[str, Any] = {"torch": torch}
        exec(f"def f(x, n, m):\n    v = {text}\n    return v, x + v", space)
        f = space["f"]
        captured = capture.compile(f, backend="eager")
        for _ in range(8):
            args = (torch.ones(rng.randint(0, 9), 2), rng.randint(-2, 9), rng.randint(-2, 9))
            try:
                expected = f(*args)
            except ZeroDivisionError:
                with pytest.raises(ZeroDivisionError, match=r"by zero|modulo"):
                    captured(*args)
                continue
            try:
                same(captured(*args), expected)
            except AssertionError as error:
                raise AssertionError(f"{text} of {args[1:]}, {args[0].shape}: {error}") from error


def test_what_is_written_is_given_other_sizes():
    def f(x):
        return torch.add(x, 1, out=torch.empty(0)).shape, x + 1

    captured = capture.compile(f, backend="eager")
    for rows in (2, 3, 4, 5):
        x = torch.ones(rows, 4)
        assert captured(x)[0] == f(x)[0] == (rows, 4)


def test_numbers_are_guarded_to_the_bit():
    """NaN as itself, and zero with its sign."""

    def f(x, n):
        return x * math.isnan(n * math.inf - math.inf), str((n - 3) * 0.0)

    captured = capture.compile(f, backend="eager")
    for n in (4, 5, 2, 3, 2, 6):
        assert captured(rows[0][0], n)[1] == f(rows[0][0], n)[1]


@pytest.mark.parametrize(
    "f", [lambda x, n: (x, n * 2**40), lambda x, n: (x, 2.0 ** (n * 100)), lambda x, n: (x, n**9)]
)
def test_numbers_that_not_all_sizes_give(f):
    """Beyond 64 bits, or an error of Python's."""
    captured = capture.compile(f, backend="eager")
    for n in (2, 3, 4, 2**40, 11, 5):
        try:
            expected = f(rows[0][0], n)[1]
        except OverflowError as error:
            with pytest.raises(OverflowError, match=str(error)[-20:-1]):
                captured(rows[0][0], n)
        else:
            assert captured(rows[0][0], n)[1] == expected


def test_turned_in_place():
    def f(x):
        x.t_()
        return x.shape, x, x.unsqueeze_(0).shape

    captured = capture.compile(f, backend="eager")
    for rows in (2, 3, 4, 5):
        ours, eager = torch.ones(rows, 4), torch.ones(rows, 4)
        same(captured(ours), f(eager))
        same(ours, eager)


def test_an_open_number_that_is_gone():
    space = {"n": 2}
    exec("def f(x):\n    return x * n", space)

    class Box:
        n = 2

    box, x = Box(), torch.ones(2)
    of_globals = capture.compile(space["f"], backend="eager")
    of_object = capture.compile(lambda x: x * box.n, backend="eager")
    for number in (2, 3, 4, 5):
        space["n"] = box.n = number
        same(of_globals(x), x * number)
        same(of_object(x), x * number)
    del space["n"]
    with pytest.raises(NameError):
        of_globals(x)
    del box.n
    same(of_object(x), x * 2)
