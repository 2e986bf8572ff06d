"""The original logs through absl; this through the standard library, as ``octavo.compat``."""

from __future__ import annotations

import logging
from functools import cache

logger = logging.getLogger("octavo.compat")


@cache
def log_once(level: int, message: str) -> None:
    """The first time a message comes."""
    logger.log(level, message)
