"""What the tests of the surface share: a small model, data for it, the command."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import octavo
import octavo.compat

ROOT = Path(__file__).resolve().parents[2]

# Capture is of torch's programs alone.
if importlib.util.find_spec("torch") is None:
    collect_ignore_glob = ["test_capture_*.py"]

# Jobs that a shell starts with & ignore Ctrl-C, and so would what is interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def make_model(path: Path, batch: int | str = "N") -> Path:
    """Conv, Relu, mean over the picture, Gemm: f32[N, 3, 8, 8] to f32[N, 5]."""
    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "b1": rng.normal(size=8).astype(np.float32),
        "w2": rng.normal(size=(5, 8)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


def samples(count: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture
def graph(model) -> octavo.Graph:
    return octavo.load_onnx(model)


@pytest.fixture
def batches() -> list[tuple[np.ndarray]]:
    return [(x[None],) for x in samples(8)]


def validate(record: dict, name: str) -> None:
    """Against ``schemas/<name>.schema.json``."""
    schema = json.loads((ROOT / f"schemas/{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(record)


@pytest.fixture
def ptq() -> Iterator[Any]:
    """pytorch_quantization, as a script imports it."""
    octavo.compat.install()
    yield importlib.import_module("pytorch_quantization")
    octavo.compat.uninstall()


def printed_seed() -> int:
    value = int(os.environ.get("OCTAVO_TEST_SEED", np.random.SeedSequence().entropy % 2**32))
    print(f"repeat with OCTAVO_TEST_SEED={value}")
    return value


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(printed_seed())


@pytest.fixture
def torch_seed() -> int:
    value = printed_seed()
    importlib.import_module("torch").manual_seed(value)
    return value


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=samples())
    return path


def says_what_to_do(error: BaseException) -> None:
    """Octavo's own errors end with a hint, behind a semicolon."""
    if not isinstance(error, TypeError):
        assert "; " in str(error)


def run_cli(*arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None):
    command = shutil.which("octavo")
    assert command, "run through tools/run.sh"
    return subprocess.run(
        [command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | (env or {}),
        timeout=120,
    )


@pytest.fixture
def cli():
    return run_cli


# What capture does not do yet; docs/status.md has the list. Strict: what is mended leaves it.
CAPTURE_GAPS = {
    "test_capture_breaks.py::test_break[in_try]": "the handler of what Python raised is Python's",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the gaps of capture as failures to expect."""
    for item in items:
        gap = CAPTURE_GAPS.get(item.nodeid.rpartition("/")[2])
        if gap:
            item.add_marker(pytest.mark.xfail(reason=gap, strict=True))
