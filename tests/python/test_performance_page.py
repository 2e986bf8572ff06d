"""docs/performance.md: what the tool writes, and how it reckons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import model_results  # noqa: E402
import performance_page  # noqa: E402


def test_page_is_what_the_tool_writes():
    tool = [sys.executable, ROOT / "tools/performance_page.py", "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


RESULT = {
    "network": "net",
    "batch": 1,
    "threads": 2,
    "macs": 1_000_000_000,
    "limits": {"tops": 1.0, "gbs": 10.0},
    "rows": {
        "Octavo FP32": {"median_ms": 10.0, "best_ms": 9.0, "first_s": 0.1, "bytes": 1e6},
        "Octavo INT8": {"median_ms": 4.0, "best_ms": 3.0, "first_s": 0.1, "bytes": 3e7},
        "A FP32": {"median_ms": 12.0, "best_ms": 9.0, "first_s": 0.1, "bytes": 1e6},
        "B FP32": {"median_ms": 8.0, "best_ms": 8.0, "first_s": 0.1, "bytes": 1e6},
        "A INT8": {"failed": "ValueError: no"},
    },
}


def test_the_ratio_is_to_the_best_peer_of_the_same_precision():
    assert model_results.ratio(RESULT["rows"], "FP32") == (0.8, "B FP32")
    assert model_results.ratio(RESULT["rows"], "INT8") is None
    assert model_results.ratio(RESULT["rows"], "bf16") is None


def test_the_roofline_is_of_products_or_of_weights():
    assert model_results.roofline_ms(RESULT, "Octavo FP32") == pytest.approx(8.0)  # 2 GFLOP, .25 T
    assert model_results.roofline_ms(RESULT, "Octavo INT8") == pytest.approx(3.0)  # 30 MB, 10 GB/s


def test_losses_and_failures_are_on_the_page():
    text = performance_page.page([RESULT])
    assert "| FP32 | 0.80 | 1.1 | 0.80 (net, batch 1) | 0.97 | 1 |" in text
    assert "| net | 1 | 2 | 10 | 8 (B) | **0.80** | 80% |" in text
    assert "| A INT8 | failed | | ValueError: no |" in text
