"""``shockproof journal``: whether the operation journal is sound, and every record of it."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from shockproof.command_line.journal_owner import Owner, owner_of
from shockproof.command_line.offers import offer, operations, recorded_keys
from shockproof.command_line.operations import RESOLUTIONS_NAME, kind_name
from shockproof.command_line.options import add_json, add_state_dir, journal_dir
from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.reading import files_with_progress
from shockproof.command_line.screen import Screen
from shockproof.command_line.state import files_set_aside
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.earlier_sends import sends_carried_along
from shockproof.memory.journal.incomplete import INCOMPLETE_NAME, mark_removed
from shockproof.memory.journal.journal_files import LOCK_NAME, RESERVE_NAME, Recovered, read_journal
from shockproof.memory.journal.position import forget_position, position_path
from shockproof.memory.journal.record import Kind, Record, decode_body, size_of
from shockproof.memory.journal.segment import SegmentContent, name_of
from shockproof.views.shown_values import as_text, for_people, without_secrets
from shockproof.views.words import local_time, size_text

__all__ = ["add_options"]

_OWN_NAMES: Final = frozenset(
    {"operation", "key", "service", "status", "at", "begun", "attempt_at", "sent_at", "ended"}
)
_TRIES: Final = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    verify = actions.add_parser(
        "verify",
        help="whether it is sound",
        description="Checks every record of the journal. Changes nothing, also while the program runs. Exit code 1: "
        "something was lost that had been acknowledged as durable. An end that a crash has torn is no damage.",
    )
    add_state_dir(verify)
    add_json(verify)
    verify.set_defaults(run=_verify)

    trust = actions.add_parser(
        "trust",
        help="nothing is missing from it any more",
        description="After damage, after the journal was removed or an older copy was put in its place, and after the account was "
        "owned by a process with another journal, a program looks up every order whose key it was given and that the journal does not "
        f"know before it sends it, as long as journal/{INCOMPLETE_NAME} is there. This "
        "removes it, and takes what is there for all there is: for when every order of before is settled. Refused while a "
        "program owns the journal.",
    )
    add_state_dir(trust)
    trust.set_defaults(run=_trust)

    dump = actions.add_parser(
        "dump",
        help="all its records",
        description="Every record that can be read, a line each, without secrets. Changes nothing, also while the "
        "program runs.",
    )
    key = dump.add_argument("--key", metavar="KEY", help="only records of this key")
    operation = dump.add_argument("--operation", metavar="NAME", help="only records of this operation")
    offer(key, recorded_keys)
    offer(operation, operations)
    add_state_dir(dump)
    add_json(dump, "a JSON object on each line")
    dump.set_defaults(run=_dump)


def _read(journal: Path) -> Recovered:
    if not journal.is_dir() and not position_path(journal).exists():
        raise CommandError(
            f"there is no journal in {journal.parent}: no operation ever began", ExitCode.NOT_THERE
        )
    with files_with_progress(journal) as layer:
        return read_journal(layer, journal)


def _read_settled(journal: Path) -> Recovered:
    # What its owner is writing at this moment looks torn: then it is looked at again.
    for _ in range(_TRIES):
        recovered = _read(journal)
        is_whole = not any(segment.tail or segment.damage for segment in recovered.segments)
        if is_whole or owner_of(journal).is_owned is False:
            return recovered
    return _read(journal)


# ---- verify


def _verify(given: argparse.Namespace, screen: Screen) -> int:
    journal = journal_dir(given.state_dir)
    recovered = _read_settled(journal)
    owner = owner_of(journal)
    names = SystemFiles().list_directory(journal) if journal.is_dir() else []
    findings = [
        _finding(segment, is_newest=segment is recovered.segments[-1]) for segment in recovered.segments
    ]
    if given.json:
        screen.json(
            {
                "segments": findings,
                "incomplete": recovered.incomplete,
                "owned_elsewhere": None
                if recovered.owned_elsewhere is None
                else recovered.owned_elsewhere.why,
                "hole": recovered.hole,
                "behind": recovered.behind,
                "is_elsewhere": recovered.is_elsewhere,
                "pending": len(recovered.table.pending()),
                "owner": {"pid": owner.pid, "is_owned": owner.is_owned},
                "has_reserve": RESERVE_NAME in names,
                "set_aside": files_set_aside(journal),
            }
        )
    else:
        _verify_for_people(journal, recovered, findings, owner, names, screen)
    return ExitCode.WRONG if recovered.has_lost_something else ExitCode.FINE


def _verify_for_people(
    journal: Path,
    recovered: Recovered,
    findings: list[dict[str, Any]],  # Any: numbers and texts
    owner: Owner,
    names: list[str],
    screen: Screen,
) -> None:
    for found in findings:
        style = {"sound": "green", "torn": "yellow", "damaged": "red"}[found["verdict"]]
        kinds = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items())
        screen.line(f"{found['file']}: {found['verdict']}, {found['records']:,} records", style)
        screen.line(f"  {kinds or 'nothing in it'}", "dim")
        if found["meaning"] is not None:
            screen.line(f"  {found['meaning']}")
    if recovered.hole is not None:
        screen.line(
            f"No segment is there, and there was one: {recovered.hole}. Put it back under its name, if there is a copy.",
            "red",
        )
    elif recovered.behind is not None:
        screen.line(f"Something is missing from it: {recovered.behind}", "red")
        screen.line(
            "  Put the right one back, if there is a copy. As it is, a program looks up each key that it does not know "
            "before it is sent, until: shockproof journal trust"
        )
    elif not findings:
        screen.line("No segment is there: nothing was ever recorded.")
    if recovered.incomplete is not None:
        screen.line(f"Something is missing from it: {recovered.incomplete}", "red")
    if recovered.owned_elsewhere is not None:
        screen.line(f"It is not all there is: {recovered.owned_elsewhere.why}", "yellow")
    if recovered.incomplete is not None or recovered.owned_elsewhere is not None:
        screen.line(
            "  A key that it does not know is looked up before it is sent, until: shockproof journal trust"
        )
    if recovered.is_elsewhere and recovered.behind is None:
        screen.line(
            "Its files are others than those that were written last: it is a copy, or was put back from one. What was "
            f"sent since is not in it: if that may matter, touch {journal / INCOMPLETE_NAME}",
            "yellow",
        )
    aside = files_set_aside(journal)
    screen.fields(
        [
            ("pending", str(len(recovered.table.pending()))),
            ("owner", str(owner)),
            ("reserve", "there" if RESERVE_NAME in names else "missing: a full disk would stop outcomes too"),
            ("damaged before", f"{len(aside)} set aside in {journal / 'damaged'}" if aside else ""),
            ("settled by hand", str(journal / RESOLUTIONS_NAME) if RESOLUTIONS_NAME in names else ""),
        ]
    )


def _finding(segment: SegmentContent, *, is_newest: bool) -> dict[str, Any]:  # Any: numbers and texts
    records = segment.records
    verdict, meaning = "sound", None
    where = f"from byte {segment.chain_end:,} on ({size_text(len(segment.tail))})"
    if segment.damage is not None:
        verdict = "damaged"
        meaning = (
            f"{segment.damage}; {where}. An operation may be missing, or pending that had ended. The program uses "
            "what can be read, and keeps this file in damaged/"
        )
    elif segment.tail:
        verdict = "torn"
        meaning = (
            f"what was being written when the program ended is torn {where}: nothing in it had been acknowledged"
            if is_newest
            else f"it is torn {where}, and the newer segment holds everything"
        )
    return {
        "file": name_of(segment.number),
        "verdict": verdict,
        "meaning": meaning,
        "records": len(records),
        "kinds": dict(Counter(kind_name(record.kind) for record in records)),
        "first_sequence": records[0].sequence if records else None,
        "last_sequence": max((record.sequence for record in records), default=None),
        "chain_end": segment.chain_end,
        "unreadable_bytes": len(segment.tail),
    }


# ---- trust


def _trust(given: argparse.Namespace, screen: Screen) -> int:
    journal = journal_dir(given.state_dir)
    layer = SystemFiles()
    recovered = _read(journal)
    if not journal.is_dir():
        forget_position(layer, journal)
        screen.line(f"Forgotten: {recovered.behind}. It begins anew.", "green")
        return ExitCode.FINE
    try:
        owned = layer.own(journal / LOCK_NAME, b"%d\n" % os.getpid())
    except BlockingIOError:
        raise CommandError(
            f"the journal is owned by {owner_of(journal)}: stop it first, for it remembers what is missing",
            ExitCode.OWNED,
        ) from None
    try:
        recovered = _read(journal)
        if recovered.damage != recovered.behind:
            raise CommandError(
                f"it is damaged now ({recovered.damage}): start the program once, which keeps what can be read, and look at "
                "what is pending"
            )
        mark_removed(layer, journal)
        if recovered.behind is not None or recovered.is_elsewhere:
            forget_position(layer, journal)
    finally:
        layer.close(owned)
    if not recovered.has_lost_something and recovered.owned_elsewhere is None:
        screen.line("Nothing was missing from it.")
    else:
        screen.line("A key that it does not know counts as new again.", "green")
    return ExitCode.FINE


# ---- dump


def _dump(given: argparse.Namespace, screen: Screen) -> int:
    recovered = _read(journal_dir(given.state_dir))
    for segment in recovered.segments:
        name = name_of(segment.number)
        end = None
        for record, body in _wanted(segment, given):
            begin = record.end - size_of(record.body)
            if end is None and begin >= segment.chain_end:
                end = begin
                screen.warn(f"{name}: the chain of records is broken at byte {segment.chain_end:,}")
            fields = {
                "file": name,
                "offset": begin,
                "sequence": record.sequence,
                "durable": record.durable,
                "kind": kind_name(record.kind),
                **body,
            }
            if given.json:
                screen.json(fields, indent=None)
            else:
                screen.line(_line(record, body))
        if segment.damage is not None:
            screen.warn(f"{name}: {segment.damage}")
    return ExitCode.WRONG if recovered.damage is not None else ExitCode.FINE


def _wanted(
    segment: SegmentContent, given: argparse.Namespace
) -> Iterator[tuple[Record, dict[str, Any]]]:  # Any: frozen values
    for record in segment.records:
        body = decode_body(record.body)
        if body is None:
            body = {"error": "it holds no JSON object"}
        if given.key is not None and body.get("key") != given.key:
            continue
        if given.operation is not None and body.get("operation") != given.operation:
            continue
        own = {name: value for name, value in body.items() if name in _OWN_NAMES}
        users = {name: value for name, value in body.items() if name not in _OWN_NAMES}
        yield record, {**own, **without_secrets(users)}


def _in_short(body: dict[str, Any]) -> dict[str, Any]:  # Any: frozen values
    # There may be hundreds of moments, and a person wants to know how much it is.
    sends = list(sends_carried_along(body))
    return {
        "at": max((one.at for one in sends), default=None),
        "operation": body.get("service"),
        "sends": sum(one.times for one in sends),
        "counts_for": body.get("counts_for"),
    }


def _line(record: Record, body: dict[str, Any]) -> str:  # Any: frozen values
    if record.kind == Kind.SENT:
        body = _in_short(body)
    users = {name: for_people(value) for name, value in body.items() if name not in _OWN_NAMES}
    at = body.get("ended") or body.get("at")
    words = [
        f"{record.sequence:>8}",
        f"{kind_name(record.kind):<10}",
        local_time(at if isinstance(at, int | float) else None) or " " * 25,
        str(body.get("operation", "")),
        str(body.get("key") or ""),
        " ".join(f"{name}={as_text(value)}" for name, value in users.items() if value not in (None, {}, "")),
    ]
    return "  ".join(word for word in words if word)
