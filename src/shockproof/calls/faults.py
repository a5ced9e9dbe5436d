"""
What stands between a service's policies and its function while a test has put faults on the service.

The policies take what happens here for the service's own. `shockproof.testing` plays the faults; this
says only where they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from shockproof.vocabulary.outcomes import CallInfo

__all__ = ["BlockFault", "Faults"]


class BlockFault(Protocol):
    """A fault that was chosen for one block."""

    async def enter(self) -> None:
        """What happens before the block's body: it may wait, raise, or never return."""
        ...

    async def leave(self) -> None:
        """What happens after a body that raised nothing."""
        ...


class Faults(Protocol):
    """The faults that are on for one service. Deciding is synchronous; only what is returned waits."""

    def around(
        self,
        call: CallInfo,
        args: tuple[Any, ...],  # Any: the call's arguments
        kwargs: dict[str, Any],  # Any: the call's arguments
        make: Callable[[], Any],  # Any: something to await
    ) -> Any:  # Any: the same
        """What to await in place of ``make()``, which calls the function; ``make()`` itself without a fault."""
        ...

    def of_block(self, call: CallInfo) -> BlockFault | None:
        """The fault of a block that is about to begin, or None."""
        ...
