"""The status page as those see it who look at the same services: one picture for all of them, version by version."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from shockproof.views.status import status_on_loop
from shockproof.views.status_history import StatusHistory
from shockproof.views.status_page import Part, page, parts_of

if TYPE_CHECKING:
    from shockproof.service import ErrorRecoveryService

__all__ = ["EVERY", "StatusView"]

EVERY: Final = 1.0
"""Seconds between two versions, at least."""

_AT_A_TIME: Final = 10
"""Parts that are made before others have their turn on the loop."""


class StatusView:
    """
    The newest version of each part, and in which version it changed: who has seen one is told what is new since.

    Nothing is kept for a reader, and one that is slow misses versions, not changes.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        history: StatusHistory,
        *,
        matching: str,
        most: int,
        can_change: bool,
    ) -> None:
        self._recovery, self._history = recovery, history
        self._matching, self._most, self._can_change = matching, most, can_change
        self._life = secrets.token_hex(4)
        """Versions of another life, before a restart, say nothing about this one."""
        self._number = 0
        self._parts: dict[str, Part] = {}
        self._since: dict[str, int] = {}
        """The version in which a part, or the order of a list, became what it is."""
        self._lists: dict[str, list[str]] = {}
        self._made_at = -math.inf
        self._waiting: list[asyncio.Future[None]] | None = None
        """Those who wait for the version that is being made; None: none is."""
        self._messages: dict[int, bytes] = {}

    @property
    def version(self) -> str:
        """What the page and each message are marked with."""
        return f"{self._life}-{self._number}"

    async def page(self) -> str:
        """The whole page, as new as `EVERY`."""
        await self.refresh()
        while not self._number:  # whoever was making the first one was cancelled
            await self.refresh()
        return page(
            self._parts,
            matching=self._matching,
            most=self._most,
            version=self.version,
            can_change=self._can_change,
        )

    async def refresh(self) -> None:
        """Make the next version if it is time, a few parts at a time; one that another reader is making is waited for."""
        if self._is_fresh() and self._waiting is None:
            return
        if self._waiting is not None:
            made = asyncio.get_running_loop().create_future()
            self._waiting.append(made)
            await made
            return
        self._waiting = []
        try:
            made_at = self._recovery._clock.monotonic()
            status = await status_on_loop(
                self._recovery, self._history, matching=self._matching, most=self._most
            )
            parts: list[Part] = []
            for part in parts_of(status, matching=self._matching, can_change=self._can_change):
                parts.append(part)
                if len(parts) % _AT_A_TIME == 0:
                    await asyncio.sleep(0)
            self._made_at = made_at
            self._publish(parts)
        finally:
            waiting, self._waiting = self._waiting, None
            for made in waiting:
                if not made.done():
                    made.set_result(None)

    def message(self, seen: str) -> bytes | None:
        """What has changed since the version *seen*, as a server-sent event: everything, if it is none of ours; None for nothing."""
        number = self._number_of(seen)
        if number == self._number or not self._number:  # nothing new, or not there yet
            return None
        message = self._messages.get(number)
        if message is None:
            news = [name for name, since in self._since.items() if since > number]
            data = {
                "parts": {name: self._parts[name].markup for name in news if name in self._parts},
                "lists": {name: self._lists[name] for name in news if name in self._lists},
                "whole": number < 0,
            }
            text = json.dumps(data, separators=(",", ":"))
            message = f"id: {self.version}\nevent: patch\ndata: {text}\n\n".encode("ascii")
            self._messages[number] = message
        return message

    def _number_of(self, seen: str) -> int:
        life, _, number = seen.partition("-")
        if life != self._life or not number.isascii() or not number.isdigit():
            return -1
        return int(number) if len(number) < 10 and int(number) <= self._number else -1

    def _is_fresh(self) -> bool:
        return self._recovery._clock.monotonic() - self._made_at < EVERY * 0.9

    def _publish(self, made: Iterable[Part]) -> None:
        parts = {part.id: part for part in made}
        lists: dict[str, list[str]] = {name: [] for name in ("rows", "errors", "pending", "happenings")}
        for part in parts.values():
            if part.within:
                lists[part.within].append(part.id)
        number = self._number + 1
        before: dict[str, object] = {**self._parts, **self._lists}
        now: dict[str, object] = {**parts, **lists}  # no list has the name of a part
        self._since = {
            name: self._since[name] if before.get(name) == one else number for name, one in now.items()
        }
        self._parts, self._lists, self._number = parts, lists, number
        self._messages = {}
