"""``shockproof operations``: what the journal of a program has pending, and how a person settles it."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from shockproof.command_line.journal_owner import owner_of, process_name
from shockproof.command_line.offers import offer, operations, pending_keys
from shockproof.command_line.options import add_json, add_state_dir, journal_dir, require_owner
from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.reading import files_with_progress
from shockproof.command_line.screen import Screen
from shockproof.memory.disk.file_layer import SYSTEM_FILES, write_all
from shockproof.memory.journal.journal import Journal, Session
from shockproof.memory.journal.journal_files import Recovered, read_journal
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.operation_table import OperationEntry, OperationTable
from shockproof.memory.journal.record import Kind, decode_body
from shockproof.memory.journal.sending import is_sending, sent_at, service_of, under_way_until
from shockproof.memory.state.codec import freeze
from shockproof.memory.state.state_files import StateFiles
from shockproof.views.saved_operations import saved_as_pending
from shockproof.views.shown_values import as_text, for_people, without_secrets
from shockproof.views.words import ago, local_time
from shockproof.vocabulary.errors import JournalLockedError, ShockproofError

__all__ = ["RESOLUTIONS_NAME", "add_options"]

RESOLUTIONS_NAME: Final = "resolved.jsonl"
"""In the journal's directory: who settled what by hand, a line each, never deleted."""

