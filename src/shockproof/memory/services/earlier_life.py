"""
What of the services outlives the process: open circuits, what was sent under rate limits, retry budgets that ran low.

Times in it are lengths, counted from the moment of the save: how much of them is over, the next life finds out. A
wall clock that was set back meanwhile counts as no time at all, so that nothing lasts longer than it would have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from shockproof.memory.services.registry import Registry
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.rate_limit import RollingWindows, SentEarlier, Weight
from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.vocabulary.statuses import ServiceStatus

__all__ = [
    "export_services",
    "export_statuses",
    "restore_circuits",
    "restore_orders",
    "restore_sends",
    "restore_statuses",
]

_CIRCUITS: Final = "circuit_breakers"
_RATES: Final = "rate_limits"
_BUDGETS: Final = "retry_budgets"

_BUDGET_BELIEVED_FOR: Final = 300.0
"""Seconds: an outage that is longer ago says nothing about the calls of now."""

_log = logging.getLogger("shockproof")


class EarlierOrders(Protocol):
    """Orders of an earlier life that fall together, as `EarlierSend`."""

    @property
    def service_name(self) -> str: ...
    @property
    def at(self) -> float:
        """Wall time, seconds since 1970 UTC."""
        ...

    @property
    def weight(self) -> Weight:
        """Of each."""
        ...

    @property
    def times(self) -> int:
        """How many."""
        ...


def export_services(registry: Registry, now: float) -> dict[str, dict[str, Any]]:  # Any: JSON
    """The sections of a state that tell of it; one that would be empty is left out."""
    circuits: dict[str, Any] = {}  # Any: JSON
    rates: dict[str, Any] = {}  # Any: JSON
    budgets: dict[str, Any] = {}  # Any: JSON
    for state in registry.all():
        circuit = state.circuit.export(now)
        if circuit is not None:
            circuits[state.name] = circuit.to_dict()
        windows = state.windows
        if windows is not None and not windows.is_untouched(now):
            rates[state.name] = windows.export(now)
        budget = state.paying_budget
        if budget is not None and not budget.is_shared and not budget.is_full:
            budgets[state.name] = budget.tokens
    sections = {_CIRCUITS: circuits, _RATES: rates, _BUDGETS: budgets}
    return {name: section for name, section in sections.items() if section}


def export_statuses(registry: Registry, now: float) -> dict[str, str]:
    """
    The section of a state that tells of every service; those that only an earlier life has used are not handed on.

    Else names that a program makes as it goes, for each symbol or account, would be known for ever.
    """
    return {state.name: state.status_at(now).value for state in registry.all() if not state.is_only_restored}


def restore_statuses(registry: Registry, saved: Mapping[str, ServiceStatus]) -> None:
    """
    Know the services again that an earlier life knew, also one of the original program.

    They are well until they are called, or their circuit was open; what was said of them is told beside that.
    """
    for name, status in saved.items():
        if name:
            registry.restored(name, status)


def restore_circuits(registry: Registry, saved: Mapping[str, object], now: float, elapsed: float) -> None:
    """
    Open the circuits again that `export_services` told of, *elapsed* seconds ago; see `Circuit.restore`.

    A service that was called in this process already knows better; what somebody forced open is so again, unless
    its mode was set by hand since. What cannot be read is logged, and that circuit begins closed.
    """

    def restore(name: str, one: object) -> None:
        circuit = SavedCircuit.from_dict(one)
        state = registry.get_or_create(name)
        if circuit.is_forced_open:
            if not state.circuit.mode_is_by_hand:
                state.set_circuit_mode("forced-open", circuit.reason)
        elif not state.successes and not state.failures:
            state.circuit.restore(circuit, now, elapsed)

    _restore_each(saved.get(_CIRCUITS), "circuit", restore)


def restore_sends(registry: Registry, saved: Mapping[str, object], now: float, elapsed: float) -> None:
    """
    Count what was sent under rate limits, and lower the retry budgets, as they were *elapsed* seconds ago.

    Once in a life, and before its first save: what this life has sent is counted already. A service that has no rate
    limit or budget yet gets it with its first. Budgets are believed for five minutes.
    """

    def count(name: str, one: object) -> None:
        state: ServiceState = registry.get_or_create(name)
        state.take_over_sends(RollingWindows.from_export(now, elapsed, one))

    def lower(name: str, tokens: object) -> None:
        if not isinstance(tokens, int | float) or not 0 <= tokens < math.inf:
            raise ValueError(f"it holds {tokens!r}")
        if elapsed < _BUDGET_BELIEVED_FOR:
            registry.get_or_create(name).lower_budget(tokens)

    _restore_each(saved.get(_RATES), "rate limit", count)
    _restore_each(saved.get(_BUDGETS), "retry budget", lower)


def restore_orders(
    registry: Registry, sends: Iterable[EarlierOrders], now: float, wall: float, *, since: float
) -> None:
    """
    Count what the journal tells was sent under rate limits after the wall time *since*, that of the saved state.

    What was sent before is counted there. How long ago it was is told by the wall clock, which is at *wall* now: one that
    was set back meanwhile counts as no time at all. If it was set back since the save, the order in which the sends of a
    service stand tells which came later.
    """
    services: dict[str, list[EarlierOrders]] = {}
    for one in sends:
        services.setdefault(one.service_name, []).append(one)
    for name, ones in services.items():
        later = (
            [one for one in ones if one.at > since] if wall >= since else ones[_first_after(since, ones) :]
        )
        orders = [SentEarlier(now - max(0.0, wall - one.at), one.weight, one.times) for one in later]
        if orders:
            registry.get_or_create(name).count_orders(orders)


def _first_after(since: float, sends: Sequence[EarlierOrders]) -> int:
    """The first that came after a save at *since*, by a clock that was set back later on."""
    after, at_before = len(sends), -math.inf
    for index in range(len(sends)):
        at = sends[index].at
        # Where the clock was set back, everything from there on comes after the save, and it was the last time that tells.
        if at > since:
            return min(after, index)
        if at < at_before:
            after = index
        at_before = at
    return after


def _restore_each(saved: object, what: str, restore: Callable[[str, object], None]) -> None:
    if saved is None:
        return
    if not isinstance(saved, Mapping):
        _log.warning("the saved %ss were not restored: they are a %s", what, type(saved).__name__)
        return
    for name, one in saved.items():
        try:
            if not isinstance(name, str) or not name:
                raise ValueError(f"{name!r} is no name")
            restore(name, one)
        except ValueError as error:
            _log.warning("the saved %s of service %r was not restored: %s", what, name, error)
