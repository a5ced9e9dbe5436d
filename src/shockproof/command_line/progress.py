"""A progress bar for what takes long: at a terminal, where rich is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator

__all__ = ["Advance", "progress"]

Advance = Callable[[float, float], None]
"""Tells how much is done, of how much."""


@contextlib.contextmanager
def progress(what: str) -> Generator[Advance]:
    """
    A function that is told how much is done, of how much. The bar is on stderr, and gone afterwards.

    Without a terminal, and without rich, the function does nothing.
    """
    if not sys.stderr.isatty():
        yield _nothing
        return
    try:
        from shockproof.integrations.rich import bar_on_stderr
    except ImportError:
        yield _nothing
        return
    with bar_on_stderr(what) as advance:
        yield advance


def _nothing(done: float, total: float) -> None:
    """Nobody looks."""
