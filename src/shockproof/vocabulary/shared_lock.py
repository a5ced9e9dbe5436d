"""
One lock for all objects of a kind.

Where a lock is held for a few assignments only, and at failures, a lock for each of thousands of objects takes more
room than it ever saves waiting. It is reentrant, because a garbage collection inside it may end a call of a dead
loop, and it is free in a forked child, whatever another thread of the parent was doing.
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["shared_lock"]


def shared_lock() -> AbstractContextManager[Any]:  # Any: what entering a lock gives
    """A lock that is shared by all objects of one kind, for as long as the process lives."""
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]  # as logging does
    return lock
