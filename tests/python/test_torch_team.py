"""liboctavo's pools on torch's threads: answers, forked processes, many callers."""

from __future__ import annotations

import os
import select
import threading
from typing import Any

import numpy as np
import pytest

import octavo

pytestmark = pytest.mark.peers
torch: Any = pytest.importorskip("torch")
import octavo._torch  # noqa: E402


def quantized(x: Any) -> Any:
    return torch.ops.octavo.fake_tensor_quant(x, torch.tensor(2.0), 8, False, True)


def expected(x: Any) -> Any:
    scale = np.float32(127) / np.float32(2)
    return np.clip(np.rint(x.numpy() * scale), -127, 127) / scale


def test_operators_take_turns_with_torchs():
    x = torch.randn(1 << 20)
    for _ in range(20):
        x = torch.tanh(x) * 2  # on the same threads
        assert np.array_equal(quantized(x).numpy(), expected(x))


def test_a_forked_process_goes_on():
    """OpenMP's threads are not there: a region would wait for ever."""
    x = torch.randn(1 << 20)
    quantized(x + 1)  # the team exists
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = np.array_equal(quantized(x).numpy(), expected(x))
            os.write(writing, b"same" if same else b"not the same")
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 60)
    if not ready:
        os.kill(child, 9)
    answer = os.read(reading, 100) if ready else b"hangs"
    os.close(reading)
    os.waitpid(child, 0)
    assert answer == b"same"


def test_callers_from_many_threads():
    x = torch.randn(1 << 18)
    want = expected(x)
    wrong = []

    def call() -> None:
        for _ in range(50):
            if not np.array_equal(quantized(x).numpy(), want):
                wrong.append(threading.get_ident())

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_more_threads_than_torchs():
    histogram = octavo._core.MagnitudeHistogram()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        histogram.collect(np.linspace(0, 1, 1 << 20, dtype=np.float32))
    finally:
        torch.set_num_threads(before)
    assert histogram.total == 1 << 20
