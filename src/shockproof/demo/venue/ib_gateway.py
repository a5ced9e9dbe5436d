"""As much of IB's gateway as ib_async needs to place an order: its TCP protocol, without a market behind it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Final, Self

from shockproof.demo.venue.connection_reset import reset

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["IbGateway"]

HOST: Final = "127.0.0.1"
_SERVER_VERSION: Final = 157
# What a client asks, by the number of its message.
_PLACE, _CANCEL, _EXECUTIONS, _DETAILS = 3, 4, 7, 9
_OPEN_ORDERS, _POSITIONS, _START, _COMPLETED_ORDERS = 16, 61, 71, 99
# What it is told.
_STATUS, _ERROR, _NEXT_ID, _EXECUTION, _ACCOUNTS = 3, 4, 9, 11, 15
_OPEN_ORDERS_END, _EXECUTIONS_END, _POSITIONS_END, _COMPLETED_ORDERS_END = 53, 55, 62, 102
_ORDER_REF: Final = 26
"""Where in a new order, as of this version, its orderRef stands."""


class IbGateway:
    """
    Accepts, books and answers as `manner` says.

    ``fill`` fills an order at once, ``rest`` confirms it, ``reject`` refuses it with `code`; ``silent`` books it
    and says nothing more, ``cut`` books it and resets the connection.
    """

    def __init__(self) -> None:
        self.manner = "fill"
        self.code = 201
        self.orders: dict[int, str] = {}
        """Order id to orderRef, of all that were booked."""
        self.asked: list[int] = []
        """The numbers of all messages that came in."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        if self._writer is not None and self._serving is not None:
            self._writer.transport.abort()
            await asyncio.wait({self._serving})

    def say(self, *fields: object) -> None:
        """Send one message."""
        assert self._writer is not None
        text = "".join(f"{field}\0" for field in fields).encode()
        self._writer.write(struct.pack(">I", len(text)) + text)

    def complain(self, request: int | str, code: int, text: str) -> None:
        """Send an error; of the connection itself with -1."""
        self.say(_ERROR, 2, request, code, text)

    def cut(self) -> None:
        """Reset the connection."""
        assert self._writer is not None
        reset(self._writer.transport)

    # -- the conversation ---------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer, self._serving = writer, asyncio.current_task()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(len(b"API\0"))
            await self._read(reader)
            self.say(_SERVER_VERSION, "20261125 22:00:00 UTC")
            while True:
                self._answer((await self._read(reader)).split("\0"))
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> str:
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        return (await reader.readexactly(length)).decode()

    def _answer(self, fields: list[str]) -> None:
        kind = int(fields[0])
        self.asked.append(kind)
        if kind == _START:
            self.say(_ACCOUNTS, 1, "DU1")
            self.say(_NEXT_ID, 1, 1)
        elif kind == _POSITIONS:
            self.say(_POSITIONS_END, 1)
        elif kind == _PLACE:
            self._place(int(fields[1]), fields[_ORDER_REF])
        elif kind == _CANCEL:
            self._cancel(int(fields[2]))
        elif kind == _DETAILS:
            self.complain(fields[2], self.code, "No security definition has been found")
        elif kind == _OPEN_ORDERS:
            self.say(_OPEN_ORDERS_END, 1)
        elif kind == _COMPLETED_ORDERS:
            self.say(_COMPLETED_ORDERS_END)
        elif kind == _EXECUTIONS:
            self._executions(fields[2])

    def _status(self, order_id: int, status: str, filled: int = 0, why_held: str = "") -> None:
        permanent_id = 900 + order_id
        self.say(
            _STATUS, order_id, status, filled, 10 - filled, 150.0, permanent_id, 0, 150.0, 1, why_held, 0
        )

    def _place(self, order_id: int, order_ref: str) -> None:
        if self.manner == "reject":
            self.complain(order_id, self.code, "Order rejected - reason: as told")
            return
        self.orders[order_id] = order_ref
        if self.manner == "cut":
            self.cut()
        elif self.manner == "fill":
            self._status(order_id, "Filled", 10)
        elif self.manner == "rest":
            self._status(order_id, "Submitted")

    def _cancel(self, order_id: int) -> None:
        if self.manner == "cut":
            self.cut()
        else:
            self._status(order_id, "Cancelled")

    def _executions(self, request: str) -> None:
        for number, order_ref in self.orders.items():
            contract = [265598, "AAPL", "STK", "", 0, "", "", "NASDAQ", "USD", "AAPL", "NMS"]
            trade = [
                f"x{number}",
                "20261125 22:00:00 UTC",
                "DU1",
                "NASDAQ",
                "BOT",
                10,
                150.0,
                900 + number,
                1,
            ]
            self.say(_EXECUTION, request, number, *contract, *trade, 0, 10, 150.0, order_ref, "", "", "", 1)
        self.say(_EXECUTIONS_END, 1, request)
