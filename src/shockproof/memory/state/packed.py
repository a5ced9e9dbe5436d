"""
Large dicts of a captured state, each entry as bytes of its own.

A copy made of bytes costs the event loop a tenth of one made of dicts and lists, gives the garbage collector nothing to
walk through, and is compared with the copy before at the speed of memory: so an entry that has not changed is known,
and shared, however it might have been changed in place. They are compared, and shared, in parts of some entries: what is
done once for each part costs next to nothing, and what is done for each entry is done by marshal.
"""

from __future__ import annotations

import marshal
import time
import weakref
from collections.abc import Iterator, Mapping
from itertools import chain, compress
from operator import ne
from typing import Any, Final

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import TAG, Frozen, SecretSink, freeze, freeze_steps
from shockproof.memory.state.secrets import SecretNames

__all__ = [
    "Entry",
    "NotPackedError",
    "Packed",
    "Packer",
    "Part",
    "frozen_entry",
    "json_ready",
    "let_go_packed",
    "size_of",
]

Entry = bytes | list[Frozen]
"""
The frozen form of a value: marshalled, behind a zero if it is not the value itself; or, in a list of one, as it is, if
secrets in it are still to be encrypted.
"""

_FORM: Final = 2
# Of marshal's: without references, so that equal values are equal bytes; floats in full.
_NOT_PLAIN: Final = b"\0"  # no value of marshal's begins with it

_LIST_HEAD: Final = 5
# Bytes before the first value of a list in that form; behind them the values stand one after the other, as they do alone.

_SIZE: Final = 64
# Entries of a part: more, and a change has more to look through; fewer, and what is done for each part shows.
_LEAST: Final = 32
_MOST: Final = 128
_PARTS_AT_ONCE: Final = 8
_STEP: Final = 0.0007
# Seconds of work before the event loop gets its turn.

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_PARTS: Final = _ATOMS | {dict, list}
_TEXT_ONLY: Final = {str}
_MOST_LEVELS: Final = 90
_MOST_VALUES: Final = 10_000
_KEPT_SHAPES: Final = 4_096
_LARGEST_SHAPE: Final = 32


class NotPackedError(Exception):
    """The dict has keys that need another form."""


class Part:
    """Entries that stand one after the other in a dict; nobody changes it, and all copies share it in which they are the same."""

    __slots__ = ("__weakref__", "_made_of", "changed", "entries", "is_plain", "keys")

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries = entries
        self.keys = list(entries)
        self.changed: list[str] = []
        """What is another one than in the part that `is_made_of` knows."""
        self._made_of: weakref.ref[Part] | None = None
        self.is_plain = all(type(entry) is bytes and entry[:1] != _NOT_PLAIN for entry in entries.values())
        """Whether all of them are values that are their own frozen form."""

    def is_made_of(self, other: Part) -> bool:
        """Whether `changed` tells the difference to that one."""
        return self._made_of is not None and self._made_of() is other


def _changed_part(before: Part, changed: dict[str, Entry]) -> Part:
    """The same with some other entries, which are plain as the rest is."""
    part = Part.__new__(Part)
    part.entries, part.is_plain = {**before.entries, **changed}, before.is_plain
    part.keys, part.changed, part._made_of = before.keys, list(changed), weakref.ref(before)
    return part


class Packed:
    """A dict of many entries."""

    __slots__ = ("parts",)

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self.parts: list[Part] = [Part(dict(entries))] if entries else []

    def __repr__(self) -> str:
        return f"<Packed {len(self)} entries>"

    def __len__(self) -> int:
        return sum(len(part.entries) for part in self.parts)

    def items(self) -> Iterator[tuple[str, Entry]]:
        """The entries, in their order."""
        return chain.from_iterable(part.entries.items() for part in self.parts)


def frozen_entry(entry: Entry) -> Frozen:
    """
    The frozen form of the value, for the caller alone; of a plain value, itself.

    The two differ only where it holds numbers that are not finite or halves of characters, which pickle carries.
    """
    if isinstance(entry, list):
        return entry[0]
    return marshal.loads(entry[1:] if entry[:1] == _NOT_PLAIN else entry)  # noqa: S302 - made by this very process


def json_ready(entry: Entry) -> Frozen:
    """The same, with nothing in it that JSON could not carry: a plain value may hold what is not finite."""
    frozen = frozen_entry(entry)
    return frozen if isinstance(entry, list) or entry[:1] == _NOT_PLAIN else freeze(frozen)


