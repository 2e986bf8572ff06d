"""The backend octavo: what is done to the gradients of results that other results are made of."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from capture_cases import Programs, near
from octavo import capture

pytestmark = pytest.mark.peers


def hidden_and_loss(x, w):
    h = torch.tanh(x @ w)
    return h, (h * h).sum()


def chain(x, w):
    a = x * 2
    b = a @ w
    c = b.relu()
    return a, b, c, (a.sum() + c).sum(), x.sum()


def of_a_list(x, w):
    a, b = (x @ w).unbind()
    return a, b, a * b


def skipped(x, w):
    a = x @ w
    b = a + x  # reaches the loss around b as well
    return b, (a * b).sum(), a.exp().sum()


def views(x, w):
    y = x @ w
    return y.t(), y[0], (y * 3).sum()


def written(x, w):
    y = x * 2
    z = y + w[0]
    y.add_(1)
    return y, z, (y + z).exp().sum()


def a_view_alone(x, w):
    y = (x @ w).t()
    return y, y.exp().sum()


def views_of_an_input(x, w):
    y = x.t()
    return y, (w @ y).tanh(), y.sum() * 2


def with_data(x, w):
    y = x @ w
    z = y.data
    return y, z.exp() * y, (z * w[0]).sum()


def given_its_data(x, w):
    y = x @ w
    y.data = y.data
    return y, (y * y).sum()


FUNCTIONS = [hidden_and_loss, chain, of_a_list, skipped]
FUNCTIONS += [views, a_view_alone, views_of_an_input, written, with_data, given_its_data]


def everything(fn, x, w, touch):
    """Results and gradients after `touch` did something to the results."""
    seen = []
    results = fn(x, w)
    touch(results, seen)
    torch.stack([r.sum() for r in results]).sum().backward()
    seen += [r.detach() for r in results] + [r.grad for r in results if r.retains_grad]
    return [*seen, x.grad, w.grad]


def retain(results, _seen):
    for r in results:
        r.retain_grad()


def hook(results, seen):
    """Of results that are not made of one another torch does not say whose hook runs first."""
    seen += [None] * len(results)

    def keep(g, n):
        seen[n] = g.clone()
        return g * 3

    for n, r in enumerate(results):
        r.register_hook(functools.partial(keep, n=n))


def ask(results, seen):
    for r in results[:-1]:
        wanted = torch.autograd.grad(
            results[-2].sum(), r, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        seen.extend(wanted)


def write(results, _seen):
    for r in results:
        if r.dim() == 0:
            r.mul_(2)


@pytest.mark.parametrize("touch", [retain, hook, ask, write])
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_between_the_stages(fn, touch):
    torch.manual_seed(0)
    numbers = torch.randn(2, 4), torch.randn(4, 4)
    if fn is skipped:
        numbers = torch.randn(4, 4), numbers[1]
    seen = Programs()
    compiled = capture.compile(fn, backend=seen)
    ours, theirs = (
        everything(f, *(n.clone().requires_grad_() for n in numbers), touch) for f in (compiled, fn)
    )
    assert not seen.made[0].reason
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        near(a, b)


def stages(fn, *args):
    seen = Programs()
    capture.compile(fn, backend=seen)(*args)
    assert len(seen.made) == 1
    return seen.made[0].stages


def test_as_many_programs_as_needed():
    x, w = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    assert stages(lambda x, w: (x @ w, x.sum()), x, w) == 2
    assert stages(lambda x, w: (x @ w).exp().sin().unbind(), x, w) == 1
    assert stages(hidden_and_loss, x, w) == 2
    assert stages(chain, x, w) == 5
    assert stages(hidden_and_loss, x.detach(), w.detach()) == 0
    assert stages(lambda x, w: (x @ w.detach(), (x.detach() @ w).sum()), x, w) == 2


def test_backward_of_each_result_in_turn():
    """Results that share nothing but inputs; eager frees each one's history by itself."""

    def two(x, w):
        return (x * x).sum(), (w * w).sum() + x.sum(), x + 1

    x, w = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    assert stages(two, x, w) == 3
    seen = []
    for fn in (capture.compile(two, backend="octavo"), two):
        a, b, c = fn(x, w)
        a.backward()
        b.backward()
        c.sum().backward()
        with pytest.raises(RuntimeError, match="second time"):
            a.backward()
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(fn(x, w)[0], w)
        seen.append((x.grad.clone(), w.grad.clone()))
        x.grad = w.grad = None
    for ours, theirs in zip(*seen, strict=True):
        near(ours, theirs)


