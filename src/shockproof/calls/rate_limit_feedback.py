"""
What the other side says about the rate limit of a service, handed in by whoever sees its answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shockproof.policies.rate_limit import WEIGHT, parse_window
from shockproof.vocabulary.arguments import Seconds, seconds, whole_number

if TYPE_CHECKING:
    from shockproof.calls.limits import Limits
    from shockproof.calls.plan import Plan

__all__ = ["RateLimitFeedback"]


class RateLimitFeedback:
    """
    The rate limit of one service, to be told what its other side counts; `Handle.rate_limit` gives it.

    Whatever it is told holds for all handles of the service, at once. Safe to call from any thread.
    """

    __slots__ = ("_plan",)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def headers(self, headers: Mapping[str, str]) -> None:
        """
        Take over what the headers of an answer say: used weight, what is left, Retry-After.

        Errors and responses that carry their headers are read without being asked; this is for clients that
        keep them elsewhere. What is not understood is passed over.

        Args:
            headers: of an HTTP response, for instance ``response.headers`` or ccxt's
                ``exchange.last_response_headers``.

        Raises:
            ValueError: the service has no rate limit.
        """
        self._limits("headers").read_headers(headers.items())

    def used(self, window: str, used: int, *, counts: str = WEIGHT, resets_in: Seconds | None = None) -> None:
        """
        The other side counts *used* in its *window*, our own calls included.

        What that is more than our own count, others have sent, or an earlier life: it takes room for a
        window's length from now on. A number below our own count changes nothing.

        Args:
            window: its length, such as ``"1m"`` or ``"10s"``.
            used: what it counts, at least 0.
            counts: the name of the rate, if it has one. Default: ``"weight"``.
            resets_in: seconds until the other side begins a new window. Default: a window's length.

        Raises:
            TypeError, ValueError: a value that is not allowed, or there is no such rate.
        """
        limits = self._limits("used")
        length, number = parse_window("window", window), whole_number("used", used, minimum=0)
        rest = None if resets_in is None else seconds("resets_in", resets_in)
        if not limits.report(length, number, names=[counts], resets_in=rest):
            known = ", ".join(f"{rate.name} in {rate.seconds:g} s" for rate in limits.rates)
            raise ValueError(
                f"service {self._plan.state.name!r} has no rate of {counts} in {window!r}; there are {known}"
            )

    def pause(self, wait: Seconds) -> None:
        """
        Send nothing for *wait* seconds, a week at most: a ban, or a 429 that only you have seen.

        All calls of the service wait, or are refused where they may not wait so long; risk-reducing ones, too.

        Raises:
            TypeError, ValueError: it is no duration, or the service has no rate limit.
        """
        self._limits("pause").pause(seconds("wait", wait))

    def export(self) -> dict[str, Any]:  # Any: JSON
        """
        What was sent within the windows, and for how long it is paused: JSON-ready, for `restore`.

        `save_state` saves it by itself; this is for a store of your own.

        Raises:
            ValueError: the service has no rate limit.
        """
        return self._limits("export").export()

    def restore(self, exported: Mapping[str, Any]) -> None:  # Any: JSON
        """
        Count what an earlier life of the program has sent; once, at its start.

        `restore_state` does it by itself; both would count it twice.

        Raises:
            ValueError: it is no export, or the service has no rate limit.
        """
        limits = self._limits("restore")
        try:
            limits.restore(exported)
        except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"exported must be what export() gave, got {exported!r}") from error

    def _limits(self, what: str) -> Limits:
        state = self._plan.state
        limits: Limits | None = state.limits
        if limits is None or not limits.rates:
            raise ValueError(
                f"service {state.name!r} has no rate limit, so rate_limit.{what}() has nothing to act on: "
                'give it one, such as rate_limit="1200/min"'
            )
        return limits

    def __repr__(self) -> str:
        return f"<RateLimitFeedback of {self._plan.state.name!r}>"
