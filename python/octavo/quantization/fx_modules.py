"""Modules of a traced model."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from octavo.quantization import quantized, workflow

__all__ = ["free_name", "module_of", "place", "retarget", "role", "static_modules"]

_TABLES = dict.fromkeys((nn.Sigmoid, nn.Tanh, nn.Hardsigmoid), quantized.Activation)


def static_modules() -> dict[Any, Any]:
    """From float and trained modules to integer ones; embeddings are converted as dynamic ones."""
    mapping = workflow.get_default_static_quant_module_mappings() | _TABLES
    for eager in (nn.Embedding, nn.EmbeddingBag):
        del mapping[eager]
    return mapping


def free_name(model: nn.Module, stem: str) -> str:
    """STEM_0, or the first after it that the model has not."""
    index = 0
    while hasattr(model, f"{stem}_{index}"):
        index += 1
    return f"{stem}_{index}"


def retarget(model: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Lets a node call a module of its own."""
    stem = str(node.target).replace(".", "_") if node.op == "call_module" else node.name
    node.target = free_name(model, stem)
    model.add_submodule(node.target, module)
    node.op = "call_module"


def place(model: fx.GraphModule, name: str, module: nn.Module) -> None:
    """Puts a module in the place of another."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def module_of(model: nn.Module, node: Any) -> Any:
    """The module that a node calls, if it calls one."""
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return model.get_submodule(str(node.target)) if is_call else None


def role(model: nn.Module, node: Any) -> Any:
    """Of an observer: "input" where floats become integers, "output" behind what has a grid."""
    module = module_of(model, node)
    return getattr(module, "role", None) if module is not None else None
