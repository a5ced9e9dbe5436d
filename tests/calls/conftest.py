"""What the tests of calls share: a function that plays its outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shockproof.testing import VirtualClock


class Scripted:
    """An async function that plays its outcomes one by one, the last for ever, and knows when it was called."""

    __name__ = "scripted"

    def __init__(self, clock: VirtualClock, *outcomes: object) -> None:
        self.clock = clock
        self.outcomes = list(outcomes)
        self.times: list[float] = []
        self.arguments: list[tuple[tuple[object, ...], dict[str, object]]] = []
        self.began = clock.monotonic()

    @property
    def calls(self) -> int:
        return len(self.times)

    async def __call__(self, /, *args: object, **kwargs: object) -> Any:
        self.times.append(round(self.clock.monotonic() - self.began, 6))
        self.arguments.append((args, kwargs))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def script(clock: VirtualClock) -> Callable[..., Scripted]:
    """`script(error, error, answer)`: a function that plays these."""
    return lambda *outcomes: Scripted(clock, *outcomes)
