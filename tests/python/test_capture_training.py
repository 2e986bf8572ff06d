# Captured functions are written in every way that users write them.
# ruff: noqa: PLW0108, RUF015
"""Training through captured functions, and capture beside other tools in one process."""

from __future__ import annotations

import copy
import cProfile
import signal
import sys
import threading
import time

import pytest
import torch

from capture_cases import assert_capture, graphs_of, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((6, 4), (6, 2))


def network() -> torch.nn.Module:
    torch.manual_seed(4)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )


def state(net: torch.nn.Module) -> list[torch.Tensor]:
    return [t.clone() for t in net.state_dict().values()]


def test_gradients_flow():
    def run(net, x):
        return (net(x) ** 2).mean()

    nets = [network() for _ in range(2)]
    inputs = [X.clone().requires_grad_() for _ in range(2)]
    captured = capture.compile(run, backend="eager")
    for _ in range(3):
        for fn, net, x in zip((run, captured), nets, inputs, strict=True):
            fn(net, x).backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whole_training_step(name):
    def step(net, optimizer, x, y):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    losses, states = [], []
    for way in (lambda f: f, lambda f: capture.compile(f, backend="eager")):
        net = network()
        optimizer = OPTIMIZERS[name](net.parameters())
        run = way(step)
        losses.append([run(net, optimizer, X, Y) for _ in range(6)])
        states.append(state(net))
    if name in ("sgd", "momentum"):
        assert losses[0] == losses[1]
        assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    else:  # within one graph, the capturable arithmetic
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_adam_step_is_one_graph():
    net = network()
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    stats: list = []
    optimizer = torch.optim.Adam(net.parameters())
    step = capture.compile(lambda: optimizer.step(), backend="eager", stats=stats)
    step()
    assert graphs_of(stats) == 1
    before = len(stats)
    step(), step(), step()
    assert graphs_of(stats) - before <= 1  # the state exists from the second step on


