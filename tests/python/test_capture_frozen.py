"""Weights as constants of the programs of the backend octavo: every change of one is followed."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch
from torch import nn

from capture_cases import Programs
from octavo import capture

pytestmark = pytest.mark.peers
SEED = int(os.environ.get("OCTAVO_TEST_SEED", time.time_ns() % 100_000))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def made() -> tuple[Net, Any, Programs, torch.Tensor]:
    print(f"seed {SEED}")
    torch.manual_seed(SEED)
    net = Net()
    with torch.no_grad():
        net(torch.randn(4, 3, 9, 9) * 2 + 1)  # running statistics of some kind
    net.eval()
    seen = Programs()
    fast = capture.compile(net, backend=seen, options={"inline_modules": True})
    return net, fast, seen, torch.randn(2, 3, 9, 9)


def near(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Sums of 27, then of 8 products, of numbers of order 1."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def same(net: Net, fast: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        expected = net(x)
        near(fast(x), expected)
        near(fast(x), expected)
    return expected


def in_place(net: Net) -> None:
    with torch.no_grad():
        net.conv.weight.mul_(1.5)


def one_element(net: Net) -> None:
    with torch.no_grad():
        net.head.weight[1, 2] = 7.0


def through_data(net: Net) -> None:
    net.conv.weight.data.add_(0.5)  # no version counter sees it


def data_element(net: Net) -> None:
    net.head.bias.data[0] = 11.0


def assign_data(net: Net) -> None:
    net.head.weight.data = torch.randn(5, 8)


def assign_parameter(net: Net) -> None:
    net.head.weight = nn.Parameter(torch.randn(5, 8))


def load(net: Net) -> None:
    net.load_state_dict({k: v * 0.5 + 0.25 for k, v in net.state_dict().items()})


def load_assigned(net: Net) -> None:
    state = {k: v * 0.5 + 0.25 for k, v in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def optimizer(net: Net) -> None:
    step = torch.optim.SGD(net.parameters(), lr=0.5)
    net(torch.ones(1, 3, 9, 9)).sum().backward()
    step.step()


def captured_optimizer(net: Net) -> None:
    step = torch.optim.Adam(net.parameters(), lr=0.5)
    net(torch.ones(1, 3, 9, 9)).sum().backward()
    capture.compile(step.step, backend="octavo")()


def train_batch_norm(net: Net) -> None:
    net.train()
    with torch.no_grad():
        net(torch.randn(4, 3, 9, 9) * 3)
    net.eval()


def buffer(net: Net) -> None:
    net.norm.running_var.fill_(4.0)


def numpy_view(net: Net) -> None:
    net.conv.weight.detach().numpy()[0, 0] = 3.0


CHANGES = [
    in_place,
    one_element,
    through_data,
    data_element,
    assign_data,
    assign_parameter,
    load,
    load_assigned,
    optimizer,
    captured_optimizer,
    train_batch_norm,
    buffer,
    numpy_view,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_is_followed(change) -> None:
    net, fast, seen, x = made()
    before = same(net, fast, x)
    assert seen.made[0].reason == ""
    assert seen.made[0].constants >= 7
    assert seen.made[0].opaque == {}
    for _ in range(2):
        change(net)
        after = same(net, fast, x)
    assert not torch.allclose(before, after)


def test_many_changes() -> None:
    """A program that is hardly used pays no longer: weights are inputs from then on."""
    net, fast, _, x = made()
    for _ in range(12):
        one_element(net)
        through_data(net)
        same(net, fast, x)


def test_an_array_of_a_weight() -> None:
    """Memory that an array writes to is no constant."""
    net, fast, seen, x = made()
    array = net.head.weight.detach().numpy()
    same(net, fast, x)
    constants = seen.made[0].constants
    for n in range(3):
        array[0, n] = 20.0 + n
        same(net, fast, x)
    assert seen.made[0].constants == constants


def test_an_array_taken_later() -> None:
    net, fast, _, x = made()
    same(net, fast, x)
    array = net.head.weight.detach().numpy()
    for n in range(3):
        same(net, fast, x)
        array[0, n] = 20.0 + n
        same(net, fast, x)


def test_memory_that_is_not_torchs() -> None:
    net, fast, _, x = made()
    array = torch.randn(5).numpy()
    net.head.bias = nn.Parameter(torch.from_numpy(array))
    same(net, fast, x)
    array[:] = 3.0
    same(net, fast, x)


def test_two_programs_of_one_weight() -> None:
    net, fast, _, x = made()
    y = torch.randn(3, 3, 9, 9)
    same(net, fast, x)
    same(net, fast, y)
    through_data(net)
    same(net, fast, y)
    same(net, fast, x)
    data_element(net)
    same(net, fast, x)
    same(net, fast, y)


def test_inference_tensors() -> None:
    torch.manual_seed(SEED)
    with torch.inference_mode():
        net = Net().eval()
        fast = capture.compile(net, backend="octavo")
        x = torch.randn(2, 3, 9, 9)
        for _ in range(3):
            near(fast(x), net(x))
            net.conv.weight.mul_(1.25)
            near(fast(x), net(x))


def test_training_has_no_constants() -> None:
    net, fast, seen, x = made()
    fast(x).sum().backward()
    assert net.conv.weight.grad is not None
    assert [m.constants for m in seen.made] == [0]


def test_the_module_is_eagers_beside_it() -> None:
    """Watched memory is the user's as before: it stays where it is, and eager trains on."""
    net, fast, _, x = made()
    address = net.conv.weight.data_ptr()
    same(net, fast, x)
    assert net.conv.weight.data_ptr() == address
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        step.zero_grad()
        net(x).square().mean().backward()
        step.step()
        same(net, fast, x)
    assert net.conv.weight.data_ptr() == address
