"""
One time limit around one attempt, told apart from the caller's own cancellation.
"""

from __future__ import annotations

import asyncio

__all__ = ["Timer", "was_stalled"]

# A timer that fires later than this share of its limit says more about our loop than about the
# other side: the answer may have been waiting in the socket all along.
_STALL_SHARE = 0.25
_STALL_SECONDS = 0.05


def was_stalled(late: float, limit: float) -> bool:
    """Whether a limit that was noticed *late* seconds after its time says that our own loop stood still."""
    return late > max(_STALL_SECONDS, _STALL_SHARE * limit)


class Timer:
    """
    Cancels the current task after *seconds*, unless stopped before.

    The task's count of cancellation requests is taken when the timer is set: taken at expiry it
    would swallow a cancellation that the caller makes in the same turn of the loop. When two of our
    timers fire in one turn, the outer one wins and the inner passes the cancellation on.
    """

    __slots__ = ("_cancels", "_due", "_handle", "_late", "_loop", "_task", "fired", "seconds")

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a running asyncio task around it")
        self._task = task
        self._cancels = task.cancelling()
        self._loop = task.get_loop()
        self._due = self._loop.time() + seconds
        self._handle = self._loop.call_at(self._due, self._fire)
        self._late = 0.0
        self.seconds = seconds
        self.fired = False

    def _fire(self) -> None:
        self.fired = True
        self._late = self._loop.time() - self._due
        self._task.cancel()

    def stop(self) -> bool:
        """
        The block is over. True when it was ended by this timer and by nobody else.

        A cancellation of ours that the callee swallowed is taken back as well; otherwise the task
        would stay half-cancelled and the next timeout around it would misjudge.
        """
        self._handle.cancel()
        if not self.fired:
            return False
        if asyncio.current_task() is not self._task:
            return False  # left in another task than it was entered in: only disarmed
        return self._task.uncancel() <= self._cancels

    @property
    def stalled(self) -> bool:
        """Whether our own loop stood still when the timer should have fired."""
        return was_stalled(self._late, self.seconds)
