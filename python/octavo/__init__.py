"""Octavo: networks in, small and fast INT8 programs out.

graph = octavo.load_onnx("model.onnx")
int8 = octavo.quantize(graph, samples, calibrator="entropy")
program = octavo.compile(int8)
outputs = program(x)
"""

from octavo._core import Graph, Program, calibrator_names, export_onnx, load_onnx
from octavo.api import QuantizedGraph, compile, doctor, inspect, load, quantize, save
from octavo.errors import FileError, InternalError, UnsupportedError, UserError

__all__ = [
    "FileError",
    "Graph",
    "InternalError",
    "Program",
    "QuantizedGraph",
    "UnsupportedError",
    "UserError",
    "calibrator_names",
    "compile",
    "doctor",
    "export_onnx",
    "inspect",
    "load",
    "load_onnx",
    "quantize",
    "save",
]
