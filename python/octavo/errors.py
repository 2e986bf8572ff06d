"""The exceptions Octavo raises: a user's mistake and a bug of Octavo's are different types."""

from __future__ import annotations


class UserError(ValueError):
    """A value, shape, dtype or option that does not fit; the text says what, where, what to do."""


class FileError(UserError, OSError):
    """A file that cannot be read, written, or is not what it should be."""


class UnsupportedError(UserError, NotImplementedError):
    """A valid request that Octavo does not implement."""


class InternalError(RuntimeError):
    """A broken invariant inside Octavo: a bug to report."""
