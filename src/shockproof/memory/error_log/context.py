"""
Data that is in force around a block and ends up in `ErrorRecord.context`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["current_context", "error_context"]

_in_force: ContextVar[Mapping[str, Any] | None] = ContextVar(
    "shockproof_error_context", default=None
)  # Any: the user's own values


current_context: Final = _in_force.get
"""What is in force here, or None."""


@contextmanager
def error_context(data: Mapping[str, Any]) -> Generator[None]:  # Any: the user's own values
    """Put *data* in force for the block, on top of what is in force around it."""
    token = _in_force.set({**(_in_force.get() or {}), **data})
    try:
        yield
    finally:
        with suppress(ValueError):  # left in another task than it was entered in
            _in_force.reset(token)
