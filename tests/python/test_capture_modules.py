"""Modules and autograd functions inside captured functions."""

from __future__ import annotations

import pytest
import torch

from capture_cases import assert_capture, tensors

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        self.named = torch.nn.ModuleDict({"act": torch.nn.ReLU(), "norm": torch.nn.BatchNorm1d(4)})
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(4))])
        self.register_buffer("count", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.count += 1
        for layer in self.layers:
            x = self.named["act"](layer(x))
        for weight in self.weights:
            x = x * weight
        x = self.named["norm"](x)
        if self.training:
            x = torch.nn.functional.dropout(x, 0.5)
        return x


@pytest.mark.parametrize("training", [True, False])
def test_module(training):
    net = Net().train(training)
    assert_capture(
        lambda n, x: n(x), (net, X), (net, tensors((3, 4))[0]), graphs=1, breaks=[], steady=False
    )


def test_module_changes_mode():
    net = Net()
    assert_capture(lambda n, x: n(x), (net.eval(), X), (Net().train(), X), steady=False)


def test_module_hooks():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    net[0].register_forward_hook(lambda module, args, out: out * 2)
    net.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert_capture(lambda n, x: n(x), (net, X), graphs=1, breaks=[])


def test_module_hook_added_later():
    def run(n, x, add):
        return n(x)

    plain = torch.nn.Linear(4, 4)
    hooked = torch.nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, out: out * 2)
    assert_capture(run, (plain, X, 0), (hooked, X, 0))


def test_lazy_module():
    assert_capture(lambda n, x: n(x).shape, (torch.nn.LazyLinear(3), X), steady=False)


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 + x * 0


def test_autograd_function():
    def run(x):
        y = Doubling.apply(x) + 1
        y.sum().backward()
        return x.grad

    assert_capture(run, (X.clone().requires_grad_(),))


def test_changed_before_it_is_called():
    """A module that the graph calls sees what the function changed before."""

    def changes(net, x):
        a = net(x)
        net.train(not net.training)
        b = net(x)
        net.named["norm"].eps = 0.5
        net.named["norm"].momentum = 0.7
        c = net.train()(x)
        net.named["norm"].running_mean = net.count * torch.ones(4)
        return a, b, c, net.eval()(x)

    for training in (True, False):
        assert_capture(changes, (Net().train(training), X), steady=False)
