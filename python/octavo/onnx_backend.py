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

_NARROW = {
    onnx.TensorProto.INT2,
    onnx.TensorProto.INT4,
    onnx.TensorProto.UINT2,
    onnx.TensorProto.UINT4,
}


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value)


class PreparedModel(BackendRep):
    """A compiled model.

    Integers of 2 and 4 bits have a byte each in a program; in and out of here they are arrays of
    ``ml_dtypes``, as in ONNX.
    """

    def __init__(self, program: _core.Program, output_types: Sequence[int]) -> None:
        self.program = program
        self._narrow = {
            i: onnx.helper.tensor_dtype_to_np_dtype(kind)
            for i, kind in enumerate(output_types)
            if kind in _NARROW
        }

    def _outputs(self, results: Sequence[np.ndarray[Any, Any]]) -> tuple[Any, ...]:
        narrow = self._narrow
        return tuple(y.astype(narrow[i]) if i in narrow else y for i, y in enumerate(results))

    def run(self, inputs: Any, **_kwargs: Any) -> tuple[Any, ...]:
        """Runs on arrays in the order of the model's inputs, one array, or ``{name: array}``."""
        if isinstance(inputs, dict):
            named = {name: _array(value) for name, value in inputs.items()}
            return self._outputs(self.program(named))
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        return self._outputs(self.program(*[_array(value) for value in inputs]))


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
        types = [output.type.tensor_type.elem_type for output in model.graph.output]
        return PreparedModel(_core.compile_graph(graph), types)

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
