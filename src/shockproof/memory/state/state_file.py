"""
One state file: how it is written, and what can be told of it before any value is restored.

The checksum of the JSON file, on its last line, covers every byte before that line. A file whose
checksum is wrong counts as damaged, for nobody can tell an edit from a broken disk; whoever edits it
writes ``"checksum": null``, and then it is read as it stands. Files of the original program have no
version, sequence or checksum and are read too.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from shockproof.memory.disk import writer
from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import Frozen, freeze
from shockproof.memory.state.pieces import json_pieces, pickle_pieces
from shockproof.memory.state.reading import OtherFormError, read_lines
from shockproof.memory.state.state_capture import ENVELOPE

if TYPE_CHECKING:
    import hashlib

__all__ = [
    "FORMAT_VERSION",
    "HEAD_BYTES",
    "WITHOUT_CHANGES",
    "Candidate",
    "DamagedError",
    "Head",
    "RefuseNewer",
    "Restore",
    "as_it_is",
    "content_of",
    "examine_json",
    "examine_pickle",
    "frozen_original",
    "head_of",
    "import_what_it_takes",
    "json_file",
    "pickle_file",
]

FORMAT_VERSION = 2
"""The newest version of the files' form that this program reads."""
WITHOUT_CHANGES = 1
"""The version of a file that has none beside it: programs that know of no changes can read it, too."""

HEAD_BYTES = 512
"""Bytes at the beginning and at the end of a file that tell what it is."""

Restore = Callable[[Frozen], Any]  # Any: what was saved
RefuseNewer = Callable[[str, object, object], None]
"""Told a file's name, its format version and the version of its schema; raises StateVersionError."""


class Candidate(NamedTuple):
    """A file that passed every check that needs no decoding of values."""

    name: str
    sequence: int | None
    is_tagged: bool
    """Whether its values are frozen ones; those of the original program are plain."""
    content: Callable[[Restore], dict[str, Any]]  # Any: the user's values, or frozen ones
    """Its sections, with what is frozen restored by what is handed in."""
    schema: int = 1
    """The version of what is in it."""
    series: str | None = None
    """What its changes, or those beside it, belong to."""
    since: int | None = None
    """The save that it tells the changes from, of a file of changes."""
    is_edited: bool = False


class DamagedError(Exception):
    """The file cannot be used; says why."""


# ---- writing

# Compiled at first use, in the disk's thread: that takes longer than importing the rest of this file.
_CHECKSUM = rb',\n  "checksum": "sha256:([0-9a-f]{64})"\n\}\s*\Z'
_DIGEST = "sha256:[0-9a-f]{64}"
_PICKLE_TRAILER = (
    rb"\nshockproof format_version=(?P<version>[0-9]{1,9}) sequence=(?P<sequence>[0-9]{1,18})"
    rb"(?: schema_version=(?P<schema>[0-9]{1,9}))?(?: series=(?P<series>[0-9a-f]{16}))? sha256=(?P<digest>[0-9a-f]{64})\n\Z"
)
_JSON_HEAD = (
    rb'\A\s*\{\s*"format_version":\s*([0-9]{1,9}),\s*"sequence":\s*([0-9]{1,18}),'
    rb'(?:\s*"schema_version":\s*([0-9]{1,9}),)?'
    rb'(?:\s*"series":\s*"([0-9a-f]{16})",)?(?:\s*"since":\s*([0-9]{1,18}),)?'
)
_EDITED = '; if it was edited on purpose, write "checksum": null in it and put it back'


def json_file(content: dict[str, Frozen], pace: Pace, expand: int = 2) -> Iterator[bytes]:
    """*content* as a JSON file, in pieces; of the first *expand* levels each entry stands on a line of its own."""
    digest = sha256(b"")
    last = b""
    for piece in json_pieces(content, pace=pace, expand=expand):
        digest.update(last)
        yield last
        last = piece
    # The last piece is the closing brace; the checksum goes in front of it.
    yield b',\n  "checksum": "sha256:%s"\n}\n' % digest.hexdigest().encode()


