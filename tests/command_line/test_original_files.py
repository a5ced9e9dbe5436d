"""What the original program wrote, in every view there is: a desk that changes over looks at its old files, too."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.endpoints.exchange import Answer, Request
from shockproof.endpoints.routes import Routes

Run = Callable[..., Any]  # the fixture's result
Served = Callable[[Path], AbstractContextManager["subprocess.Popen[str]"]]
DATA = Path(__file__).parents[1] / "data"
STATE = ("--state-dir", "state")
ERRORS = ("--error-log-dir", "errors")


@pytest.fixture
def original(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("o")  # a short one: the path of a socket is
    shutil.copytree(DATA / "original-state", place / "state")
    shutil.copytree(DATA / "original-errors", place / "errors")
    monkeypatch.chdir(place)
    return place


def contents(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in place.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        (("errors", *ERRORS), 0, "test_service.failing_func  Exception: Always fails (retry 1)"),
        (("errors", "--summary", *ERRORS), 0, "4 errors"),
        (("errors", "--severity", "high", "--traces", *ERRORS), 0, "Traceback (most recent call last):"),
        (("errors", "--json", "--last", "1", *ERRORS), 0, '"retry_count": 1'),
        (("clean", "--keep-days", "1", "--dry-run", *ERRORS), 0, "delete  errors_20260212.jsonl"),
        (("state", "show", *STATE), 0, "market_data  degraded"),
        (("state", "show", "cached_data.AAPL", *STATE), 0, '"price": 150.0'),
        (("state", "verify", *STATE), 0, "by the original program"),
        (("state", "dump", "--file", "system_state.pkl", *STATE), 0, '"mode": "paper"'),
        (("operations", "list", *STATE), 0, "0 pending"),
        (
            ("operations", "list", *STATE),
            0,
            "1 more saved as pending, and not in the journal: shockproof state show",
        ),
        (("operations", "list", "--exit-code", *STATE), 1, "1 more saved as pending"),
        (("operations", "list", "--json", *STATE), 0, '"kind": "saved"'),
        (("doctor", *STATE, *ERRORS), 0, "1 file of 2026-02-12, 2.4 KiB in all"),
        (("doctor", *STATE, *ERRORS), 0, "system_state.pkl would be restored: saved by the original program"),
        (("doctor", *STATE, *ERRORS), 0, "1 saved as pending by the original program"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_each_command_reads_it_and_changes_nothing(
    shockproof: Run, original: Path, command: tuple[str, ...], code: int, shown: str
) -> None:
    """No conversion, no import: the files stay as they are."""
    before = contents(original)
    found = shockproof(*command)
    assert (found.code, found.err) == (code, "")
    assert shown in found.out
    assert contents(original) == before


def test_a_program_that_runs_on_it_is_watched_as_any_other(
    shockproof: Run, served: Served, original: Path
) -> None:
    """Its own records come beside those of the original, and both are in one picture of the state."""
    with served(original):
        watched = shockproof("health", "--timeout", "60", *STATE)
        assert (watched.code, watched.err) == (1, "")
        assert "rebalance" in watched.out
        top = shockproof("top", "--once", "--every", "0.1", "--timeout", "60", *STATE)
        assert (top.code, top.err) == (0, "")
        assert "rebalance" in top.out
        state = shockproof("state", "show", *STATE)
    assert "AAPL" in state.out
    assert "rebalance" in state.out


def test_a_program_that_has_restored_it_has_a_status_page_and_a_health(original: Path) -> None:
    """Each shows its services before they are called; its first save leaves what the original wrote as the state of its day."""

    async def main() -> None:
        async with ErrorRecoveryService(
            original / "state", original / "errors", keep_daily_states=5
        ) as recovery:
            state = await recovery.restore_state()
            assert state is not None
            assert state.cached_data == {"AAPL": {"price": 150.0}}
            routes = Routes(recovery, None, None, status_page=True)
            for page, shown in (
                ("/health", b'"market_data:breaker"'),
                ("/readyz", b"[+]services/market_data ok"),
                ("/status", b"not called since the restart, degraded before it"),
                ("/status", b"state saved 2026-02-12"),
                ("/status.json", b'"restored_status": "degraded"'),
                ("/metrics", b'shockproof_health{service="market_data",status="operational"} 1.0'),
            ):
                answer = await routes.answer(Request("GET", page, query=b"verbose"))
                assert isinstance(answer, Answer)
                assert answer.status == 200
                assert shown in answer.body, page
            routes.close()
            await recovery.save_state(cached_data=state.cached_data, force=True)

    asyncio.run(main())
    assert [path.name for path in (original / "state" / "days").iterdir()] == ["2026-02-12.system_state.json"]
