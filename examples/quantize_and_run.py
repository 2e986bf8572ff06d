"""Makes a small ONNX model, quantizes it from an iterable, runs it in INT8, exports it as Q/DQ."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import octavo


def make_model(path: Path) -> None:
    """Conv, Relu, mean over the picture, Gemm: f32[N, 3, 16, 16] to f32[N, 10]."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.2, (16, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.2, (16, 10)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], "gemm"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    make_model(folder / "model.onnx")
    graph = octavo.load_onnx(folder / "model.onnx")

    rng = np.random.default_rng(1)
    batches = (rng.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(32))
    int8 = octavo.quantize(graph, batches, calibrator="entropy")

    x = rng.normal(size=(4, 3, 16, 16)).astype(np.float32)
    (expected,) = octavo.compile(graph)(x)
    (y,) = octavo.compile(int8)(x)
    noise = np.sum((y - expected) ** 2)
    print(f"SQNR of the outputs: {10 * np.log10(np.sum(expected**2) / noise):.1f} dB")

    octavo.export_onnx(int8, folder / "int8.onnx")
    ops = {node.op_type for node in onnx.load(folder / "int8.onnx").graph.node}
    print(f"{folder / 'int8.onnx'} holds {', '.join(sorted(ops))}")


if __name__ == "__main__":
    main()
