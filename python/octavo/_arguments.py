"""What the extension takes for arguments of several kinds."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from octavo.rules import Rules


def data_argument(data: Any) -> Any:
    """A path as a string; an iterable as it is."""
    return os.fspath(data) if isinstance(data, os.PathLike) else data


def path_argument(path: str | os.PathLike[str] | None) -> str:
    """A path; empty for None."""
    return "" if path is None else os.fspath(path)


def rules_argument(rules: Rules | str | os.PathLike[str] | None) -> str:
    """A path, or the content of a file; empty for None."""
    return rules.json() if isinstance(rules, Rules) else path_argument(rules)


def is_module(model: Any) -> bool:
    """Whether it is a torch.nn.Module; torch is not imported for that."""
    return any(c.__name__ == "Module" and c.__module__ == "torch.nn.modules.module"
               for c in type(model).__mro__)  # fmt: skip


def refuse_graph_options(
    function: Callable[..., Any], given: Mapping[str, Any], names: Iterable[str]
) -> None:
    """TypeError if one of the options ``names``, for graphs alone, is given with a torch module."""
    parameters = inspect.signature(function).parameters
    others = [name for name in names if given[name] is not parameters[name].default
              and given[name] != parameters[name].default]  # fmt: skip
    if others:
        raise TypeError(
            f"octavo.{function.__name__}: {', '.join(others)} {'is' if len(others) == 1 else 'are'}"
            " for graphs, not for torch modules"
        )
