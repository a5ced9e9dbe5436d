"""
What of the services outlives the process: open circuits, what was sent under rate limits, retry budgets that ran low.

Times in it are lengths, counted from the moment of the save: how much of them is over, the next life finds out. Within one start
of the machine a clock tells it that nobody sets. Otherwise the wall clock does, and if that was set back meanwhile, it counts as no time
at all, so that nothing lasts longer than it would have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from shockproof.memory.services.kept_sends import EarlierSends
from shockproof.memory.services.registry import Registry
from shockproof.memory.services.service_state import ServiceState
from shockproof.policies.rate_limit import WEIGHT, RollingWindows, SentEarlier, Weight
from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.vocabulary.moment import Moment
from shockproof.vocabulary.statuses import ServiceStatus

__all__ = [
    "counted_from",
    "export_services",
    "export_statuses",
    "restore_circuits",
    "restore_kept_sends",
    "restore_orders",
    "restore_sends",
    "restore_statuses",
    "wall_not_set_forward",
]

_CIRCUITS: Final = "circuit_breakers"
_RATES: Final = "rate_limits"
_BUDGETS: Final = "retry_budgets"
_MOMENT: Final = "counted_from"

_BUDGET_BELIEVED_FOR: Final = 300.0
"""Seconds: an outage that is longer ago says nothing about the calls of now."""

_NOT_RESTORED: Final = "the saved %s of service %r was not restored: %s"

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


class SavedAt(NamedTuple):
    """How a saved state and this moment lie to each other; nothing in the state was sent later."""

    now: float
    """This moment, monotonic."""
    moment: Moment
    """The same, as another life tells it."""
    wall: float
    """The same, seconds since 1970 UTC, by a clock that was not set forward since; see `wall_not_set_forward`."""
    at: float
    """When it was saved, seconds since 1970 UTC; -infinite: there is none, or by another machine's clock."""
    elapsed: float
    """Seconds since, as far as is known."""
    is_from_elsewhere: bool = False


def export_services(registry: Registry, now: float, moment: Moment) -> dict[str, dict[str, Any]]:  # Any: JSON
    """The sections of a state that tell of it at *now*, which is that *moment*; one that would be empty is left out."""
    circuits: dict[str, Any] = {}  # Any: JSON
    rates: dict[str, Any] = {}  # Any: JSON
    budgets: dict[str, Any] = {}  # Any: JSON
    for state in registry.all():
        circuit = state.circuit.export(now)
        if circuit is not None:
            circuits[state.name] = circuit.to_dict()
        windows = state.windows
        if windows is not None and not windows.is_untouched(now):
            rates[state.name] = windows.export(now, is_marked=True)
        budget = state.paying_budget
        if budget is not None and not budget.is_shared and not budget.is_full:
            budgets[state.name] = budget.tokens
    sections = {_CIRCUITS: circuits, _RATES: rates, _BUDGETS: budgets}
    there = {name: section for name, section in sections.items() if section}
    return {**there, _MOMENT: moment.as_dict()} if there else {}


def counted_from(saved: Mapping[str, object]) -> Moment | None:
    """The moment from which the lengths in a saved state are counted; None: it does not say."""
    return Moment.from_dict(saved.get(_MOMENT))


def wall_not_set_forward(now: Moment, *earlier: Moment | None) -> float:
    """
    What the wall clock would read now if nobody had set it forward since any of the *earlier* moments, as far as they tell.

    By that, nothing whose wall time is all that is known of it seems to be older than it is, whenever the clock was set.
    """
    passed = [(one.wall, now.since(one)) for one in earlier if one is not None]
    return min([now.wall, *(wall + seconds for wall, seconds in passed if seconds is not None)])


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


