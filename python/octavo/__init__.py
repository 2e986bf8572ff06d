"""Octavo: networks in, small and fast INT8 programs out.

graph = octavo.load_onnx("model.onnx")
int8 = octavo.quantize(graph, samples, calibrator="mse")
program = octavo.compile(int8)
outputs = program(x)
"""

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
    compile,
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
