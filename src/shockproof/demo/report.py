"""The page at the end: the same that `shockproof report` writes, with the session's summary above it."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime
from pathlib import Path

from shockproof import ErrorRecoveryService
from shockproof.demo.reckoning import Reckoning
from shockproof.views.error_counts import ErrorCounts
from shockproof.views.report import look_at, report, write_whole

__all__ = ["write_report"]

_NAME = "report.html"


async def write_report(
    title: str, state_dir: Path, error_log_dir: Path, summary: Reckoning, output: Path | None
) -> Path:
    """Write it into *output*, or without one into a file of its own that stays; where it is. Raises OSError."""
    recovery = ErrorRecoveryService(state_dir, error_log_dir)
    counts = ErrorCounts()
    async for record in recovery.read_errors():
        counts.add(record)
    return await asyncio.to_thread(_write, title, state_dir, summary, output, counts)


def _write(title: str, state_dir: Path, summary: Reckoning, output: Path | None, counts: ErrorCounts) -> Path:
    now = datetime.now().astimezone()
    page = report(
        counts,
        look_at(state_dir, now=now.timestamp()),
        title=title,
        now=now,
        summary=[*summary.rows(), *(("compared", verdict.compared) for verdict in summary.verdicts)],
        words=[summary.conclusion()],
    )
    if output is None:
        with tempfile.NamedTemporaryFile(prefix="shockproof-demo-", suffix=".html", delete=False) as file:
            path = Path(file.name)
    else:
        path = output / _NAME
    write_whole(path, page)
    return path
