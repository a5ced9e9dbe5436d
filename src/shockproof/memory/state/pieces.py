"""
Frozen values as JSON and as pickle, in pieces.

One call that encodes a large state holds the interpreter lock to its end, in whatever thread: 700 ms for
50 MB. Piece by piece it does not, and the writer's thread can stand back in between.
"""

from __future__ import annotations

from collections.abc import Iterator

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import Frozen
from shockproof.memory.state.packed import Entry, Packed, frozen_entry, json_ready, size_of

__all__ = ["json_pieces", "pickle_pieces"]

_VALUES_AT_ONCE = 500
# About 100 microseconds of encoding.
_SMALL_ENTRY = 4 * 1024
_BYTES_AT_ONCE = 8 * 1024
# Of packed entries: less, and joining them costs more than it saves; more, and the loop waits for it.


def json_pieces(value: Frozen, *, pace: Pace, indent: int = 0, expand: int = 0) -> Iterator[bytes]:
    """
    *value* as JSON text in UTF-8.

    The first *expand* levels, and whatever is large, stand one entry on a line; the rest is compact: one
    line for one quote, however many there are. *indent* is the indentation of the first line.
    """
    from json import JSONEncoder

    encode = JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode

    def pieces(value: Frozen, indent: int, expand: int) -> Iterator[bytes]:
        pace.keep()
        if isinstance(value, Packed):
            yield from packed_pieces(value, indent, expand)
            return
        if not isinstance(value, dict | list) or not value or (expand <= 0 and _is_small(value)):
            yield encode(value).encode()
            return
        margin = b"\n" + b" " * (indent + 2)
        is_object = isinstance(value, dict)
        yield b"{" if is_object else b"["
        separator = b""
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            head = separator + margin + (encode(key).encode() + b": " if is_object else b"")
            if expand <= 1 and _is_small(child):
                yield head + encode(child).encode()
                pace.keep()
            else:
                yield head
                yield from pieces(child, indent + 2, expand - 1)
            separator = b","
        yield b"\n" + b" " * indent + (b"}" if is_object else b"]")

    def packed_pieces(value: Packed, indent: int, expand: int) -> Iterator[bytes]:
        margin = "\n" + " " * (indent + 2)
        yield b"{"
        separator = margin
        for batch in _batches(value):
            entries = [(key, frozen_entry(entry)) for key, entry in batch]
            try:
                if len(batch) == 1 and not _is_small(entries[0][1]):
                    raise ValueError  # it takes the same way as what JSON cannot carry
                lines = [f"{encode(key)}: {encode(frozen)}" for key, frozen in entries]
                yield (separator + f",{margin}".join(lines)).encode()
            except ValueError:
                # What is large itself; or not finite, or half a character, in values that are plain otherwise.
                for key, entry in batch:
                    yield f"{separator}{encode(key)}: ".encode()
                    yield from pieces(json_ready(entry), indent + 2, expand - 1)
                    separator = f",{margin}"
            separator = f",{margin}"
            pace.keep()
        yield b"\n" + b" " * indent + b"}" if value.parts else b"}"

    return pieces(value, indent, expand)


def pickle_pieces(value: Frozen, *, pace: Pace) -> Iterator[bytes]:
    """
    *value* as one pickle that any Python can load: no classes, nothing but plain values.

    Protocol 3, whose memo has explicit places: a piece that was pickled alone can be put in the middle.
    """
    import pickle

    def pieces(value: Frozen) -> Iterator[bytes]:
        pace.keep()
        if isinstance(value, Packed):
            yield from packed_pieces(value)
        elif not isinstance(value, dict | list) or _is_small(value):
            yield pickle.dumps(value, protocol=3)[2:-1]
        elif isinstance(value, dict):
            yield pickle.EMPTY_DICT + pickle.MARK
            for key, child in value.items():
                yield pickle.dumps(key, protocol=3)[2:-1]
                yield from pieces(child)
            yield pickle.SETITEMS
        else:
            yield pickle.EMPTY_LIST + pickle.MARK
            for child in value:
                yield from pieces(child)
            yield pickle.APPENDS

    def packed_pieces(value: Packed) -> Iterator[bytes]:
        yield pickle.EMPTY_DICT
        for batch in _batches(value):
            # What fills a dict, without the dict.
            filled = {key: frozen_entry(entry) for key, entry in batch}
            yield pickle.dumps(filled, protocol=3)[_LENGTH_OF_A_DICT:-1]
            pace.keep()

    yield pickle.PROTO + b"\x03"
    yield from pieces(value)
    yield pickle.STOP


_LENGTH_OF_A_DICT = 5  # the protocol, the empty dict, and its place in the memo


def _batches(value: Packed) -> Iterator[list[tuple[str, Entry]]]:
    """The entries, in lists that are encoded in one go; one that is large itself stands alone."""
    batch: list[tuple[str, Entry]] = []
    left = _BYTES_AT_ONCE
    for key, entry in value.items():
        size = size_of(entry)
        if batch and (left < size or size > _SMALL_ENTRY):
            yield batch
            batch, left = [], _BYTES_AT_ONCE
        batch.append((key, entry))
        left -= size
        if size > _SMALL_ENTRY:
            yield batch
            batch, left = [], _BYTES_AT_ONCE
    if batch:
        yield batch


def _is_small(value: Frozen) -> bool:
    """Whether it may be encoded in one call."""
    left = _VALUES_AT_ONCE
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            left -= len(value)
            if left < 0:
                return False
            waiting.extend(value.values())
        elif type(value) is list:
            left -= len(value)
            if left < 0:
                return False
            waiting.extend(value)
        elif type(value) is str:
            left -= len(value) >> 8
        elif type(value) is Packed:
            return False
    return left >= 0
