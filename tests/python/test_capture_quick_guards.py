"""Guards that are checked in short: what a full check saw, seen again by dictionary versions.

Every change here is made after many calls that passed the short check, and must be seen by the
next call.
"""

from __future__ import annotations

import collections
import copy
import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from capture_cases import graphs_of, tensors
from octavo import capture

pytestmark = pytest.mark.peers
X, Y = tensors((2, 4), (2, 4))


class Inner(nn.Module):
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.lin = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4))
        self.factor = 2

    def forward(self, x):
        return self.lin(self.norm(x)) * self.factor * self.scale + self.shift


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Inner() for _ in range(3)])
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.drop(x)


def replace_parameter(net):
    net.blocks[1].lin.weight = nn.Parameter(torch.ones(4, 4))


def replace_in_dictionary(net):
    net.blocks[2].lin._parameters["weight"] = nn.Parameter(torch.full((4, 4), 2.0))


def write_in_place(net):
    with torch.no_grad():
        net.blocks[0].lin.weight.mul_(3)


def other_data(net):
    net.blocks[0].lin.weight.data = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


def other_strides(net):
    net.blocks[0].lin.weight.data = net.blocks[0].lin.weight.data.clone().t()


def other_type(net):
    for p in net.parameters():
        p.data = p.data.double()
    for block in net.blocks:
        block.shift = block.shift.double()
    net.wants = torch.float64


def other_sizes(net):
    net.blocks[2].shift.resize_(2, 4).fill_(5)


def set_tensor(net):
    net.blocks[2].shift.set_(torch.full((1, 4), 7.0))


def no_gradient(net):
    for p in net.parameters():
        p.requires_grad_(False)


def swap_module(net):
    net.blocks[1] = Inner()


def swap_in_dictionary(net):
    net.blocks[0]._modules["norm"] = nn.Identity()


def other_attribute(net):
    net.blocks[2].factor = -3


def other_class_attribute(net):
    Inner.scale = 4.0


def shadow_class_attribute(net):
    net.blocks[1].scale = 5.0


def other_class_method(net):
    Inner.forward = lambda self, x: self.lin(x) - 1


def other_instance_method(net):
    net.blocks[0].forward = lambda x: x * 7


def other_class(net):
    class Other(Inner):
        def forward(self, x):
            return self.norm(x) - 5

    net.blocks[1].__class__ = Other


def other_class_of_leaf(net):
    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    net.blocks[1].lin.__class__ = Doubled


def other_dictionary(net):
    state = dict(net.blocks[1].__dict__)
    state["factor"] = 11
    net.blocks[1].__dict__ = state


def hook(net):
    net.blocks[2].lin.register_forward_hook(lambda m, a, y: y * 3)


def pre_hook(net):
    net.blocks[0].norm.register_forward_pre_hook(lambda m, a: (a[0] + 1,))


def hook_in_new_dictionary(net):
    net.blocks[0].norm._forward_hooks = collections.OrderedDict({0: lambda m, a, y: y + 9})


def evaluate(net):
    net.eval()


def append(net):
    net.blocks.append(Inner())


def cut(net):
    del net.blocks[2]


def share(net):
    net.blocks[2] = net.blocks[0]


def tie(net):
    net.blocks[1].lin.weight = net.blocks[0].lin.weight


def no_bias(net):
    net.blocks[1].lin.bias = None


CHANGES = [
    replace_parameter,
    replace_in_dictionary,
    write_in_place,
    other_data,
    other_strides,
    other_type,
    other_sizes,
    set_tensor,
    no_gradient,
    swap_module,
    swap_in_dictionary,
    other_attribute,
    other_class_attribute,
    shadow_class_attribute,
    other_class_method,
    other_instance_method,
    other_class,
    other_class_of_leaf,
    other_dictionary,
    hook,
    pre_hook,
    hook_in_new_dictionary,
    evaluate,
    append,
    cut,
    share,
    tie,
    no_bias,
]


def agree(captured: Callable[..., Any], plain: Callable[..., Any], *args: Any) -> None:
    torch.manual_seed(0)
    expected = plain(*args)
    torch.manual_seed(0)
    got = captured(*args)
    assert torch.equal(got, expected)
    assert got.requires_grad == expected.requires_grad
    assert got.dtype == expected.dtype


