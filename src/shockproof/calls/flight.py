"""
Whether an order may be under way: what is known of it from its first attempt to the end of its call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeGuard

from shockproof.calls.tracing import CallTrace
from shockproof.calls.witness import Witness
from shockproof.policies.classification import Classifier
from shockproof.vocabulary.errors import CallRejectedError
from shockproof.vocabulary.look_up import Found
from shockproof.vocabulary.outcomes import CallInfo, Outcome, Verdict

__all__ = ["Flight", "is_proof_of_nothing", "refused_at_last"]

_AT_LAST: Final = "_shockproof_refused_at_last"
"""Marks the refusal of what had its thread or its task already."""


def refused_at_last(refusal: CallRejectedError) -> CallRejectedError:
    """Mark a refusal that the attempt itself ends with, in its first step: it did not run, whatever is said of its errors."""
    setattr(refusal, _AT_LAST, True)
    return refusal


class Flight(Classifier):
    """Whether something may be under way: the classifier of the call's plan, which remembers what it said."""

    __slots__ = (
        "_late",
        "_refused",
        "attempts",
        "began",
        "begins_by",
        "can_be_ended",
        "is_known_there",
        "is_open",
        "late_answer",
        "outcome",
        "rules",
        "trace",
        "was_judged",
        "was_refused",
        "witness",
    )

    def __init__(
        self,
        rules: Classifier,
        late: Callable[
            [Flight, Found[Any] | None, BaseException | None], None
        ],  # Any: what the function returned
        began: float,
        *,
        refused: Callable[[CallRejectedError], None],
        can_be_ended: bool,
        trace: CallTrace | None = None,
    ) -> None:
        self.trace = trace
        """Of the whole call, where somebody traces it."""
        self.began = began
        """When the call began: monotonic seconds."""
        self.attempts = 0
        self.outcome: Outcome | None = None
        """What was said of the last attempt."""
        self._refused = refused
        self.can_be_ended = can_be_ended
        """Whether a time limit ends an attempt; a thread goes on, and may send long after it."""
        self.begins_by: float | None = None
        """Seconds of a moment's running clock after which the last attempt must not begin: the journal says so."""
        self.rules = rules
        """What is said without being remembered."""
        self.asks_the_user = rules.asks_the_user
        self._late = late
        self.late_answer: Found[Any] | None = None  # Any: what the function returned
        """Of an attempt that had been given up."""
        self.is_known_there = False
        """The other side said that it has this key already."""
        self.witness = self._new_witness()
        self.is_open = False
        """It was sent, and nothing proves that it did nothing."""
        self.was_judged = False
        """The last attempt ended with an error, or with a result that is no success."""
        self.was_refused = False
        """It ended with a result that says so: nothing was placed."""

    def begins(self) -> None:
        """From here on it may be under way."""
        self.is_open, self.was_judged, self.was_refused, self.outcome = True, False, False, None
        self.attempts += 1
        self.witness = self._new_witness()

    def _new_witness(self) -> Witness:
        return Witness(lambda found, error: self._late(self, found, error))

    @property
    def looks_at_results(self) -> bool:
        return self.rules.looks_at_results

    def of_result(self, result: object, call: CallInfo) -> Verdict | None:
        verdict = self.rules.said_of_result(result, call)
        if is_answer(verdict):
            return None
        assert verdict is not None
        if verdict.outcome is not Outcome.SUCCESS or self.witness.was_cut_off:
            return self._judged(self._as_far_as_it_has_ended(verdict))
        self.is_open, self.was_refused = False, True
        return None

    def of_error(self, error: Exception, call: CallInfo) -> Verdict:
        if self.takes_refusal_at_last(error):
            self._refused(error)
            return self._judged(
                Verdict(Outcome.NEUTRAL)
            )  # it did not run, whatever the user's classification says
        return self._judged(self._as_far_as_it_has_ended(self.rules.of_error(error, call)))

    def _as_far_as_it_has_ended(self, verdict: Verdict) -> Verdict:
        # An error, or a result, that proves something proves it of what has ended.
        if not self.witness.was_cut_off:
            return verdict
        return Verdict(
            Outcome.UNKNOWN, verdict.retry_after, effect="done" if verdict.effect == "done" else None
        )

    def of_order_inside(self) -> Verdict:
        return self._judged(self.rules.of_order_inside())

    def never_began(self) -> None:
        self.is_open = False

    @staticmethod
    def takes_refusal_at_last(error: BaseException) -> TypeGuard[CallRejectedError]:
        """
        Whether *error* refused this very attempt in its first step.

        Asked once: then the mark is gone, for a call around this one, whose function did run, must not take it for its own.
        """
        if not (isinstance(error, CallRejectedError) and hasattr(error, _AT_LAST)):
            return False
        delattr(error, _AT_LAST)
        return True

    def _judged(self, verdict: Verdict) -> Verdict:
        self.is_open, self.was_judged = not is_proof_of_nothing(verdict), True
        self.outcome = verdict.outcome
        self.is_known_there = self.is_known_there or verdict.effect == "done"
        return verdict


def is_answer(verdict: Verdict | None) -> bool:
    """Whether a result of which this is said is what was wanted; a clear no that was returned is a success of the service only."""
    return verdict is None or (verdict.outcome is Outcome.SUCCESS and verdict.effect != "none")


def is_proof_of_nothing(verdict: Verdict) -> bool:
    """Whether it is certain that the attempt did nothing at the other side."""
    # A neutral verdict is a clear no of the venue, or the refusal of this very attempt; with effect="done" it is the venue's
    # word that it has this key already.
    return verdict.effect == "none" or (verdict.outcome is Outcome.NEUTRAL and verdict.effect is None)
