"""
What becomes of an attempt of an order that nobody waits for any more: the journal hears of its end, whenever it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from shockproof.calls.flight import Flight, is_answer, is_proof_of_nothing
from shockproof.calls.wanted_order import WantedOrder
from shockproof.memory.journal.moments import moment_of
from shockproof.memory.journal.sending import Sending
from shockproof.vocabulary.look_up import Found
from shockproof.vocabulary.moment import Moment
from shockproof.vocabulary.outcomes import CallInfo

__all__ = ["LeftBehind", "how_it_ended"]


def how_it_ended(end: BaseException | None) -> str:
    """In the words of the journal, of an attempt that left its outcome open; None: it gave a result."""
    if end is None:
        return "its result was judged a failure"
    return "cancelled" if isinstance(end, asyncio.CancelledError) else type(end).__name__


class LeftBehind:
    """
    Of the attempts of one call, made on the loop that judges how they end.

    Args:
        wanted: the order.
        sending: tells the journal.
        function_name: what is called, for the user's classification.
    """

    __slots__ = ("_function_name", "_loop", "_sending", "_wanted")

    def __init__(self, wanted: WantedOrder, sending: Sending, function_name: str) -> None:
        self._wanted = wanted
        self._sending = sending
        self._function_name = function_name
        self._loop = asyncio.get_running_loop()

    def give_up(self, flight: Flight, why: str) -> Found[Any] | None:  # Any: what the function returned
        """
        The attempt is over for us, or was left behind: let the journal know which.

        What it returned, if it did before anybody noticed.
        """
        now = moment_of(self._wanted.clock)

        def leave() -> None:
            self._sending.leave_behind()
            self._sending.outcome_unknown(why, now, is_over=False)

        end = flight.witness.give_up(leave)
        if isinstance(end, Found) and self._is_answer(flight, end):
            self._sending.is_there(end.value)
            return end
        if end != "left behind":
            # Or somebody else's attempt on this service was, which may be a part of this one.
            self._sending.outcome_unknown(
                why, now, is_over=not self._wanted.is_under_way(), is_there=flight.is_known_there
            )
        return None

    def ends(
        self,
        flight: Flight,
        found: Found[Any] | None,  # Any: as above
        error: BaseException | None,
    ) -> None:
        """It has ended, with what it *found* or with an *error*; from whatever thread it ran in."""
        if found is not None and not flight.looks_at_results:
            flight.late_answer = found
            self._sending.is_there_late(found.value)
            return
        ended_at = moment_of(self._wanted.clock)
        self._sending.ended_late(how_it_ended(error), ended_at)
        if found is not None or isinstance(error, Exception):
            # If the loop has ended, it stays pending, and is looked up.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._judge, flight, found, error, ended_at)

    def _judge(
        self,
        flight: Flight,
        found: Found[Any] | None,  # Any: as above
        error: BaseException | None,
        ended_at: Moment,
    ) -> None:
        if found is not None:
            verdict = flight.rules.said_of_result(found.value, self._info())
            if is_answer(verdict):
                flight.late_answer = found
                self._sending.is_there_late(found.value)
            elif verdict is not None and is_proof_of_nothing(verdict):
                self._sending.is_not_there_late()
        elif isinstance(error, Exception):
            if flight.takes_refusal_at_last(error):
                self._sending.is_not_there_late()
                return
            verdict = flight.rules.of_error(error, self._info())
            if is_proof_of_nothing(verdict):
                self._sending.is_not_there_late()
            elif verdict.effect == "done":
                self._sending.ended_late(how_it_ended(error), ended_at, is_there=True)

    def _info(self) -> CallInfo:
        return CallInfo(self._wanted.service_name, self._function_name, 1, "unsafe", self._wanted.clock)

    def _is_answer(self, flight: Flight, found: Found[Any]) -> bool:  # Any: as above
        return not flight.looks_at_results or is_answer(
            flight.rules.said_of_result(found.value, self._info())
        )
