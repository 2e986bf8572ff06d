"""Steps of optimizers through the backend octavo: one program over all parameters, and eager's."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import pytest
import torch

from capture_cases import Programs
from octavo import capture

pytestmark = pytest.mark.peers
SEED = int(os.environ.get("OCTAVO_TEST_SEED", time.time_ns() % 100_000))
STEPS = 20
EPSILON = 2.0**-24  # half a unit in the last place of float32, relative

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd_decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.02}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "momentum_damped": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    ),
    "nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "sgd_maximize": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam_decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99)}),
    "adam_amsgrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "adam_maximize": (torch.optim.Adam, {"lr": 0.01, "maximize": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01}),
    "adamw_amsgrad": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.3}),
}


def parameters_of(generator: torch.Generator) -> list[torch.nn.Parameter]:
    """Of random shapes, without dimensions, of one element, and a transposed one."""
    shapes = [
        tuple(torch.randint(1, 9, (rank,), generator=generator).tolist()) for rank in (1, 2, 3, 4)
    ]
    tensors = [torch.randn(shape, generator=generator) for shape in [*shapes, (), (1,), (300, 70)]]
    tensors.append(torch.randn((5, 6), generator=generator).t())
    return [torch.nn.Parameter(t) for t in tensors]


def gradients(parameters, generator: torch.Generator) -> list[torch.Tensor]:
    return [torch.randn(p.shape, generator=generator) for p in parameters]


@pytest.mark.parametrize("foreach", [False, True], ids=["single", "foreach"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_eagers_and_one_program(name: str, foreach: bool) -> None:
    print(f"seed {SEED}")
    make, options = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(SEED)
    ours = parameters_of(generator)
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    addresses = [p.data_ptr() for p in ours]
    mine = make(ours, foreach=foreach, **options)
    eager = make(theirs, foreach=foreach, **options)
    seen = Programs()
    step = capture.compile(mine.step, backend=seen, options={"inline_modules": True})
    for _ in range(STEPS):
        for p, q, g in zip(ours, theirs, gradients(ours, generator), strict=True):
            p.grad, q.grad = g, g.clone()
        versions = [p._version for p in ours]
        step()
        eager.step()
        assert all(p._version > v for p, v in zip(ours, versions, strict=True))
    assert [p.data_ptr() for p in ours] == addresses
    # The first call makes the state, the second finds it; one program each.
    assert 1 <= len(seen.made) <= 2
    for made in seen.made:
        assert made.reason == ""
        assert made.replayed == ""
        assert made.opaque == {}
        assert made.lowered > 0
    assert seen.made[-1].regions == 1
    # Everything but the transposed parameter and its state.
    state = sum(isinstance(v, torch.Tensor) for v in mine.state[ours[0]].values())
    assert seen.made[-1].in_place >= (len(ours) - 1) * (1 + state)
    # A captured step has Adam's capturable arithmetic: 1 - beta ** t in float32, where eager's has
    # it in double. Of a quotient by 1 - beta ** t that is up to 2 roundings of a power near 1,
    # divided by (1 - beta).
    rough = 4.0 / (1 - options.get("betas", (0.9, 0.999))[1]) if "adam" in name else 4.0
    for p, q in zip(ours, theirs, strict=True):
        moved = STEPS * options["lr"]
        atol = EPSILON * (rough * moved + STEPS * 4 * q.detach().abs().max().item())
        torch.testing.assert_close(p, q, rtol=0, atol=atol)
    for p, q in zip(ours, theirs, strict=True):
        mine_state, their_state = mine.state[p], eager.state[q]
        assert mine_state.keys() == their_state.keys()
        for key in mine_state:
            if isinstance(mine_state[key], torch.Tensor):
                scale = max(their_state[key].abs().max().item(), 1.0)
                torch.testing.assert_close(
                    mine_state[key], their_state[key], rtol=0, atol=8 * STEPS * EPSILON * scale
                )


@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adam_amsgrad", "adamw"])
def test_a_later_step_copies_nothing(name: str) -> None:
    """No operator of torch runs, nor is anything kept that the step writes."""
    make, options = OPTIMIZERS[name]
    parameters = parameters_of(torch.Generator().manual_seed(SEED))[:-1]  # all row-major
    for p, g in zip(parameters, gradients(parameters, torch.Generator()), strict=True):
        p.grad = g
    step = capture.compile(make(parameters, **options).step, backend="octavo")
    for _ in range(3):
        step()
    with torch.profiler.profile() as profile:
        step()
    assert [e.name for e in profile.events() if e.name.startswith("aten::")] == []


@pytest.mark.parametrize("name", ["nesterov", "adam", "adam_amsgrad", "adamw"])
def test_the_captured_arithmetic_itself(name: str) -> None:
    """Against the same graph run by torch: nothing but the roundings of 20 steps."""
    print(f"seed {SEED}")
    make, options = OPTIMIZERS[name]
    found = []
    for backend in ("octavo", "eager"):
        generator = torch.Generator().manual_seed(SEED)
        parameters = parameters_of(generator)
        optimizer = make(parameters, **options)
        step = capture.compile(optimizer.step, backend=backend)
        for _ in range(STEPS):
            for p, g in zip(parameters, gradients(parameters, generator), strict=True):
                p.grad = g
            step()
        found.append(parameters)
    for p, q in zip(*found, strict=True):
        scale = max(q.detach().abs().max().item(), 1.0)
        torch.testing.assert_close(p, q, rtol=0, atol=8 * STEPS * EPSILON * scale)


def test_a_gradient_that_is_a_view_of_its_parameter() -> None:
    """Memory that a written tensor shares: the step is torch's, and right."""
    for alias in (False, True):
        p = torch.nn.Parameter(torch.arange(6.0))
        q = copy.deepcopy(p)
        mine, eager = (torch.optim.SGD([x], lr=0.5) for x in (p, q))
        step = capture.compile(mine.step, backend="octavo")
        for _ in range(3):
            for x in (p, q):
                x.grad = x.detach() if alias else torch.ones(6)
            step()
            eager.step()
            assert torch.equal(p, q)


