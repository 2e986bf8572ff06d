"""Capture under torchdynamo's name: ``import octavo.dynamo as torchdynamo``."""

from octavo.capture import (
    allow_in_graph,
    assume_constant_result,
    disable,
    explain,
    export,
    graph_break,
    is_compiling,
    list_backends,
    mark_dynamic,
    mark_static,
    optimize,
    register_backend,
    reset,
)

__all__ = [
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
]
