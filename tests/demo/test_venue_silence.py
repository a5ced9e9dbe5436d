"""The venue that falls silent behind an order: the moment at which the demo's trader is killed."""

from __future__ import annotations

import asyncio

import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the demo extra is not installed: no aiohttp")
ccxt = pytest.importorskip("ccxt.async_support", reason="the demo extra is not installed: no ccxt")

from shockproof.demo.venue.client import connect_ccxt  # noqa: E402  only when the extra is there
from shockproof.demo.venue.fault_plan import Endpoint, FaultKind, FaultPlan, FaultWindow  # noqa: E402  as above
from shockproof.demo.venue.process import VenueProcess  # noqa: E402  as above
from shockproof.demo.venue.server import VenueServer  # noqa: E402  as above

pytestmark = pytest.mark.asyncio

PATIENT = 60.0


async def buy(exchange: ccxt.binance, client_order_id: str) -> object:
    parameters = {"newClientOrderId": client_order_id}
    return (await exchange.create_order("EUR/USDT", "market", "buy", 50, None, parameters))["status"]


async def test_the_next_order_is_booked_and_nothing_is_answered_until_the_end() -> None:
    """Whoever sent it is in the dark as long as the silence lasts, whatever else was planned for the order."""
    cut = FaultWindow(FaultKind.CUT_AFTER, 0.0, 3600.0, frozenset({Endpoint.PLACE_ORDER}), 1.0)
    async with VenueServer(FaultPlan(1, 3600.0, PATIENT, (cut,)), tick=None) as server:
        exchange = connect_ccxt(server.base_url, timeout=PATIENT)
        try:
            await exchange.load_markets()
            silence = server.exchange.silence
            silence.arm()
            order = asyncio.create_task(buy(exchange, "mine"))
            assert await silence.fell() == "mine"
            assert [one.client_order_id for one in server.exchange.ledger.orders] == ["mine"]
            passing_by = asyncio.create_task(silence.pass_by())
            await asyncio.sleep(0)
            assert (order.done(), passing_by.done()) == (False, False)
            silence.end()
            await passing_by
            assert await order == "closed"
        finally:
            await exchange.close()


async def test_an_order_that_is_refused_does_not_bring_silence() -> None:
    """It is not in flight: there is nothing to find out."""
    async with VenueServer(FaultPlan(1, 3600.0, PATIENT, ()), tick=None) as server:
        exchange = connect_ccxt(server.base_url, timeout=PATIENT)
        try:
            await exchange.load_markets()
            server.exchange.silence.arm()
            with pytest.raises(ccxt.InsufficientFunds):
                await exchange.create_order("EUR/USDT", "limit", "buy", 400_000, 1.0)
            assert server.exchange.silence.is_armed
        finally:
            await exchange.close()


async def test_a_supervisor_in_another_process_waits_for_the_order() -> None:
    """As the demo's session does before its SIGKILL; ended before, it is told that there is none."""
    async with VenueProcess.start(faults="none") as venue:
        exchange = connect_ccxt(venue.base_url, timeout=PATIENT)
        try:
            await exchange.load_markets()
            await venue.fall_silent_behind_the_next_order()
            order = asyncio.create_task(buy(exchange, "mine"))
            assert await venue.order_in_flight() == "mine"
            await venue.speak_again()
            assert await order == "closed"
            with pytest.raises(ConnectionError, match="the venue does not answer"):
                await venue.order_in_flight()
        finally:
            await exchange.close()
