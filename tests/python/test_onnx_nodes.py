"""ONNX's own node tests: what passed before passes still, and the table says so."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import onnx_support  # noqa: E402
from octavo.onnx_backend import OctavoBackend  # noqa: E402


@pytest.fixture(scope="module")
def outcomes():
    return onnx_support.run_suite()


def test_every_case_is_run(outcomes):
    assert len(outcomes) >= 1884
    assert len({o.name for o in outcomes}) == len(outcomes)


def test_no_case_is_lost(outcomes):
    known = {line.split("\t")[0] for line in onnx_support.FAILURES.read_text().splitlines()}
    lost = [f"{o.name}: {o.error[:200]}" for o in outcomes if o.error and o.name not in known]
    assert not lost
    assert sum(not o.error for o in outcomes) >= 1000


def test_table_is_current(outcomes):
    again = "run tools/onnx_support.py"
    assert onnx_support.FAILURES.read_text() == onnx_support.failures_text(outcomes), again
    assert onnx_support.TABLE.read_text() == onnx_support.table_text(outcomes), again


def test_a_wrong_answer_fails():
    class Wrong:
        name, rtol, atol = "wrong", 1e-3, 1e-7
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node("Relu", ["x"], ["y"])],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            )
        )
        data_sets = (((np.array([1, -1], np.float32),), (np.array([1, -1], np.float32),)),)

    assert "Not equal" in onnx_support.run_case(Wrong)


def test_backend_interface():
    node = helper.make_node("Add", ["a", "b"], ["c"])
    a, b = np.ones((2, 3), np.float32), np.arange(3, dtype=np.float32)
    (c,) = OctavoBackend.run_node(node, [a, b])
    np.testing.assert_array_equal(c, a + b)
    assert OctavoBackend.supports_device("CPU")
    assert not OctavoBackend.supports_device("CUDA:0")
    with pytest.raises(ValueError, match="not on CUDA"):
        OctavoBackend.prepare(onnx.ModelProto(), "CUDA")


def test_read_only_arrays_are_inputs():
    node = helper.make_node("Neg", ["x"], ["y"])
    x = np.frombuffer(np.arange(3, dtype=np.float32).tobytes(), np.float32)
    assert not x.flags.writeable
    np.testing.assert_array_equal(OctavoBackend.run_node(node, [x])[0], -x)