_OUTCOMES: Final = {
    "found": "it is there: the order is at the venue, the job was done",
    "absent": "it is certain that it is not there: it may begin, or be sent, again",
    "manual": "a person has dealt with it in another way: it is over",
}
_FRESH: Final = 60.0
"""Seconds; what was sent more recently may still be on its way."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    shown = actions.add_parser(
        "list",
        help="what began and did not end",
        description="What began and did not end, the oldest first. Changes nothing, also while the program runs.",
    )
    shown.add_argument("--all", action="store_true", help="also what ended, as far as it is remembered")
    shown.add_argument(
        "--exit-code", action="store_true", help="exit code 1 if anything is pending, in the saved state, too"
    )
    add_state_dir(shown)
    add_json(shown)
    shown.set_defaults(run=_list)

    one = actions.add_parser(
        "show",
        help="everything that is known of one",
        description="Everything that is known of one operation. Changes nothing, also while the program runs.",
    )
    _add_which(one)
    add_state_dir(one)
    add_json(one)
    one.set_defaults(run=_show)

    resolve = actions.add_parser(
        "resolve",
        help="say what became of one",
        description="Tells the journal what became of an operation, so that it is not pending any more. "
        "Refused while a program owns the journal. Who said it, when and why is kept in journal/resolved.jsonl.",
    )
    _add_which(resolve)
    resolve.add_argument(
        "--outcome",
        required=True,
        choices=tuple(_OUTCOMES),
        help="; ".join(f"{name}: {meaning}" for name, meaning in _OUTCOMES.items()),
    )
    resolve.add_argument("--note", metavar="TEXT", default="", help="how it is known; kept with the outcome")
    resolve.add_argument("--by", metavar="NAME", help="who says so (default: the user at this machine)")
    resolve.add_argument(
        "--result",
        type=_json_value,
        metavar="JSON",
        help="what the program finds as the result when it asks for this key again; with --outcome found",
    )
    resolve.add_argument("--yes", action="store_true", help="do not ask")
    add_state_dir(resolve)
    add_json(resolve)
    resolve.set_defaults(run=_resolve)


def _add_which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_argument(
        "which", metavar="KEY", help="the key; of one without a key, the operation's name"
    )
    offer(which, pending_keys)
    operation = parser.add_argument(
        "--operation", metavar="NAME", help="where several have this key: the operation's name"
    )
    offer(operation, operations)


def _json_value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON, got {text!r} ({error})") from None


# ---- looking


def _list(given: argparse.Namespace, screen: Screen) -> int:
    journal = journal_dir(given.state_dir)
    recovered = _read(journal, screen)
    table = recovered.table
    entries = [*table.completed(), *table.pending()] if given.all else list(table.pending())
    saved = _saved(given.state_dir, table, screen)
    if given.json:
        screen.json([*map(_described, entries), *map(_described_as_saved, saved or ())])
    else:
        now = time.time()
        screen.table(
            ("KEY", "OPERATION", "KIND", "STATUS", "SINCE", "BEGUN", "LAST WORDS"),
            [_row(entry, now) for entry in entries],
            styles=[None if entry.is_completed else "yellow" for entry in entries],
        )
        pending = len(table.pending())
        screen.line(f"{pending} pending in {journal}; its owner: {owner_of(journal)}", "dim")
        if saved:
            screen.line(
                f"{len(saved)} more saved as pending, and not in the journal: shockproof state show active_operations",
                "yellow",
            )
        if given.all and (forgotten := _settled_as_absent(journal)):
            screen.line(
                f"{forgotten} settled by hand as absent, and so free again: {journal / RESOLUTIONS_NAME}",
                "dim",
            )
    is_pending = bool(table.pending() or saved)
    is_wrong = recovered.has_lost_something or saved is None or (given.exit_code and is_pending)
    return ExitCode.WRONG if is_wrong else ExitCode.FINE


def _saved(
    state_dir: Path, table: OperationTable, screen: Screen
) -> list[dict[str, Any]] | None:  # Any: frozen values
    """What the state alone has: that of the original program, say, which had no journal. None: it cannot be read."""
    try:
        with files_with_progress(state_dir) as layer:
            files = StateFiles(state_dir, layer=layer).survey()
    except (OSError, ShockproofError) as error:
        screen.warn(f"the saved state cannot be read: {error}")
        return None
    return saved_as_pending(files, table)


def _row(entry: OperationEntry, now: float) -> tuple[str, ...]:
    body = entry.body
    at = _number(body.get("ended")) or _last_begun(entry) or _number(body.get("at"))
    resolved = body.get("resolved")
    last_words = body.get("interrupted")
    if isinstance(resolved, dict):
        last_words = f"{resolved.get('outcome')}, says {resolved.get('by')}"
    return (
        entry.name.key or "-",
        entry.name.operation,
        _kind(entry),
        "completed" if entry.is_completed else "pending",
        "" if at is None else f"{ago(now - at)} ago",
        str(body.get("begun", "")),
        as_text(without_secrets(last_words or "")),
    )


def _show(given: argparse.Namespace, screen: Screen) -> int:
    journal = journal_dir(given.state_dir)
    recovered = _read(journal, screen)
    entry = _chosen(recovered, given, journal)
    story = _story(recovered, entry.name)
    if given.json:
        records = [{**record, "at": _iso(record["at"])} for record in story]
        screen.json({**_described(entry), "records": records})
        return ExitCode.FINE
    body = entry.body
    screen.fields(
        [
            ("key", entry.name.key or "-"),
            ("operation", entry.name.operation),
            ("kind", _kind(entry)),
            ("service", service_of(entry) if is_sending(entry) else ""),
            ("status", "completed" if entry.is_completed else "pending"),
            ("begun", f"{_times(entry)}, first {local_time(_number(body.get('at')))}"),
            ("last sent", local_time(_last_begun(entry))),
            ("under way", _under_way(entry, time.time())),
            ("ended", local_time(_number(body.get("ended")))),
            *(
                (name, as_text(for_people(_secretless(body, name))))
                for name in _USERS_VALUES
                if body.get(name)
            ),
            ("journal", f"{journal}; its owner: {owner_of(journal)}"),
        ]
    )
    screen.line()
    for record in story:
        screen.line(f"{record['sequence']:>8}  {record['kind']:<11} {local_time(record['at'])}")
    if not entry.is_completed:
        screen.line()
        screen.line(
            "Look it up at the venue by its key, then: " if is_sending(entry) else "See what it did, then: "
        )
        screen.line(f"  shockproof operations resolve {_words(entry)}", "cyan")
    return ExitCode.FINE


def _times(entry: OperationEntry) -> str:
    times = entry.times_begun
    return "once" if times == 1 else f"{times or '?'} times"


def _last_begun(entry: OperationEntry) -> float | None:
    return sent_at(entry) if is_sending(entry) else None


def _under_way(entry: OperationEntry, now: float) -> str:
    """Of an order that is pending: whether its last attempt may be at the venue's door still."""
    if entry.is_completed or not is_sending(entry):
        return ""
    until = under_way_until(entry)
    if until is None:
        return "nobody knows until when"
    return f"{'may be in flight until' if until > now else 'until'} {local_time(until)}, at the latest"


_USERS_VALUES: Final = ("details", "progress", "interrupted", "result", "resolved")


def _secretless(body: dict[str, Any], name: str) -> Any:  # Any: frozen values
    return without_secrets({name: body.get(name)})[name]


