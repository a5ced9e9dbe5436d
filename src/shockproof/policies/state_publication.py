"""
Which of two saved states is the newer one, and whether one may take the place of another in a store.

No clock says so: each owner of the state has a higher token than all before it, and counts what it saves.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

__all__ = ["Lineage", "Save", "StateHead", "follows", "lineage_of"]


class Lineage(NamedTuple):
    """Which save a state is; the later one is greater."""

    token: int
    """Of the lease under which it was saved."""
    save: int
    """Counted by that owner."""


class Save(NamedTuple):
    """A state that is saved, and what it takes into account."""

    lineage: Lineage
    after: Lineage
    """The latest save that it goes on from: what is later is newer than this state, whoever saved it under what lease."""


class StateHead(NamedTuple):
    """What stands in the store about a state."""

    lineage: Lineage
    at: float
    """When it was saved, by its owner's clock, in seconds since 1970 UTC: to be shown."""
    size: int
    """Bytes."""
    digest: str
    """Of all bytes."""
    slot: int = 0
    """Where its parts are."""
    parts: int = 0
    """How many there are; 0: it is so small that it stands behind the head."""

    def to_bytes(self, data: bytes = b"") -> bytes:
        """As a line of JSON, and *data* behind it; `from_bytes` reads it."""
        return json.dumps(self._asdict()).encode() + b"\n" + data

    @classmethod
    def from_bytes(cls, value: bytes) -> tuple[StateHead, bytes]:
        """
        What `to_bytes` gave: the head, and what stands behind it.

        Raises:
            ValueError: it is something else.
        """
        line, _, data = value.partition(b"\n")
        try:
            fields = json.loads(line)
            lineage = Lineage(*map(_whole, fields["lineage"]))
            at, digest = fields["at"], fields["digest"]
            if type(at) not in {int, float} or not isinstance(digest, str):
                raise ValueError(f"it is from {at!r}, and its digest is {digest!r}")
            size, slot, parts = (_whole(fields[name]) for name in ("size", "slot", "parts"))
            return cls(lineage, float(at), size, digest, slot, parts), data
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _whole(value: Any) -> int:  # Any: JSON
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def lineage_of(section: object, name: str) -> Lineage:
    """Up to which save a state that was restored from a file is the newest; the least, where it is not one of *name*."""
    if isinstance(section, Mapping) and section.get("name") == name:
        try:
            token, save = section.get("after") or (section.get("token"), section.get("save"))
            return Lineage(_whole(token), _whole(save))
        except (ValueError, TypeError):
            pass  # somebody has edited it
    return Lineage(0, 0)


def follows(
    save: Save, head: StateHead | None, *, was_seen: bool, own: Collection[int]
) -> Literal["yes", "unseen", "older"]:
    """
    Whether the state that *save* tells of may take the place of that with *head*.

    *was_seen*: whether this process has restored that one, or put it. *own*: the tokens that it had itself: what was put with
    one of them is its own, although it may never have heard that it was. What was restored after the save began, is newer.
    """
    if head is None:
        return "yes"
    if head.lineage >= save.lineage:
        return "older"
    if head.lineage.token in own:
        return "yes"
    if not was_seen:
        return "unseen"
    return "yes" if head.lineage <= save.after else "older"
