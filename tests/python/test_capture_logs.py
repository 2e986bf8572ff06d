"""What capture logs, and why a function is captured again."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

from octavo import capture

pytestmark = pytest.mark.peers


def f(x, scale):
    y = x * scale
    print(end="")
    return y + 1


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="octavo.capture")

    def run(*names: str, calls=(1.5, 2.5)) -> str:
        caplog.clear()
        capture.set_logs(*names)
        try:
            captured = capture.compile(f, backend="eager")
            for scale in calls:
                captured(torch.ones(3), scale)
        finally:
            capture.set_logs()
        return caplog.text

    return run


def test_breaks_say_where_and_why(logged):
    text = logged("breaks", calls=[1.5])
    line = f.__code__.co_firstlineno + 2
    assert f"test_capture_logs.py:{line}: input_output" in text
    assert text.count("\n") == 1


def test_recompiles_name_the_guard(logged):
    text = logged("recompiles")
    assert "captured again" in text
    assert "L['scale'] == 1.5" in text
    assert "captured again" not in logged("recompiles", calls=[1.5, 1.5])


def test_recompile_by_the_state_of_torch(logged, caplog):
    capture.set_logs("recompiles")
    captured = capture.compile(lambda x: x + 1, backend="eager")
    captured(torch.ones(2))
    with torch.no_grad():
        captured(torch.ones(2))
    capture.set_logs()
    assert "0: the grad mode" in caplog.text


def test_each_name(logged):
    assert "2 guards" not in logged("guards", calls=[1.5])
    assert "type(L['scale'])" in logged("guards", calls=[1.5]) or "L['scale'] ==" in logged(
        "guards", calls=[1.5]
    )
    assert "%mul" in logged("graphs", calls=[1.5])
    bytecode = logged("bytecode", calls=[1.5])
    assert bytecode.count("BINARY_OP") == 2  # each piece has one of the two
    assert "tracing" in logged("times", calls=[1.5])
    assert "1 ops" in logged("pieces", calls=[1.5])
    assert all(word in logged("all") for word in ("BINARY_OP", "%mul", "tracing", "captured again"))
    assert logged() == ""


def test_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match="no log is called nonsense; there are pieces, breaks"):
        capture.set_logs("nonsense")


def test_explain_has_recompiles():
    assert capture.explain(f)(torch.ones(2), 1.5).recompiles == []
    stats: list = []
    captured = capture.compile(f, backend="eager", stats=stats)
    captured(torch.ones(3), 1.5)
    captured(torch.ones(3), 2.5)
    assert [piece["misfits"] for piece in stats if piece["misfits"]] == [["L['scale'] == 1.5"]]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("breaks, recompiles", "octavo.capture: f: break at"), ("nonsense", "no log is called")],
)
def test_environment_variable(value, wanted):
    program = (
        "import torch\nfrom octavo import capture\n"
        "def f(x):\n    y = x + 1\n    print(end='')\n    return y\n"
        "capture.compile(f, backend='eager')(torch.ones(2))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OCTAVO_CAPTURE_LOG": value},
    )
    assert wanted in run.stderr
