"""
Large dicts of a captured state, each entry as bytes of its own.

A copy made of bytes costs the event loop a tenth of one made of dicts and lists, gives the garbage collector nothing to
walk through, and is compared with the copy before at the speed of memory: so an entry that has not changed is known,
and shared, however it might have been changed in place. They are compared, and shared, in parts of some entries, and only in
those that are not the same it is found out which entries are not.
"""

from __future__ import annotations

import marshal
import time
from collections.abc import Generator, Iterator, Mapping
from itertools import chain, compress, islice, repeat
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
    "packed_in",
    "size_of",
]

Entry = bytes | list[Frozen]
"""
The frozen form of a value: marshalled, behind a zero if it is not the value itself; or, in a list of one, as it is, if
secrets in it are still to be encrypted.
"""

_FORM: Final = 2
# Of marshal's: without references, so that equal values are equal bytes; floats in full.
_SIGHT: Final = 4
# Of marshal's: what stands in several places is written once, which takes half as long. Equal bytes are equal values here, too;
# but equal values are other bytes as soon as somebody else holds, or lets go of, something in them.
_NOT_PLAIN: Final = b"\0"  # no value of marshal's begins with it

_SIZE: Final = 12
# Entries of a part: more, and a change has more to look through; fewer, and what is done for each part shows.
_LEAST: Final = 4
_MOST: Final = 24
_AT_ONCE: Final = 16
# Parts: what is done for all of them costs little for each. Of large ones, one.
_LARGE: Final = 8 * 1024
_LET_GO_AT_ONCE: Final = 64
_STEP: Final = 0.0007
# Seconds of work before the event loop gets its turn.

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_PARTS: Final = _ATOMS | {dict, list}
_TEXT_ONLY: Final = {str}
_DICT_ONLY: Final = {dict}
_MOST_LEVELS: Final = 90
_MOST_VALUES: Final = 10_000
_KEPT_SHAPES: Final = 4_096
_LARGEST_SHAPE: Final = 32


class NotPackedError(Exception):
    """The dict has keys that need another form."""


class Part:
    """Entries that stand one after the other in a dict; nobody changes it, and all copies share it in which they are the same."""

    __slots__ = ("entries", "is_plain", "sight")

    def __init__(self, entries: dict[str, Entry], sight: bytes = b"") -> None:
        self.entries = entries
        self.sight = sight
        """
        A form in which its values were seen together; empty where they have none.

        All that is ever changed here, to another form of the same values.
        """
        self.is_plain = all(type(entry) is bytes and entry[:1] != _NOT_PLAIN for entry in entries.values())
        """Whether all of them are values that are their own frozen form."""

    def with_changes(self, changed: dict[str, Entry], sight: bytes) -> Part:
        """The same with some other entries, which are plain as the rest is."""
        part = Part.__new__(Part)
        part.entries, part.is_plain, part.sight = {**self.entries, **changed}, self.is_plain, sight
        return part


class Packed:
    """A dict of many entries."""

    __slots__ = ("keys", "parts")

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self.parts: list[Part] = [Part(dict(entries))] if entries else []
        self.keys = list(entries or ())

    def __repr__(self) -> str:
        return f"<Packed {len(self)} entries>"

    def __len__(self) -> int:
        return len(self.keys)

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