def test_a_history_that_is_gone():
    """An input whose history was freed, and of which no result that requires grad is made."""

    def f(y):
        v = y.exp()
        seen = []
        for _ in range(2):
            g = torch.autograd.grad((y * y).sum(), y)[0]
            seen.append((g, v.bool()))
        return seen

    y = torch.randn(2, 4, requires_grad=True) * 1
    for ours, theirs in zip(capture.compile(f, backend="octavo")(y), f(y), strict=True):
        near(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_gradient_that_nothing_asks_for():
    """Only the outer result's gradient: what lies between has none, and the inner stage runs."""
    x, w = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    h, loss = capture.compile(hidden_and_loss, backend="octavo")(x, w)
    loss.backward()
    assert not h.retains_grad
    ours = x.grad.clone(), w.grad.clone()
    x.grad = w.grad = None
    hidden_and_loss(x, w)[1].backward()
    near(ours[0], x.grad)
    near(ours[1], w.grad)
    # h has a backward pass of its own still.
    h, loss = capture.compile(hidden_and_loss, backend="octavo")(x, w)
    x.grad = None
    h.sum().backward(retain_graph=True)
    loss.backward()
    ours = x.grad.clone()
    x.grad = None
    h, loss = hidden_and_loss(x, w)
    (h.sum() + loss).backward()
    near(ours, x.grad)


def test_a_view_made_with_gradients_under_no_grad():
    """Its history is made though the caller's mode has none."""

    def f(x):
        with torch.enable_grad():
            y = x * 2
            return y, y.view(-1)

    x = torch.randn(2, 3, requires_grad=True)
    with torch.no_grad():
        y, flat = capture.compile(f, backend="octavo")(x)
    (flat * torch.arange(6.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(6.0).reshape(2, 3) * 2)
    assert flat.data_ptr() == y.data_ptr()


def test_views_made_under_no_grad():
    """torch says of each that it wants gradients, and it is a leaf."""
    x = torch.randn(2, 4, requires_grad=True)
    with torch.no_grad():
        ours = capture.compile(lambda x: [*x], backend="octavo")(x)
        theirs = list(x)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.requires_grad, a.is_leaf) == (b.requires_grad, b.is_leaf)
        assert torch.equal(a, b)


def test_a_write_to_a_view_of_a_leaf_that_is_made():
    def f(x):
        y = x * 2
        y.requires_grad_()
        return y.unsqueeze(0)

    with pytest.raises(RuntimeError, match="view of a leaf Variable that requires grad"):
        capture.compile(f, backend="octavo")(torch.randn(3)).sub_(1)


def test_a_view_of_a_leaf_that_is_made():
    fast = capture.compile(lambda x: x.detach().requires_grad_()[1:], backend="octavo")
    y = fast(torch.randn(3))
    assert y.requires_grad
    assert y._base.is_leaf


def test_training_with_hidden_states():
    """The logits and the loss come back, as models of transformers return them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
    twin = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))

    def step(net):
        logits = net(x)
        return logits, nn.functional.cross_entropy(logits, y)

    fast = capture.compile(step, backend="octavo")
    for net, run in ((model, fast), (twin, step)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            logits, loss = run(net)
            logits.register_hook(lambda g: g.clamp(-0.01, 0.01))
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        near(ours, theirs)
