"""Files from which an interrupted run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from octavo import _core
from octavo.errors import FileError

__all__ = ["Checkpoint"]

_SAVE_EVERY = 1.0  # seconds
T = TypeVar("T")


class Checkpoint:
    """JSON, written whole or not at all; without a path nothing is kept.

    Args:
        path: the file; None: no checkpoint.
        kind: of the work, for messages.
        key: what must be the same in the run that goes on.
        what: the key in words, for messages.

    Raises:
        FileError: the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, kind: str, key: dict[str, Any], what: str
    ) -> None:
        self._path = None if path is None else Path(path)
        self._kind, self._what = kind, what
        self._key = json.loads(json.dumps({"kind": kind, **key}))
        self._saved = time.monotonic()
        if self._path is not None:
            _core.check_writable(os.fspath(self._path))

    def load(self, parse: Callable[[dict[str, Any]], T]) -> T | None:
        """What ``parse`` makes of the stored content; None if there is none yet.

        Raises:
            FileError: the file is damaged, or of another run.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(self._path.read_text())
            same = content["key"] == self._key
            parsed = parse(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(
                f"{self._path}: not a {self._kind} checkpoint ({error}); remove it"
            ) from error
        if not same:
            raise FileError(
                f"{self._path}: the checkpoint is of another run ({self._what} differ); remove it "
                "or name another file"
            )
        return parsed

    def due(self) -> bool:
        """Whether it was saved a while ago."""
        return time.monotonic() - self._saved >= _SAVE_EVERY

    def save(self, content: dict[str, Any]) -> None:
        """Writes the content and the key."""
        if self._path is not None:
            text = json.dumps({"key": self._key, **content})
            _core.write_text(text, os.fspath(self._path))
        self._saved = time.monotonic()
