"""
How orders are looked up: what was said of each, of all of a service, and of another one.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from shockproof.calls.confirm import DetailedConfirm

__all__ = ["Way", "Ways", "WaysOfServices"]

_MOST_WAYS: Final = 10_000
"""Ways to look up that are kept of one service. An order whose own was forgotten stays pending until it is placed again."""


class Way(NamedTuple):
    """How an order is looked up."""

    confirm: DetailedConfirm[Any]  # Any: what it finds is the user's
    settle: float


class Ways:
    """
    The ways to look up the orders of one service.

    A way that was given for every key may say of each that it is not there. One that was given together with a key
    may so of that key alone: it may look at another symbol, or another account. One that was given to what may be an order in
    the making, or only say how all are looked up, may so of keys that have none of their own, unless another one was given so.
    """

    def __init__(self, is_under_way: Callable[[], bool], found: Callable[[], None]) -> None:
        self.is_under_way = is_under_way
        self.found = found
        self._for_all: dict[int, Way] = {}
        """By the number at which each was given: the last one counts."""
        self._perhaps: dict[int, tuple[Way, object]] = {}
        """The same of those that may be an order's, with what the user has given: two that are not the same deny nothing."""
        self._own: dict[str, tuple[int, Way]] = {}
        self._last: Way | None = None
        self._numbers = itertools.count()

    def for_all(self, way: Way) -> int:
        """From now on this one is good for every key; gives the number to withdraw it by."""
        number = next(self._numbers)
        self._for_all[number] = self._last = way
        _keep_latest(self._for_all)
        return number

    def perhaps_for_all(self, way: Way, given: object) -> int:
        """From now on this one, *given* by the user, is good for every key that has none of its own; as `for_all`."""
        number = next(self._numbers)
        self._perhaps[number] = way, given
        self._last = way
        _keep_latest(self._perhaps)
        return number

    def for_another(self, way: Way) -> None:
        """It is that of an order in the making, whose key nobody knows: it can find others, and deny none."""
        self._last = way

    def withdraw(self, number: int) -> None:
        """It belongs to one key after all."""
        self._for_all.pop(number, None)
        self._perhaps.pop(number, None)

    def for_one(self, key: str, way: Way) -> None:
        """From now on this key is looked up so."""
        self._own[key] = next(self._numbers), way
        self._last = way
        _keep_latest(self._own)

    def forget(self, key: str, way: Way) -> None:
        """What became of this key is known."""
        own = self._own.get(key)
        if own is not None and own[1] is way:
            self._own.pop(key, None)

    def of(self, key: str) -> Way | None:
        """The way that was given last for this key, or for every; else one that can only find it."""
        number, way = self._own.get(key, (-1, None))
        for_all = list(self._for_all.items())
        if way is None:
            for_all += [(at, perhaps) for at, (perhaps, _) in list(self._perhaps.items())]
        if for_all and max(for_all)[0] > number:
            return max(for_all)[1]
        return self._last if way is None else way

    def may_deny(self, key: str, way: Way) -> bool:
        """Whether this way may say that the key is not there."""
        own = self._own.get(key)
        if own is not None and own[1] is way:
            return True
        if any(one is way for one in list(self._for_all.values())):
            return True
        perhaps = list(self._perhaps.values())
        return (
            own is None
            and any(one is way for one, _ in perhaps)
            and all(given == perhaps[0][1] for _, given in perhaps)
        )


def _keep_latest(ways: dict[Any, Any]) -> None:  # Any: whatever they stand under
    while len(ways) > _MOST_WAYS:
        with contextlib.suppress(RuntimeError, StopIteration):  # another thread was faster
            ways.pop(next(iter(ways)), None)


class WaysOfServices:
    """Those of all services of one recovery service."""

    def __init__(self) -> None:
        self._known: dict[str, Ways] = {}

    def of(self, service_name: str, is_under_way: Callable[[], bool], *, found: Callable[[], None]) -> Ways:
        """The ways to look up orders of this service; *found* is told of each that is there."""
        known = self._known.get(service_name)
        if known is None:
            known = self._known.setdefault(service_name, Ways(is_under_way, found))
        return known

    def known_of(self, service_name: str) -> Ways | None:
        """As above; None: nobody has said how."""
        return self._known.get(service_name)