def test_learning_rate_changes():
    losses = []
    for way in (lambda f: f, lambda f: capture.compile(f, backend="eager")):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

        def step(net=net, optimizer=optimizer):
            optimizer.zero_grad()
            loss = ((net(X) - Y) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        run = way(step)
        seen = []
        for _ in range(5):
            seen.append(run())
            scheduler.step()
        losses.append(seen)
    assert losses[0] == losses[1]


def test_gradient_accumulates_and_clips():
    def run(net, x):
        net(x).sum().backward()
        net(x * 2).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        return [p.grad for p in net.parameters()]

    assert_capture(run, (network(), X), steady=False)


def test_autograd_grad():
    def run(x, w):
        loss = (x * w).sin().sum()
        return torch.autograd.grad(loss, [w])[0] * 2

    assert_capture(run, (X, X.clone().requires_grad_()))


def test_hooks_on_tensors():
    def run(x):
        y = x * 2
        y.register_hook(lambda grad: grad * 3)
        y.sum().backward()
        return x.grad

    assert_capture(run, (X.clone().requires_grad_(),))


def test_checkpoint():
    from torch.utils.checkpoint import checkpoint

    def run(net, x):
        y = checkpoint(net, x, use_reentrant=False)
        y.sum().backward()
        return x.grad

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    assert_capture(run, (net, X.clone().requires_grad_()), steady=False)


# --- beside other tools ------------------------------------------------------------------------
def work(x, n=3):
    for i in range(n):
        x = torch.sin(x) + i
    return x


def test_stock_compile_before_during_after():
    expected = work(X)
    stock = torch.compile(work, backend="eager")
    ours = capture.compile(work, backend="eager")
    assert torch.equal(stock(X), expected)
    assert torch.equal(ours(X), expected)
    assert torch.equal(capture.compile(lambda x: stock(x) + 1, backend="eager")(X), expected + 1)
    assert torch.equal(torch.compile(lambda x: ours(x) + 1, backend="eager")(X), expected + 1)
    capture.reset()
    torch._dynamo.reset()
    assert torch.equal(stock(X), expected)
    assert torch.equal(ours(X), expected)


def test_captured_calls_captured():
    inner = capture.compile(work, backend="eager")
    outer = capture.compile(lambda x: inner(x) * 2, backend="eager")
    assert torch.equal(outer(X), work(X) * 2)
    assert torch.equal(inner(X), work(X))


def test_settrace_and_profile():
    captured = capture.compile(work, backend="eager")
    expected = work(X)
    seen = []

    def trace(frame, event, arg):
        if frame.f_code is work.__code__:
            seen.append((event, frame.f_lineno))
        return trace

    before = sys.gettrace()
    for _ in range(2):  # before it is captured, and after
        seen.clear()
        sys.settrace(trace)
        try:
            assert torch.equal(captured(X), expected)
        finally:
            sys.settrace(before)
        lines = [line for event, line in seen if event == "line"]
        assert len(lines) == 8
        assert torch.equal(captured(X), expected)
    profile = cProfile.Profile()
    assert torch.equal(profile.runcall(captured, X), expected)
    seen.clear()
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    try:
        assert torch.equal(captured(X), expected)
    finally:
        sys.setprofile(None)
    assert "call" in seen or "c_call" in seen


def test_torch_profiler():
    captured = capture.compile(work, backend="eager")
    with torch.profiler.profile() as profile:
        assert torch.equal(captured(X), work(X))
    names = {event.key for event in profile.key_averages()}
    assert "aten::sin" in names


def test_frames_are_seen_as_python_has_them():
    def run(x, n):
        y = x + n
        frame = sys._getframe()
        names = sorted(frame.f_locals)
        z = y * 2
        return names, frame.f_lineno - frame.f_code.co_firstlineno, locals().keys() >= {"z"}, z

    assert_capture(run, (X, 2))


def test_interrupt_while_running():
    def run(x):
        while True:
            x = x + 0
            time.sleep(0.001)

    captured = capture.compile(run, backend="eager")
    threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        captured(X)
    assert torch.equal(capture.compile(work, backend="eager")(X), work(X))


def test_interrupt_in_the_backend():
    def backend(gm, inputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture.compile(work, backend=backend)(X)
    assert torch.equal(capture.compile(work, backend="eager")(X), work(X))


def test_error_of_the_backend():
    def backend(gm, inputs):
        raise ValueError("the backend's own")

    captured = capture.compile(work, backend=backend)
    for _ in range(2):
        with pytest.raises(ValueError, match="the backend's own"):
            captured(X)


def test_error_of_the_compiled_function():
    def backend(gm, inputs):
        def run(*args):
            raise RuntimeError("while it runs")

        return run

    # Python runs the code instead, and says so.
    with pytest.warns(RuntimeWarning, match="while it runs"):
        assert torch.equal(capture.compile(work, backend=backend)(X), work(X))


def test_generators_and_coroutines_are_eagers():
    def many(x):
        for i in range(3):
            yield x + i

    async def later(x):
        return x * 2

    captured = capture.compile(many, backend="eager")
    assert [t.sum().item() for t in captured(X)] == [t.sum().item() for t in many(X)]
    import asyncio

    assert torch.equal(asyncio.run(capture.compile(later, backend="eager")(X)), X * 2)


def test_deepcopy_and_state_of_a_captured_module():
    net = network()
    captured = capture.compile(net, backend="eager")
    captured(X)
    twin = copy.deepcopy(net)
    assert torch.equal(twin.eval()(X), net.eval()(X))
    assert list(captured.parameters())[0] is next(net.parameters())
    assert captured.training is not None


def test_views_whose_history_torch_does_not_tell():
    """Made without gradients, and written since."""

    def rows(x):
        for row in x:
            row.view(-1)[0] = 1
            if torch.equal(x, row.data):
                x.mul_(2)
        return x

    def add_one(p):
        p.add_(1)
        print("added")
        return p

    def turned(x):
        return add_one(x.T)[1:] * 2

    def first(x):
        y = x[0]
        x.mul_(2)
        return y.shape, y

    def again(x):
        with torch.no_grad():
            y = x[0]
            x.mul_(2)
        try:
            y.add_(1)
        except RuntimeError as error:
            return str(error)[:30]

    leaf = X.clone().requires_grad_()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for fn in (rows, turned, first):
                assert_capture(fn, (leaf,))
    for fn in (again, turned):
        assert_capture(fn, (leaf,))
