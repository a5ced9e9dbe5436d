"""
Whether a failed attempt is repeated, and after how many seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from shockproof.policies.backoff import Backoff

__all__ = ["Decision", "RetryOn", "RetryRule", "leaves"]

RetryOn = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which errors are worth another attempt: types, or a predicate that runs on the loop."""


class Decision(NamedTuple):
    """What follows a failed attempt."""

    delay: float | None
    """Seconds until the next attempt; None when there is none."""
    reason: str
    """Why there is none, in words a log can show; empty when there is one."""


_MOST_KNOWN: Final = 8
"""Retries of an exact backoff that are decided beforehand: to make a decision takes longer than most of taking it."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside a group, however deep; an ordinary error is its own only leaf."""
    inside = [error]
    while inside:
        one = inside.pop()
        if isinstance(one, BaseExceptionGroup):
            inside.extend(reversed(one.exceptions))
        else:
            yield one


class RetryRule:
    """
    Decides whether, and after how many seconds, a failed attempt is repeated.

    Stateless: one instance serves any number of calls and threads.
    """

    __slots__ = ("_known", "_retry_on", "backoff", "max_retries")

    def __init__(self, *, max_retries: int, backoff: Backoff, retry_on: RetryOn) -> None:
        self.max_retries = max_retries
        self.backoff = backoff
        self._retry_on = retry_on
        self._known: tuple[Decision, ...] = ()
        """What is decided for all errors alike, of the first retries."""
        if retry_on is Exception and backoff.is_exact:
            delays = [backoff.delay(retry, 0.0) for retry in range(min(max_retries, _MOST_KNOWN))]
            self._known = tuple([Decision(delay, "") for delay in delays])

    def wants(self, error: Exception) -> bool:
        """
        Whether *error* is of a kind that is retried.

        A group is, when each of its leaves is. A predicate that raises means no, so that its own
        failure never hides the call's.
        """
        try:
            wanted = self._retry_on
            if isinstance(wanted, type | tuple):
                if not isinstance(error, BaseExceptionGroup):
                    return isinstance(error, wanted)
                return all(isinstance(leaf, wanted) for leaf in leaves(error))
            return all(isinstance(leaf, Exception) and wanted(leaf) for leaf in leaves(error))
        except Exception:  # noqa: BLE001 - a predicate is foreign code; its failure is its own
            return False

    def asks_for_a_pause(self, retry_after: float | None, remaining: float | None) -> bool:
        """Whether the wait is too long for one call, so that the whole service had better be left alone."""
        return retry_after is not None and remaining is None and retry_after > self.backoff.max_delay

    def after_failure(
        self,
        error: Exception | None,
        retries: int,
        previous_delay: float,
        retry_after: float | None,
        remaining: float | None,
        base_delay: float | None = None,
    ) -> Decision:
        """
        What follows a failed attempt, *retries* having been made already.

        *error* is None when a result was judged a failure. *retry_after* is what the other side
        asked for: it is honoured within the deadline, and without a deadline up to `max_delay`.
        *remaining* is what is left of the deadline; a wait that would use it up is not begun.
        *base_delay* stands in for the backoff's own.
        """
        if retries < len(self._known) and retry_after is remaining is base_delay is None:  # of most errors
            return self._known[retries]
        if retries >= self.max_retries:
            return Decision(None, "no retries left" if self.max_retries else "retries are off")
        # Exception is every error that comes here.
        if error is not None and self._retry_on is not Exception and not self.wants(error):
            return Decision(None, f"{type(error).__name__} is not retried")
        delay = self.backoff.delay(retries, previous_delay, error, base_delay=base_delay)
        if retry_after is not None and retry_after > delay:
            if self.asks_for_a_pause(retry_after, remaining):
                return Decision(None, f"the other side asked to wait {retry_after:g} s")
            delay = retry_after
        if remaining is not None and delay >= remaining:
            return Decision(None, "the deadline would pass before another attempt")
        return Decision(delay, "")
