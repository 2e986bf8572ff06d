"""Rules: which precision nodes have (``schemas/rules.schema.json``)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from octavo import _core


@dataclass(frozen=True)
class Rules:
    """Entries of a rules file, in order: the last that matches a node decides.

    An entry is ``{"precision": ..., "name": glob, "op": glob}``, as
    ``schemas/rules.schema.json`` says.

    Raises:
        FileError: an entry is not what the schema allows.
    """

    rules: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _core.check_rules(self.json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rules:
        """Reads a rules file."""
        return cls(tuple(json.loads(FilePath(path).read_text())["rules"]))

    def json(self) -> str:
        """The content of a rules file."""
        return json.dumps({"schema_version": 1, "rules": [dict(r) for r in self.rules]}, indent=2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a rules file, for ``octavo quantize --rules``; whole or not at all."""
        _core.write_text(self.json(), os.fspath(path))
