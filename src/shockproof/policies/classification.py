"""
What an error or a result means: one classification per handle decides for all its policies.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from shockproof.policies.retry import leaves
from shockproof.policies.retry_after import BUILT_IN, asked_to_wait
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import CallRejectedError, OutcomeUnknownError
from shockproof.vocabulary.outcomes import CallEffect, CallInfo, Outcome, Verdict

__all__ = ["Classifier", "Classify", "ResultCheck", "is_refusal", "leaves_an_order"]

Classify = Callable[[Any, CallInfo], "Verdict | None"]  # Any: an error or whatever the function returned
ResultCheck = Callable[[Any], bool]  # Any: whatever the function returned

_log = logging.getLogger("shockproof")

# For a call that is one request these prove that the request never left.
_NOTHING_HAPPENED = (ConnectionRefusedError, socket.gaierror)

_PLAIN: Final = frozenset(
    kind for kind in BUILT_IN if not issubclass(kind, (*_NOTHING_HAPPENED, BaseExceptionGroup))
)
"""Errors that are failures, whatever is called: there is no more to ask than for how long to wait."""

_WHERE_ORDERS_ARE = (OutcomeUnknownError, BaseExceptionGroup)

_NEUTRAL = Verdict(Outcome.NEUTRAL)
_FAILED = Verdict(Outcome.FAILURE, effect="unknown")
_NOBODY_KNOWS = Verdict(Outcome.UNKNOWN, effect="unknown")
_FAILED_BEFORE_IT_LEFT = Verdict(Outcome.FAILURE, effect="none")


def leaves_an_order(error: Exception) -> bool:
    """Whether an order of ``once``, inside of what raised it, may have been placed."""
    if not isinstance(error, BaseExceptionGroup):
        return isinstance(error, OutcomeUnknownError)
    return any(isinstance(leaf, OutcomeUnknownError) for leaf in leaves(error))


def is_refusal(error: Exception) -> bool:
    """Whether a policy refused, and nothing else went wrong."""
    return all(isinstance(leaf, CallRejectedError) for leaf in leaves(error))


def _asked_of_group(group: BaseExceptionGroup, clock: Clock) -> float | None:
    """What the group itself says, else the longest of what was asked for inside; a refusal of ours speaks of a service inside."""
    said = asked_to_wait(group, clock)
    if said is not None:
        return said
    waits = [asked_to_wait(leaf, clock) for leaf in leaves(group) if not isinstance(leaf, CallRejectedError)]
    return max((wait for wait in waits if wait is not None), default=None)


class Classifier:
    """
    Turns what an attempt ended with into a `Verdict`. Stateless.

    The user's ``classify`` is asked first; one that raises is treated as if it had no opinion, so
    that its own failure never hides the call's.
    """

    __slots__ = ("_classify", "_effect", "_plain", "_unwanted", "asks_the_user")

    def __init__(
        self, *, effect: CallEffect, classify: Classify | None, retry_if_result: ResultCheck | None
    ) -> None:
        self._effect: CallEffect = effect
        self._classify = classify
        self._unwanted = retry_if_result
        self._plain = self._careful(_FAILED)
        """The verdict on nearly every error."""
        self.asks_the_user = classify is not None
        """Whether there is a ``classify``: nobody else looks at the `CallInfo`."""

    @property
    def looks_at_results(self) -> bool:
        """Whether a returned value may be anything but a success."""
        return self._classify is not None or self._unwanted is not None

    def of_result(self, result: object, call: CallInfo) -> Verdict | None:
        """The verdict on a returned value; None is the common case, a success."""
        verdict = self.said_of_result(result, call)
        return None if verdict is None or verdict.outcome is Outcome.SUCCESS else verdict

    def said_of_result(self, result: object, call: CallInfo) -> Verdict | None:
        """As `of_result`, with what the user says of a success: of a clear no that was returned, that nothing happened."""
        verdict = self._users(result, call)
        if verdict is not None:
            return verdict if verdict.outcome is Outcome.SUCCESS else self._careful(verdict)
        if self._unwanted is not None:
            try:
                unwanted = bool(self._unwanted(result))  # of an array it raises, too
            except Exception:  # noqa: BLE001 - a predicate is foreign code; its failure is its own
                _log.exception("retry_if_result failed; the result is taken as it is")
                return None
            if unwanted:
                return self._careful(Verdict(Outcome.FAILURE))
        return None

    def of_order_inside(self) -> Verdict:
        """The verdict on a failure of what has sent an order inside: another attempt would send another order."""
        return _NOBODY_KNOWS

    def of_error(self, error: Exception, call: CallInfo) -> Verdict:
        """
        The verdict on an error.

        One that leaves an order of ``once`` inside unknown is unknown for every call around it, whatever its
        effect, and the user is not asked: a repetition would send another order. Else the user is.
        Without an opinion of the user's: refusals of a service inside the function are neutral, a
        group is judged by its leaves (one failure makes it a failure), and everything else is a
        failure; for an unsafe call it is *unknown* unless the error proves that nothing happened. A
        refusal proves nothing there: the function ran, and may have sent something before it.
        """
        if type(error) in _PLAIN and self._classify is None and asked_to_wait(error, call.clock) is None:
            return self._plain
        if isinstance(error, _WHERE_ORDERS_ARE) and leaves_an_order(error):
            return _NOBODY_KNOWS
        verdict = None if self._classify is None else self._users(error, call)
        if verdict is None:
            verdict = self._by_rule(error, call.clock)
        return self._careful(verdict) if self._effect == "unsafe" else verdict

    def never_began(self) -> None:
        """The attempt ended before anything of the function ran: of such an end nobody is asked."""

    def _careful(self, verdict: Verdict) -> Verdict:
        # A failure of an unsafe call may have happened at the other side all the same.
        if self._effect == "unsafe" and verdict.outcome is Outcome.FAILURE and verdict.effect != "none":
            return Verdict(Outcome.UNKNOWN, verdict.retry_after, verdict.effect)
        return verdict

    def _users(self, value: object, call: CallInfo) -> Verdict | None:
        if self._classify is None:
            return None
        try:
            verdict: object = self._classify(value, call)
        except Exception:  # noqa: BLE001 - a predicate is foreign code; its failure is its own
            _log.exception("classify failed; the rules decide instead")
            return None
        if verdict is None or isinstance(verdict, Verdict):
            return verdict
        _log.error("classify returned %r instead of a Verdict or None; the rules decide instead", verdict)
        return None

    def _by_rule(self, error: Exception, clock: Clock) -> Verdict:
        if not isinstance(error, BaseExceptionGroup):
            if isinstance(error, CallRejectedError):
                return _FAILED if self._effect == "unsafe" else _NEUTRAL
            retry_after, nothing_happened = asked_to_wait(error, clock), isinstance(error, _NOTHING_HAPPENED)
            if retry_after is None:  # nearly all of them
                return _FAILED_BEFORE_IT_LEFT if nothing_happened else _FAILED
            return Verdict(Outcome.FAILURE, retry_after, effect="none" if nothing_happened else "unknown")
        if self._effect == "unsafe":
            proofs: tuple[type[Exception], ...] = _NOTHING_HAPPENED
        elif is_refusal(error):
            return _NEUTRAL
        else:
            proofs = (*_NOTHING_HAPPENED, CallRejectedError)
        nothing_happened = all(isinstance(leaf, proofs) for leaf in leaves(error))
        return Verdict(
            Outcome.FAILURE, _asked_of_group(error, clock), effect="none" if nothing_happened else "unknown"
        )
