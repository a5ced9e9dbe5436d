"""
Operations that a saved state names as pending, and the journal does not know: the original program's, and a program's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from shockproof.memory.journal.name import Name
from shockproof.memory.journal.operation import name_of_pending

__all__ = ["PendingInState", "pending_in_state"]

_MOST: Final = 50
"""So many are kept to be shown."""
_LOOKED_AT: Final = 1_000
"""Of a longer list the rest is not looked at: that is on the loop."""


class PendingInState(NamedTuple):
    """Those of the state that was restored or saved last."""

    number: int
    first: tuple[dict[str, Any], ...]  # Any: frozen values
    """At most 50 of them."""


def pending_in_state(
    active_operations: Iterable[Mapping[Any, Any]], is_in_journal: Callable[[Name], bool]
) -> PendingInState:  # Any: the user's own values
    """
    Those that have the status ``"pending"``, but for what *is_in_journal*, which tells of them better.

    Values that could not be saved are left out of what is shown of one.
    """
    from shockproof.memory.state.codec import UnsavableValueError, freeze

    number, first = 0, list[dict[str, Any]]()  # Any: frozen values
    for one in islice(active_operations, _LOOKED_AT):
        status = one.get("status")
        if type(status) is not str or status != "pending":
            continue
        named = name_of_pending(one)
        if named is not None and is_in_journal(Name(*named)):
            continue
        number += 1
        if len(first) == _MOST:
            continue
        shown: dict[str, Any] = {}  # Any: as above
        for name, value in one.items():
            if type(name) is str and name != "status":
                try:
                    shown[name] = freeze(value)
                except UnsavableValueError:
                    continue
        first.append(shown)
    return PendingInState(number, tuple(first))
