"""Cut a TCP connection the hard way: the other side sees a reset, not an end."""

from __future__ import annotations

import asyncio
import socket
import struct

__all__ = ["reset"]

_DROP_UNSENT_AT_ONCE = struct.pack("ii", 1, 0)  # linger on, for 0 seconds: close() sends RST


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Reset the connection behind *transport*. Does nothing when it is closed already."""
    if transport is None or transport.is_closing():
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT_AT_ONCE)
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
    else:
        transport.close()
