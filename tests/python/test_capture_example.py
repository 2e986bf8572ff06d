"""The training example, and what it has to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers
ROOT = Path(__file__).resolve().parents[2]


def test_training_example(tmp_path):
    plot = tmp_path / "losses.png"
    example = [sys.executable, ROOT / "examples/capture_training.py", "--epochs", "2"]
    done = subprocess.run(
        [*example, "--plot", plot], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    graphs = done.stdout.split("my_compiler() called")[1:]
    zeros = next(g for g in graphs if "wrapped_zeros_1" in g)  # train_losses, val_losses
    assert len(re.findall(r"call_function +wrapped_zeros", zeros)) == 2
    forward = [g for g in graphs if "l_x_" in g and "L__self___fc1" in g and "relu" in g]
    assert [("s0" in g) for g in forward] == [False, True]  # the second batch has another size
    adam = [g for g in graphs if "lerp_" in g]
    for name in ("mul_", "addcmul_", "addcdiv_"):
        assert all(name in g for g in adam)
    assert all(len(re.findall(r"_params_\d+_ ", g)) >= 6 for g in adam)
    assert re.search(r"test MSE \d\.\d{4}\ntest R2 0\.\d{4}\n", done.stdout)
    assert "SGD: losses are eager's, 0.0e+00 off at most" in done.stdout
    assert "Adam: losses are eager's" in done.stdout  # within the bound that the example asserts
    assert plot.read_bytes().startswith(b"\x89PNG")
