"""
Looking up what became of something that may have been sent: when to ask, and what an answer proves.

"Not found" is proof only when the question was asked after the settle window: what is under way may still
arrive at the other side until then. "Found" is proof at any time. A question that failed proves nothing.
"""

from __future__ import annotations

from typing import Final, Literal

from shockproof.vocabulary.look_up import NOT_FOUND, Found, LookUp

__all__ = ["Confirmation", "window_left"]

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0
_LONGEST_QUESTION: Final = 10.0


def window_left(settle: float, *, passed: float) -> float:
    """
    Seconds until the window of something closes that was last under way *passed* seconds ago.

    Never more than *settle*: what may be under way for longer was ended with the program that sent it.
    """
    return min(max(0.0, settle - passed), settle)


class Confirmation:
    """
    The questions after one key. Times are monotonic seconds, handed in.

    It gives up `patience` seconds after the window has closed, and never before one question was asked behind it.

    Args:
        closes_at: when the window closes.
        settle: its length.
        at_least: seconds between two questions, where many keys are asked after; one right behind the window comes
            all the same.
    """

    def __init__(self, *, closes_at: float, settle: float, at_least: float = 0.0) -> None:
        self._closes_at = closes_at
        self.patience = max(settle, _LONGEST_DELAY)
        self.gives_up_at = closes_at + self.patience
        self._at_least = at_least
        self._asked = 0
        self._is_conclusive = False
        self._is_extended = False

    def asks(self, now: float) -> float:
        """
        A question begins: it is this moment that counts, and not the one of its answer.

        The seconds that it may take. One that hangs is asked again: it may have hung on a dead connection.
        """
        self._asked += 1
        self._is_conclusive = now >= self._closes_at
        # Also where there is less time left: it may have had to wait for its turn, and is not to blame.
        return min(_LONGEST_QUESTION, max(self.gives_up_at - now, self.patience))

    def still_under_way(self, closes_at: float) -> None:
        """It has not left our hands: the window closes later. When to give up stays as it is."""
        self._closes_at = max(self._closes_at, closes_at)
        self._is_extended = True

    def answered(self, answer: LookUp[object], now: float) -> Literal["found", "absent", "unproven"] | float:
        """What the answer proves; or the seconds until the next question."""
        if isinstance(answer, Found):
            return "found"
        if self._is_conclusive and answer is NOT_FOUND:
            return "absent"
        if (self._is_conclusive or self._is_extended) and now >= self.gives_up_at:
            return "unproven"
        delay = max(min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._asked - 1, 10)), self._at_least)
        if now < self._closes_at <= self.gives_up_at:
            # One question right behind the window, so that nobody waits longer than needed.
            return min(delay, self._closes_at - now)
        return max(0.0, min(delay, self.gives_up_at - now))
