"""
What a gRPC server says about when to come again, in the trailers behind its status.

Two ways are in use: ``grpc-retry-pushback-ms`` of gRPC's own retries (proposal A6), and google.rpc's ``RetryInfo`` inside
``grpc-status-details-bin``. Of that message three fields matter, which are read here: its types would need protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

__all__ = ["AskedByServer", "asked_by_server"]

_PUSHBACK: Final = "grpc-retry-pushback-ms"
_DETAILS: Final = "grpc-status-details-bin"
_RETRY_INFO: Final = b"/google.rpc.RetryInfo"
_LARGEST_VARINT: Final = 10
"""Bytes."""


class AskedByServer(NamedTuple):
    """What it asked for."""

    seconds: float
    is_final: bool = False
    """Whether it asked never to come again with this."""


def asked_by_server(trailers: Iterable[tuple[str, str | bytes]]) -> AskedByServer | None:
    """The longest wait that is asked for; None where nothing is, or nothing that can be understood."""
    found = [_asked(name, value) for name, value in trailers if name in (_PUSHBACK, _DETAILS)]
    said = [one for one in found if one is not None]
    return max(said, key=lambda one: (one.is_final, one.seconds), default=None)


def _asked(name: str, value: str | bytes) -> AskedByServer | None:
    if name == _PUSHBACK:
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        # By A6 whatever is no number says the same as a negative one.
        return AskedByServer(int(text) / 1000) if text.isdecimal() else AskedByServer(0.0, is_final=True)
    try:
        return _retry_info(value if isinstance(value, bytes) else value.encode("latin-1"))
    except ValueError:
        return None


def _retry_info(status: bytes) -> AskedByServer | None:
    """The delay of the RetryInfo in a ``google.rpc.Status``."""
    for number, detail in _fields(status):
        if number != 3 or not isinstance(detail, bytes):  # one of its details, an Any
            continue
        inside = dict(_fields(detail))
        kind, message = inside.get(1), inside.get(2)
        if isinstance(kind, bytes) and kind.endswith(_RETRY_INFO) and isinstance(message, bytes):
            delay = dict(_fields(message)).get(1)
            duration = dict(_fields(delay)) if isinstance(delay, bytes) else {}
            seconds, nanos = duration.get(1, 0), duration.get(2, 0)
            if isinstance(seconds, int) and isinstance(nanos, int):
                wait = seconds + nanos / 1e9
                return (
                    AskedByServer(wait) if wait < math.ldexp(1, 40) else None
                )  # a negative one is huge here
    return None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """
    The fields of a message in protobuf's wire format, numbers and bytes; those of fixed width are passed over.

    Raises:
        ValueError: it is none.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError("it ends too early")
        if kind == 2:
            yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for place, byte in enumerate(message[at : at + _LARGEST_VARINT]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise ValueError("a number without an end")
