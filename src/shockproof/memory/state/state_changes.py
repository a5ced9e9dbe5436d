"""
What has changed in a large state since the save before, and how the whole comes about again.

A dict that was packed stands in it as ``{"$": "changed", "removed": [...], "set": {...}}``; everything else as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import compress, islice
from operator import is_not
from typing import Any, Final

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import TAG, Frozen, MalformedValueError
from shockproof.memory.state.packed import Entry, Packed

__all__ = ["apply_changes", "changes_between"]

_CHANGED: Final = "changed"
_BETWEEN_PAUSES: Final = 200
_AT_ONCE: Final = 2_000
_LARGEST_SHARE: Final = 1 / 3
"""Of the entries: beyond that a save of the whole costs little more, and leaves less to read."""


def changes_between(
    before: dict[str, Frozen], now: dict[str, Frozen], pace: Pace
) -> dict[str, Frozen] | None:
    """What has to be written so that `apply_changes` makes *now* of *before*; None: better all of it."""
    entries = changed = 0

    def of(old: Frozen, new: Frozen) -> Frozen:
        nonlocal entries, changed
        if isinstance(new, Packed):
            entries += len(new.entries)
            if not isinstance(old, Packed):
                changed += len(new.entries)
                return new
            removed, added = _difference(old.entries, new.entries, pace)
            changed += len(removed) + len(added)
            return {TAG: _CHANGED, "removed": removed, "set": Packed(added)}
        if isinstance(new, dict) and any(isinstance(child, Packed) for child in new.values()):
            older = old if isinstance(old, dict) else {}
            return {name: of(older.get(name), child) for name, child in new.items()}
        return new

    fields = {name: of(before.get(name), value) for name, value in now.items()}
    return fields if changed <= entries * _LARGEST_SHARE else None


def _difference(
    before: dict[str, Entry], now: dict[str, Entry], pace: Pace
) -> tuple[list[str], dict[str, Entry]]:
    """
    The keys to remove from *before*, and then the entries to set in it, so that it is *now*, in this order.

    Setting keeps the place of a key that is there, and puts another one at the end: a key that has moved is removed
    first, and so are all behind the first one that is new.
    """
    added = _replaced(before, now, pace)
    if added is not None:
        return [], added
    removed: list[str] = []
    added = {}
    places = iter(before)
    is_at_end = False
    for number, (key, entry) in enumerate(now.items()):
        if number % _BETWEEN_PAUSES == 0:
            pace.keep()
        if not is_at_end:
            if key in before:
                for place in places:
                    if place == key:
                        break
                    removed.append(place)
                else:
                    is_at_end = True
            else:
                is_at_end = True
        if is_at_end or before[key] is not entry:
            added[key] = entry
    removed.extend(places)
    return removed, added


def _replaced(before: dict[str, Entry], now: dict[str, Entry], pace: Pace) -> dict[str, Entry] | None:
    """The entries of *now* that are others, if the keys are the same in the same order; that is quick to tell."""
    if len(before) != len(now):
        return None
    found: dict[str, Entry] = {}
    old_keys, old_entries = iter(before), iter(before.values())
    keys, entries = iter(now), iter(now.values())
    while some := list(islice(keys, _AT_ONCE)):
        if some != list(islice(old_keys, _AT_ONCE)):
            return None
        others = map(is_not, islice(entries, _AT_ONCE), islice(old_entries, _AT_ONCE))
        for key in compress(some, others):
            found[key] = now[key]
        pace.keep()
    return found


def apply_changes(
    before: dict[str, Any], changes: dict[str, Frozen], thaw: Callable[[Frozen], Any], pace: Pace
) -> dict[str, Any]:  # Any: what was saved
    """
    What `changes_between` has seen as *now*, restored. *before* is restored already, and used up.

    Raises:
        MalformedValueError: they do not belong together.
        Exception: whatever *thaw* raises.
    """

    def of(old: Any, new: Frozen, levels: int) -> Any:  # Any: as above
        if not isinstance(new, dict):
            return thaw(new)
        if new.get(TAG) == _CHANGED:
            return changed(old, new)
        if TAG in new or not levels:
            return thaw(new)
        older = old if isinstance(old, dict) else {}
        return {name: of(older.get(name), child, levels - 1) for name, child in new.items()}

    def changed(old: Any, new: dict[str, Frozen]) -> Any:  # Any: as above
        removed, added = new.get("removed"), new.get("set")
        if not isinstance(old, dict) or not isinstance(removed, list) or not isinstance(added, dict):
            raise MalformedValueError("what has changed is not there")
        for key in removed:
            if key not in old:
                raise MalformedValueError("what was removed is not there")
            del old[key]
        for number, (key, value) in enumerate(added.items()):
            if number % _BETWEEN_PAUSES == 0:
                pace.keep()
            old[key] = thaw(value) if isinstance(value, dict | list) else value
        return old

    return {name: of(before.get(name), value, 1) for name, value in changes.items()}