@pytest.fixture
def plain_class():
    forward, scale = Inner.forward, Inner.scale
    yield
    Inner.forward, Inner.scale = forward, scale


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_change_is_seen(change, inline, plain_class):
    torch.manual_seed(3)
    net = Net()
    captured = capture.compile(net, backend="eager", options={"inline_modules": inline})
    for _ in range(4):
        agree(captured, net, X)
    torch.manual_seed(4)  # of what the change makes
    change(net)
    x = X.to(getattr(net, "wants", X.dtype))
    for _ in range(4):
        agree(captured, net, x)


@pytest.mark.parametrize("inline", [False, True])
def test_changes_one_after_another(inline, plain_class):
    torch.manual_seed(3)
    net = Net()
    captured = capture.compile(net, backend="eager", options={"inline_modules": inline})
    for change in (write_in_place, other_attribute, hook, no_gradient, shadow_class_attribute):
        for _ in range(2):
            agree(captured, net, X)
        change(net)
    agree(captured, net, X)


def test_what_changes_at_every_call():
    """A counter in a module and a new object each time: guards hold, and so do answers."""

    class Batch:
        def __init__(self, x):
            self.x = x

    class Counting(Net):
        def forward(self, batch):
            self.calls = [self.calls[0] + 1] if hasattr(self, "calls") else [1]
            return super().forward(batch.x)

    net = Counting()
    twin = copy.deepcopy(net)
    stats: list = []
    captured = capture.compile(net, backend="eager", stats=stats)
    for n in range(12):
        agree(captured, twin, Batch(X + n))
    before = graphs_of(stats)
    for n in range(12):
        agree(captured, twin, Batch(X - n))
        twin.blocks[1].factor = net.blocks[1].factor = n + 5 if n == 6 else 2
    assert net.calls == twin.calls
    assert graphs_of(stats) <= before + 2


def test_two_models_of_one_class():
    a, b = Net().eval(), Net().eval()
    stats: list = []
    run = capture.compile(lambda net, x: net(x), backend="eager", stats=stats)
    for _ in range(6):
        for net in (a, b):
            agree(run, lambda net, x: net(x), net, X)
    assert graphs_of(stats) == 2
    hook(b)
    for _ in range(3):
        for net in (a, b):
            agree(run, lambda net, x: net(x), net, X)


def test_object_in_the_place_of_another():
    """A new object may have an old one's address."""

    class Pair(NamedTuple):
        a: Any
        b: Any

    class Named(Pair):
        pass

    class Box:
        def __init__(self, n):
            self.n = n

    def run(x, box, pair):
        return x * box.n + len(pair) + pair[0]

    captured = capture.compile(run, backend="eager", dynamic=False)
    for n in (1, 1, 1, 1, 2, 2, 1, 3, 3, 1):
        box, pair = Box(n), Named(n, 5)
        agree(captured, run, X, box, pair)
        del box, pair
        gc.collect()


def test_one_tensor_in_two_places():
    def run(x, y, held):
        return x + 1 if x is y else x - y * held["w"]

    held = {"w": torch.ones(4)}
    captured = capture.compile(run, backend="eager")
    for _ in range(4):
        agree(captured, run, X, Y, held)
    agree(captured, run, X, X, held)
    agree(captured, run, held["w"], Y, held)
    agree(captured, run, X, Y, held)


def test_open_sizes():
    stats: list = []
    net = Net().eval()
    captured = capture.compile(net, backend="eager", stats=stats)
    for n in range(2, 14):
        x = torch.ones(n, 4)
        assert torch.allclose(captured(x), net(x))
    assert graphs_of(stats) == 2
    other_attribute(net)
    for n in (3, 1, 0, 5):
        x = torch.ones(n, 4)
        assert torch.allclose(captured(x), net(x))


def test_order_of_an_ordered_dict():
    """Its order is no matter of its dictionary's version."""
    items = collections.OrderedDict(a=X, b=Y)

    def run(x):
        for name, item in items.items():
            x = x * 2 + item * len(name)
        return x

    items.move_to_end("a")
    captured = capture.compile(run, backend="eager")
    for _ in range(3):
        agree(captured, run, X)
    items.move_to_end("b")
    agree(captured, run, X)
    items.move_to_end("b", last=False)
    agree(captured, run, X)
    items["c"] = X
    agree(captured, run, X)
