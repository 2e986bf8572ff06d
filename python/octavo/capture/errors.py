"""Errors of capture."""

from octavo.errors import UserError


class GraphBreakError(UserError):
    """``fullgraph=True`` was asked for, and the function cannot be one graph."""


class BackendError(UserError):
    """A backend is unknown, or its package is not installed."""