def size_of(entry: Entry) -> int:
    """About how many bytes it is on the disk; of one with secrets in it, nobody knows."""
    return _MOST_VALUES if isinstance(entry, list) else len(entry)


def let_go_packed(parts: list[Packed], pace: Pace) -> None:
    """
    Free so much memory without holding everybody up: a hundred thousand objects at once take 20 ms.

    *parts* is emptied; nobody else should hold what was in it.
    """
    while parts:
        # The list first, while this one still holds what was in it.
        left = list(parts.pop().parts)
        while left:
            del left[-_PARTS_AT_ONCE:]
            pace.keep()


class Packer:
    """
    Packs large dicts on the event loop, in steps; whoever runs it gives way between two steps.

    *known* are the entries of the copies before, by the path of their dict.
    """

    def __init__(self, secrets: SecretSink, known: Mapping[tuple[str, ...], Packed]) -> None:
        self._secrets = secrets
        self._names: SecretNames = secrets.names
        self._known = known
        self._harmless: set[tuple[str, ...]] = set()

    def steps(
        self, path: tuple[str, ...], source: dict[Any, Any], packed: Packed
    ) -> Iterator[None]:  # Any: theirs
        """
        Fill *packed* with the entries of *source*, a copy of the dict at *path* that nobody changes.

        Raises:
            NotPackedError: a key is no plain text, or ``$``.
            UnsavableValueError: see `freeze`.
        """
        known = self._known.get(path)
        before = _Before([] if known is None else known.parts)
        keys = list(source)
        yield  # a million of them takes some milliseconds, as did the copy
        values = list(source.values())
        at = 0
        began = time.perf_counter()
        while at < len(keys):
            part, end, old = before.next(keys, at)
            some = values[at:end]
            same = None if part is None or not part.is_plain else self._with_changes(part, some)
            if same is None:
                entries: dict[str, Entry] = {}
                yield from self._pack(path, keys[at:end], some, old, entries)
                same = Part(entries)
            packed.parts.append(same)
            at = end
            if time.perf_counter() - began >= _STEP:
                yield
                began = time.perf_counter()

    def _pack(
        self,
        path: tuple[str, ...],
        keys: list[Any],  # Any: the user's own keys
        values: list[Any],  # Any: and values
        before: Mapping[str, Entry],
        into: dict[str, Entry],
    ) -> Iterator[None]:
        if set(map(type, keys)) != _TEXT_ONLY:
            raise NotPackedError
        known = list(map(before.get, keys))
        into.update(zip(keys, known, strict=True))  # type: ignore[arg-type]  # what is missing comes now
        dumped = list(map(_dumped, values))
        if dumped == known:
            return
        # Only what was plain before stands under a name that was looked at.
        is_suspicious = not all(type(old) is bytes and old[0] for old in known) and self._may_be_secret(keys)
        for at in compress(range(len(keys)), map(ne, dumped, known)):
            key, value, new, old = keys[at], values[at], dumped[at], known[at]
            if new and not (is_suspicious and self._names.matches(key)) and self._is_plain(value):
                into[key] = new
            else:
                entry: list[Entry] = []
                yield from self._frozen(path, key, value, entry)
                into[key] = old if old is not None and old == entry[0] else entry[0]

    def _with_changes(self, part: Part, values: list[Any]) -> Part | None:  # Any: the user's own values
        """The part with these values, which are those of its keys: itself, if they are the same; None if they are not plain."""
        whole = _dumped(values)
        joined = b"".join(part.entries.values())  # type: ignore[arg-type]  # plain ones are bytes
        if len(whole) == _LIST_HEAD + len(joined) and whole.endswith(joined):
            return part
        if not whole:
            return None
        changed: dict[str, Entry] = {}
        # No value's form is the beginning of another's: so where the one of before stands, it is that value.
        end, starts = _LIST_HEAD, whole.startswith
        for at, (key, old) in enumerate(part.entries.items()):
            if starts(old, end):  # type: ignore[arg-type]  # as above
                end += len(old)
                continue
            new = _dumped(values[at])
            end += len(new)
            if not self._is_plain(values[at]):
                return None
            changed[key] = new
        return _changed_part(part, changed)

    def _may_be_secret(self, keys: list[str]) -> bool:
        if TAG in keys:
            raise NotPackedError
        joined = "\0".join(keys)
        if not joined.isascii():
            try:
                joined.encode()
            except UnicodeEncodeError:
                raise NotPackedError from None
        return bool(self._names) and self._names.may_be_in(joined)

    def _frozen(self, path: tuple[str, ...], key: str, value: object, entry: list[Entry]) -> Iterator[None]:
        counted = _Counted(self._secrets)
        # With everything above it, for the paths in what is raised, and for the names of secrets.
        section: object = {key: value}
        for name in reversed(path[1:]):
            section = {name: section}
        into: dict[str, Frozen] = {}
        yield from freeze_steps({path[0]: section}, into=into, secrets=counted)
        frozen: Frozen = into
        for name in (*path, key):
            frozen = frozen[name]
        entry.append([frozen] if counted.count else _NOT_PLAIN + marshal.dumps(frozen, _FORM))

    def _is_plain(self, value: Any) -> bool:  # Any: the user's own value
        """Whether it is its own frozen form, has no secrets in it, and is of a modest size; may say no too often."""
        if type(value) in _ATOMS:
            return True
        level, left = [value], _MOST_VALUES
        for _ in range(_MOST_LEVELS):
            deeper: list[Any] = []  # Any: as above
            for one in level:
                if type(one) is dict:
                    if one and not self._has_plain_keys(one):
                        return False
                    kinds = set(map(type, one.values()))
                elif type(one) is list:
                    if len(one) == 2 and type(one[0]) is str and not one[0][:1].isdigit():
                        return False  # maybe the name of a secret, and the secret
                    kinds = set(map(type, one))
                else:
                    return False
                left -= len(one)
                if left < 0 or not kinds <= _PARTS:
                    return False
                if not kinds <= _ATOMS:
                    parts = one.values() if type(one) is dict else one
                    deeper += [part for part in parts if type(part) is dict or type(part) is list]
            if not deeper:
                return True
            level = deeper
        return False

    def _has_plain_keys(self, one: dict[Any, Any]) -> bool:  # Any: the user's own keys and values
        # Marshal has taken it: so no key is of a class that only equals a text.
        shape = tuple(one) if len(one) <= _LARGEST_SHAPE else None
        if shape in self._harmless:
            return True
        if set(map(type, one)) != _TEXT_ONLY:
            return False
        if TAG in one or (self._names and self._names.may_be_in("\0".join(one))):
            return False
        if shape is not None:
            if len(self._harmless) >= _KEPT_SHAPES:
                self._harmless.clear()
            self._harmless.add(shape)
        return True


