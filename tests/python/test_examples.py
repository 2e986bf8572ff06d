"""Each example runs as a user would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import octavo
from conftest import ROOT

EXAMPLES = ROOT / "examples"


def run(tmp_path: Path, *command: object) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quantize_and_run(tmp_path):
    text = run(tmp_path, sys.executable, EXAMPLES / "quantize_and_run.py")
    sqnr = re.search(r"SQNR of the outputs: ([\d.]+) dB", text)
    assert sqnr
    assert float(sqnr[1]) > 20
    (path,) = tmp_path.glob("*/int8.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    assert "QuantizeLinear" in text


def test_compare_calibrators(tmp_path):
    text = run(tmp_path, sys.executable, EXAMPLES / "compare_calibrators.py")
    for name in octavo.calibrator_names():
        assert re.search(rf"^{name} +[\d.]+ dB +[\d.]+%$", text, re.MULTILINE), text
    (record,) = tmp_path.glob("*/run.json")
    assert str(record) in text


def test_sensitivity(tmp_path):
    text = run(tmp_path, sys.executable, EXAMPLES / "sensitivity.py")
    before = re.search(r"all layers in INT8: ([\d.]+) dB", text)
    after = re.search(r"(\S+) in float: ([\d.]+) dB", text)
    assert before
    assert after
    assert float(after[2]) > float(before[1])
    assert re.search(rf"^ +1 {re.escape(after[1])} ", text, re.MULTILINE), text
    assert list(tmp_path.glob("*/rules.json"))


def test_mixed_precision(tmp_path):
    text = run(tmp_path, sys.executable, EXAMPLES / "mixed_precision.py")
    assert re.search(r"^>. +\d", text, re.MULTILINE), text
    (path,) = tmp_path.glob("*/mixed.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    assert list(tmp_path.glob("*/rules.json"))


@pytest.mark.peers
def test_ptq_with_pytorch_quantization(tmp_path):
    pytest.importorskip("torch")
    text = run(tmp_path, sys.executable, EXAMPLES / "ptq_with_pytorch_quantization.py")
    fake, compiled = (float(s) for s in re.findall(r"against float: ([\d.]+) dB", text))
    assert fake > 30
    assert abs(compiled - fake) < 1  # the same integers, but for values halfway between two
    assert "5 nodes on integers" in text
    (path,) = tmp_path.glob("*/int8.onnx")
    onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("own", [False, True])
def test_cli(tmp_path, model, data, own):
    text = run(tmp_path, EXAMPLES / "cli.sh", *([model, data] if own else []))
    (folder,) = (path.parent for path in tmp_path.glob("*/int8.octavo"))
    samples, classes = (16, 5) if own else (32, 10)
    assert np.load(folder / "y.npz")["y"].shape == (samples, classes)
    for word in ("conv", "run.json", "ms", "isa"):
        assert word in text, text


def test_cpp_against_an_install(tmp_path, model):
    """The installed headers and library alone; answers as from Python."""
    run(tmp_path, "cmake", "--install", ROOT / "build/release", "--prefix", tmp_path / "prefix")
    build = tmp_path / "build"
    options = [f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}", "-DCMAKE_CXX_FLAGS=-Wall -Wextra"]
    run(tmp_path, "cmake", "-G", "Ninja", "-S", EXAMPLES / "cpp", "-B", build, *options)
    run(tmp_path, "cmake", "--build", build)
    (expected,) = octavo.compile(model)(np.ones((1, 3, 8, 8), np.float32))
    text = run(tmp_path, build / "run_model", model, "float")
    assert text.startswith("y:")
    y = np.array(text.split()[1:], np.float32)
    np.testing.assert_array_equal(y, expected[0])
    y8 = np.array(run(tmp_path, build / "run_model", model).split()[1:], np.float32)
    assert not np.array_equal(y8, y)
    # 8 bits through two layers, on data outside the calibration's distribution.
    assert np.sum((y8 - y) ** 2) < 0.1 * np.sum(y**2)
    missing = subprocess.run(
        [build / "run_model", "missing.onnx"], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert "missing.onnx: cannot open" in missing.stderr


def test_examples_are_short():
    for path in EXAMPLES.rglob("*.*"):  # the demos are programs of their own
        whole = path.name.startswith("demo") or path.name == "capture_training.py"
        if not whole and path.suffix in (".py", ".sh", ".cpp"):
            assert len(path.read_text().splitlines()) < 100, path


@pytest.mark.peers
@pytest.mark.parametrize("name", ["dynamic", "static"])
def test_torch_ao(tmp_path, name):
    """Ours beside torch.ao's, bounds included: test_quantization_dynamic.py and _static.py."""
    pytest.importorskip("torch")
    text = run(tmp_path, sys.executable, EXAMPLES / f"torch_ao_{name}.py")
    sqnr = re.search(r"SQNR: ([\d.]+) dB", text)
    assert sqnr
    assert float(sqnr[1]) > 30
    assert "loaded: True" in text
    assert "QuantizedLinear" in text


