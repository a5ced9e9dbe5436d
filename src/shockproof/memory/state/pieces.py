"""
Frozen values as JSON and as pickle, in pieces.

One call that encodes a large state holds the interpreter lock to its end, in whatever thread: 700 ms for
50 MB. Piece by piece it does not, and the writer's thread can stand back in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from shockproof.memory.state.codec import Frozen

__all__ = ["giving_way", "json_pieces", "pickle_pieces"]

_VALUES_AT_ONCE = 500
# About 100 microseconds of encoding.
_BYTES_AT_ONCE = 32 * 1024


def json_pieces(value: Frozen, *, indent: int = 0, expand: int = 0) -> Iterator[bytes]:
    """
    *value* as JSON text in UTF-8.

    The first *expand* levels, and whatever is large, stand one entry on a line; the rest is compact: one
    line for one quote, however many there are. *indent* is the indentation of the first line.
    """
    from json import JSONEncoder

    encode = JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode

    def pieces(value: Frozen, indent: int, expand: int) -> Iterator[bytes]:
        if (expand <= 0 and _is_small(value)) or not value or not isinstance(value, dict | list):
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
            else:
                yield head
                yield from pieces(child, indent + 2, expand - 1)
            separator = b","
        yield b"\n" + b" " * indent + (b"}" if is_object else b"]")

    return pieces(value, indent, expand)


def pickle_pieces(value: Frozen) -> Iterator[bytes]:
    """
    *value* as one pickle that any Python can load: no classes, nothing but plain values.

    Protocol 3, whose memo has explicit places: a piece that was pickled alone can be put in the middle.
    """
    import pickle

    def pieces(value: Frozen) -> Iterator[bytes]:
        if _is_small(value) or not isinstance(value, dict | list):
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

    yield pickle.PROTO + b"\x03"
    yield from pieces(value)
    yield pickle.STOP


def giving_way(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same pieces; after each burst of work the event loop's thread may go first."""
    burst = 0
    for piece in pieces:
        yield piece
        burst += len(piece)
        if burst >= _BYTES_AT_ONCE:
            time.sleep(0)
            burst = 0


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
    return left >= 0
