"""Runs pytorch-quantization's own test suite against octavo.compat, on the CPU.

    git clone --depth 1 --filter=blob:none --sparse https://github.com/NVIDIA/TensorRT
    git -C TensorRT sparse-checkout set tools/pytorch-quantization
    tools/run.sh python tools/pytorch_quantization_suite.py TensorRT/tools/pytorch-quantization

Further arguments go to pytest. Needs torch, scipy and PyYAML; torchvision for its models. The suite
is written for a GPU and for the torch of its time, so this, as a pytest plugin, installs
octavo.compat, maps CUDA to the CPU, and makes the TorchScript engine torch.onnx.export's default
again. No case is left out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import octavo.compat

FACTORIES = ("tensor", "rand", "randn", "zeros", "ones", "empty", "full", "arange", "linspace")


def _on_cpu(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("cuda"):
        return "cpu"
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return value


def _mapped(function: Any) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*[_on_cpu(a) for a in args], **{k: _on_cpu(v) for k, v in kwargs.items()})

    return call


def map_cuda() -> None:
    """CUDA calls give the CPU's results."""
    for name in FACTORIES:
        setattr(torch, name, _mapped(getattr(torch, name)))
    for kind in (torch.Tensor, torch.nn.Module):
        kind.to = _mapped(kind.to)  # type: ignore[method-assign]
        kind.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[method-assign]
    set_type = torch.set_default_tensor_type
    torch.set_default_tensor_type = lambda name: set_type(name.replace("torch.cuda.", "torch."))
    torch.cuda.device = contextlib.nullcontext  # type: ignore[assignment,misc]
    torch.load = functools.partial(torch.load, map_location="cpu")
    torch.cuda.amp.autocast = lambda **_kwargs: torch.autocast(  # type: ignore[assignment,misc]
        "cpu", dtype=torch.bfloat16
    )


def use_torchscript_export() -> None:
    """The suite exports into memory, which the engine on torch.export refuses."""
    export = torch.onnx.export
    torch.onnx.export = functools.partial(export, dynamo=False)


def declare_torchvision_ops() -> None:
    """A torchvision built for another torch loads no operators, and its Python wants two."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declare_torchvision_ops.library = library  # type: ignore[attr-defined]


def main() -> int:
    """Runs the suite in the folder given first."""
    folder = Path(sys.argv[1]).resolve()
    if not (folder / "tests" / "tensor_quant_test.py").exists():
        sys.exit(f"{folder} is not tools/pytorch-quantization of a TensorRT checkout")
    octavo.compat.install(os.environ.get("PTQ_VERSION", "2.2"))
    map_cuda()
    use_torchscript_export()
    declare_torchvision_ops()
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    files = sorted(str(p) for p in (folder / "tests").glob("*test*.py"))
    options = ["--import-mode=importlib", "-p", "no:cacheprovider", "-q", "-rfEs", "--tb=short"]
    return pytest.main([*options, *(sys.argv[2:] or files)])


if __name__ == "__main__":
    raise SystemExit(main())
