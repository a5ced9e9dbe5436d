"""What can be changed over HTTP, once it is known that one may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from shockproof.endpoints.exchange import Answer, plain
from shockproof.vocabulary.errors import StateNotSavedError

if TYPE_CHECKING:
    from shockproof.service import ErrorRecoveryService

__all__ = ["Changes"]

_PATIENCE: Final = 5.0
"""Seconds that an answer waits for the disk; `aclose` waits as long."""

_log = logging.getLogger("shockproof")


class Changes:
    """
    Resets, holds and halts of one recovery service, each by one POST.

    They act before anything is awaited: whoever goes away without reading the answer has changed it.
    """

    def __init__(self, recovery: ErrorRecoveryService) -> None:
        self._recovery = recovery

    @staticmethod
    def knows(path: str) -> bool:
        """Whether a POST to *path* would change something."""
        return path in ("/halt", "/resume") or _of_a_service(path) is not None

    async def make(self, path: str, body: bytes) -> Answer:
        """Change what *path*, one that `knows`, asks for; *body* says why."""
        try:
            reason = body.decode("utf-8").strip()
        except UnicodeDecodeError:
            reason = "\n"
        if not reason.isprintable():  # it will stand in logs and errors
            return plain(400, "the body must be one line of text, the reason")
        reason = self._recovery._redactor.text(reason)
        if path == "/halt":
            if not reason:
                return plain(400, "the body must be the reason")
            _log.warning("asked over HTTP to halt")
            return await self._durable("halted", self._recovery.halt(reason))
        if path == "/resume":
            _log.warning("asked over HTTP to resume")
            return await self._durable("resumed", self._recovery.resume())
        asked = _of_a_service(path)
        assert asked is not None
        return self._change_circuit(*asked, reason)

    def _change_circuit(self, name: str, what: str, reason: str) -> Answer:
        recovery = self._recovery
        if name not in recovery.get_all_service_statuses():
            return plain(404, "there is no such service; /health lists them")
        _log.warning("asked over HTTP to %s %r", what, name)
        if what == "reset":
            recovery.reset_circuit_breaker(name)
            is_held = recovery.is_circuit_open(name)
            return plain(200, "reset; it is held open until /release" if is_held else "reset")
        if what == "force-open":
            recovery.set_circuit_mode(name, "forced-open", reason or "forced open over HTTP")
            return plain(200, "forced open")
        recovery.set_circuit_mode(name, "normal", reason or None)
        return plain(200, "released")

    async def _durable(self, done: str, durable: Awaitable[None]) -> Answer:
        try:
            async with asyncio.timeout(_PATIENCE):
                await durable
        except StateNotSavedError as error:
            told = self._recovery._redactor.text(str(error))
            return plain(500, f"{done} in memory, and not on the disk: {told}")
        except TimeoutError:
            return plain(500, f"{done} in memory; the disk has not answered within {_PATIENCE:g} s")
        return plain(200, done)


def _of_a_service(path: str) -> tuple[str, str] | None:
    """The service, whose name may hold slashes, and what is to be done to it."""
    front, _, what = path.rpartition("/")
    name = front.removeprefix("/services/")
    if name in ("", front) or what not in ("reset", "force-open", "release"):
        return None
    return name, what
