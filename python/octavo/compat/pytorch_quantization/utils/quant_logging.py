"""For code that spoils the format of log lines."""

from __future__ import annotations

import logging

__all__ = ["reset_logger_handler"]


def reset_logger_handler() -> None:
    """Removes every handler of the root logger."""
    logging.getLogger().handlers.clear()