@pytest.mark.peers
def test_torch_ao_fx(tmp_path):
    """Beside torch.ao's FX graph mode: test_quantization_fx.py."""
    pytest.importorskip("torch")
    text = run(tmp_path, sys.executable, EXAMPLES / "torch_ao_fx.py")
    sqnr = re.search(r"SQNR: ([\d.]+) dB", text)
    assert sqnr
    assert float(sqnr[1]) > 30
    assert "loaded: True" in text
    assert "QuantizedConvReLU2d" in text


@pytest.mark.peers
def test_torch_ao_training(tmp_path):
    pytest.importorskip("torch")
    text = run(tmp_path, sys.executable, EXAMPLES / "torch_ao_qat.py")
    losses = [float(loss) for loss in re.findall(r"loss(?: of the integers:)? ([\d.]+)", text)]
    assert len(losses) == 3
    real, _, integers = losses
    assert integers < 1.1 * real  # trained twice as long, in 8 bits
    sqnr = re.search(r"SQNR to the training's model: ([\d.]+) dB", text)
    assert sqnr
    assert float(sqnr[1]) > 30


@pytest.mark.peers
def test_calibrate_torch_model(tmp_path):
    pytest.importorskip("torch")
    text = run(tmp_path, sys.executable, EXAMPLES / "calibrate_torch_model.py")
    found = re.findall(r"^(\w+) +16 batches, SQNR ([\d.]+) dB", text, re.MULTILINE)
    assert {m for m, _ in found} == {"max", "moving_average", "percentile", "entropy", "mse"}
    assert all(float(s) > 20 for m, s in found if m in ("max", "moving_average", "mse")), text
    assert "interrupted\nthe same ranges: True" in text
    settled = re.search(r"settled after (\d+) of 160", text)
    assert settled
    assert int(settled[1]) < 160


@pytest.mark.peers
def test_torch_mixed_precision(tmp_path):
    pytest.importorskip("torch")
    text = run(tmp_path, sys.executable, EXAMPLES / "torch_mixed_precision.py")
    assert re.search(r"^ +1 2 +QuantConv2d", text, re.MULTILINE), text
    before, now = (float(s) for s in re.findall(r"([\d.]+) dB (?:before|now)", text))
    assert before < 30 <= now
    assert re.search(r"^in float: 2\b", text, re.MULTILINE), text


@pytest.mark.peers
def test_torch_distillation(tmp_path):
    pytest.importorskip("sklearn")
    text = run(tmp_path, sys.executable, EXAMPLES / "torch_distillation.py")
    sqnr = dict(re.findall(r"^(\w+) +accuracy [\d.]+, SQNR ([\d.]+) dB", text, re.MULTILINE))
    # The gain over max calibration on digits that were not trained on; measured: 2.6 dB.
    assert float(sqnr["distilled"]) > float(sqnr["max"]) + 1, text
    first, last = (float(s) for s in re.findall(r"([\d.]+) at", text))
    assert last < first
