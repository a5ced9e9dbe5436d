"""
What has changed in a large state since the save before, and how the whole comes about again.

A dict that was packed stands in it as ``{"$": "changed", "removed": [...], "set": {...}}``; everything else as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import compress
from operator import is_not, ne
from typing import Any, Final

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import TAG, Frozen, MalformedValueError
from shockproof.memory.state.packed import Entry, Packed, Part, packed_in

__all__ = ["apply_changes", "changes_between"]

_CHANGED: Final = "changed"
_BETWEEN_PAUSES: Final = 200
_PARTS_BETWEEN_PAUSES: Final = 20
_LARGEST_SHARE: Final = 1 / 3
"""Of the entries: beyond that a save of the whole costs little more, and leaves less to read."""


def changes_between(
    before: dict[str, Frozen], now: dict[str, Frozen], pace: Pace
) -> dict[str, Frozen] | None:
    """What has to be written so that `apply_changes` makes *now* of *before*; None: better all of it."""
    left = sum(map(len, packed_in(now))) * _LARGEST_SHARE

    def of(old: Frozen, new: Frozen) -> Frozen:
        nonlocal left
        if isinstance(new, Packed):
            if not isinstance(old, Packed):
                left -= len(new)
                return new
            removed, added = _difference(old, new, pace, left)
            left -= len(removed) + len(added)
            if left < 0:
                raise _TooManyError
            return {TAG: _CHANGED, "removed": removed, "set": Packed(added)}
        if isinstance(new, dict) and any(isinstance(child, Packed) for child in new.values()):
            older = old if isinstance(old, dict) else {}
            return {name: of(older.get(name), child) for name, child in new.items()}
        return new

    try:
        fields = {name: of(before.get(name), value) for name, value in now.items()}
    except _TooManyError:
        return None
    return fields if left >= 0 else None


class _TooManyError(Exception):
    """There is no need to find out what else has changed, or to put it together."""


def _difference(
    before: Packed, now: Packed, pace: Pace, most: float = math.inf
) -> tuple[list[str], dict[str, Entry]]:
    """
    The keys to remove from *before*, and then the entries to set in it, so that it is *now*, in this order.

    Setting keeps the place of a key that is there, and puts another one at the end: a key that has moved is removed
    first, and so are all behind the first one that is new.
    """
    in_place = _changed_in_place(before.parts, now.parts, pace, most)
    if in_place is not None:
        return [], in_place
    removed: list[str] = []
    added: dict[str, Entry] = {}
    gaps = _between_shared(before, now)
    for number, (old, new) in enumerate(gaps):
        gone, come = _difference_of(_joined(old), _joined(new), pace)
        if number < len(gaps) - 1 and not come.keys() <= _joined(old).keys() - gone:
            # A key is new, or has moved, and not at the end: all that is behind it is concerned, shared or not.
            return _difference_of(_joined(before.parts), _joined(now.parts), pace)
        removed += gone
        added |= come
        pace.keep()
    return removed, added


def _changed_in_place(
    before: list[Part], now: list[Part], pace: Pace, most: float
) -> dict[str, Entry] | None:
    """The entries to set where both have the same keys in the same parts; None where they have not."""
    if len(before) != len(now):
        return None
    changed: dict[str, Entry] = {}
    others = compress(zip(before, now, strict=True), map(is_not, before, now))
    for number, (old, new) in enumerate(others):
        if list(old.entries) != list(new.entries):
            return None
        others_in_it = map(ne, new.entries.values(), old.entries.values())
        changed.update(compress(new.entries.items(), others_in_it))
        if number % _PARTS_BETWEEN_PAUSES == 0:
            pace.keep()
            if len(changed) > most:
                raise _TooManyError
    return changed


def _between_shared(before: Packed, now: Packed) -> list[tuple[list[Part], list[Part]]]:
    """What stands between the parts that both share, on both sides; the last is what stands behind all of them."""
    places = {id(part): place for place, part in enumerate(before.parts)}
    gaps: list[tuple[list[Part], list[Part]]] = []
    at, come = 0, list[Part]()
    for part in now.parts:
        place = places.get(id(part), -1)
        if place < at:
            come.append(part)
            continue
        if come or place > at:
            gaps.append((before.parts[at:place], come))
            come = []
        at = place + 1
    return [*gaps, (before.parts[at:], come)]


def _joined(parts: list[Part]) -> dict[str, Entry]:
    if len(parts) == 1:
        return parts[0].entries
    return {key: entry for part in parts for key, entry in part.entries.items()}


def _difference_of(
    before: dict[str, Entry], now: dict[str, Entry], pace: Pace
) -> tuple[list[str], dict[str, Entry]]:
    if len(before) == len(now) and list(before) == list(now):
        others = map(ne, now.values(), before.values())
        return [], dict(compress(now.items(), others))
    removed: list[str] = []
    added: dict[str, Entry] = {}
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
        if is_at_end or before[key] != entry:
            added[key] = entry
    removed.extend(places)
    return removed, added


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