def _described(entry: OperationEntry) -> dict[str, object]:
    """An operation for programs: values in the form in which they stand in the journal, without secrets."""
    body = entry.body
    return {
        "key": entry.name.key,
        "operation": entry.name.operation,
        "kind": _kind(entry),
        "service": service_of(entry) if is_sending(entry) else body.get("service"),
        "status": "completed" if entry.is_completed else "pending",
        "begun": body.get("begun"),
        "at": _iso(body.get("at")),
        "sent_at": _iso(_last_begun(entry)),
        "in_flight_until": _iso(under_way_until(entry)) if is_sending(entry) else None,
        "ended": _iso(body.get("ended")),
        **{name: _secretless(body, name) for name in _USERS_VALUES if name in body},
    }


def _described_as_saved(saved: dict[str, Any]) -> dict[str, object]:  # Any: frozen values
    """One that only the state has, in the same form: what else is saved of it stands as its progress."""
    rest = {name: value for name, value in saved.items() if name not in {"operation", "key", "status"}}
    unknown = dict.fromkeys(("service", "begun", "at", "sent_at", "in_flight_until", "ended"))
    name = {"key": saved.get("key"), "operation": saved.get("operation"), "kind": "saved"}
    return {**name, **unknown, "status": "pending", "progress": rest}


def _story(recovered: Recovered, name: Name) -> list[dict[str, Any]]:  # Any: numbers and texts
    """What the newest segment tells of it, in order: what came before that is summed up in its first record."""
    told: list[dict[str, Any]] = []  # Any: as above
    for record in recovered.segments[-1].records if recovered.segments else ():
        body = decode_body(record.body)
        if body is not None and (body.get("operation"), body.get("key")) == name:
            at = _number(body.get("ended")) or _number(body.get("at"))
            told.append({"sequence": record.sequence, "kind": kind_name(record.kind), "at": at})
    return told


def kind_name(kind: int) -> str:
    """What a record tells, in a word; a number for what only a newer program knows."""
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return str(kind)


def _kind(entry: OperationEntry) -> str:
    return "order" if is_sending(entry) else "operation"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _iso(value: object) -> str | None:
    at = _number(value)
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None


def _words(entry: OperationEntry) -> str:
    import shlex

    which = entry.name.operation if entry.name.key is None else entry.name.key
    options = "--outcome found|absent|manual"
    if entry.name.key is not None:
        options = f"--operation {shlex.quote(entry.name.operation)} {options}"
    is_like_an_option = which.startswith("-")
    return f"{options} -- {shlex.quote(which)}" if is_like_an_option else f"{shlex.quote(which)} {options}"


def _read(journal: Path, screen: Screen) -> Recovered:
    with files_with_progress(journal) as layer:
        recovered = read_journal(layer, journal)
    if recovered.damage is not None:
        screen.warn(
            f"the journal is damaged ({recovered.damage}): an operation may be missing, or pending that had "
            "ended; see shockproof journal verify"
        )
    elif recovered.incomplete is not None:
        screen.warn(
            f"something is missing from the journal ({recovered.incomplete}): an operation may be missing, or pending "
            "that had ended; see shockproof journal verify"
        )
    return recovered


