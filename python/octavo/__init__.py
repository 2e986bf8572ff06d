"""Octavo: networks in, small and fast INT8 programs out.

graph = octavo.load_onnx("model.onnx")
int8 = octavo.quantize(graph, samples, calibrator="mse")
program = octavo.compile(int8)
outputs = program(x)

@octavo.compile(backend="inductor")  # PyTorch code: octavo.capture
def step(x): ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from octavo._core import (
    Graph,
    Program,
    Scheme,
    Statistics,
    calibrator_names,
    dequantize_tensor,
    fake_quantize,
    quantization_parameters,
    quantize_tensor,
)
from octavo.api import (
    BenchResult,
    LintFinding,
    LintReport,
    bench,
    doctor,
    equalize,
    export_onnx,
    inspect,
    lint,
    load,
    load_onnx,
    quantize,
    save,
)
from octavo.calibration import calibrate
from octavo.compiling import compile
from octavo.errors import FileError, InternalError, UnsupportedError, UserError
from octavo.rules import Rules
from octavo.search import ModuleSearch, Search, SearchPoint, search
from octavo.sensitivity import (
    Batch,
    LayerSensitivity,
    ModuleSensitivity,
    Sensitivity,
    disable_worst,
    sensitivity,
)

if TYPE_CHECKING:
    from octavo.capture import BackendError as BackendError
    from octavo.capture import GraphBreakError as GraphBreakError
    from octavo.capture import allow_in_graph as allow_in_graph
    from octavo.capture import assume_constant_result as assume_constant_result
    from octavo.capture import disable as disable
    from octavo.capture import explain as explain
    from octavo.capture import export as export
    from octavo.capture import graph_break as graph_break
    from octavo.capture import is_compiling as is_compiling
    from octavo.capture import list_backends as list_backends
    from octavo.capture import mark_dynamic as mark_dynamic
    from octavo.capture import mark_static as mark_static
    from octavo.capture import optimize as optimize
    from octavo.capture import register_backend as register_backend
    from octavo.capture import reset as reset

# Of octavo.capture, which needs torch: looked up when they are used, and not by `import *`.
_OF_CAPTURE = (
    "BackendError",
    "GraphBreakError",
    "allow_in_graph",
    "assume_constant_result",
    "disable",
    "explain",
    "export",
    "graph_break",
    "is_compiling",
    "list_backends",
    "mark_dynamic",
    "mark_static",
    "optimize",
    "register_backend",
    "reset",
)

__all__ = [
    "Batch",
    "BenchResult",
    "FileError",
    "Graph",
    "InternalError",
    "LayerSensitivity",
    "LintFinding",
    "LintReport",
    "ModuleSearch",
    "ModuleSensitivity",
    "Program",
    "Rules",
    "Scheme",
    "Search",
    "SearchPoint",
    "Sensitivity",
    "Statistics",
    "UnsupportedError",
    "UserError",
    "bench",
    "calibrate",
    "calibrator_names",
    "compile",
    "dequantize_tensor",
    "disable_worst",
    "doctor",
    "equalize",
    "export_onnx",
    "fake_quantize",
    "inspect",
    "lint",
    "load",
    "load_onnx",
    "quantization_parameters",
    "quantize",
    "quantize_tensor",
    "save",
    "search",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name in _OF_CAPTURE:
        value = getattr(importlib.import_module("octavo.capture"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_CAPTURE})
