"""What the extension takes for arguments of several kinds."""

from __future__ import annotations

import os
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