class _Counted:
    """Tells whether there were secrets in what was frozen."""

    def __init__(self, secrets: SecretSink) -> None:
        self.names = secrets.names
        self.count = 0
        self._secrets = secrets

    def take(self, secret: str | bytes, path: str) -> Frozen:
        self.count += 1
        return self._secrets.take(secret, path)


def _dumped(value: Any) -> bytes:  # Any: the user's own value
    """Nothing where it cannot be: no value's form is empty."""
    try:
        return marshal.dumps(value, _FORM)
    except ValueError:
        return b""


class _Before:
    """The parts of the copy before, beside the keys of the next one."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self._at = 0
        self._first: dict[str, int] | None = None
        """Of each part its first key: only asked where keys have come or gone."""

    def next(self, keys: list[Any], at: int) -> tuple[Part | None, int, Mapping[str, Entry]]:  # Any: theirs
        """
        The part that has the keys from *at* on, if there is one; where the next part begins; and entries known of these keys.

        Entries that are not known here, although they were there, are taken for changed.
        """
        if self._at >= len(self._parts):
            return None, at + _SIZE, {}
        part = self._parts[self._at]
        end = at + len(part.keys)
        is_last = self._at == len(self._parts) - 1
        if keys[at:end] == part.keys and (not is_last or end == len(keys) or end - at >= _SIZE):
            self._at += 1
            return part, end, part.entries
        return None, *self._find_again(keys, at)

    def _find_again(self, keys: list[Any], at: int) -> tuple[int, Mapping[str, Entry]]:  # Any: as above
        if self._first is None:
            self._first = {part.keys[0]: number for number, part in enumerate(self._parts)}
        begun = self._at
        end = at + _SIZE
        for place in range(at + _LEAST, min(at + _MOST, len(keys))):
            number = self._first.get(keys[place], -1) if type(keys[place]) is str else -1
            if number > begun:
                self._at, end = number, place
                break
        else:
            if end >= len(keys) or begun == len(self._parts) - 1:  # what comes behind is new
                self._at = len(self._parts)
        # Of those that are passed over, the ones at both ends: what has moved further is taken for new.
        passed = self._parts[begun : max(self._at, begun + 2)]
        known: dict[str, Entry] = {}
        for part in passed[:4] + passed[4:][-4:]:
            known.update(part.entries)
        return end, known