def _chosen(
    recovered: Recovered, given: argparse.Namespace, journal: Path, *, pending_only: bool = False
) -> OperationEntry:
    table = recovered.table
    everything = [*table.pending()] if pending_only else [*table.pending(), *table.completed()]
    found = [
        entry
        for entry in everything
        if (entry.name.operation if entry.name.key is None else entry.name.key) == given.which
        and given.operation in {None, entry.name.operation}
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(entry.name.operation for entry in found)
        raise CommandError(f"several have the key {given.which!r}: choose one with --operation ({names})")
    for entry in table.completed():
        if entry.name.key == given.which and given.operation in {None, entry.name.operation}:
            raise CommandError(
                f"{given.which!r} of {entry.name.operation} is not pending: it has ended", ExitCode.NOT_THERE
            )
    for trace in reversed(_traces(journal)):
        operation, key = trace.get("operation"), trace.get("key")
        if given.which == (operation if key is None else key) and given.operation in {None, operation}:
            raise CommandError(
                f"{given.which!r} of {operation} is not pending: settled by hand as "
                f"{trace.get('outcome')}, says {trace.get('by')}, {trace.get('at')}; what was known of it is in "
                f"{journal / RESOLUTIONS_NAME}",
                ExitCode.NOT_THERE,
            )
    raise CommandError(
        f"nothing is pending with the key {given.which!r}; shockproof operations list shows what is",
        ExitCode.NOT_THERE,
    )


def _traces(journal: Path) -> list[dict[str, Any]]:  # Any: numbers and texts
    """What was settled by hand, the oldest first; a line that a crash tore is none."""
    try:
        lines = (journal / RESOLUTIONS_NAME).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [trace for trace in map(decode_body, lines) if trace is not None]


def _settled_as_absent(journal: Path) -> int:
    return sum(trace.get("outcome") == "absent" for trace in _traces(journal))


# ---- settling


def _resolve(given: argparse.Namespace, screen: Screen) -> int:
    if given.result is not None and given.outcome != "found":
        raise CommandError(f"--result goes with --outcome found, and not with {given.outcome}")
    journal = journal_dir(given.state_dir)
    entry = _chosen(_read(journal, screen), given, journal, pending_only=True)
    require_owner(journal)
    _refuse_if_owned(journal)
    shown = _described(entry)
    if not given.json:
        now = time.time()
        screen.table(
            ("KEY", "OPERATION", "KIND", "STATUS", "SINCE", "BEGUN", "LAST WORDS"), [_row(entry, now)]
        )
        if given.outcome == "absent" and is_sending(entry) and (warning := _may_still_arrive(entry, now)):
            screen.line(warning, "yellow")
    question = f"Record {given.outcome!r} ({_OUTCOMES[given.outcome]})?"
    if not screen.confirm(question, is_yes=given.yes):
        raise CommandError("nothing was changed")
    resolution = {
        "outcome": given.outcome,
        "by": given.by or _this_person(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": given.note,
    }
    trace: dict[str, object] = {
        "operation": entry.name.operation,
        "key": entry.name.key,
        **resolution,
        "was": shown,
    }
    try:
        asyncio.run(_record(journal, entry, resolution, given.result, trace))
    except JournalLockedError as error:
        raise _owned(error.pid) from None
    if given.json:
        screen.json({"operation": entry.name.operation, "key": entry.name.key, **resolution})
    else:
        screen.line(f"Recorded: {given.outcome}, says {resolution['by']}.", "green")
    return ExitCode.FINE


def _may_still_arrive(entry: OperationEntry, now: float) -> str | None:
    until, sent = under_way_until(entry), sent_at(entry)
    if until is not None and until > now:
        return (
            f"It may be in flight until {local_time(until)}, and still arrive: a look at the venue before then "
            "proves nothing."
        )
    last = sent if until is None else until
    if last is None or now - last >= _FRESH:
        return None
    what = "was sent" if until is None else "was under way until, at the latest,"
    return f"It {what} {ago(now - last)} ago, and may still arrive: a later look at the venue proves more."


async def _record(
    directory: Path,
    entry: OperationEntry,
    resolution: dict[str, str],
    result: object,
    trace: dict[str, object],
) -> None:
    journal = Journal(directory)
    frozen = freeze(result, name="result", refusal="nothing was recorded")

    def act(session: Session) -> None:
        known = session.table.get(entry.name)
        if known is None or known.body != entry.body:
            raise CommandError(
                f"{entry.name.key or entry.name.operation!r} was changed in the meantime: look again"
            )
        _append(directory / RESOLUTIONS_NAME, trace)
        session.require(
            Kind.END,
            {
                "operation": entry.name.operation,
                "key": entry.name.key,
                "status": "abandoned" if resolution["outcome"] == "absent" else "completed",
                "at": time.time(),
                "result": frozen,
                "resolved": resolution,
            },
            even_without_space=True,
        )

    try:
        await journal.ask(act)
    finally:
        await journal.aclose()


def _append(path: Path, line: dict[str, object]) -> None:
    """Before the journal is told: what is settled by hand has left its trace, whatever happens then."""
    with SYSTEM_FILES.open_to_append(path) as file:
        content = json.dumps(line, ensure_ascii=True, default=str) + "\n"
        write_all(SYSTEM_FILES, file.fileno(), content.encode())
        SYSTEM_FILES.fsync(file.fileno())
    SYSTEM_FILES.fsync_directory(path.parent)  # each time: who made the file may not have come to it


def _refuse_if_owned(journal: Path) -> None:
    owner = owner_of(journal)
    if owner.is_owned:
        raise _owned(owner.pid)


def _owned(pid: int | None) -> CommandError:
    who = "another process" if pid is None else f"process {pid}{process_name(pid)}"
    return CommandError(
        f"{who} owns the journal: stop it first, or let it settle this by itself with reconcile()",
        ExitCode.OWNED,
    )


def _this_person() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        name = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{name}@{platform.node()}"
