"""Octavo: networks in, small and fast INT8 programs out."""

from octavo._core import Graph, Program, export_onnx, load_onnx
from octavo.errors import FileError, InternalError, UnsupportedError, UserError

__all__ = [
    "FileError",
    "Graph",
    "InternalError",
    "Program",
    "UnsupportedError",
    "UserError",
    "export_onnx",
    "load_onnx",
]