def restore_sends(
    registry: Registry,
    saved: Mapping[str, object],
    now: float,
    elapsed: float,
    *,
    but: Collection[str] = (),
) -> None:
    """
    Count what was sent under rate limits, and lower the retry budgets, as they were *elapsed* seconds ago.

    Once in a life, and before its first save: what this life has sent is counted already. A service that has no rate
    limit or budget yet gets it with its first. Budgets are believed for five minutes. The rate limits of *but* are counted already.
    """

    def count(name: str, one: object) -> None:
        if name in but:
            return
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
    registry: Registry,
    sends: Iterable[EarlierOrders],
    now: float,
    wall: float,
    *,
    since: float,
    but: Collection[str] = (),
) -> None:
    """
    Count what the journal tells was sent under rate limits after the wall time *since*, that of the saved state.

    Those of the services *but* are counted already.

    What was sent before is counted there. How long ago it was is told by the wall clock, which is at *wall* now: one that
    was set back meanwhile counts as no time at all. If it was set back since the save, the order in which the sends of a
    service stand tells which came later.
    """
    for name, ones in _of_each_service(sends).items():
        orders = _sent_after(since, ones, now, wall)
        if orders and name not in but:
            registry.get_or_create(name).count_orders(orders)


def restore_kept_sends(
    registry: Registry,
    kept: EarlierSends,
    saved: Mapping[str, object],
    sends: Iterable[EarlierOrders],
    when: SavedAt,
) -> Collection[str]:
    """
    Count what the life before has kept of its sends, and what the saved state and the journal tell was sent after that.

    What may have been sent beyond that, but for what these two tell of, counts as sent right now: nobody knows when it was.

    Returns:
        The services for which all of this is counted now.
    """
    counted: set[str] = set()
    elapsed = when.moment.passed_since(kept.at)
    orders, rates = _of_each_service(sends), saved.get(_RATES)

    def count(name: str, one: object) -> None:
        windows = RollingWindows.from_export(when.now, elapsed, one)
        reserved = _counts(one, "reserved")
        saved_later = _saved_after(
            kept.at, name, rates.get(name) if isinstance(rates, Mapping) else None, when
        )
        if saved_later is not None:
            windows.restore(when.now, when.elapsed, saved_later)
            for _, counts in saved_later["sent"]:
                reserved = {of: left - counts.get(of, 0) for of, left in reserved.items()}
        later = _sent_after(max(when.at, kept.at.wall), orders.get(name, ()), when.now, when.wall)
        for order in later:
            reserved = {of: left - _part(order, of) for of, left in reserved.items()}
        unknown = {of: left for of, left in reserved.items() if left > 0}
        windows.count(when.now, [*later, *([SentEarlier(when.now, unknown)] if unknown else ())])
        registry.get_or_create(name).take_over_sends(windows)
        counted.add(name)

    _restore_each(kept.services, "rate limit", count)
    return counted


def _counts(one: Any, name: str) -> dict[str, int]:  # Any: JSON
    try:
        return {str(of): int(count) for of, count in one[name].items()}
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _saved_after(at: Moment, name: str, saved: Any, when: SavedAt) -> dict[str, Any] | None:  # Any: JSON
    """Of what a state tells of a service, what was sent after the moment *at*; None: it tells nothing that can be read."""
    if saved is None:
        return None
    try:
        RollingWindows.from_export(when.now, when.elapsed, saved)  # checks it
    except ValueError as error:
        _log.warning(_NOT_RESTORED, "rate limit", name, error)
        return None
    if when.is_from_elsewhere:
        return dict(saved)
    # Where the state knows of that very file, it tells how long ago that was by the clock of its sends; no slice lies on both sides.
    try:
        marks = [float(ago) for written_at, ago in saved.get("kept", ()) if written_at == at.wall]
    except (TypeError, ValueError, OverflowError):  # somebody edited it
        marks = []
    since = marks[0] if marks else when.moment.passed_since(at) - when.elapsed
    return {**saved, "sent": [one for one in saved["sent"] if one[0] < since]}


def _part(order: SentEarlier, name: str) -> int:
    weight = order.weight
    if isinstance(weight, int):
        return order.times * (weight if name == WEIGHT else 1)
    return order.times * weight.get(name, 0)


def _of_each_service(sends: Iterable[EarlierOrders]) -> dict[str, list[EarlierOrders]]:
    services: dict[str, list[EarlierOrders]] = {}
    for one in sends:
        services.setdefault(one.service_name, []).append(one)
    return services


def _sent_after(since: float, ones: Sequence[EarlierOrders], now: float, wall: float) -> list[SentEarlier]:
    later = [one for one in ones if one.at > since] if wall >= since else ones[_first_after(since, ones) :]
    return [SentEarlier(now - max(0.0, wall - one.at), one.weight, one.times) for one in later]


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
            _log.warning(_NOT_RESTORED, what, name, error)
