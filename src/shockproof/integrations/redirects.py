"""
What a redirect takes from a proof: the request that failed, or was refused, is not the first one.

A write that was booked and answered with a redirect to a host that refuses the connection looks, by its error alone,
as if nothing had been sent. And one that is answered with a redirect which nobody follows is neither done nor refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Final

from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.outcome_table import Meaning
from shockproof.vocabulary.outcomes import CallInfo, Outcome, Verdict

__all__ = ["meaning_of_last_status", "not_sent_unless", "of_a_returned_redirect", "raised_within"]

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def raised_within(
    error: BaseException, codes: Iterable[CodeType], holds: Callable[[FrameType], bool] = lambda _frame: True
) -> bool:
    """
    Whether *error* came through a function of one of the *codes*, in a frame of which *holds* is true.

    No client's error tells of redirects before it, and none can be compared with the first request, which nobody
    hands to a preset. The traceback does tell: the client that follows a redirect is in it.
    """
    wanted = frozenset(codes)
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code in wanted and holds(step.tb_frame):
            return True
        step = step.tb_next
    return False


def not_sent_unless(was_redirected: Callable[[BaseException], bool]) -> Callable[[BaseException], Meaning]:
    """For errors of a connection that never stood: `NOT_SENT`, and `UNKNOWN` for one that a redirect led to."""
    return lambda error: Meaning.UNKNOWN if was_redirected(error) else Meaning.NOT_SENT


_NOBODY_KNOWS: Final = Verdict(Outcome.NEUTRAL, effect="unknown")
"""Nobody failed, nothing is repeated, and an order is looked up."""


def of_a_returned_redirect(status: int, call: CallInfo) -> Verdict | None:
    """What an answer with *status* says of an unsafe call where it is a redirect that was not followed; else None."""
    return _NOBODY_KNOWS if 300 <= status < 400 and call.effect == "unsafe" else None


def meaning_of_last_status(status: int, first_method: str | None) -> Meaning | None:
    """
    What an answer with *status* means after redirects.

    *first_method* is that of the first request; None without a redirect. A no to what came after a write is no
    answer to the write.
    """
    meaning = meaning_of_status(status)
    if meaning is None or first_method is None or first_method.upper() in _READS:
        return meaning
    return Meaning.UNKNOWN