def pickle_file(content: dict[str, Frozen], pace: Pace) -> Iterator[bytes]:
    """*content* as a pickle, in pieces, and a line behind it that tells what it is."""
    digest = sha256(b"")
    told = ("format_version", "sequence", "schema_version", "series")
    known = " ".join(f"{name}={content[name]}" for name in told if name in content)
    for pieces in (pickle_pieces(content, pace=pace), (f"\nshockproof {known} sha256=".encode(),)):
        for piece in pieces:
            digest.update(piece)
            yield piece
    yield digest.hexdigest().encode() + b"\n"


# ---- reading


def examine_json(name: str, data: bytes, refuse_newer: RefuseNewer) -> Candidate:
    """
    What a JSON file of that name holds.

    Raises:
        DamagedError: it cannot be used.
        StateVersionError: *refuse_newer* knows a newer program by it.
    """
    mark = re.compile(_CHECKSUM).search(data, max(0, len(data) - HEAD_BYTES))
    # First of all: what a damaged file says about its version and its origin is worth nothing.
    if mark is not None and sha256(memoryview(data)[: mark.start()]).hexdigest() != mark[1].decode():
        raise DamagedError(f"its checksum does not match{_EDITED}")
    head = head_of(data)
    if head is not None:
        refuse_newer(name, head.version, head.schema)
    if mark is None or head is None:
        content = _parse(data)
        refuse_newer(name, content.get("format_version"), content.get("schema_version"))
        is_ours = "format_version" in content or "checksum" in content or _is_digest(content)
        if is_ours and "format_version" not in content:
            raise DamagedError("its format version is missing")
        if is_ours and (content.get("checksum") is not None or _is_digest(content)):
            raise DamagedError(f"its checksum is not where it was written{_EDITED}")
        return _candidate(name, content, is_tagged=is_ours)._replace(is_edited=True)

    def sections(restore: Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
        try:
            content = read_lines(data, restore, Pace())
        except OtherFormError:
            return _candidate(name, _parse(data), is_tagged=True).content(restore)
        return {key: value for key, value in content.items() if key not in ENVELOPE}

    return Candidate(
        name,
        head.sequence,
        is_tagged=True,
        content=sections,
        schema=head.schema,
        series=head.series,
        since=head.since,
    )


def examine_pickle(name: str, data: bytes, refuse_newer: RefuseNewer) -> Candidate:
    """`examine_json` for a pickle."""
    trailer = re.compile(_PICKLE_TRAILER).search(data, max(0, len(data) - HEAD_BYTES))
    if trailer is None:
        return Candidate(name, None, is_tagged=False, content=lambda _: _original_fields(data))
    if sha256(memoryview(data)[: trailer.start("digest")]).hexdigest() != trailer["digest"].decode():
        raise DamagedError("its checksum does not match")
    schema = int(trailer["schema"] or 1)
    refuse_newer(name, int(trailer["version"]), schema)

    def sections(restore: Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
        from shockproof.memory.state.safe_pickle import read_pickle

        content = read_pickle(data)
        if not isinstance(content, dict):
            raise DamagedError("it holds no state")
        return _candidate(name, content, is_tagged=True).content(restore)

    return Candidate(
        name,
        int(trailer["sequence"]),
        is_tagged=True,
        content=sections,
        schema=schema,
        series=None if trailer["series"] is None else trailer["series"].decode(),
    )


def _candidate(name: str, content: dict[str, Any], *, is_tagged: bool) -> Candidate:  # Any: as read
    version, sequence = (content["format_version"], content.get("sequence")) if is_tagged else (1, None)
    schema, series = (content.get("schema_version", 1), content.get("series")) if is_tagged else (1, None)
    if type(version) is not int or version < 1:
        raise DamagedError(f"its format version is {version!r}")
    if sequence is not None and (type(sequence) is not int or sequence < 0):
        raise DamagedError(f"its sequence number is {sequence!r}")
    if type(schema) is not int or schema < 1:
        raise DamagedError(f"its schema version is {schema!r}")
    if series is not None and not isinstance(series, str):
        raise DamagedError(f"its series is {series!r}")
    sections = {key: value for key, value in content.items() if not (is_tagged and key in ENVELOPE)}

    def restored(restore: Restore) -> dict[str, Any]:  # Any: the user's values, or frozen ones
        return {key: restore(value) for key, value in sections.items()} if is_tagged else sections

    return Candidate(name, sequence, is_tagged, restored, schema, series)


class Head(NamedTuple):
    """What a JSON file of ours begins with."""

    version: int
    sequence: int
    schema: int
    series: str | None
    since: int | None


def head_of(data: bytes) -> Head | None:
    """How a JSON file of ours begins; None: it is none."""
    head = re.match(_JSON_HEAD, data[:HEAD_BYTES])
    if head is None:
        return None
    series, since = head[4], head[5]
    return Head(
        int(head[1]),
        int(head[2]),
        int(head[3] or 1),
        None if series is None else series.decode(),
        None if since is None else int(since),
    )


def _is_digest(content: dict[str, Any]) -> bool:  # Any: as read
    """Whether the last entry is a checksum, under a name that may be damaged."""
    last = next(reversed(content.values()), None)
    return isinstance(last, str) and re.fullmatch(_DIGEST, last) is not None


def _parse(data: bytes) -> dict[str, Any]:  # Any: as read
    import json

    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise DamagedError(f"it is no valid JSON{where}") from None
    if not isinstance(content, dict):
        raise DamagedError("it is no JSON object")
    return content


def content_of(
    candidate: Candidate, restore: Restore
) -> dict[str, Any]:  # Any: the user's values, or frozen ones
    """
    The sections in it, with what is frozen restored by *restore*.

    Raises:
        DamagedError: they cannot be read after all.
        Exception: whatever *restore* raises.
    """
    from shockproof.memory.state.safe_pickle import RefusedPickleError

    try:
        return candidate.content(restore)
    except RefusedPickleError as error:
        raise DamagedError(f"as a pickle, it {error}") from None


def _original_fields(data: bytes) -> dict[str, Any]:  # Any: the user's values
    from shockproof.memory.state.safe_pickle import read_pickle

    value = read_pickle(data)
    if isinstance(value, dict):
        if "format_version" in value:
            raise DamagedError("its end, with the checksum, is missing")
        return value
    from shockproof.vocabulary.models import SystemState

    if isinstance(value, SystemState):
        return {**value.__dict__, **(value.__pydantic_extra__ or {})}
    raise DamagedError("it holds no state")


def frozen_original(fields: dict[str, Any]) -> dict[str, Frozen]:  # Any: the user's values
    """What a file of the original program holds, in the form in which ours have it."""
    fields = dict(fields)
    statuses: dict[str, object] = fields.pop("service_statuses", {})
    moment = fields.pop("timestamp")
    return {
        "timestamp": moment.isoformat() if isinstance(moment, datetime) else moment,
        "service_statuses": {name: getattr(status, "value", status) for name, status in statuses.items()},
        **{name: freeze(value, name=name) for name, value in fields.items()},
    }


def as_it_is(value: Frozen) -> Frozen:
    """Restores nothing: for who wants what is frozen as it stands in the file."""
    return value


def import_what_it_takes(*, to_restore: bool = False) -> None:
    """Load what reading and writing state files need, and pydantic *to_restore* one; in the disk's thread."""
    modules = ["hashlib", "json", "pickle"]
    if to_restore:
        modules += [
            "shockproof.memory.state.safe_pickle",
            "shockproof.vocabulary.models",
        ]  # and with it pydantic
    # At once and not in the middle: a fork waits for it.
    with writer.imports:
        for module in modules:
            importlib.import_module(module)


def sha256(data: bytes | memoryview) -> hashlib._Hash:
    import hashlib

    return hashlib.sha256(data)
