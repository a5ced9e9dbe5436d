"""
What is known of every operation, and how each record changes it: decides, and touches no file.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, Literal, TypeAlias

from shockproof.memory.journal.earlier_sends import sends_carried_along, sent_under_a_limit
from shockproof.memory.journal.name import Name
from shockproof.memory.journal.recent_sends import RecentSends
from shockproof.memory.journal.record import Kind, decode_body, encode_body, encode_value

__all__ = ["REMEMBERED_COUNT", "REMEMBERED_SECONDS", "Body", "OperationEntry", "OperationTable"]

REMEMBERED_SECONDS: Final = 7 * 86_400.0
REMEMBERED_COUNT: Final = 10_000
"""A completed key is forgotten when each of the last so many ended after it, and later by more than so long."""

Status = Literal["pending", "completed"]
Body = dict[str, Any]  # Any: frozen values
_Held: TypeAlias = "OperationEntry | bytes"
"""A pending operation, or a completed one as it is kept."""


class OperationEntry:
    """One operation: its body is what the beginning of a segment holds of it."""

    __slots__ = ("body", "name")

    def __init__(self, name: Name, body: Body) -> None:
        self.name = name
        self.body = body

    @property
    def is_completed(self) -> bool:
        """Whether it has come to its end."""
        return self.body.get("status") == "completed"

    @property
    def times_begun(self) -> int:
        """How often it began, or was sent; 0 where that is not known."""
        return _count(self.body)


class OperationTable:
    """
    All operations that are known. Changed by one thread; `get` may be asked in any.

    `apply` gives a function that takes the change back, for a record that could not be made durable. What was
    recorded of the operation since stays: an outcome has happened, whatever was refused before it.
    """

    def __init__(self) -> None:
        self._pending: dict[Name, OperationEntry] = {}
        self._completed: dict[str, bytes] = {}
        """In the order in which they ended, under their packed names: when each one ended, and with what result."""
        self.sends = RecentSends()
        """What was sent under rate limits, whatever became of it."""
        self._are_sends_told = False
        """Whether the beginning of a segment that is read has told of them all."""

    def get(self, name: Name) -> OperationEntry | None:
        """What is known of an operation."""
        pending = self._pending.get(name)
        if pending is not None or name.key is None:
            return pending
        completed = self._completed.get(_packed_name(name.operation, name.key))
        return None if completed is None else OperationEntry(name, _unpacked(name, completed))

    def pending(self) -> Collection[OperationEntry]:
        """Those that began and did not end, oldest first."""
        return self._pending.values()

    def completed(self) -> Iterator[OperationEntry]:
        """Those that have ended and are still remembered, in the order of their ends."""
        for packed_name, completed in self._completed.items():
            name = _unpacked_name(packed_name)
            yield OperationEntry(name, _unpacked(name, completed))

    def __len__(self) -> int:
        return len(self._pending) + len(self._completed)

    def apply(self, kind: int, body: Body) -> Callable[[], None]:
        """
        Change the table as the record tells. Records of unknown kinds, and what does not fit, change nothing:
        after damage, what a record builds on may be missing.
        """
        take_back_send = self._count(kind, body)
        operation, key = body.get("operation"), body.get("key")
        if not isinstance(operation, str) or not (key is None or isinstance(key, str)):
            return _nothing
        name = Name(operation, key)
        before = self.get(name)
        known = None if before is None or before.is_completed else before.body
        after: Body | None
        if kind == Kind.OPERATION:
            after = body
        elif kind in {Kind.BEGIN, Kind.SEND}:
            fresh = {"status": "pending", "begun": 0, "progress": {}, "interrupted": None}
            after = {**body, **fresh} if known is None else {**known}
            after["begun"] = _count(after) + 1
            after["interrupted"] = None
            if kind == Kind.SEND:
                after["attempt_at"] = body.get("at")
                after["sent_at"] = body.get("sent_at", body.get("at"))
                after["counts_from"] = body.get("counts_from")
                after.pop("effect", None)
                _take_over("arguments", body, after)
                _take_over("settle", body, after)
                _take_over("details", body, after)
        elif kind == Kind.CHECKPOINT:
            # Also for one that is not known: where the record of its beginning is damaged, this one tells of it.
            after = {"status": "pending", "begun": 1, "interrupted": None, **(known or {}), **body}
            if known is not None and "at" in known:
                after["at"] = known["at"]  # when it began, and not when it came so far
        elif kind == Kind.INTERRUPT:
            if known is None:
                return _nothing
            after = {**known, "interrupted": body.get("why")}
            if "sent_at" in body:
                after["sent_at"] = body["sent_at"]
                after["counts_from"] = body.get("counts_from")
            for told in ("effect", "arguments", "settle", "details"):
                if told in body:
                    after[told] = body[told]
        elif kind == Kind.SEEN:
            if known is None:
                return _nothing
            after = {**known, "counts_from": body.get("counts_from")}
        elif kind == Kind.END:
            after = self._ended(known, body)
        else:
            return _nothing
        take_back_change = self._put(name, after)
        if take_back_send is None:
            return take_back_change

        def take_back() -> None:
            take_back_change()
            take_back_send()

        return take_back

    def _count(self, kind: int, body: Body) -> Callable[[], None] | None:
        if kind == Kind.SENT:
            # Of an older segment, which is read where this one is damaged, they are the same ones.
            if not self._are_sends_told:
                self._are_sends_told = True
                self.sends.clear()
            for send in sends_carried_along(body):
                self.sends.add(send)
        elif kind == Kind.COMPLETE:
            self._are_sends_told = False
        elif kind != Kind.OPERATION or not self._are_sends_told:
            sent = sent_under_a_limit(kind, body)
            return None if sent is None else self.sends.add(sent)
        return None

    def _ended(self, known: Body | None, body: Body) -> Body | None:
        if body.get("status") != "completed" or body.get("key") is None:
            return None  # given up, or without a key: it may begin again, and nothing is left to know
        after = {
            **(known or body),
            "status": "completed",
            "result": body.get("result"),
            "ended": body.get("at"),
        }
        if "resolved" in body:
            after["resolved"] = body["resolved"]  # by hand: by whom, and what that one knows
        attempt_at = after.pop("attempt_at", None)
        if attempt_at is not None:
            after["sent_at"] = attempt_at  # until when it might have run is nobody's business any more
        for gone in (
            "progress",
            "interrupted",
            "details",
            "counts_from",
            "effect",
            "settle",
            "counts_for",
            "taken_over",
        ):
            after.pop(gone, None)
        return after

    def _put(self, name: Name, body: Body | None) -> Callable[[], None]:
        before = self._held(name)
        after: _Held | None = None
        if body is not None:
            entry = OperationEntry(name, body)
            after = _packed(body) if entry.is_completed and name.key is not None else entry
        self._hold(name, after)

        def take_back() -> None:
            if self._held(name) is after:
                self._hold(name, before)

        return take_back

    def _held(self, name: Name) -> _Held | None:
        pending = self._pending.get(name)
        if pending is not None or name.key is None:
            return pending
        return self._completed.get(_packed_name(name.operation, name.key))

    def _hold(self, name: Name, held: _Held | None) -> None:
        if name.key is not None:
            packed_name = _packed_name(name.operation, name.key)
            if isinstance(held, bytes):
                self._completed[packed_name] = held  # before it is pending no more: `get` misses neither
            else:
                self._completed.pop(packed_name, None)
        if isinstance(held, OperationEntry):
            self._pending[name] = held
        else:
            self._pending.pop(name, None)

    def replay(self, kind: int, body: bytes) -> None:
        """`apply` a record as read; one that holds no JSON object changes nothing."""
        decoded = decode_body(body)
        if decoded is not None:
            self.apply(kind, decoded)

    def forget_old(self) -> None:
        """Forget completed operations that nobody will ask for any more; all of the last ends together tell what is old."""
        too_many = len(self._completed) - REMEMBERED_COUNT
        if too_many <= 0:
            return
        # The earliest of them, not the latest: one that ended while the wall clock was days ahead must make no other old.
        last = itertools.islice(reversed(self._completed.values()), REMEMBERED_COUNT)
        old = min(map(_ended_at, last)) - REMEMBERED_SECONDS
        for name in [
            name
            for name, completed in itertools.islice(self._completed.items(), too_many)
            if _ended_at(completed) < old
        ]:
            del self._completed[name]

    def snapshot(self) -> Iterator[bytes]:
        """Every operation as the body of an OPERATION record."""
        for packed_name, completed in self._completed.items():
            name = _unpacked_name(packed_name)
            # Put together, and not taken apart first: there may be a hundred thousand.
            yield b'{"operation":%b,"key":%b,"status":"completed","ended":%b,%b}' % (
                encode_value(name.operation),
                encode_value(name.key),
                repr(_ended_at(completed)).encode("ascii"),
                completed[_ENDED.size :],
            )
        for entry in self._pending.values():
            yield encode_body(entry.body)


# A completed operation is kept for its key's sake, and there may be very many: as two short strings, and not as the
# dozen objects that its body is. The second one is the time of its end, and what is inside of the braces of the rest.

_ENDED: Final = struct.Struct("<d")


def _packed_name(operation: str, key: str) -> str:
    return f"{len(operation)} {operation}{key}"


def _unpacked_name(packed: str) -> Name:
    length, _, rest = packed.partition(" ")
    return Name(rest[: int(length)], rest[int(length) :])


def _packed(body: Body) -> bytes:
    rest = dict(body)
    for said in ("operation", "key", "status"):
        rest.pop(said, None)
    ended = rest.pop("ended", None)
    rest.setdefault("result", None)
    is_time = isinstance(ended, int | float) and math.isfinite(ended)
    return _ENDED.pack(ended if is_time else 0.0) + encode_body(rest)[1:-1]


def _ended_at(packed: bytes) -> float:
    ended: float = _ENDED.unpack_from(packed)[0]
    return ended


def _unpacked(name: Name, packed: bytes) -> Body:
    said = {"operation": name.operation, "key": name.key, "status": "completed", "ended": _ended_at(packed)}
    return {**said, **(decode_body(b"{%b}" % packed[_ENDED.size :]) or {})}


def _take_over(name: str, body: Body, after: Body) -> None:
    if name in body:
        after[name] = body[name]
    else:
        after.pop(name, None)


def _count(body: Body) -> int:
    begun = body.get("begun")
    return begun if isinstance(begun, int) else 0


def _nothing() -> None:
    """A change that was none needs no taking back."""
