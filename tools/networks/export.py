"""From a torch module to a checked ONNX file."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch

import rounding

OPSET = 17


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def export(
    name: str,
    net: torch.nn.Module,
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    finish: Callable[[onnx.ModelProto], None] | None = None,
) -> None:
    """Exports with a dynamic batch (or the axes that `dynamic` names), checks ONNX Runtime against
    eager torch within the bound of rounding.py, and only then moves the file to `path`.

    `finish` may change the model before it is checked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial_name = tempfile.mkstemp(dir=path.parent, suffix=".onnx")
    os.close(handle)
    partial = Path(partial_name)
    axes = dynamic or {value: {0: "batch"} for value in (*inputs, *outputs)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated; the other exporter folds BatchNorm
            torch.onnx.export(
                net,
                tuple(x[:1] for x in inputs.values()),
                partial_name,
                dynamo=False,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold BatchNorm
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
            )
        model = onnx.load(partial_name)
        if finish:
            finish(model)
        model.graph.name = name
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, partial_name)
        worst = difference(partial, net, inputs)
        if worst > 1.0:
            raise RuntimeError(f"{name}: ONNX Runtime and torch differ by {worst:.2f} of the bound")
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def difference(path: Path, net: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> float:
    """ONNX Runtime against eager torch: the first output's largest difference over its bound, so
    at most 1."""
    feeds = {name: x.numpy() for name, x in inputs.items()}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ours = session.run(None, feeds)[0]
    with torch.inference_mode():
        theirs = net(*inputs.values())
    first = theirs[0] if isinstance(theirs, tuple) else theirs
    return rounding.over(rounding.bound(path, feeds), ours, first.numpy())