def test_memory_shared_only_at_a_later_call() -> None:
    def f(x, y):
        x.add_(1)
        y.mul_(2)
        return x + y

    fast = capture.compile(f, backend="octavo")
    for _ in range(2):
        x, y = torch.ones(4), torch.ones(4)
        assert torch.equal(fast(x, y), torch.full((4,), 4.0))
    base, base2 = torch.arange(8.0), torch.arange(8.0)
    expected = f(base2[:4], base2[2:6])
    assert torch.equal(fast(base[:4], base[2:6]), expected)
    assert torch.equal(base, base2)


def test_results_beside_writes() -> None:
    """What is returned is not the input's memory."""

    def f(x, g):
        old = x * 1
        x.sub_(g, alpha=0.5)
        return old, x * 2, x

    fast = capture.compile(f, backend="octavo")
    for _ in range(3):
        x, g = torch.randn(5, 3), torch.randn(5, 3)
        z = x.clone()
        mine, theirs = fast(x, g), f(z, g)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)
        assert mine[2] is x
        x.zero_()
        torch.testing.assert_close(mine[0], theirs[0])


def test_foreach_operators() -> None:
    print(f"seed {SEED}")

    def f(*tensors):
        a, b = list(tensors[:3]), list(tensors[3:])
        a = torch._foreach_add(a, b, alpha=0.5)
        a = torch._foreach_mul(a, [1.5, 2.5, -3.0])
        a = torch._foreach_sub(a, 0.25)
        torch._foreach_maximum_(a, -1.0)
        torch._foreach_clamp_max_(a, 2.0)
        a = torch._foreach_div(a, torch.tensor(3.0))
        a = torch._foreach_lerp(a, b, 0.3)
        a = torch._foreach_addcmul(a, b, b, [0.1, 0.2, 0.3])
        a = torch._foreach_addcdiv(a, b, torch._foreach_exp(a), 2.0)
        c = torch._foreach_pow(1.1, torch._foreach_abs(b))
        norms = torch._foreach_norm(a)
        return *torch._foreach_sqrt(torch._foreach_abs(a)), *c, torch.stack(norms)

    generator = torch.Generator().manual_seed(SEED)
    shapes = [(3, 4), (5,), (2, 3, 2)] * 2
    seen = Programs()
    fast = capture.compile(f, backend=seen)
    for _ in range(2):
        tensors = [torch.randn(shape, generator=generator) for shape in shapes]
        for mine, theirs in zip(fast(*tensors), f(*tensors), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)
    assert [made.reason for made in seen.made] == [""]
    assert seen.made[0].opaque == {}
