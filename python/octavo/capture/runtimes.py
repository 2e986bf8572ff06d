"""Octavo's own backends: other compilers and runtimes on a captured graph."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from octavo.capture.arrays import ArrayCall
from octavo.capture.backends import register_backend
from octavo.capture.errors import BackendError
from octavo.capture.frozen import Outputs, Run, frozen


def _package(name: str, pip: str, backend: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(
            f"backend {backend!r} needs the package {pip}; install it: pip install {pip}"
        ) from error


@register_backend("eager")
def eager(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """Runs the captured graph as it is."""
    forward: Callable[..., Any] = gm.forward
    return forward


@register_backend("octavo", parameters_as_inputs=True, one_size=True)
def octavo(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """Octavo's own: forward and backward are traced together in C++ and run as two programs.

    Regions that Octavo's ops express run as its own programs; other operators are calls of torch
    between them, counted in the callable's ``opaque``. Without gradients, parameters and buffers
    are constants while nobody writes to them; ``constants`` says how many. What cannot be traced is
    left to torch; ``reason`` says why, and ``replayed`` why torch runs a program's operators one by
    one.
    """
    # How capture names what a module holds. Constants are watched, whatever they are.
    names = [str(n.target) for n in gm.graph.nodes if n.op == "placeholder"]
    held = ["_parameters_" in name or "_buffers_" in name for name in names]
    compiled = importlib.import_module("octavo._aten").Captured(gm.forward, example_inputs, held)
    return cast(Callable[..., Any], compiled)


@register_backend("torchscript", one_size=True)
def torchscript(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """``torch.jit.script`` of the graph.

    Raises:
        BackendError: TorchScript cannot say the graph.
    """
    try:
        if any(isinstance(node.target, ArrayCall) for node in gm.graph.nodes):
            # TorchScript knows no NumPy, but the operators that it comes to.
            gm = make_fx(gm, tracing_mode="fake")(*example_inputs)
            for node in gm.graph.nodes:  # it chooses the overload itself
                if isinstance(node.target, torch._ops.OpOverload):
                    node.target = node.target.overloadpacket
            gm.recompile()
        return cast(Callable[..., Any], torch.jit.script(gm))
    except Exception as error:
        raise BackendError(
            f"the backend 'torchscript' cannot take this graph: {error}; choose another backend"
        ) from error


@register_backend("onnxruntime", parameters_as_inputs=True, one_size=True)
def onnxruntime(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """ONNX Runtime on the graph's ONNX form; backward by torch.

    Raises:
        BackendError: the package onnxruntime is not installed, or it cannot take the graph.
    """
    ort = _package("onnxruntime", "onnxruntime", "onnxruntime")

    def build(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> Run:
        buffer = io.BytesIO()
        names = [f"input{n}" for n in range(len(examples))]
        torch.onnx.export(
            module, examples, cast(Any, buffer), input_names=names, opset_version=18, dynamo=False
        )
        session = ort.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
        taken = {i.name for i in session.get_inputs()}

        def run(inputs: Sequence[torch.Tensor]) -> Outputs:
            feeds = {n: x.numpy() for n, x in zip(names, inputs, strict=True) if n in taken}
            return tuple(torch.from_numpy(y) for y in session.run(None, feeds))

        return run

    return frozen("onnxruntime", gm, example_inputs, build)


@register_backend("openvino", parameters_as_inputs=True, one_size=True)
def openvino(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """OpenVINO on the graph; backward by torch.

    Raises:
        BackendError: the package openvino is not installed, or it cannot take the graph.
    """
    ov = _package("openvino", "openvino", "openvino")

    def build(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> Run:
        model = ov.convert_model(module, example_input=examples)
        compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(inputs: Sequence[torch.Tensor]) -> Outputs:
            results = compiled([x.numpy() for x in inputs])
            return tuple(torch.from_numpy(results[k].copy()) for k in range(len(compiled.outputs)))

        return run

    return frozen("openvino", gm, example_inputs, build)


@register_backend("tvm", parameters_as_inputs=True, one_size=True)
def tvm(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """Apache TVM on the graph's exported program, without tuning; backward by torch.

    Raises:
        BackendError: the package apache-tvm is not installed, or it cannot take the graph.
    """
    package = _package("tvm", "apache-tvm", "tvm")
    relax = importlib.import_module("tvm.relax")
    convert = importlib.import_module("tvm.relax.frontend.torch").from_exported_program

    def build(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> Run:
        program = convert(torch.export.export(module, examples))
        compiled = package.compile(program, target=package.target.Target("llvm"))
        machine = relax.VirtualMachine(compiled, package.cpu())

        def run(inputs: Sequence[torch.Tensor]) -> Outputs:
            given = [package.runtime.tensor(x.contiguous().numpy()) for x in inputs]
            return tuple(torch.utils.dlpack.from_dlpack(y) for y in machine["main"](*given))

        return run

    return frozen("tvm", gm, example_inputs, build)
