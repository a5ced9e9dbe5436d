"""The page at the end: the same that `shockproof report` writes, with the session's summary above it."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime
from pathlib import Path

from shockproof import ErrorRecoveryService
from shockproof.demo.session import Session
from shockproof.demo.summary import Summary
from shockproof.views.error_counts import ErrorCounts
from shockproof.views.report import look_at, report, write_whole

__all__ = ["write_report"]

_NAME = "report.html"


async def write_report(title: str, session: Session, summary: Summary, output: Path | None) -> Path:
    """Write it into *output*, or without one into a file of its own that stays; where it is. Raises OSError."""
    recovery = ErrorRecoveryService(session.state_dir, session.error_log_dir)
    counts = ErrorCounts()
    async for record in recovery.read_errors():
        counts.add(record)
    return await asyncio.to_thread(_write, title, session, summary, output, counts)


def _write(title: str, session: Session, summary: Summary, output: Path | None, counts: ErrorCounts) -> Path:
    now = datetime.now().astimezone()
    page = report(
        counts,
        look_at(session.state_dir, now=now.timestamp()),
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
