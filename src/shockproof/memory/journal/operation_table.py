"""
What is known of every operation, and how each record changes it: decides, and touches no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, Literal, NamedTuple

from shockproof.memory.journal.record import Kind, decode_body, encode_body

__all__ = ["REMEMBERED_COUNT", "REMEMBERED_SECONDS", "Body", "Name", "OperationEntry", "OperationTable"]

REMEMBERED_SECONDS: Final = 7 * 86_400.0
REMEMBERED_COUNT: Final = 10_000
"""A completed key is forgotten when it is older than the one, and as many as the other ended after it."""

Status = Literal["pending", "completed"]
Body = dict[str, Any]  # Any: frozen values


class Name(NamedTuple):
    """What tells operations apart."""

    operation: str
    key: str | None


class OperationEntry:
    """One operation: its body is what the beginning of a segment holds of it."""

    __slots__ = ("body", "encoded", "name")

    def __init__(self, name: Name, body: Body) -> None:
        self.name = name
        self.body = body
        self.encoded: bytes | None = None
        """The body as bytes; completed operations never change again, and there may be many."""

    @property
    def is_completed(self) -> bool:
        """Whether it has come to its end."""
        return self.body.get("status") == "completed"

    @property
    def times_begun(self) -> int:
        """How often it began, or was sent; 0 where that is not known."""
        return _count(self.body)

    @property
    def ended(self) -> float:
        """When, in seconds since 1970 UTC; for a completed one."""
        at = self.body.get("ended")
        return float(at) if isinstance(at, int | float) else 0.0

    def as_bytes(self) -> bytes:
        """The body as bytes."""
        if self.encoded is None:
            encoded = encode_body(self.body)
            if not self.is_completed:
                return encoded
            self.encoded = encoded
        return self.encoded


class OperationTable:
    """
    All operations that are known. Used by one thread at a time.

    `apply` gives a function that takes the change back, for a record that could not be made durable.
    """

    def __init__(self) -> None:
        self._pending: dict[Name, OperationEntry] = {}
        self._completed: dict[Name, OperationEntry] = {}
        """In the order in which they ended."""

    def get(self, name: Name) -> OperationEntry | None:
        """What is known of an operation."""
        return self._pending.get(name) or self._completed.get(name)

    def pending(self) -> Collection[OperationEntry]:
        """Those that began and did not end, oldest first."""
        return self._pending.values()

    def completed(self) -> Collection[OperationEntry]:
        """Those that have ended and are still remembered, in the order of their ends."""
        return self._completed.values()

    def __len__(self) -> int:
        return len(self._pending) + len(self._completed)

    def apply(self, kind: int, body: Body) -> Callable[[], None]:
        """
        Change the table as the record tells. Records of unknown kinds, and what does not fit, change nothing:
        after damage, what a record builds on may be missing.
        """
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
                after["sent_at"] = body.get("sent_at", body.get("at"))
                after["counts_from"] = body.get("counts_from")
        elif kind == Kind.CHECKPOINT:
            # Also for one that is not known: where the record of its beginning is damaged, this one tells of it.
            after = {"status": "pending", "begun": 1, "interrupted": None, **(known or {}), **body}
        elif kind == Kind.INTERRUPT:
            if known is None:
                return _nothing
            after = {**known, "interrupted": body.get("why")}
            if "sent_at" in body:
                after["sent_at"] = body["sent_at"]
                after["counts_from"] = body.get("counts_from")
        elif kind == Kind.SEEN:
            if known is None:
                return _nothing
            after = {**known, "counts_from": body.get("counts_from")}
        elif kind == Kind.END:
            after = self._ended(known, body)
        else:
            return _nothing
        return self._put(name, before, after)

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
        for gone in ("progress", "interrupted", "details"):
            after.pop(gone, None)
        return after

    def _put(self, name: Name, before: OperationEntry | None, after: Body | None) -> Callable[[], None]:
        entry = None if after is None else OperationEntry(name, after)
        self._set(name, entry)
        return lambda: self._set(name, before)

    def _set(self, name: Name, entry: OperationEntry | None) -> None:
        if entry is None or entry.is_completed:
            self._pending.pop(name, None)
        else:
            self._pending[name] = entry
        if entry is None or not entry.is_completed:
            self._completed.pop(name, None)
        else:
            self._completed[name] = entry

    def replay(self, kind: int, body: bytes) -> None:
        """`apply` a record as read; one that holds no JSON object changes nothing."""
        decoded = decode_body(body)
        if decoded is not None:
            self.apply(kind, decoded)

    def forget_old(self) -> None:
        """Forget completed operations that nobody will ask for any more; the latest end tells what is old."""
        completed = list(self._completed.values())
        for entry in completed[: max(0, len(completed) - REMEMBERED_COUNT)]:
            if completed[-1].ended - entry.ended > REMEMBERED_SECONDS:
                del self._completed[entry.name]

    def snapshot(self) -> Iterable[bytes]:
        """Every operation as the body of an OPERATION record."""
        return [entry.as_bytes() for entry in (*self._completed.values(), *self._pending.values())]


def _count(body: Body) -> int:
    begun = body.get("begun")
    return begun if isinstance(begun, int) else 0


def _nothing() -> None:
    """A change that was none needs no taking back."""
