"""The generated page of capture, and its example."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]


def test_page_is_what_the_tool_writes():
    tool = [sys.executable, ROOT / "tools/capture_table.py", "--check"]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
