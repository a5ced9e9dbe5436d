"""The account that a fleet trades for, and how much the venue allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from shockproof.demo.timing import Timing

__all__ = ["ACCOUNT", "ALLOWED", "Allowed"]

ACCOUNT: Final = "the demo's account"
"""Only one of the traders at a time writes for it."""


class Allowed(NamedTuple):
    """At most *limit* requests in any *seconds*, as the venue counts them: when they come in."""

    limit: int
    seconds: float

    def told(self, timing: Timing) -> str:
        """
        The ``rate_limit`` of the traders: a window that is longer by what a request may be on its way.

        One that is held up comes in together with those that were sent later.
        """
        return f"{self.limit}/{self.seconds + timing.timeout:g}s"


ALLOWED: Final = {"orders": Allowed(20, 2.0), "reads": Allowed(40, 2.0)}
"""By what the venue counts: placing and cancelling, and everything else that is asked about the account."""
