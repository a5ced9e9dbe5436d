"""
Somebody who is told: what all of them have, and the error of one that did not take it.
"""

from __future__ import annotations

import http.client
from collections.abc import Awaitable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from shockproof.alerts.incident import Notice

__all__ = ["AlertNotSentError", "Target", "is_worth_repeating"]

_PASSING: Final = frozenset({408, 425, 429})


class Target(Protocol):
    """What `Alerts` tells: implement it for a way of your own."""

    @property
    def name(self) -> str:
        """Of this target; its service is ``alerts.`` and the name."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds that one attempt may take, more than 0."""
        ...

    @property
    def at_once(self) -> int:
        """How many notices one message may hold, at least 1."""
        ...

    @property
    def secrets(self) -> Sequence[str]:
        """What must not stand in any log: URLs, keys."""
        ...

    def send(self, notices: Sequence[Notice]) -> Awaitable[None] | None:
        """
        Tell *notices*; a plain function runs in a thread, a coroutine function on the loop.

        Raises:
            AlertNotSentError, OSError: it was not taken; it is tried again, unless the status says that it is no use.
        """
        ...


class AlertNotSentError(Exception):
    """A target did not take an alert; *status* is that of its HTTP answer, if there was one."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers)
        """Of the answer: a Retry-After is heeded."""


def is_worth_repeating(error: Exception) -> bool:
    """Whether the same message may be taken another time."""
    if isinstance(error, AlertNotSentError):
        return error.status is None or error.status in _PASSING or error.status >= 500
    return isinstance(error, OSError | http.client.HTTPException)
