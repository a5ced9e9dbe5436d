"""What a call through an open circuit gets at once, without a word to the dependency."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from shockproof import CircuitOpenError, ErrorRecoveryService
from shockproof.testing import VirtualClock
from shockproof.vocabulary.clock import other_times


@pytest.mark.parametrize("form", ["decorated", "call"])
def test_on_a_loop_with_its_own_time_the_open_time_goes_by_that(tmp_path: Path, form: str) -> None:
    """The quick look at the system's clock is for loops that go by it: here it would refuse for ever."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    market = recovery.service("market", circuit_threshold=1, circuit_timeout=60.0, max_retries=0)
    answers = iter([OSError("down"), "fine"])

    async def quote() -> str:
        if isinstance(answer := next(answers), OSError):
            raise answer
        return answer

    async def main() -> None:
        asked = market(quote) if form == "decorated" else lambda: market.call(quote)
        with pytest.raises(OSError, match="down"):
            await asked()
        with pytest.raises(CircuitOpenError):
            await asked()
        await asyncio.sleep(60.0)
        assert await asked() == "fine"

    far_ahead = VirtualClock()
    far_ahead.advance(time.monotonic() + 1e6)
    far_ahead.run(main())


@pytest.mark.parametrize("form", ["decorated", "call"])
def test_a_loop_that_was_given_another_time_goes_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Some libraries for tests patch the loop that runs, and not its class."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    market = recovery.service("market", circuit_threshold=1, circuit_timeout=60.0, max_retries=0)
    answers = iter([OSError("down"), "fine"])

    async def quote() -> str:
        if isinstance(answer := next(answers), OSError):
            raise answer
        return answer

    async def main() -> None:
        asked = market(quote) if form == "decorated" else lambda: market.call(quote)
        loop, ahead = asyncio.get_running_loop(), 1e6
        loop.time = lambda: time.monotonic() + ahead  # type: ignore[method-assign]  # see above
        with pytest.raises(OSError, match="down"):
            await asked()
        with pytest.raises(CircuitOpenError):
            await asked()
        ahead += 60.0
        assert await asked() == "fine"

    monkeypatch.setattr(other_times, "exist", False)  # as in a program of one loop
    asyncio.run(main())


@pytest.mark.asyncio
async def test_a_refusal_names_service_policy_wait_and_the_last_error(tmp_path: Path) -> None:
    """It is made without its constructor, and has to look the same."""
    now = 100.0
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=lambda: now)
    market = recovery.service("market", circuit_threshold=1, circuit_timeout=60.0, max_retries=0)

    @market
    async def quote() -> str:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await quote()
    now = 112.5
    with pytest.raises(CircuitOpenError) as caught:
        await quote()
    refusal = caught.value
    assert refusal.args == ("market", "circuit_breaker", 47.5, "OSError: down")
    assert (
        str(refusal) == "service 'market': the circuit is open; retry in 47.5 s (last error: OSError: down)"
    )
    assert recovery.get_health_status()["services"]["market"]["rejections"] == 1
