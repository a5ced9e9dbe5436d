"""What the status of an HTTP answer says about the request."""

from __future__ import annotations

from typing import Final

from shockproof.integrations.outcome_table import Meaning

__all__ = ["meaning_of_status"]

# Turned away before anything was looked at. 418 is Binance's: banned for a while.
_TURNED_AWAY: Final = frozenset({418, 429})
# 408: the request did not arrive whole, or did, and something in between gave up.
# 409, 412: in conflict with what is there, which may be the first copy of this very request.
# 460 of a load balancer, 499 of nginx and of Google: for something in between the client had gone away, after the request was sent on.
_NOBODY_KNOWS: Final = frozenset({408, 409, 412, 460, 499})


def meaning_of_status(status: int) -> Meaning | None:
    """
    What an answer with *status* means; None below 400.

    A 4xx is the other side's own no (RFC 9110, section 15.5). A 5xx may come from something in between,
    or from the other side after it has done the work: it proves nothing.
    """
    if status < 400:
        return None
    if status in _TURNED_AWAY:
        return Meaning.TURNED_AWAY
    if status >= 500 or status in _NOBODY_KNOWS:
        return Meaning.UNKNOWN
    return Meaning.REFUSED
