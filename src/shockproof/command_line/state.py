"""``shockproof state``: what a program has saved, whether its files are sound, and the files themselves."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

from shockproof.command_line.offers import days_of_states, offer, sections, state_files
from shockproof.command_line.options import add_json, add_state_dir, day, existing
from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.reading import files_with_progress
from shockproof.command_line.screen import Screen
from shockproof.memory.disk.damaged_files import DAMAGED_DIRECTORY
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.operation import with_pending
from shockproof.memory.services.halt import Mark, read_mark
from shockproof.memory.state.daily_states import days_kept, states_of_days
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.state.state_survey import SurveyedFile
from shockproof.views.saved_circuits import circuits_in_words
from shockproof.views.shown_values import as_text, for_people, without_secrets
from shockproof.views.state_of_day import state_before, states_kept
from shockproof.views.words import ago, local_time, size_text
from shockproof.vocabulary.errors import ShockproofError

__all__ = ["add_options", "files_set_aside"]

_MOST_ENTRIES: Final = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="what the program saved last",
        description="What restore_state() would give: what the program saved last, and what is pending in the "
        "journal; first the kill switch, if it is on. Changes nothing, also while the program runs.",
    )
    section = show.add_argument(
        "section", nargs="?", metavar="SECTION", help="only this one, such as cached_data or cached_data.AAPL"
    )
    of_day = show.add_argument(
        "--day",
        type=day,
        metavar="DAY",
        help="the last state of that day (2026-11-25, yesterday), where the program keeps them: keep_daily_states",
    )
    offer(section, sections)
    offer(of_day, days_of_states)
    add_state_dir(show)
    add_json(show)
    show.set_defaults(run=_show)

    verify = actions.add_parser(
        "verify",
        help="whether its files are sound",
        description="Checks each state file, also those of days. Changes nothing; a damaged file stays where it is. Exit "
        "code 1: one of them is damaged or cannot be read.",
    )
    add_state_dir(verify)
    add_json(verify)
    verify.set_defaults(run=_verify)

    dump = actions.add_parser(
        "dump",
        help="a state file as one JSON document",
        description="A state file as one JSON document, also the pickle. Values that JSON lacks are objects with the "
        "key $. Secrets are left out.",
    )
    file = dump.add_argument(
        "--file",
        metavar="NAME",
        help="such as system_state.pkl, or days/2026-11-25.system_state.json (default: what restore_state() would take)",
    )
    offer(file, state_files)
    add_state_dir(dump)
    dump.set_defaults(run=_dump)


def files_set_aside(directory: Path) -> list[str]:
    """The names of what was set aside as damaged."""
    try:
        return sorted(SystemFiles().list_directory(directory / DAMAGED_DIRECTORY))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _survey(given: argparse.Namespace) -> tuple[SurveyedFile, ...]:
    with files_with_progress(existing(given.state_dir, "--state-dir")) as layer:
        return StateFiles(given.state_dir, layer=layer).survey()


def _kept(given: argparse.Namespace) -> Iterator[SurveyedFile]:
    with files_with_progress(states_of_days(given.state_dir)) as layer:
        yield from states_kept(given.state_dir, layer)


def _name(file: SurveyedFile, state_dir: Path) -> str:
    return file.path.relative_to(state_dir).as_posix()


def _newest(files: Sequence[SurveyedFile], directory: Path, screen: Screen) -> SurveyedFile:
    _warn_of(files, screen)
    if files and files[0].verdict == "valid":
        return files[0]
    raise _no_state(files, directory)


def _warn_of(files: Sequence[SurveyedFile], screen: Screen) -> None:
    for file in files:
        if file.verdict != "valid":
            screen.warn(f"{file.path.name} is {file.verdict}: {file.reason}")


def _no_state(files: Sequence[SurveyedFile], directory: Path) -> CommandError:
    if not files:
        return CommandError(f"no state was saved in {directory}", ExitCode.NOT_THERE)
    return CommandError(f"no state file is valid in {files[0].path.parent}", ExitCode.WRONG)


def _save(file: SurveyedFile) -> str:
    return "by the original program" if file.sequence is None else f"save {file.sequence}"


# ---- show


def _show(given: argparse.Namespace, screen: Screen) -> int:
    files = _survey(given)
    if given.day is not None:
        begin, until = given.day
        files = _of_day(files, begin, until, given.state_dir, screen)
    # The halt and the journal are as they are now.
    mark = None if given.day is not None else _mark(given.state_dir)
    said_of_the_halt = None if mark is None else f"HALTED since {local_time(mark.since)}: {mark.reason}"
    if said_of_the_halt is not None:
        if given.json or given.section is not None:
            screen.warn(said_of_the_halt)  # stdout has one JSON document
        else:
            screen.line(said_of_the_halt, "red")
    _warn_of(files, screen)
    pending, is_whole = ([], True) if given.day is not None else _pending(given.state_dir / "journal", screen)
    file = files[0] if files and files[0].verdict == "valid" else None
    content: dict[str, Any] = {} if file is None else without_secrets(file.content)  # Any: frozen values
    if pending:
        content["active_operations"] = _with_pending(content.get("active_operations"), pending)
    if file is None and not content:
        raise _no_state(files, given.state_dir)
    if given.section is not None:
        value = _section(content, given.section)
        screen.json(value if given.json else for_people(value))
    elif given.json:
        halted = None if mark is None else {"reason": mark.reason, "since": local_time(mark.since)}
        head = (
            {"file": None, "sequence": None}
            if file is None
            else {"file": file.path.name, "sequence": file.sequence}
        )
        screen.json({**head, "halted": halted, **content})
    else:
        _show_to_people(file, content, screen)
    # Pending operations alone make a state, too; a file that is damaged, or of a newer program, is wrong all the same.
    return ExitCode.WRONG if (file is None and files) or not is_whole else ExitCode.FINE


def _of_day(
    files: tuple[SurveyedFile, ...], begin: datetime, until: datetime, directory: Path, screen: Screen
) -> tuple[SurveyedFile, ...]:
    found = state_before(until, files, directory)
    saved = found[0].timestamp if found else None
    if saved is not None and saved.timestamp() >= until.timestamp():
        days = days_kept(SystemFiles(), directory)
        oldest = (
            f"the oldest that is there is of {days[0]}"
            if days
            else f"the newest was saved {local_time(saved)}"
        )
        raise CommandError(
            f"no state of {begin:%Y-%m-%d} is kept in {directory}: {oldest}", ExitCode.NOT_THERE
        )
    if saved is not None and saved.timestamp() < begin.timestamp():
        screen.warn(
            f"no state of {begin:%Y-%m-%d} itself is kept: this is the last before, saved {local_time(saved)}"
        )
    return found


def _mark(state_dir: Path) -> Mark | None:
    now = time.time()
    try:
        return read_mark(state_dir, now=now)
    except OSError as error:
        return Mark(
            f"whether it is halted cannot be read ({error.strerror}), and so it counts as halted", now
        )


def _pending(journal: Path, screen: Screen) -> tuple[list[dict[str, Any]], bool]:  # Any: frozen values
    """What restore_state() adds from the journal, oldest first, without secrets; and whether nothing is missing."""
    try:
        with files_with_progress(journal) as layer:
            recovered = read_journal(layer, journal)
    except (OSError, ShockproofError) as error:
        screen.warn(f"the journal cannot be read, nor could restore_state(): {error}")
        return [], False
    if recovered.damage is not None:
        screen.warn(f"the journal is damaged: {recovered.damage}; see shockproof journal verify")
    elif recovered.incomplete is not None:
        screen.warn(
            f"something is missing from the journal: {recovered.incomplete}; see shockproof journal verify"
        )
    pending = [
        {
            "operation": entry.name.operation,
            "key": entry.name.key,
            "status": "pending",
            **without_secrets(entry.body.get("progress") or {}),
        }
        for entry in recovered.table.pending()
    ]
    return pending, not recovered.has_lost_something


def _with_pending(saved: Any, pending: list[dict[str, Any]]) -> list[Any]:  # Any: frozen values
    dicts = [one for one in saved if isinstance(one, dict)] if isinstance(saved, list) else []
    return with_pending(dicts, pending)


def _show_to_people(
    file: SurveyedFile | None, content: dict[str, Any], screen: Screen
) -> None:  # Any: frozen values
    if file is None:
        screen.line("No state is there: what is pending in the journal makes one.")
    else:
        age = "" if file.timestamp is None else ago(time.time() - file.timestamp.timestamp())
        screen.fields(
            [("file", f"{file.path}, {_save(file)}"), ("saved", f"{local_time(file.timestamp)}, {age} ago")]
        )
    shown = for_people({name: value for name, value in content.items() if name != "timestamp"})
    if isinstance(shown.get("circuit_breakers"), dict):
        shown["circuit_breakers"] = circuits_in_words(shown["circuit_breakers"])
    for name, section in shown.items():
        screen.line()
        if not isinstance(section, dict | list):
            screen.line(f"{name}: {as_text(section)}")
            continue
        screen.line(f"{name} ({len(section)})", "bold")
        if isinstance(section, dict):
            screen.fields(
                [(f"  {key}", as_text(value)) for key, value in list(section.items())[:_MOST_ENTRIES]]
            )
        else:
            for value in section[:_MOST_ENTRIES]:
                screen.line(f"  {as_text(value)}")
        if len(section) > _MOST_ENTRIES:
            screen.line(f"  and {len(section) - _MOST_ENTRIES:,} more: shockproof state show {name}", "dim")


def _section(content: Any, path: str) -> Any:  # Any: frozen values
    value = content
    for name in path.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise CommandError(
                f"there is no {path!r} in it: nothing has the name {name!r}", ExitCode.NOT_THERE
            )
    return value


# ---- verify


def _verify(given: argparse.Namespace, screen: Screen) -> int:
    files = _survey(given)
    kept = [file._replace(content=None) for file in _kept(given)]  # each of them may be large
    if not files and not kept:
        raise CommandError(f"no state was saved in {given.state_dir}", ExitCode.NOT_THERE)
    is_wrong = any(file.verdict != "valid" for file in (*files, *kept))
    aside = files_set_aside(given.state_dir)
    if given.json:
        rows = [
            {
                "file": _name(file, given.state_dir),
                "verdict": file.verdict,
                "reason": file.reason,
                "sequence": file.sequence,
                "timestamp": None if file.timestamp is None else file.timestamp.isoformat(),
                "size": file.size,
                "is_restored": number == 0 and bool(files) and file.verdict == "valid",
            }
            for number, file in enumerate((*files, *kept))
        ]
        screen.json({"files": rows, "set_aside": aside})
    else:
        screen.table(
            ("FILE", "VERDICT", "SAVE", "SAVED", "SIZE", "WHAT IT MEANS"),
            [
                *(_row(file, file.path.name, _meaning(file, is_first=not n)) for n, file in enumerate(files)),
                *(_row(file, _name(file, given.state_dir), _meaning_of_day(file)) for file in kept),
            ],
            styles=["green" if file.verdict == "valid" else "red" for file in (*files, *kept)],
        )
        if aside:
            screen.line(
                f"{len(aside)} damaged before and set aside in {given.state_dir / DAMAGED_DIRECTORY}", "dim"
            )
    return ExitCode.WRONG if is_wrong else ExitCode.FINE


def _meaning(file: SurveyedFile, *, is_first: bool) -> str:
    if file.verdict == "damaged":
        return f"{file.reason}; the program will set it aside and take another"
    if file.verdict != "valid":
        return file.reason or ""
    if file.reason is not None:
        return f"sound, and needs the program's own classes: {file.reason}"
    return "the program would restore this one" if is_first else "sound"


def _meaning_of_day(file: SurveyedFile) -> str:
    return "sound, the last of its day" if file.verdict == "valid" else file.reason or ""


def _row(file: SurveyedFile, name: str, meaning: str) -> tuple[str, ...]:
    return (
        name,
        file.verdict,
        "-" if file.verdict != "valid" else _save(file).removeprefix("save "),
        local_time(file.timestamp),
        "" if file.size is None else size_text(file.size),
        meaning,
    )


# ---- dump


def _dump(given: argparse.Namespace, screen: Screen) -> int:
    files = _survey(given)
    if given.file is None:
        file = _newest(files, given.state_dir, screen)
    else:
        file = _named(given, files)
        if file.content is None:
            raise CommandError(f"{file.path} is {file.verdict}: {file.reason}", ExitCode.WRONG)
    screen.json(
        {"file": _name(file, given.state_dir), "sequence": file.sequence, **without_secrets(file.content)}
    )
    return ExitCode.FINE


def _named(given: argparse.Namespace, files: Sequence[SurveyedFile]) -> SurveyedFile:
    names: list[str] = []
    for file in chain(files, _kept(given)):
        name = _name(file, given.state_dir)
        if name == given.file:
            return file
        names.append(name)
    raise CommandError(
        f"{given.file!r} is no state file of {given.state_dir}; there are: {', '.join(names) or 'none'}",
        ExitCode.NOT_THERE,
    )
