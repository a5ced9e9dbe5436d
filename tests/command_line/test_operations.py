"""Pending operations seen and settled by hand, in the journal of a process that was killed."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shockproof import NOT_FOUND, ErrorRecoveryService, OperationCompletedError
from shockproof.__main__ import main
from shockproof.command_line import operations
from shockproof.command_line.screen import Screen
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal import Journal
from shockproof.memory.journal.journalled_values import JournalledValues
from shockproof.memory.journal.moments import moment_of
from shockproof.memory.journal.sending import Sending
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import StateSecrets
from shockproof.views.words import local_time
from shockproof.vocabulary.clock import SystemClock

Run = Callable[..., Any]  # the fixture's result


def contents(directory: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


def test_what_a_killed_program_left_is_listed(shockproof: Run, killed: Path) -> None:
    """A person sees at a glance what began and did not end, and why."""
    listed = shockproof("operations", "list", "--state-dir", killed / "state")
    assert listed.code == 0
    rows = [line.split() for line in listed.out.splitlines()]
    assert rows[0][:3] == ["KEY", "OPERATION", "KIND"]
    assert [row[:4] for row in rows[1:4]] == [
        ["bot-5", "trading.once", "order", "pending"],
        ["bars", "import", "operation", "pending"],
        ["2026-11-25", "rebalance", "operation", "pending"],
    ]
    assert rows[2][-3:] == ["ValueError:", "no", "bars"]
    assert "3 pending in" in listed.out
    assert "its owner: nobody" in listed.out


def test_a_script_learns_from_the_exit_code_whether_anything_is_pending(
    shockproof: Run, killed: Path
) -> None:
    """A start-up script stops without reading any text."""
    assert shockproof("operations", "list", "--exit-code", "--state-dir", killed / "state").code == 1
    (killed / "nothing").mkdir()
    nothing = shockproof("operations", "list", "--exit-code", "--state-dir", killed / "nothing")
    assert (nothing.code, nothing.out.count("\n")) == (0, 1)
    assert nothing.out.startswith("0 pending in ")


@pytest.mark.asyncio
async def test_what_has_ended_since_it_was_saved_as_pending_is_over(shockproof: Run, tmp_path: Path) -> None:
    """The journal knows better than the state; what it does not know stands in the list in the same form."""
    look = ("operations", "list", "--state-dir", tmp_path)
    async with ErrorRecoveryService(tmp_path, tmp_path / "errors") as recovery:
        for key in ("a", "b"):
            async with recovery.operation("import", key=key):
                pass
        saved = [{"operation": "import", "key": key, "status": "pending", "index": 3} for key in "ab"]
        await recovery.save_state(saved, force=True)
    assert (await _in_thread(shockproof, *look, "--exit-code")).code == 0
    assert (await _in_thread(shockproof, *look, "--json")).json == []

    async with ErrorRecoveryService(tmp_path, tmp_path / "errors") as recovery:
        await recovery.save_state([*saved, {**saved[0], "key": "c"}], force=True)
    assert (await _in_thread(shockproof, *look, "--exit-code")).code == 1
    (one,) = (await _in_thread(shockproof, *look, "--json")).json
    assert one.items() >= {"key": "c", "operation": "import", "kind": "saved", "status": "pending"}.items()
    assert one["progress"] == {"index": 3}


def test_json_holds_all_that_is_known(shockproof: Run, killed: Path) -> None:
    """Completed ones are there only when asked for; values keep the form in which they stand in the journal."""
    place = ("--state-dir", killed / "state")
    pending = shockproof("operations", "list", "--json", *place).json
    assert [(one["key"], one["status"]) for one in pending] == [
        ("bot-5", "pending"),
        ("bars", "pending"),
        ("2026-11-25", "pending"),
    ]
    everything = shockproof("operations", "list", "--all", "--json", *place).json
    assert everything[0]["key"] == "done-1"
    assert everything[0]["result"] == {"$": "decimal", "v": "1.50"}
    shown = shockproof("operations", "show", "bars", "--json", *place).json
    assert shown["progress"] == {"index": 3, "price": {"$": "decimal", "v": "1.10"}}
    assert shown["details"] == {"account": "A1", "password": "***"}
    assert [record["kind"] for record in shown["records"]] == ["begin", "checkpoint", "interrupt"]


@pytest.mark.parametrize(
    "words", [("list", "--all"), ("show", "bot-5"), ("show", "bars"), ("show", "2026-11-25")]
)
def test_looking_changes_no_file_and_shows_no_secret(
    shockproof: Run, killed: Path, words: tuple[str, ...]
) -> None:
    """Whoever only looks leaves everything as it is, down to the times of the files."""
    before = contents(killed)
    for form in ((), ("--json",)):
        shown = shockproof("operations", *words, *form, "--state-dir", killed / "state")
        assert shown.code == 0
        assert "hunter2" not in shown.out + shown.err
    assert contents(killed) == before


def test_the_next_step_is_said(shockproof: Run, killed: Path) -> None:
    """Who looks at an order in the night is told what to type."""
    shown = shockproof("operations", "show", "bot-5", "--state-dir", killed / "state")
    assert "operations resolve bot-5 --operation trading.once --outcome found|absent|manual" in shown.out


async def _restart(state_dir: Path, key: str) -> object:
    """What a new life of the program finds of an order: its result when it is settled, else what it sends."""
    async with ErrorRecoveryService(state_dir=state_dir, error_log_dir=state_dir / "errors") as recovery:
        trading = recovery.service("trading", timeout=5.0, max_retries=0)

        async def confirm(key: str) -> object:
            return NOT_FOUND

        async def submit(client_order_id: str) -> str:
            return "sent again"

        once = trading.once(key, confirm=confirm, key_argument="client_order_id", settle=0.001)
        try:
            return await once.call(submit)
        except OperationCompletedError as error:
            return error.result


@pytest.mark.asyncio
async def test_an_order_that_was_found_is_never_sent_again(shockproof: Run, killed: Path) -> None:
    """The next life finds it completed, with the result that the person gave."""
    place = ("--state-dir", killed / "state")
    words = ("operations", "resolve", "bot-5", "--outcome", "found", "--yes", "--result", '{"id": 7}')
    settled = await _in_thread(shockproof, *words, "--by", "ann", "--note", "venue's page", *place)
    assert (settled.code, settled.out.splitlines()[-1]) == (0, "Recorded: found, says ann.")
    assert await _restart(killed / "state", "bot-5") == {"id": 7}
    shown = (await _in_thread(shockproof, "operations", "show", "bot-5", "--json", *place)).json
    assert (shown["status"], shown["resolved"]["by"], shown["resolved"]["note"]) == (
        "completed",
        "ann",
        "venue's page",
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(("passed", "may_arrive"), [(59.0, True), (61.0, False)])
async def test_an_order_that_is_absent_may_be_sent_again(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch, passed: float, may_arrive: bool
) -> None:
    """Nothing is pending any more, and its key is free; who said so stays on the disk, and who is early is warned."""
    place = ("--state-dir", killed / "state")
    sent_at = (await _in_thread(shockproof, "operations", "show", "bot-5", "--json", *place)).json["sent_at"]
    now = _moment(sent_at) + passed
    monkeypatch.setattr(operations, "time", SimpleNamespace(time=lambda: now))
    words = ("operations", "resolve", "bot-5", "--outcome", "absent", "--yes", "--by", "ann")
    settled = await _in_thread(shockproof, *words, *place)
    assert settled.code == 0
    assert ("may still arrive" in settled.out) == may_arrive
    assert await _restart(killed / "state", "bot-5") == "sent again"
    (line,) = (killed / "state" / "journal" / "resolved.jsonl").read_text().splitlines()
    trace = json.loads(line)
    assert [trace[name] for name in ("operation", "key", "outcome", "by")] == [
        "trading.once",
        "bot-5",
        "absent",
        "ann",
    ]
    assert trace["was"]["status"] == "pending"


@pytest.mark.asyncio
async def test_what_a_person_has_dealt_with_is_over(shockproof: Run, killed: Path) -> None:
    """Its key is taken, and nothing was sent."""
    place = ("--state-dir", killed / "state")
    words = ("operations", "resolve", "bot-5", "--outcome", "manual", "--yes", "--json")
    settled = await _in_thread(shockproof, *words, *place)
    assert (settled.code, settled.json["outcome"]) == (0, "manual")
    assert await _restart(killed / "state", "bot-5") is None


async def _in_thread(call: Run, *words: object) -> Any:
    return await asyncio.to_thread(call, *words)  # the command has an event loop of its own


def test_settled_once_there_is_nothing_to_settle_again(shockproof: Run, killed: Path) -> None:
    """A script that runs twice learns from the exit code that it is done."""
    words = ("operations", "resolve", "bot-5", "--outcome", "found", "--yes", "--state-dir", killed / "state")
    assert shockproof(*words).code == 0
    again = shockproof(*words)
    assert (again.code, again.err) == (
        3,
        "shockproof operations: 'bot-5' of trading.once is not pending: it has ended\n",
    )


def test_what_somebody_else_settled_meanwhile_is_not_settled_again(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one person reads the question, another answers it."""
    words = ("operations", "resolve", "bot-5", "--outcome", "found", "--state-dir", killed / "state")

    def meanwhile(screen: Screen, question: str, *, is_yes: bool) -> bool:
        if not is_yes:
            assert main([*map(str, words), "--by", "bob", "--yes"]) == 0
        return True

    monkeypatch.setattr(Screen, "confirm", meanwhile)
    refused = shockproof(*words, "--by", "ann")
    assert (refused.code, "was changed in the meantime: look again" in refused.err) == (2, True)
    trace = (killed / "state" / "journal" / "resolved.jsonl").read_text()
    assert ("bob" in trace, "ann" in trace) == (True, False)


