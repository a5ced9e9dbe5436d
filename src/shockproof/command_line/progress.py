"""A progress bar for what takes long: at a terminal, where rich is installed."""

from __future__ import annotations

import contextlib
import importlib.util
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
    if not sys.stderr.isatty() or importlib.util.find_spec("rich") is None:
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: float, total: float) -> None:
            bar.update(task, completed=min(done, total), total=total)

        yield advance


def _nothing(done: float, total: float) -> None:
    """Nobody looks."""
