"""The error log on the command line: written by the library and by the original program, filtered, followed, summed up."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.command_line.following import Following
from shockproof.memory.error_log.error_reading import Wanted

Run = Callable[..., Any]  # the fixture's result

ORIGINAL = Path(__file__).parents[1] / "data" / "original-errors"
EVERYTHING = Wanted(since=None, until=None, service_name=None, min_severity=None)


async def fail(directory: Path, *messages: str, service_name: str = "market") -> None:
    """Have the library write one record for each message."""
    async with ErrorRecoveryService(state_dir=directory / "state", error_log_dir=directory) as recovery:
        for message in messages:

            async def fetch(text: str = message) -> None:
                raise ConnectionError(text)

            with pytest.raises(ConnectionError):
                await recovery.retry_with_backoff(fetch, service_name=service_name, max_retries=0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two services' errors, a day of last week that was compressed, and a line that a crash tore."""
    asyncio.run(fail(tmp_path, "reset, token=t0psecret", "again"))
    asyncio.run(fail(tmp_path, "refused", service_name="trading"))
    earlier = datetime.now().astimezone() - timedelta(days=7)
    record = {
        "timestamp": earlier.isoformat(),
        "error_type": "TimeoutError",
        "error_message": "old",
        "severity": "low",
        "service_name": "market",
        "function_name": "fetch",
    }
    with gzip.open(tmp_path / f"errors_{earlier:%Y%m%d}.jsonl.gz", "wt") as file:
        file.write(json.dumps(record) + "\n")
        file.write('{"timestamp": "2026-')
    return tmp_path


def messages(result: Any) -> list[str]:
    return [json.loads(line)["error_message"] for line in result.out.splitlines()]


def test_all_errors_are_there_the_oldest_first(shockproof: Run, log: Path) -> None:
    """Compressed days are read, and torn lines counted on stderr."""
    shown = shockproof("errors", "--error-log-dir", log)
    assert shown.code == 0
    assert [line.partition("  ")[2] for line in shown.out.splitlines()] == [
        "LOW       market.fetch  TimeoutError: old",
        "HIGH      market.fetch  ConnectionError: reset, token=***",
        "HIGH      market.fetch  ConnectionError: again",
        "HIGH      trading.fetch  ConnectionError: refused",
    ]
    assert shown.err == "shockproof: 1 lines are no records: torn by a crash, or somebody else's\n"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("--service", "trading"), ["refused"]),
        (("--severity", "medium"), ["reset, token=***", "again", "refused"]),
        (("--since", "2d"), ["reset, token=***", "again", "refused"]),
        (("--until", "2d ago"), ["old"]),
        (("--until", "yesterday"), ["old"]),
        (("--last", "1"), ["refused"]),
        (("-n", "1", "--service", "market"), ["again"]),
        (("--service", "trading", "--until", "2d ago"), []),
    ],
    ids=" ".join,
)
def test_errors_are_filtered(shockproof: Run, log: Path, words: tuple[str, ...], found: list[str]) -> None:
    """By service, severity and time; nothing found is no error."""
    shown = shockproof("errors", *words, "--json", "--error-log-dir", log)
    assert (shown.code, messages(shown)) == (0, found)


def test_traces_are_shown_when_asked_for(shockproof: Run, log: Path) -> None:
    """One line of the trace on each line, indented."""
    shown = shockproof("errors", "--traces", "--service", "trading", "--error-log-dir", log)
    assert "\n    Traceback (most recent call last):\n" in shown.out


def test_a_summary_counts_by_hour_service_type_and_severity(shockproof: Run, log: Path) -> None:
    """For people a table, for scripts a document; both say how many."""
    summary = shockproof("errors", "--summary", "--json", "--error-log-dir", log).json
    assert (summary["total_errors"], summary["skipped_lines"]) == (4, 1)
    assert summary["errors_by_service"] == {"market": 3, "trading": 1}
    assert summary["errors_by_type"] == {"ConnectionError": 3, "TimeoutError": 1}
    assert summary["errors_by_severity"] == {"low": 1, "medium": 0, "high": 3, "critical": 0}
    assert sum(hour["total"] for hour in summary["errors_by_hour"]) == 4
    assert summary["errors_by_hour"][0]["errors_by_severity"] == {"low": 1}
    shown = shockproof("errors", "--summary", "--error-log-dir", log)
    assert shown.out.startswith("4 errors\n")
    assert "HOUR" in shown.out
    assert "market   3" in shown.out


