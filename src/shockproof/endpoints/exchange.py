"""A request that is there as a whole, and what is answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

__all__ = ["MOST_BODY", "Answer", "Request", "Stream", "plain"]

MOST_BODY: Final = 4096
"""Bytes: a body here is one line that says why."""


class Request(NamedTuple):
    """What decides about an answer. The path is decoded, the query is not."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Names in lower case."""
    body: bytes = b""

    def header(self, name: bytes) -> list[bytes]:
        """The values of a header, one for each line that gives it."""
        return [value for given, value in self.headers if given == name]


class Answer(NamedTuple):
    """A status, a body, and what stands above it."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    more: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All headers but those of the connection; names in lower case, as ASGI wants them."""
        return [*_headers(self.content_type, self.more), ("content-length", str(len(self.body)))]


class Stream(NamedTuple):
    """An answer without an end of its own: piece by piece as it comes, with the status 200."""

    pieces: AsyncGenerator[bytes]
    """Whoever sends them closes it."""
    content_type: str = "text/event-stream"
    more: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """As those of an `Answer`; how long it is, nobody knows."""
        return _headers(self.content_type, self.more)


def _headers(content_type: str, more: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return [
        ("content-type", content_type),
        ("cache-control", "no-store"),  # health of a minute ago is no health
        ("x-content-type-options", "nosniff"),
        *more,
    ]


def plain(status: int, text: str, *more: tuple[str, str]) -> Answer:
    """An answer of a few lines for people and scripts."""
    # A name may hold half a surrogate pair; an answer has to hold together all the same.
    return Answer(status, f"{text}\n".encode("utf-8", "backslashreplace"), more=more)
