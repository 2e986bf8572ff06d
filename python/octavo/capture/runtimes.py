"""Octavo's own backends: other compilers and runtimes on a captured graph."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

import torch

from octavo.capture.backends import register_backend
from octavo.capture.errors import BackendError

Outputs = tuple[torch.Tensor, ...]
Run = Callable[[Sequence[torch.Tensor]], Outputs]


def _package(name: str, pip: str, backend: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(
            f"backend {backend!r} needs the package {pip}; install it: pip install {pip}"
        ) from error


@register_backend("eager")
def eager(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """Runs the captured graph as it is."""
    forward: Callable[..., Any] = gm.forward
    return forward


@register_backend("torchscript")
def torchscript(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """``torch.jit.script`` of the graph."""
    return cast(Callable[..., Any], torch.jit.script(gm))


class _Differentiable(torch.autograd.Function):
    """Forward by a program without gradients, backward by torch on the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        gm: torch.fx.GraphModule,
        run: Run,
        *inputs: torch.Tensor,
    ) -> Outputs:
        ctx.gm = gm
        ctx.save_for_backward(*inputs)
        return run(inputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
        wanted = ctx.needs_input_grad[2:]
        inputs = [
            x.detach().requires_grad_(w) for x, w in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        with torch.enable_grad():
            outputs = ctx.gm(*inputs)
        pairs = [
            (y, g) for y, g in zip(outputs, grads, strict=True) if g is not None and y.requires_grad
        ]
        given = iter(
            torch.autograd.grad(
                [y for y, _ in pairs],
                [x for x in inputs if x.requires_grad],
                [g for _, g in pairs],
                allow_unused=True,
            )
        )
        return (None, None, *(next(given) if w else None for w in wanted))


def _differentiable(gm: torch.fx.GraphModule, run: Run) -> Callable[..., Outputs]:
    def call(*inputs: torch.Tensor) -> Outputs:
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            apply: Callable[..., Any] = _Differentiable.apply
            return cast(Outputs, apply(gm, run, *inputs))
        return run(inputs)

    return call


class _WithParameters(torch.nn.Module):
    """The graph with its parameters held, a module of the other inputs."""

    def __init__(self, gm: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.gm = gm
        self.places = [isinstance(x, torch.nn.Parameter) for x in inputs]
        for n, x in enumerate(inputs):
            if self.places[n]:
                self.register_buffer(f"held{n}", x.detach())

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = iter(inputs)
        return self.gm(
            *(getattr(self, f"held{n}") if p else next(given) for n, p in enumerate(self.places))
        )


class _Frozen:
    """A program with the parameters as constants, built again when one of them has changed."""

    def __init__(
        self,
        gm: torch.fx.GraphModule,
        inputs: Sequence[torch.Tensor],
        build: Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], Run],
    ) -> None:
        self._gm = gm
        self._build = build
        self._state: list[tuple[int, int]] | None = None
        self._run: Run | None = None
        self(inputs)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Outputs:
        held = [x for x in inputs if isinstance(x, torch.nn.Parameter)]
        others = tuple(x.detach() for x in inputs if not isinstance(x, torch.nn.Parameter))
        state = [(x.data_ptr(), x._version) for x in held]
        if self._run is None or state != self._state:
            self._state = state
            with torch.no_grad():
                self._run = self._build(_WithParameters(self._gm, inputs).eval(), others)
        return self._run(others)


def _changes_inputs(gm: torch.fx.GraphModule) -> bool:
    """Whether a node writes into a tensor, which these runtimes cannot."""
    for node in gm.graph.nodes:
        if node.op == "call_method" and str(node.target).endswith("_"):
            return True
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and (
            name in {"setitem", "_set_grad_enabled"}
            or (
                name[:1] == "i" and name[1:] in {"add", "sub", "mul", "truediv", "and", "or", "pow"}
            )
            or (name.endswith("_") and not name.endswith("__"))
        ):
            return True
    return False


@register_backend("onnxruntime", parameters_as_inputs=True)
def onnxruntime(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """ONNX Runtime on the graph's ONNX form. Graphs that write into tensors run as they are.

    Raises:
        BackendError: the package onnxruntime is not installed.
    """
    ort = _package("onnxruntime", "onnxruntime", "onnxruntime")
    if _changes_inputs(gm):
        return eager(gm, example_inputs)

    def build(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> Run:
        buffer = io.BytesIO()
        names = [f"input{n}" for n in range(len(examples))]
        torch.onnx.export(
            module, examples, cast(Any, buffer), input_names=names, opset_version=18, dynamo=False
        )
        session = ort.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
        taken = {i.name for i in session.get_inputs()}

        def run(inputs: Sequence[torch.Tensor]) -> Outputs:
            feeds = {
                n: x.detach().numpy() for n, x in zip(names, inputs, strict=True) if n in taken
            }
            return tuple(torch.from_numpy(y) for y in session.run(None, feeds))

        return run

    return _differentiable(gm, _Frozen(gm, example_inputs, build))


@register_backend("openvino", parameters_as_inputs=True)
def openvino(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """OpenVINO on the graph. Graphs that write into tensors run as they are.

    Raises:
        BackendError: the package openvino is not installed.
    """
    ov = _package("openvino", "openvino", "openvino")
    if _changes_inputs(gm):
        return eager(gm, example_inputs)

    def build(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> Run:
        model = ov.convert_model(module, example_input=examples)
        compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(inputs: Sequence[torch.Tensor]) -> Outputs:
            results = compiled([x.detach().numpy() for x in inputs])
            return tuple(torch.from_numpy(results[k].copy()) for k in range(len(compiled.outputs)))

        return run

    return _differentiable(gm, _Frozen(gm, example_inputs, build))


@register_backend("tvm", parameters_as_inputs=True)
def tvm(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., Any]:
    """Apache TVM by torch's own binding.

    Raises:
        BackendError: the package apache-tvm is not installed.
    """
    _package("tvm", "apache-tvm", "tvm")
    return cast(Callable[..., Any], torch._dynamo.lookup_backend("tvm")(gm, example_inputs))
