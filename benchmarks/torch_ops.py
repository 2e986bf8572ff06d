"""Fake quantization in torch: beside a copy of the tensor, and beside torch's own operators.

Answers are checked first, then timed in turns; medians, and ratios of medians of the same run. With
--check, fails where a bar is missed: 1.25 times a copy, 1.5 times it per channel, and faster than
torch's operators at every size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import octavo._torch

ops = torch.ops.octavo
SIZES = [2**k for k in (10, 12, 14, 16, 18, 20, 22, 24, 26)]
MIB = 2**20


@dataclass
class Rival:
    name: str
    run: Callable[[], object]


def clock(rivals: list[Rival], calls: int, turns: int) -> list[float]:
    """Median seconds of a call of each, taking turns."""
    times: list[list[float]] = [[] for _ in rivals]
    for rival in rivals:
        rival.run()
    for _ in range(turns):
        for rival, mine in zip(rivals, times, strict=True):
            start = time.perf_counter()
            for _ in range(calls):
                rival.run()
            mine.append((time.perf_counter() - start) / calls)
    return [statistics.median(t) for t in times]


def check_nvidia(x: torch.Tensor, amax: torch.Tensor, y: torch.Tensor) -> None:
    """Bit for bit, on a part of x: one float32 rounding an operation."""
    scale = np.float32(127) / amax.expand(x.shape)[-1:].numpy()
    part = x[-1:].numpy()
    expected = np.clip(np.rint(part * scale), -127, 127) / scale
    if not np.array_equal(y[-1:].numpy(), expected):
        raise SystemExit("fake_tensor_quant: the answer is not the oracle's")


def beside_copy(turns: int) -> float:
    """64M floats into a tensor that is there: the largest ratio over its bar."""
    worst = 0.0
    shape = (64, 64, 128, 128)
    x = torch.randn(shape)
    y = torch.zeros(shape)
    last = x.contiguous(memory_format=torch.channels_last)
    y_last = torch.zeros_like(last)
    cases = [("per tensor", x, y, (), 1.25)]
    cases += [(f"per channel, axis {i}", x, y, tuple(n if i == k else 1 for k, n in enumerate(shape)), 1.5) for i in range(4)]  # fmt: skip
    cases += [("per channel, channels last", last, y_last, (1, 64, 1, 1), 1.5)]
    narrow = x.view(-1, 64, 2)
    cases += [("per channel, rows of 2", narrow, y.view(narrow.shape), (64, 1), 1.5)]
    print(f"{'64M floats, into a preallocated tensor':40} {'ms':>8} {'copy ms':>8} {'ratio':>6}")
    for name, a, b, amax_shape, bar in cases:
        amax = torch.rand(amax_shape) + 0.5
        run = Rival("octavo", lambda a=a, b=b, m=amax: ops.fake_tensor_quant.out(a, m, out=b))
        copy = Rival("copy", lambda a=a, b=b: b.copy_(a))
        run.run()
        check_nvidia(a, amax, b)
        ours, plain = clock([run, copy], 1, turns)
        ratio = ours / plain
        worst = max(worst, ratio / bar)
        print(f"{name:40} {ours * 1e3:8.1f} {plain * 1e3:8.1f} {ratio:6.2f}  (bar {bar})")
    return worst


def beside_torch(turns: int) -> float:
    """torch's arithmetic, ours and its own: the largest ratio of ours to theirs."""
    worst = 0.0
    print(f"\n{'floats':>10} {'':12} {'octavo µs':>12} {'torch µs':>12} {'torch / octavo':>16}")
    for size in SIZES:
        x = torch.randn(size // 64, 64)
        calls, reps = max(1, 2**21 // size), turns if size < 2**24 else max(3, turns // 4)
        scale, zero = torch.tensor(0.02), torch.tensor(0, dtype=torch.int32)
        scales = torch.rand(64) * 0.02 + 0.01
        zeros = torch.zeros(64, dtype=torch.int32)
        tail = (0, 8, True, False, "torch")
        for name, ours, theirs in (
            ("per tensor", lambda x=x, s=scale: ops.fake_quantize(x, s, None, 0, *tail), lambda x=x, s=scale, z=zero: torch.fake_quantize_per_tensor_affine(x, s, z, -128, 127)),
            ("per channel", lambda x=x, s=scales: ops.fake_quantize(x, s, None, 1, *tail), lambda x=x, s=scales, z=zeros: torch.fake_quantize_per_channel_affine(x, s, z, 1, -128, 127)),
        ):  # fmt: skip
            if not torch.equal(ours(), theirs()):
                raise SystemExit(f"fake_quantize {name}: the answer is not torch's")
            a, b = clock([Rival("octavo", ours), Rival("torch", theirs)], calls, reps)
            worst = max(worst, a / b)
            print(f"{size:10} {name:12} {a * 1e6:12.1f} {b * 1e6:12.1f} {b / a:16.1f}")
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--check", action="store_true", help="fail where a bar is missed")
    options = parser.parse_args()
    with torch.no_grad():
        copies, peers = beside_copy(options.turns), beside_torch(options.turns)
    if options.check and (copies > 1 or peers > 1):
        print("a bar is missed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