def test_without_a_terminal_nothing_is_settled_unasked(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script has to say --yes; the journal stays as it is."""
    before = contents(killed)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        refused = shockproof(
            "operations", "resolve", "bot-5", "--outcome", "found", "--state-dir", killed / "state"
        )
    assert (refused.code, refused.err) == (
        2,
        "shockproof operations: there is no terminal to ask at: add --yes to do it\n",
    )
    assert contents(killed) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "bot-6"), 3, "nothing is pending with the key 'bot-6'"),
        (("show", "bot-5", "--operation", "other.once"), 3, "nothing is pending with the key 'bot-5'"),
        (("resolve", "bot-5", "--outcome", "lost"), 2, "invalid choice: 'lost'"),
        (
            ("resolve", "bot-5", "--outcome", "absent", "--result", "1"),
            2,
            "--result goes with --outcome found",
        ),
        (("resolve", "bot-5", "--outcome", "found", "--result", "{"), 2, "must be JSON, got '{'"),
        (("resolve", "bot-5"), 2, "--outcome"),
        ((), 2, "ACTION"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    shockproof: Run, killed: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """With an exit code that tells what is not there from what was wrongly asked."""
    place = ("--state-dir", killed / "state") if words else ()
    refused = shockproof("operations", *words, *place)
    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err
    assert refused.err.count("\n") == 1


def test_a_directory_that_is_not_there_is_named(shockproof: Run, tmp_path: Path) -> None:
    """And nothing is made."""
    refused = shockproof("operations", "list", "--state-dir", tmp_path / "typo")
    assert refused.code == 3
    assert f"{tmp_path / 'typo'} is not there" in refused.err
    assert not (tmp_path / "typo").exists()


def test_a_running_program_is_looked_at_and_left_alone(shockproof: Run, running: tuple[Path, int]) -> None:
    """Its journal is readable, its lock stays its own, and settling is refused with its number."""
    state_dir, pid = running
    listed = shockproof("operations", "list", "--state-dir", state_dir)
    assert (listed.code, "3 pending" in listed.out) == (0, True)
    assert f"process {pid}" in listed.out
    for words in (("journal", "verify"), ("state", "verify"), ("state", "show")):
        assert shockproof(*words, "--state-dir", state_dir).code == 0
    before = contents(state_dir)
    refused = shockproof(
        "operations", "resolve", "bot-5", "--outcome", "found", "--yes", "--state-dir", state_dir
    )
    assert (refused.code, refused.out) == (4, "")
    assert f"process {pid}" in refused.err
    assert contents(state_dir) == before


def test_another_users_journal_is_not_written_to(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment of root's would be one that the program cannot read."""
    before = contents(killed)
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    words = ("operations", "resolve", "bot-5", "--outcome", "found", "--yes", "--state-dir", killed / "state")
    refused = shockproof(*words)
    assert (refused.code, "run this as that user" in refused.err) == (2, True)
    assert contents(killed) == before


def test_the_lock_itself_protects_where_the_owner_cannot_be_seen(
    shockproof: Run, running: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An owner in another container is not in the list of locks: then taking the lock fails, and nothing is written."""
    empty = tmp_path / "locks"
    empty.touch()
    monkeypatch.setattr("shockproof.command_line.journal_owner._LOCKS", empty)
    state_dir, pid = running
    before = contents(state_dir)
    refused = shockproof(
        "operations", "resolve", "bot-5", "--outcome", "found", "--yes", "--state-dir", state_dir
    )
    assert (refused.code, f"process {pid}" in refused.err) == (4, True)
    assert contents(state_dir) == before


def test_damage_is_told_beside_the_list(shockproof: Run, killed: Path) -> None:
    """What is listed may not be all: exit code 1, and scripts that read stdout are not disturbed."""
    (segment,) = (killed / "state" / "journal").glob("journal-*.wal")
    data = bytearray(segment.read_bytes())
    data[data.index(b'"key":"bars"')] ^= 1
    segment.write_bytes(data)
    listed = shockproof("operations", "list", "--json", "--state-dir", killed / "state")
    assert "the journal is damaged" in listed.err
    assert isinstance(listed.json, list)
    assert listed.code == 1


# ---- when it was sent


async def _send(state_dir: Path, *, at_most_for: float | None, times: int = 1) -> tuple[float, float]:
    """What a program leaves that is killed while an order is in flight; between which moments it was sent last."""
    journal = Journal(state_dir / "journal")
    values, clock = JournalledValues(StateSecrets(SecretNames())), SystemClock()
    sending = Sending(journal, values, "trading", "bot-9", now=lambda: moment_of(clock))
    before = time.time()
    for _ in range(times):
        before = time.time()
        await sending.about_to_send(at_most_for=at_most_for, even_without_space=False)
    after = time.time()
    sending.release()  # nothing is told of its end
    await journal.aclose()
    return before, after


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("times", [1, 2])
def test_an_order_in_flight_was_sent_when_its_attempt_began(
    shockproof: Run, tmp_path: Path, times: int
) -> None:
    """And until when it may be in flight is said beside it: with a timeout of 300 s, nothing was sent in the future."""
    before, after = asyncio.run(_send(tmp_path, at_most_for=300.0, times=times))
    place = ("--state-dir", tmp_path)
    (listed,) = shockproof("operations", "list", "--json", *place).json
    assert before <= _moment(listed["sent_at"]) <= after
    assert _moment(listed["in_flight_until"]) == pytest.approx(_moment(listed["sent_at"]) + 300.0)
    shown = shockproof("operations", "show", "bot-9", *place).out
    (sent,) = [line for line in shown.splitlines() if line.startswith("last sent")]
    (under_way,) = [line for line in shown.splitlines() if line.startswith("under way")]
    assert sent.endswith(local_time(_moment(listed["sent_at"])))
    assert f"may be in flight until {local_time(_moment(listed['in_flight_until']))}" in under_way
    assert f"  {'once' if times == 1 else '2 times'}, first " in shown


def test_what_may_still_be_in_flight_is_said_before_it_is_settled_as_absent(
    shockproof: Run, tmp_path: Path
) -> None:
    """A look at the venue proves nothing before then; what was settled keeps the true time of its sending."""
    before, after = asyncio.run(_send(tmp_path, at_most_for=300.0))
    words = ("operations", "resolve", "bot-9", "--outcome", "absent", "--yes", "--state-dir", tmp_path)
    settled = shockproof(*words)
    assert (settled.code, "It may be in flight until" in settled.out) == (0, True)
    trace = json.loads((tmp_path / "journal" / "resolved.jsonl").read_text())
    assert before <= _moment(trace["was"]["sent_at"]) <= after


def test_without_a_timeout_nobody_knows_until_when_it_is_in_flight(shockproof: Run, tmp_path: Path) -> None:
    """No moment is made up."""
    asyncio.run(_send(tmp_path, at_most_for=None))
    shown = shockproof("operations", "show", "bot-9", "--state-dir", tmp_path)
    assert "nobody knows until when" in shown.out
    as_json = shockproof("operations", "show", "bot-9", "--json", "--state-dir", tmp_path).json
    assert as_json["in_flight_until"] is None


def test_what_is_settled_as_absent_is_found_in_the_trace(shockproof: Run, killed: Path) -> None:
    """The journal forgets it; who asks for it is told who settled it and where that stands."""
    place = ("--state-dir", killed / "state")
    resolve = ("operations", "resolve", "bot-5", "--outcome", "absent", "--by", "ann", "--yes", *place)
    assert shockproof(*resolve).code == 0
    trace = killed / "state" / "journal" / "resolved.jsonl"
    for gone in (shockproof("operations", "show", "bot-5", *place), shockproof(*resolve)):
        assert (gone.code, gone.err.count("\n")) == (3, 1)
        assert "'bot-5' of trading.once is not pending: settled by hand as absent, says ann" in gone.err
        assert str(trace) in gone.err
    listed = shockproof("operations", "list", "--all", *place)
    assert f"1 settled by hand as absent, and so free again: {trace}" in listed.out
    assert "as absent" not in shockproof("operations", "list", *place).out.replace(str(killed), "")


def test_a_trace_survives_a_power_cut_with_its_name(
    shockproof: Run, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was synced without its directory may be a file without a name."""
    journal = killed / "state" / "journal"
    synced: list[tuple[Path, bool]] = []
    sync = SystemFiles.fsync_directory

    def noting(layer: SystemFiles, path: Path) -> None:
        sync(layer, path)
        synced.append((path, (journal / "resolved.jsonl").exists()))

    monkeypatch.setattr(SystemFiles, "fsync_directory", noting)
    words = ("operations", "resolve", "bars", "--outcome", "manual", "--yes", "--state-dir", killed / "state")
    assert shockproof(*words).code == 0
    assert (journal, True) in synced


def test_a_key_that_begins_with_a_dash_goes_behind_two(shockproof: Run, tmp_path: Path) -> None:
    """The way to say it is in the error, and in what is suggested."""

    async def leave() -> None:
        async with ErrorRecoveryService(state_dir=tmp_path, error_log_dir=tmp_path / "errors") as recovery:
            with pytest.raises(ZeroDivisionError):
                async with recovery.operation("job", key="-dash"):
                    raise ZeroDivisionError

    asyncio.run(leave())
    place = ("--state-dir", tmp_path)
    refused = shockproof("operations", "resolve", "-dash", "--outcome", "found", "--yes", *place)
    assert (refused.code, "one that begins with a dash goes last, behind --" in refused.err) == (2, True)
    shown = shockproof("operations", "show", *place, "--", "-dash").out
    suggested = "shockproof operations resolve --operation job --outcome found|absent|manual -- -dash"
    assert suggested in shown
    resolve = ("operations", "resolve", "--operation", "job", "--outcome", "found", "--yes", *place)
    assert shockproof(*resolve, "--", "-dash").code == 0