def test_what_the_original_program_wrote_is_shown(shockproof: Run, tmp_path: Path) -> None:
    """With its secrets hidden, which it never did itself; its files stay as they are."""
    shutil.copytree(ORIGINAL, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.glob("errors_*.jsonl")
    file.write_text(file.read_text().replace('"Always fails"', '"Always fails with password=hunter2"'))
    before = file.read_bytes()
    shown = shockproof("errors", "--error-log-dir", tmp_path)
    assert len(shown.out.splitlines()) == 4
    assert "Always fails with password=***" in shown.out
    traced = shockproof("errors", "--json", "--traces", "--error-log-dir", tmp_path)
    assert "hunter2" not in shown.out + traced.out
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--since", "soon"), 2, "must be a moment such as 2026-11-25"),
        (("--since", "1h", "--until", "2h"), 2, "nothing is between them"),
        (("--severity", "bad"), 2, "invalid choice: 'bad'"),
        (("-n", "0"), 2, "must be a whole number from 1 to 999,999,999, got '0'"),
        (("--follow", "--summary"), 2, "--follow goes on for ever"),
        (("--last", "9" * 23), 2, "must be a whole number from 1 to 999,999,999"),
        (("--last", "9" * 5000), 2, "must be a whole number from 1 to 999,999,999"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    shockproof: Run, log: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """The option, its value and what is allowed."""
    refused = shockproof("errors", *words, "--error-log-dir", log)
    assert (refused.code, refused.out, refused.err.count("\n")) == (code, "", 1)
    assert said in refused.err


def test_without_a_log_the_exit_code_says_so(shockproof: Run, tmp_path: Path) -> None:
    """A wrong directory must not look like a day without errors."""
    missing = shockproof("errors", "--error-log-dir", tmp_path / "typo")
    assert (missing.code, "--error-log-dir" in missing.err) == (3, True)


# ---- to follow


def test_new_records_come_as_they_are_written(log: Path) -> None:
    """A program that writes is followed by one that reads: what was there last, then each new line."""
    command = [
        sys.executable,
        "-m",
        "shockproof",
        "errors",
        "--follow",
        "-n",
        "1",
        "--json",
        "--error-log-dir",
        log,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            assert json.loads(following.stdout.readline())["error_message"] == "refused"
            asyncio.run(fail(log, "the next one"))
            assert json.loads(following.stdout.readline())["error_message"] == "the next one"
        finally:
            following.kill()


def test_following_ends_when_nobody_reads_any_more(log: Path) -> None:
    """``--follow | head`` is over with the last line of head, and not with the next error."""
    command = [sys.executable, "-m", "shockproof", "errors", "--follow", "--error-log-dir", log]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        try:
            assert following.stdout.readline()
            following.stdout.close()
            assert following.wait(60) == 141
            assert following.stderr.read() == ""
        finally:
            following.kill()


def line(message: str, moment: datetime | None = None) -> str:
    fields = {
        "timestamp": (moment or datetime.now().astimezone()).isoformat(),
        "error_type": "ValueError",
        "error_message": message,
        "severity": "high",
        "service_name": "market",
        "function_name": "fetch",
    }
    return json.dumps(fields) + "\n"


def test_a_line_is_given_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    """What is half written now is whole the next time."""
    file = tmp_path / f"errors_{datetime.now():%Y%m%d}.jsonl"
    file.write_text(line("one") + line("two")[:20])
    following = Following(tmp_path, EVERYTHING)
    assert [record.error_message for record in following.new_records()] == ["one"]
    assert list(following.new_records()) == []
    with file.open("a") as late:
        late.write(line("two")[20:] + line("three"))
    assert [record.error_message for record in following.new_records()] == ["two", "three"]
    assert list(following.new_records()) == []


def test_another_day_and_another_part_are_followed_too(tmp_path: Path) -> None:
    """The log goes on in a new file; an older one is not given again."""
    today = datetime.now()
    (tmp_path / f"errors_{today - timedelta(days=1):%Y%m%d}.jsonl").write_text(line("yesterday"))
    (tmp_path / f"errors_{today:%Y%m%d}.jsonl").write_text(line("one"))
    following = Following(tmp_path, EVERYTHING)
    assert [record.error_message for record in following.new_records()] == ["one"]
    (tmp_path / f"errors_{today:%Y%m%d}_1.jsonl").write_text(line("part"))
    (tmp_path / f"errors_{today + timedelta(days=1):%Y%m%d}.jsonl").write_text(line("tomorrow"))
    assert [record.error_message for record in following.new_records()] == ["part", "tomorrow"]


def test_a_file_that_took_the_place_of_another_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Somebody moved the log away while it was followed."""
    file = tmp_path / f"errors_{datetime.now():%Y%m%d}.jsonl"
    file.write_text(line("one") + line("two"))
    following = Following(tmp_path, EVERYTHING)
    assert len(list(following.new_records())) == 2
    (tmp_path / "new").write_text(line("three"))
    (tmp_path / "new").replace(file)
    assert [record.error_message for record in following.new_records()] == ["three"]


@pytest.mark.parametrize("begin", [EVERYTHING, EVERYTHING._replace(since=0.0)], ids=["newest", "since"])
def test_a_file_that_was_emptied_and_filled_to_its_old_size_is_read_from_its_beginning(
    tmp_path: Path, begin: Wanted
) -> None:
    """The same file, and as long as before: only what stands there tells."""
    file = tmp_path / f"errors_{datetime.now():%Y%m%d}.jsonl"
    file.write_text(line("one") + line("two"))
    following = Following(tmp_path, begin)
    assert len(list(following.new_records())) == 2
    for messages in (("six", "ten"), ("one", "ten", "two")):
        file.write_text("".join(map(line, messages)))
        assert [record.error_message for record in following.new_records()] == list(messages)
        assert list(following.new_records()) == []


def test_with_since_compressed_days_come_first(tmp_path: Path) -> None:
    """Whoever asks for the last three days gets them, then what is new."""
    old = datetime.now().astimezone() - timedelta(days=3)
    with gzip.open(tmp_path / f"errors_{old:%Y%m%d}.jsonl.gz", "wt") as packed:
        packed.write(line("old", old))
    (tmp_path / f"errors_{datetime.now():%Y%m%d}.jsonl").write_text(line("new"))
    since = (old - timedelta(hours=1)).timestamp()
    following = Following(tmp_path, EVERYTHING._replace(since=since))
    assert [record.error_message for record in following.new_records()] == ["old", "new"]
    assert list(following.new_records()) == []


@pytest.mark.parametrize("form", [(), ("--summary",), ("--last", "3"), ("--json",)], ids=" ".join)
def test_a_mistyped_service_is_told_from_one_without_errors(
    shockproof: Run, log: Path, form: tuple[str, ...]
) -> None:
    """Nothing is not good news when the name is wrong; a service that has no error of that kind is no typing error."""
    words = ("errors", "--error-log-dir", log, *form, "--service")
    mistyped = shockproof(*words, "trdaing")
    assert mistyped.code == 3
    said = f"shockproof: no record in {log} is of service 'trdaing'; there are: market, trading"
    assert said in mistyped.err.splitlines()
    quiet = shockproof(*words, "trading", "--severity", "critical")
    assert (quiet.code, "there are" in quiet.err) == (0, False)


def test_a_folded_storm_is_told_and_counted(shockproof: Run, tmp_path: Path) -> None:
    """Two lines in the file, and a thousand errors in the summary."""
    line = {
        "timestamp": "2026-11-25T10:00:00+00:00",
        "error_type": "TimeoutError",
        "error_message": "slow",
        "severity": "high",
        "service_name": "market",
        "function_name": "fetch",
    }
    folded = line | {"context": {"folded": {"count": 999}}}
    (tmp_path / "errors_20261125.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(folded)}\n")

    shown = shockproof("errors", "--error-log-dir", tmp_path)
    summary = shockproof("errors", "--error-log-dir", tmp_path, "--summary", "--json")

    assert [one.rpartition("TimeoutError: ")[2] for one in shown.out.splitlines()] == [
        "slow",
        "slow (999 times)",
    ]
    assert json.loads(summary.out)["errors_by_service"] == {"market": 1000}


@pytest.fixture
def cut(log: Path) -> Path:
    """The compressed day of that log, which ends too early now."""
    (packed,) = log.glob("*.gz")
    packed.write_bytes(packed.read_bytes()[:-4])
    return packed


@pytest.mark.parametrize("form", [(), ("--summary",), ("--last", "3"), ("--json",)], ids=" ".join)
def test_a_file_that_ends_too_early_is_named(
    shockproof: Run, log: Path, cut: Path, form: tuple[str, ...]
) -> None:
    """Nobody takes what could be read of it for all there was: neither a person nor a script."""
    shown = shockproof("errors", "--error-log-dir", log, *form)

    assert shown.code == 1
    assert "old" in shown.out or form != ()
    assert shown.err.endswith(f"shockproof: could not be read to the end, damaged or forbidden: {cut.name}\n")


def test_a_summary_for_scripts_names_what_it_lacks(shockproof: Run, log: Path, cut: Path) -> None:
    """Beside the number of lines that are no records."""
    assert shockproof("errors", "--summary", "--json", "--error-log-dir", log).json["unread_files"] == [
        cut.name
    ]


def test_a_service_that_may_be_in_a_damaged_file_is_not_said_to_be_unknown_alone(
    shockproof: Run, log: Path, cut: Path
) -> None:
    """Also where that file is of another day than the one that was asked for."""
    words = ("errors", "--error-log-dir", log, "--since", "2d", "--service")
    shown = shockproof(*words, "news")
    assert (shown.code, cut.name in shown.err, "is of service 'news'" in shown.err) == (1, True, True)
    assert shockproof(*words, "trading").code == 0


def test_whoever_follows_hears_of_a_day_that_could_not_be_read(tmp_path: Path) -> None:
    """Once, before what is new; the records that could be read are given."""
    old = datetime.now().astimezone() - timedelta(days=3)
    packed = tmp_path / f"errors_{old:%Y%m%d}.jsonl.gz"
    packed.write_bytes(gzip.compress(line("old", old).encode())[:-4])
    following = Following(tmp_path, EVERYTHING._replace(since=0.0))
    assert [record.error_message for record in following.new_records()] == ["old"]
    assert following.damaged == [packed]
