"""
Reading what `json_pieces` wrote, a few lines at a time.

One call that decodes 50 MB holds the interpreter lock for a second, in whatever thread. Where the entries stand on lines of
their own, some of them can be decoded together, and others get their turn in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.codec import TAG

__all__ = ["OtherFormError", "read_lines"]

_BYTES_AT_ONCE: Final = 8 * 1024

_TAG: Final = b'"%s"' % TAG.encode()


class OtherFormError(Exception):
    """It is not in the form of `json_pieces`; it may be sound JSON all the same."""


def read_lines(
    data: bytes, restore: Callable[[Any], Any], pace: Pace
) -> dict[str, Any]:  # Any: what JSON has, and what is restored
    """
    The object in *data*. *restore* is called for each entry below the top level that has a tag in it, and for the
    containers that have one themselves; it may change what it gets.

    Raises:
        OtherFormError: decode it as a whole.
        Exception: whatever *restore* raises.
    """
    if not data.startswith(b"{\n"):
        raise OtherFormError
    content, end = _Lines(data, restore, pace).container(2, is_object=True, indent=0, is_raw=False)
    if data[end:].strip():
        raise OtherFormError
    assert isinstance(content, dict)
    return content


class _Lines:
    def __init__(self, data: bytes, restore: Callable[[Any], Any], pace: Pace) -> None:  # Any: see read_lines
        import json

        self._data = data
        self._restore = restore
        self._pace = pace
        self._decode = json.JSONDecoder().decode

    def container(
        self, at: int, *, is_object: bool, indent: int, is_raw: bool
    ) -> tuple[dict[str, Any] | list[Any], int]:  # Any: see read_lines
        """What stands from *at* on in lines that are indented further than *indent*, and where it has ended."""
        data = self._data
        closing = b"\n" + b" " * indent + (b"}" if is_object else b"]")
        values: dict[str, Any] = {}  # Any: see read_lines
        items: list[Any] = []  # Any: see read_lines
        while True:
            end = data.find(b"\n", at + _BYTES_AT_ONCE) + 1 or len(data)
            # No text holds the end of a line: only a line that opens a container ends like that.
            opens = min(_found(data, b"{\n", at, end), _found(data, b"[\n", at, end))
            closes = _found(data, closing, at - 1, end + len(closing)) + 1
            stop = min(end, closes, data.rfind(b"\n", at, opens) + 1 or at if opens < end else end)
            if stop > at:
                self._entries(data[at:stop], values if is_object else items, is_raw=is_raw or not indent)
            self._pace.keep()
            if stop == closes:
                return (values if is_object else items), closes + len(closing) - 1
            if opens >= end:
                if end == len(data):
                    raise OtherFormError
                at = end
                continue
            opens_object = data[opens : opens + 1] == b"{"
            name = self._decoded(data[stop:opens].strip(b" :")) if is_object else ""
            at = opens + 2
            is_tagged = opens_object and data[at : at + indent + 20].lstrip(b" ").startswith(_TAG)
            child: Any  # Any: see read_lines
            child, at = self.container(
                at, is_object=opens_object, indent=indent + 2, is_raw=is_raw or is_tagged
            )
            at = data.find(b"\n", at) + 1
            if is_tagged and not is_raw:
                child = self._restore(child)
            if not is_object:
                items.append(child)
            elif isinstance(name, str):
                values[name] = child
            else:
                raise OtherFormError

    def _entries(
        self, lines: bytes, into: dict[str, Any] | list[Any], *, is_raw: bool
    ) -> None:  # Any: see read_lines
        lines = lines.rstrip(b",\n")
        restores = not is_raw and _TAG in lines
        if isinstance(into, dict):
            found = self._decoded(b"{%s}" % lines)
            if restores:
                found = {key: self._restored(value) for key, value in found.items()}
            into.update(found)
        else:
            found = self._decoded(b"[%s]" % lines)
            into.extend(map(self._restored, found) if restores else found)

    def _restored(self, value: Any) -> Any:  # Any: see read_lines
        return self._restore(value) if isinstance(value, dict | list) else value

    def _decoded(self, text: bytes) -> Any:  # Any: see read_lines
        try:
            return self._decode(text.decode())
        except (ValueError, RecursionError):
            raise OtherFormError from None


def _found(data: bytes, what: bytes, start: int, end: int) -> int:
    at = data.find(what, start, end)
    return len(data) if at < 0 else at
