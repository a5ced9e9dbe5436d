"""
A quarter of an hour of a trading program in some milliseconds, for looking at its status page.

``python tests/endpoints/status_scene.py`` serves it until Ctrl-C, and ``... FILE.png`` makes a picture of the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from shockproof import ErrorRecoveryService, ErrorSeverity, LoopStalled
from shockproof.endpoints.routes import Routes
from shockproof.endpoints.server import Server

TOKEN = "correct-horse-battery-staple"
MINUTES = 15


class ShiftedClock:
    """The real time, moved on by what a scene has played."""

    boot: str | None = "a scene"

    def __init__(self) -> None:
        self.skew = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.skew

    def time(self) -> float:
        return time.time() + self.skew

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Scene:
    """Plays calls of services that take as long, and fail as often, as they are told."""

    def __init__(self, directory: Path, *, seed: int = 7) -> None:
        self.clock = ShiftedClock()
        self.rng = random.Random(seed)
        self.recovery = ErrorRecoveryService(
            directory / "state",
            directory / "errors",
            max_retries=0,
            clock=self.clock,
            rng=random.Random(seed),
            # A slow machine is no part of the play.
            loop_monitor={"stall_after": 3600.0, "degraded_above": 3600.0},
        )
        self.routes = Routes(self.recovery, TOKEN, None, status_page=True)
        assert self.routes._status is not None
        self.history = self.routes._status._history

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """The address of its server."""
        server = Server(self.routes)
        try:
            yield await server.listen("127.0.0.1", 0)
        finally:
            self.routes.close()
            await server.close()
            await self.recovery.aclose()

    async def call(self, handle: Any, seconds: float, error: Exception | None = None) -> None:
        async def answer() -> None:
            self.clock.skew += seconds
            if error is not None:
                raise error

        answer.__name__ = self.rng.choice(("quote", "positions", "submit_order", "candles"))
        before = self.clock.skew
        with contextlib.suppress(Exception):
            await handle.call(answer)
        self.clock.skew = before  # side by side with the others

    def stall(self) -> None:
        """A line of the strategy has held the loop."""
        assert self.recovery._loop_monitor is not None
        stalled = LoopStalled(
            service_name="",
            at=self.clock.time(),
            duration=1.7,
            where="strategy.py:41 in rank_universe",
            stack=(),
            task="prices",
            cause="blocked",
        )
        self.recovery._loop_monitor._recent.append(stalled)
        self.recovery._listeners.publish(stalled)

    async def play(self) -> None:
        """The venue has a bad spell, the news are down, the loop was held up once."""
        recovery, rng = self.recovery, self.rng
        usual: dict[str, tuple[float, float]] = {
            "alpaca.orders": (0.045, 0.001),
            "alpaca.quotes": (0.018, 0.0),
            "binance.spot": (0.024, 0.004),
            "binance.user_data": (0.008, 0.0),
            "risk.limits": (0.002, 0.0),
            "ledger": (0.004, 0.0),
            "kraken.spot": (0.110, 0.01),
            "reference.rates": (0.35, 0.02),
        }
        options: dict[str, dict[str, Any]] = {
            "alpaca.orders": {"critical": True, "max_concurrent": 8, "effect": "idempotent"},
            "binance.spot": {"max_concurrent": 20},
            "risk.limits": {"critical": True},
        }
        handles = {name: recovery.service(name, **options.get(name, {})) for name in usual}
        news = recovery.service("news.sentiment", circuit_threshold=3, circuit_timeout=90.0)
        kraken = handles["kraken.spot"]
        recovery.service("options.greeks", circuit_mode="shadow")
        for second in range(0, MINUTES * 60, 3):
            spell = 420 <= second < 560
            for name, (typical, failing) in usual.items():
                for _ in range(rng.choice((0, 1, 1, 2))):
                    slow = 6.0 if spell and name.startswith(("alpaca", "binance")) else 1.0
                    error = ConnectionError("connection reset by peer") if rng.random() < failing else None
                    await self.call(handles[name], rng.lognormvariate(0, 0.45) * typical * slow, error)
            if spell and rng.random() < 0.7:
                error = TimeoutError("no answer within 2 s; order 7f3a may be booked")
                await self.call(handles["alpaca.orders"], 2.0, error)
            if second % 6 == 0:
                down = second > 300 or 60 <= second < 75
                text = "503 Service Unavailable: upstream sentiment model is warming up"
                await self.call(news, 0.2, ConnectionError(text) if down else None)
            if 700 < second < 712:
                await self.call(kraken, 0.4, OSError("TLS handshake failed: certificate has expired"))
            self.clock.skew += 3.0
            if second == 450:
                self.stall()
            late = 1.7 if second == 450 else abs(rng.gauss(0.0, 0.003)) + (0.05 if spell else 0.0)
            self.history._beat(late)
            if second % 60 == 0:
                await asyncio.sleep(0)
        recovery.set_circuit_mode("kraken.spot", "forced-open", "exchange maintenance until 06:00 UTC")
        for severity, text in ((ErrorSeverity.CRITICAL, "margin below maintenance on XBTUSD"),):
            recovery._runtime.recorder.record(
                RuntimeError(text),
                severity=severity,
                service_name="risk.limits",
                function_name="check_margin",
                retry_count=0,
                now=self.clock.monotonic(),
            )


@contextlib.asynccontextmanager
async def scene(play: Callable[[Scene], Any] | None = Scene.play) -> AsyncIterator[tuple[Scene, str]]:
    """A scene that was played, two operations of it still under way, and its address."""
    with tempfile.TemporaryDirectory() as directory:
        one = Scene(Path(directory))
        async with contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(one.served())
            if play is not None:
                await play(one)
                rebalance = one.recovery.operation("rebalance", key="2026-11-26")
                await stack.enter_async_context(rebalance)
                await rebalance.checkpoint(leg=2, of=5, filled="0.75")
                unwind = one.recovery.operation("unwind", key="XBTUSD-short", service_name="kraken.spot")
                await stack.enter_async_context(unwind)
            yield one, url


async def main(picture: str | None) -> None:
    async with scene() as (_, url):
        if picture is None:
            print(f"{url}/status, token {TOKEN}")  # noqa: T201 - it talks to the person who started it
            await asyncio.Event().wait()
        else:
            from playwright.async_api import async_playwright

            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(
                    executable_path="/usr/bin/chromium", args=["--no-sandbox"]
                )
                page = await browser.new_page(viewport={"width": 1400, "height": 604}, color_scheme="dark")
                await page.goto(f"{url}/status")
                await page.wait_for_selector("#live[data-state=live]")
                await page.screenshot(path=picture)
                await browser.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
