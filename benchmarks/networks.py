"""ResNet-50 and MobileNetV2 with seeded random weights, in float and quantized, as ONNX files.

    networks.py resnet50 mobilenet_v2 --folder build/networks

Latency does not depend on what weights mean; `latency.py --float F --int8 I` compares the engines
on the files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import octavo


class Network:
    """Convolutions with batch normalization folded, and what joins them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.random = np.random.default_rng(1)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, array: NDArray[np.float32]) -> str:
        name = f"weights_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(
        self, x: str, c_in: int, c_out: int, kernel: int, *, stride: int = 1, group: int = 1
    ) -> str:
        fan_in = c_in // group * kernel * kernel
        shape = (c_out, c_in // group, kernel, kernel)
        w = self.random.standard_normal(shape) * np.sqrt(2 / fan_in)
        b = self.random.standard_normal(c_out) * 0.1
        pad = kernel // 2
        return self.node(
            "Conv",
            x,
            self.constant(w),
            self.constant(b),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad, pad, pad, pad],
            group=group,
        )

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def relu6(self, x: str) -> str:
        if not any(w.name == "zero" for w in self.weights):
            self.weights.append(numpy_helper.from_array(np.float32(0), "zero"))
            self.weights.append(numpy_helper.from_array(np.float32(6), "six"))
        return self.node("Clip", x, "zero", "six")

    def classifier(self, x: str, channels: int) -> str:
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        w = self.random.standard_normal((1000, channels)) / np.sqrt(channels)
        bias = self.constant(np.zeros(1000, np.float32))
        return self.node("Gemm", x, self.constant(w), bias, transB=1)

    def save(self, output: str, path: Path) -> None:
        image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 224, 224])
        logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 1000])
        graph = helper.make_graph(self.nodes, self.name, [image], [logits], self.weights)
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def resnet50(path: Path) -> None:
    n = Network("resnet50")
    x = n.relu(n.conv("input", 3, 64, 7, stride=2))
    x = n.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = n.relu(n.conv(x, channels, width, 1))
            y = n.relu(n.conv(y, width, width, 3, stride=stride))
            y = n.conv(y, width, 4 * width, 1)
            skip = n.conv(x, channels, 4 * width, 1, stride=stride) if block == 0 else x
            x = n.relu(n.node("Add", y, skip))
            channels = 4 * width
    n.save(n.classifier(x, channels), path)


def mobilenet_v2(path: Path) -> None:
    n = Network("mobilenet_v2")
    x = n.relu6(n.conv("input", 3, 32, 3, stride=2))
    channels = 32
    rows = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, out, blocks, first_stride in rows:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            hidden = channels * expansion
            y = x if expansion == 1 else n.relu6(n.conv(x, channels, hidden, 1))
            y = n.relu6(n.conv(y, hidden, hidden, 3, stride=stride, group=hidden))
            y = n.conv(y, hidden, out, 1)
            x = n.node("Add", x, y) if stride == 1 and channels == out else y
            channels = out
    x = n.relu6(n.conv(x, channels, 1280, 1))
    n.save(n.classifier(x, 1280), path)


NETWORKS = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NETWORKS)
    parser.add_argument("--folder", type=Path, default=Path("build/networks"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(2)
    samples = [(random.standard_normal((1, 3, 224, 224)).astype(np.float32),) for _ in range(4)]
    for name in options.names:
        path = options.folder / f"{name}.onnx"
        NETWORKS[name](path)
        quantized = octavo.quantize(octavo.load_onnx(str(path)), samples, calibrator="max")
        octavo.save(quantized.graph, options.folder / f"{name}-int8.onnx")


if __name__ == "__main__":
    main()
