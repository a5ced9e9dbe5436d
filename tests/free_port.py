"""A port for a server that takes no socket, only a number."""

from __future__ import annotations

import contextlib
import secrets
import socket

__all__ = ["free_port"]

_FROM, _UP_TO = 20_000, 30_000
"""Below those that the system gives to whoever connects: else one of them may have it while the server is not there."""


def free_port() -> int:
    """One that nobody listens on. Somebody else may take it before it is used: then ask again."""
    for _ in range(1_000):
        port = _FROM + secrets.randbelow(_UP_TO - _FROM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port is free between {_FROM} and {_UP_TO}")
