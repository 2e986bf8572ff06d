"""External data both ways: a model of 3 GB, weights beside it, in little more memory than that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import octavo
from octavo import _core as core

GB = 10**9
SCRIPT = """
import resource, sys
from octavo import _core as core
graph = core.load_onnx(sys.argv[1])
core.export_onnx(graph, sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def external(name: str, shape: tuple[int, ...], location: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    length = 4 * int(np.prod(shape))
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write_model(path: Path, layers: int, size: int) -> None:
    """`layers` products with matrices of size x size floats in one file beside the model."""
    weights = [
        external(f"w{i}", (size, size), "weights.bin", i * size * size * 4) for i in range(layers)
    ]
    nodes = [
        helper.make_node("MatMul", [f"v{i}", f"w{i}"], [f"v{i + 1}"], f"product{i}")
        for i in range(layers)
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info(f"v{layers}", TensorProto.FLOAT, [1, size])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    with (path.parent / "weights.bin").open("wb") as file:
        file.truncate(layers * size * size * 4)
        for i in range(layers):  # one number in each, the rest are holes
            file.seek(i * size * size * 4 + 4 * i)
            file.write(np.float32(i + 1).tobytes())


def test_small_weights_go_out_and_come_back(tmp_path):
    write_model(tmp_path / "a.onnx", 3, 32)
    graph = octavo.load_onnx(str(tmp_path / "a.onnx"))
    octavo.export_onnx(graph, str(tmp_path / "b.onnx"), external_data=True)
    stored = onnx.load(tmp_path / "b.onnx", load_external_data=False)
    assert [t.data_location for t in stored.graph.initializer] == [TensorProto.EXTERNAL] * 3
    x = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    again = octavo.load_onnx(str(tmp_path / "b.onnx"))
    for a, b in zip(core.interpret(graph, [x]), core.interpret(again, [x]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_three_gigabytes(tmp_path):
    layers, size = 12, 7906  # 12 matrices of 250 MB
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    write_model(source, layers, size)
    bytes_ = layers * size * size * 4
    assert bytes_ > 3 * GB
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source), str(target)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert int(done.stdout) < 1.3 * bytes_
    assert target.stat().st_size < 1e6  # weights are beside it without being asked for
    stored = onnx.load(target, load_external_data=False)
    data = np.memmap(tmp_path / "b.onnx.data", np.uint8, "r")
    assert len(stored.graph.initializer) == layers
    for i, tensor in enumerate(stored.graph.initializer):
        entries = {e.key: e.value for e in tensor.external_data}
        start = int(entries["offset"])
        weights = data[start : start + int(entries["length"])].view(np.float32)
        layer = int(tensor.name.removeprefix("w"))
        assert weights[layer] == layer + 1, i
        assert weights.size == size * size
        assert np.count_nonzero(weights[:100000]) == 1
