"""
An order that is wanted, and one call that shall place it: what all steps from its claim to its look-up know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from shockproof.calls.callables import name_of
from shockproof.calls.confirm import Confirm, asked_of
from shockproof.calls.freshness import Freshness
from shockproof.calls.orders_inside import OrderInside
from shockproof.calls.plan import Plan
from shockproof.calls.tracing import CallTrace
from shockproof.calls.ways import Way
from shockproof.vocabulary.clock import Clock

if TYPE_CHECKING:
    from shockproof.calls.reconciliation import Reconciliation
    from shockproof.memory.journal.journalled_values import KeptDetails
    from shockproof.memory.journal.sending import Sending

__all__ = ["CallOfOrder", "WantedOrder"]


class WantedOrder(NamedTuple):
    """What is the same for each call with its key."""

    key: str
    is_key_new: bool
    """The key was made for it: nobody else sends it, but who was told of it."""
    taken_over_before: int
    """How often the journal had taken over from another owner's when it was made."""
    plan: Plan
    """How it is sent; its effect is ``"unsafe"``."""
    freshness: Freshness
    way: Way
    """How it is looked up, here and by whoever settles it later."""
    details: Callable[[], KeptDetails] | None
    """What it is journalled with, copied when first asked for; None: nothing."""
    compares_arguments: bool
    """Whether it is another order when it is sent with other arguments."""
    compared: tuple[str, ...] | None
    """The arguments that tell orders apart; None: all."""

    @property
    def reconciliation(self) -> Reconciliation:
        """What the journal knows of orders; made, and loaded, when it is first asked for."""
        sent_once = self.plan.runtime.sent_once
        assert sent_once is not None  # `Once` has asked
        return sent_once.reconciliation()

    @property
    def service_name(self) -> str:
        return self.plan.state.name

    @property
    def clock(self) -> Clock:
        return self.plan.runtime.clock

    @property
    def settle(self) -> float:
        """Seconds that the venue may take to show it."""
        return self.way.settle

    @property
    def confirm(self) -> Confirm[Any]:  # Any: what it finds is the user's
        """Asks for what was journalled with its own details."""
        return self.confirm_with({} if self.details is None else self.details().values)

    def confirm_with(
        self, details: Mapping[str, Any]
    ) -> Confirm[Any]:  # Any: as above, and the user's own values
        """Asks for what was journalled with these *details*."""
        return asked_of(self.way.confirm, details)

    def is_under_way(self) -> bool:
        """
        Whether it may still be sent by what nobody waits for.

        That is a thread that was left behind, or an attempt that ignored its cancellation, of any call of its service.
        """
        state = self.plan.state
        return state.abandoned_threads > 0 or state.abandoned_attempts > 0

    def sending(self, arguments: Mapping[str, object], *, was_sent: bool) -> Sending:
        """A way to tell the journal of it, when it is sent with these *arguments*; *was_sent* by an earlier call, perhaps."""
        counts_for = self.plan.state.longest_window
        sending = self.reconciliation.sending(
            self.service_name,
            self.key,
            arguments=arguments if self.compares_arguments else None,
            compared=self.compared,
            settle=self.settle,
            weight=None if counts_for is None else self.plan.weight,
            counts_for=counts_for,
            details=None if self.details is None else self.details(),
            lasts=0.0 if self.plan.limit is None else self.plan.limit + (self.plan.grace or 0.0),
        )
        # Who owned the account in between may have been given the key.
        is_known_elsewhere = sending.taken_over_before != self.taken_over_before
        sending.is_new = self.is_key_new and not was_sent and not is_known_elsewhere
        return sending


class CallOfOrder(NamedTuple):
    """One call that shall place it."""

    fn: Callable[..., Any]  # Any: the function's own arguments and result
    args: tuple[Any, ...]  # Any: as above
    kwargs: dict[str, Any]  # Any: as above
    order: OrderInside
    """As the calls around it see it."""
    began: float
    """Monotonic seconds."""
    was_sent: bool
    """Whether an earlier call with the same `Once` has sent its key."""
    trace: CallTrace | None
    """Of the whole call, where somebody traces it."""

    @property
    def function_name(self) -> str:
        return name_of(self.fn)
