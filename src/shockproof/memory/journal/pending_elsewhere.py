"""
Orders that are pending in the journal of another machine, as a state that came from there names them.

Only their keys come along, and when they were sent is told by a clock that nobody compares with ours: so they count as
those that a damaged journal may have lost, from the moment on at which we learn of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from shockproof.memory.journal.journal import Journal, Session
from shockproof.memory.journal.lost_details import ELSEWHERE
from shockproof.memory.journal.name import Name, is_name_of_sendings, service_of_name
from shockproof.memory.journal.record import Kind
from shockproof.memory.journal.risk_reducing import NO_JOURNAL
from shockproof.vocabulary.moment import Moment

__all__ = ["orders_pending_in", "take_over_orders"]

_log = logging.getLogger("shockproof")


def orders_pending_in(
    active_operations: Iterable[Mapping[Any, Any]],
) -> list[Name]:  # Any: the user's own values
    """The orders that ``active_operations`` names as pending; whatever else stands there is passed over."""
    return [
        Name(operation, key)
        for one in active_operations
        if one.get("status") == "pending"
        and isinstance(operation := one.get("operation"), str)
        and isinstance(key := one.get("key"), str)
        and is_name_of_sendings(operation)
    ]


async def take_over_orders(journal: Journal, orders: list[Name], noticed: Moment) -> None:
    """
    Have those that this journal does not know stand in it as pending since *noticed*, durably.

    Where it takes nothing, that is logged, and this process asks for each of them before it sends it.
    """
    journal.pending_elsewhere.update(orders)

    def act(session: Session) -> None:
        for name in orders:
            if session.table.get(name) is None:
                body = {
                    "operation": name.operation,
                    "key": name.key,
                    "service": service_of_name(name),
                    "at": noticed.wall,
                    "sent_at": noticed.wall,
                    "counts_from": noticed.as_dict(),
                    "details": ELSEWHERE,
                }
                # As what reduces risk: nothing is begun here, and these are outcomes to come.
                session.require(Kind.SEND, body, even_without_space=True)

    try:
        await journal.ask(act)
    except NO_JOURNAL as error:
        _log.warning("orders that are pending on another machine could not be journalled here: %s", error)
    else:
        journal.pending_elsewhere.difference_update(orders)