def packed_in(fields: Mapping[str, Frozen]) -> list[Packed]:
    """The large dicts of a state: sections, or in them."""
    sections = [child for value in fields.values() if type(value) is dict for child in value.values()]
    return [part for part in (*fields.values(), *sections) if isinstance(part, Packed)]


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
            del left[-_LET_GO_AT_ONCE:]
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
        yield  # a million of them takes some milliseconds to copy, and so does this
        keys = list(source)
        yield
        earlier = self._known.get(path)
        if earlier is not None and earlier.keys == keys:
            # Both keep them: so they are no young object, through which the garbage collector would walk.
            keys = earlier.keys
            yield
        packed.keys = keys
        values = iter(source.values())
        before = _Before(earlier, keys)
        changed = _Changed()
        at, new_at_once = 0, _SIZE
        while at < len(keys):
            until = time.perf_counter() + _STEP
            while at < len(keys) and time.perf_counter() < until:
                parts, end, known = before.next(at, new_at_once)
                some = list(islice(values, end - at))
                same = (
                    self._with_changes(parts, some, changed.values) if parts and parts[0].is_plain else None
                )
                if same is None:
                    yield from self._settle(path, packed, changed)
                    made = yield from self._pack(path, keys[at:end], some, known or _entries(parts))
                    is_small = len(made[-1].sight) <= _LARGE
                    new_at_once = min(2 * new_at_once, _SIZE * _AT_ONCE) if is_small else _SIZE
                else:
                    made = same
                    if same is not parts:
                        changed.runs.append((len(packed.parts), parts, keys[at:end], some))
                packed.parts += made
                at = end
            yield from self._settle(path, packed, changed)
            yield

    def _settle(self, path: tuple[str, ...], packed: Packed, changed: _Changed) -> Iterator[None]:
        """
        Look whether the values that have changed are plain, and pack their parts in another way if they are not.

        That is due before anybody else has a turn: it looks at the values, and they have to be those that were copied.
        """
        # All together they may only be too many.
        if not self._are_plain(changed.values) and not all(self._are_plain([one]) for one in changed.values):
            for number, parts, keys, values in reversed(changed.runs):
                made = yield from self._pack(path, keys, values, _entries(parts))
                packed.parts[number : number + len(parts)] = made
        changed.values.clear()
        changed.runs.clear()

    def _pack(
        self,
        path: tuple[str, ...],
        keys: list[Any],  # Any: the user's own keys
        values: list[Any],  # Any: and values
        before: Mapping[str, Entry],
    ) -> Generator[None, None, list[Part]]:
        if set(map(type, keys)) != _TEXT_ONLY:
            raise NotPackedError
        known = list(map(before.get, keys))
        entries: dict[str, Entry] = dict(zip(keys, known, strict=True))  # type: ignore[arg-type]  # what is missing comes now
        size = _SIZE if len(keys) > _MOST else _MOST
        sights, dumped = _forms([values[at : at + size] for at in range(0, len(keys), size)])
        # Only what was plain before stands under a name that was looked at.
        is_suspicious = not all(type(old) is bytes and old[0] for old in known) and self._may_be_secret(keys)
        places = list(compress(range(len(keys)), map(ne, dumped, known)))
        are_plain = not is_suspicious and all(dumped) and self._are_plain([values[place] for place in places])
        for at in places:
            key, value, new, old = keys[at], values[at], dumped[at], known[at]
            if are_plain or (
                new and not (is_suspicious and self._names.matches(key)) and self._are_plain([value])
            ):
                entries[key] = new
            else:
                entry: list[Entry] = []
                yield from self._frozen(path, key, value, entry)
                entries[key] = old if old is not None and old == entry[0] else entry[0]
        left = iter(entries.items())
        return [Part(dict(islice(left, size)), sight) for sight in sights]

    def _with_changes(
        self, parts: list[Part], values: list[Any], changed: list[Any]
    ) -> list[Part] | None:  # Any: the user's own values
        """
        The parts with these values, which are those of their keys: the same ones where nothing has changed; None where that is
        not to be seen.

        The values that have changed come to *changed*; the answer is right only if they are plain.
        """
        groups: list[list[Any]] = []  # Any: as above
        end = 0
        for part in parts:
            begin, end = end, end + len(part.entries)
            groups.append(values[begin:end])
        try:
            sights = list(map(marshal.dumps, groups, repeat(_SIGHT)))
        except ValueError:
            return None
        seen = [part.sight for part in parts]
        if sights == seen:
            return parts
        others = list(compress(range(len(parts)), map(ne, sights, seen)))
        new_sights, dumped = _forms([groups[number] for number in others])
        if not all(dumped):
            return None
        found = parts.copy()
        forms = iter(dumped)
        for number, sight in zip(others, new_sights, strict=True):
            part = parts[number]
            new: dict[str, Entry] = {}
            for (key, old), value, form in zip(part.entries.items(), groups[number], forms, strict=False):
                if form != old:
                    new[key] = form
                    changed.append(value)
            if new:
                found[number] = part.with_changes(new, sight)
            else:
                part.sight = sight
        return found

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

    def _are_plain(self, values: list[Any]) -> bool:  # Any: the user's own values
        """Whether all are their own frozen form, with no secrets in them, and together of a modest size; may say no too often."""
        # Marshal has taken them: so nothing in them is of a class that only equals a text.
        level, left = values, _MOST_VALUES
        for _ in range(_MOST_LEVELS):
            kinds = set(map(type, level))
            if kinds <= _ATOMS:
                return True
            if not kinds <= _PARTS:
                return False
            dicts = [one for one in level if type(one) is dict] if kinds != _DICT_ONLY else level
            lists = [one for one in level if type(one) is list] if list in kinds else []
            left -= sum(map(len, dicts)) + sum(map(len, lists))
            if left < 0 or not self._have_plain_keys(dicts):
                return False
            if 2 in map(len, lists) and any(map(_may_be_named_secret, lists)):
                return False
            level = list(chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(lists)))
        return False

    def _have_plain_keys(self, dicts: list[dict[Any, Any]]) -> bool:  # Any: the user's own keys and values
        shapes = set(map(tuple, dicts))
        if shapes <= self._harmless:
            return True
        for shape in shapes - self._harmless:
            if not shape:
                continue
            if set(map(type, shape)) != _TEXT_ONLY or TAG in shape:
                return False
            if self._names and self._names.may_be_in("\0".join(shape)):
                return False
            if len(shape) <= _LARGEST_SHAPE:
                if len(self._harmless) >= _KEPT_SHAPES:
                    self._harmless.clear()
                self._harmless.add(shape)
        return True


