"""rich: the progress bar of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from shockproof.integrations.optional import missing

try:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
except ImportError as error:
    raise missing("rich", "cli", error, module="rich") from error

__all__ = ["bar_on_stderr"]


@contextlib.contextmanager
def bar_on_stderr(what: str) -> Generator[Callable[[float, float], None]]:
    """A function that is told how many bytes are done, of how many; the bar is gone afterwards."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: float, total: float) -> None:
            bar.update(task, completed=min(done, total), total=total)

        yield advance
