"""
The part of HTTP/1.1 (RFC 9112) that asking for health needs, without a socket.

Strict: what two programs may read differently is refused, as that is how requests are smuggled.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import unquote

from shockproof.endpoints.exchange import MOST_BODY, Answer, Stream

__all__ = ["MOST_HEAD", "BadRequestError", "Head", "bytes_of", "head_of", "head_of_stream"]

MOST_HEAD: Final = 16 * 1024
"""Bytes of the request line and all headers."""

_MOST_HEADERS: Final = 64
_LINE: Final = re.compile(rb"([A-Z]{1,16}) (?:http://[^/?#\s]+)?(/[\x21-\x7e]*) HTTP/(\d)\.(\d)")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")


class BadRequestError(Exception):
    """What came is no request that is answered; *status* and the text say why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Head(NamedTuple):
    """What stands before the body."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    length: int
    keeps_open: bool
    awaits_go_ahead: bool


def head_of(raw: bytes) -> Head:
    """
    The request line and headers, with the empty line behind them.

    Raises:
        BadRequestError: it is malformed, ambiguous, or asks for what is not spoken here.
    """
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _LINE.fullmatch(first)
    if found is None:
        raise BadRequestError(400, "malformed request line")
    method, target, major, minor = found.groups()
    if major != b"1":
        raise BadRequestError(505, "only HTTP/1.1 is spoken here")
    if len(lines) > _MOST_HEADERS:
        raise BadRequestError(431, f"more than {_MOST_HEADERS} headers")
    headers = tuple(map(_header, lines))

    def values(name: bytes) -> list[bytes]:
        return [value for given, value in headers if given == name]

    is_old = minor == b"0"
    if len(values(b"host")) != 1 and not (is_old and not values(b"host")):
        raise BadRequestError(400, "one Host header is needed")
    if values(b"transfer-encoding"):
        raise BadRequestError(411, "Content-Length is needed; Transfer-Encoding is not spoken here")
    expected = [value.lower() for value in values(b"expect")]
    if expected not in ([], [b"100-continue"]):
        raise BadRequestError(417, "nothing but 100-continue can be expected")
    options = {one.strip().lower() for value in values(b"connection") for one in value.split(b",")}
    path, _, query = target.partition(b"?")
    return Head(
        method.decode("ascii"),
        unquote(path.decode("ascii"), errors="replace"),
        query,
        headers,
        _length(values(b"content-length")),
        keeps_open=not is_old and b"close" not in options,
        awaits_go_ahead=bool(expected) and not is_old,
    )


def _header(line: bytes) -> tuple[bytes, bytes]:
    found = _HEADER.fullmatch(line)
    if found is None:
        raise BadRequestError(400, "malformed header")
    return found[1].lower(), found[2]


def _length(given: list[bytes]) -> int:
    if not given:
        return 0
    if len(given) != 1 or _LENGTH.fullmatch(given[0]) is None:
        raise BadRequestError(400, "malformed Content-Length")
    length = int(given[0])
    if length > MOST_BODY:
        raise BadRequestError(413, f"the body must be at most {MOST_BODY} bytes")
    return length


def bytes_of(answer: Answer, *, with_body: bool, keeps_open: bool) -> bytes:
    """An answer as it goes out, with the head of one with a body also where the body is left out."""
    return _head(answer.status, answer.headers, keeps_open=keeps_open) + (answer.body if with_body else b"")


def head_of_stream(stream: Stream) -> bytes:
    """What goes out before its pieces; the end of the connection is theirs."""
    return _head(200, stream.headers, keeps_open=False)


def _head(status: int, headers: list[tuple[str, str]], *, keeps_open: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"date: {formatdate(usegmt=True)}"]
    lines += [] if keeps_open else ["connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