def _may_be_named_secret(pair: list[Any]) -> bool:  # Any: the user's own values
    return len(pair) == 2 and type(pair[0]) is str and not pair[0][:1].isdigit()


class _Changed:
    """What has changed in place since the last look whether it is plain."""

    __slots__ = ("runs", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []  # Any: the user's own
        self.runs: list[tuple[int, list[Part], list[str], list[Any]]] = []  # Any: as above
        """The places, the parts of before, the keys and the values of those around them."""


class _Counted:
    """Tells whether there were secrets in what was frozen."""

    def __init__(self, secrets: SecretSink) -> None:
        self.names = secrets.names
        self.count = 0
        self._secrets = secrets

    def take(self, secret: str | bytes, path: str) -> Frozen:
        self.count += 1
        return self._secrets.take(secret, path)


def _entries(parts: list[Part]) -> dict[str, Entry]:
    return {key: entry for part in parts for key, entry in part.entries.items()}


def _forms(groups: list[list[Any]]) -> tuple[list[bytes], list[bytes]]:  # Any: the user's own values
    """How each of the groups is seen, and the form of each of their values, as by `_dumped`."""
    values = list(chain.from_iterable(groups))
    try:
        # In one call of C, between whose parts no other thread gets its turn: all tell of the same moment.
        forms = list(
            map(
                marshal.dumps,
                chain(groups, values),
                chain(repeat(_SIGHT, len(groups)), repeat(_FORM)),
            )
        )
    except ValueError:
        return [b""] * len(groups), list(map(_dumped, values))
    return forms[: len(groups)], forms[len(groups) :]


def _dumped(value: Any) -> bytes:  # Any: the user's own value
    """Nothing where it cannot be: no value's form is empty."""
    try:
        return marshal.dumps(value, _FORM)
    except ValueError:
        return b""


class _Before:
    """The parts of the copy before, beside the keys of the next one."""

    def __init__(self, known: Packed | None, keys: list[Any]) -> None:  # Any: theirs
        self._keys = keys
        self._parts = [] if known is None else known.parts
        self._at = 0
        self._known_keys = [] if known is None else known.keys
        self._key = 0
        """Of those, which is the first of the part that comes next."""
        self._first: dict[str, int] | None = None
        """Of each part its first key: only asked where keys have come or gone."""

    def next(self, at: int, new_at_once: int) -> tuple[list[Part], int, Mapping[str, Entry]]:
        """
        The parts that have the keys from *at* on, all plain or none, and where the next begin.

        If there are none, what is known of these keys. Entries that are not known here, although they were there, are taken for
        changed.
        """
        if self._at >= len(self._parts):
            return [], at + new_at_once, {}
        many = 1 if len(self._parts[self._at].sight) > _LARGE else _AT_ONCE
        while many and self._keys[at] == self._known_keys[self._key]:
            parts = self._parts[self._at : self._at + many]
            size = sum([len(part.entries) for part in parts])
            end = at + size
            # The last one takes up what is new, until it is full.
            is_full = self._at + many < len(self._parts) or len(parts[-1].entries) >= _SIZE
            if (
                (
                    self._keys is self._known_keys
                    or self._keys[at:end] == self._known_keys[self._key : self._key + size]
                )
                and (is_full or end >= len(self._keys))
                and len({part.is_plain for part in parts}) == 1
            ):
                self._at += many
                self._key += size
                return parts, end, {}
            many //= 2
        return [], *self._find_again(at)

    def _find_again(self, at: int) -> tuple[int, Mapping[str, Entry]]:
        keys = self._keys
        if self._first is None:
            self._first = {next(iter(part.entries)): number for number, part in enumerate(self._parts)}
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
        self._key += sum(len(part.entries) for part in self._parts[begun : self._at])
        # Of those that are passed over, the ones at both ends: what has moved further is taken for new.
        passed = self._parts[begun : max(self._at, begun + 2)]
        return end, _entries(passed[:4] + passed[4:][-4:])
