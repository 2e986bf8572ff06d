"""ONNX's backend interface over Octavo programs: ``onnx.backend.base.Backend``.

``prepare`` compiles a model, ``run`` runs it; no other engine takes part. ONNX's own node tests
drive Octavo through this module (tests/python/test_onnx_nodes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from octavo import _core

__all__ = ["OctavoBackend", "PreparedModel", "prepare", "run_model", "supports_device"]


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


class PreparedModel(BackendRep):
    """A compiled model."""

    def __init__(self, program: _core.Program) -> None:
        self.program = program

    def run(self, inputs: Any, **_kwargs: Any) -> tuple[Any, ...]:
        """Runs on arrays in the order of the model's inputs, one array, or ``{name: array}``."""
        if isinstance(inputs, dict):
            named = {name: _array(value) for name, value in inputs.items()}
            return tuple(self.program(named))
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        return tuple(self.program(*[_array(value) for value in inputs]))


class OctavoBackend(Backend):
    """What ``onnx.backend.test`` calls."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_kwargs: Any) -> PreparedModel:
        """Imports and compiles a model.

        Raises:
            UserError: Octavo lacks something that the model needs.
        """
        if not cls.supports_device(device):
            raise ValueError(f"Octavo runs on the CPU, not on {device}")
        graph = _core.load_onnx_bytes(model.SerializeToString())
        return PreparedModel(_core.compile_graph(graph))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any
    ) -> tuple[Any, ...]:
        """Prepares a model and runs it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one node, as a model of it alone, at the opset that the wheel's ONNX is at."""
        arrays = [_array(value) for value in inputs]
        names = [name for name in node.input if name]
        values = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in zip(names, arrays, strict=True)
        ]
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", values, outputs)
        return cls.run_model(onnx.helper.make_model(graph), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether ``device``, such as ``"CPU"`` or ``"CUDA:0"``, can be used."""
        return device.split(":", maxsplit=1)[0] == "CPU"


prepare = OctavoBackend.prepare
run_model = OctavoBackend.run_model
supports_device = OctavoBackend.supports_device
