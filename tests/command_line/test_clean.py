"""Old error files: shown first, then deleted or compressed; never today's, never anything else."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shockproof.command_line.clean import today_anywhere

Run = Callable[..., Any]  # the fixture's result


NOW = datetime.now(UTC)  # once: no test may depend on whether midnight passes while it runs


def name(days_ago: int) -> str:
    return f"errors_{NOW - timedelta(days=days_ago):%Y%m%d}.jsonl"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Today, a few days of this month, and things that are none of the log's."""
    for days in (0, 1, 5, 10, 40):
        (tmp_path / name(days)).write_text("x" * 1000 + "\n")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "errors_20200101.csv").write_text("mine")
    (tmp_path / "errors_20200101.jsonl").symlink_to(tmp_path / "notes.txt")
    return tmp_path


def names(log: Path) -> set[str]:
    return {path.name for path in log.iterdir()} - {
        "notes.txt",
        "errors_20200101.csv",
        "errors_20200101.jsonl",
    }


def test_a_dry_run_shows_and_does_nothing(shockproof: Run, log: Path) -> None:
    """What would go is listed; everything is still there."""
    before = names(log)
    shown = shockproof("clean", "--keep-days", "7", "--dry-run", "--error-log-dir", log)
    assert shown.code == 0
    assert [line.split()[:2] for line in shown.out.splitlines()[1:]] == [
        ["delete", name(40)],
        ["delete", name(10)],
    ]
    assert names(log) == before


def test_without_yes_and_without_a_terminal_nothing_goes(
    shockproof: Run, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown what would go, and said how to do it."""
    before = names(log)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        refused = shockproof("clean", "--keep-days", "7", "--error-log-dir", log)
    assert (refused.code, "add --yes" in refused.err, name(40) in refused.out) == (2, True, True)
    assert names(log) == before


def test_old_days_are_deleted_and_nothing_else(shockproof: Run, log: Path) -> None:
    """Other people's files, and links, stay, whatever their names."""
    cleaned = shockproof("clean", "--keep-days", "7", "--yes", "--json", "--error-log-dir", log)
    assert cleaned.code == 0
    assert cleaned.json == {
        "deleted": [name(40), name(10)],
        "compressed": [],
        "bytes_before": 5005,
        "bytes_after": 3003,
        "is_done": True,
    }
    assert names(log) == {name(0), name(1), name(5)}
    assert {path.name for path in log.iterdir()} - names(log) == {
        "notes.txt",
        "errors_20200101.csv",
        "errors_20200101.jsonl",
    }


def test_the_oldest_days_go_until_the_rest_fits(shockproof: Run, log: Path) -> None:
    """Sizes are written as people write them."""
    assert shockproof("clean", "--keep-size", "3K", "--yes", "--error-log-dir", log).code == 0
    assert names(log) == {name(0), name(1), name(5)}


def test_what_is_today_somewhere_stays_even_if_nothing_is_kept(shockproof: Run, log: Path) -> None:
    """The program may be writing to it, in whatever zone it counts its days."""
    assert (
        shockproof("clean", "--keep-days", "0", "--keep-size", "0", "--yes", "--error-log-dir", log).code == 0
    )
    assert name(0) in names(log)
    assert name(5) not in names(log)


@pytest.mark.parametrize(("hour", "day"), [(0, 24), (11, 24), (12, 25), (23, 25)])
def test_a_day_ends_when_it_has_ended_everywhere(hour: int, day: int) -> None:
    """At eleven in London it is still yesterday on Baker Island."""
    assert today_anywhere(datetime(2026, 11, 25, hour, 59, tzinfo=UTC)) == date(2026, 11, day)


def test_another_users_log_is_not_compressed(
    shockproof: Run, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program could not read what root has made."""
    before = names(log)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    refused = shockproof("clean", "--compress", "--yes", "--error-log-dir", log)
    assert (refused.code, "run this as that user" in refused.err) == (2, True)
    assert names(log) == before


def test_compressed_days_are_still_read(shockproof: Run, tmp_path: Path) -> None:
    """Nothing is lost but bytes."""
    moment = (NOW - timedelta(days=5)).isoformat()
    line = (
        f'{{"timestamp": "{moment}", "error_type": "E", "error_message": "kept", "severity": "low", '
        '"service_name": "s", "function_name": "f"}\n'
    )
    (tmp_path / name(5)).write_text(line * 100)
    cleaned = shockproof("clean", "--compress", "--yes", "--error-log-dir", tmp_path)
    assert (cleaned.code, {path.name for path in tmp_path.iterdir()}) == (0, {name(5) + ".gz"})
    summary = shockproof("errors", "--summary", "--json", "--error-log-dir", tmp_path).json
    assert summary["total_errors"] == 100
    assert shockproof("clean", "--compress", "--yes", "--error-log-dir", tmp_path).out == "Nothing to do.\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to do: --keep-days N, --keep-size SIZE, --compress"),
        (("--keep-days", "-1"), "must be a whole number of days, got '-1'"),
        (("--keep-days", "few"), "must be a whole number of days, got 'few'"),
        (("--keep-size", "10 apples"), "must be a size such as 500000, 100M or 2G, got '10 apples'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    shockproof: Run, log: Path, words: tuple[str, ...], said: str
) -> None:
    """And nothing is deleted by mistake."""
    before = names(log)
    refused = shockproof("clean", *words, "--yes", "--error-log-dir", log)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert said in refused.err
    assert names(log) == before
