"""The status of a running program: what is in trouble first, nothing secret, and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService, SecretNotSavedWarning
from shockproof.testing import VirtualClock
from shockproof.views.status import id_of, named_by_id, status_of, status_on_loop
from shockproof.views.status_history import StatusHistory

pytestmark = pytest.mark.asyncio


def failing(text: str) -> Callable[[], object]:
    async def fail() -> None:
        raise ConnectionError(text)

    return fail


async def answer() -> int:
    return 1


async def trip(
    recovery: ErrorRecoveryService, name: str, text: str = "reset", *, critical: bool = False
) -> None:
    """Open the circuit of a service."""
    broken = recovery.service(name, circuit_threshold=1, max_retries=0, critical=critical)
    with pytest.raises(ConnectionError):
        await broken.call(failing(text))


async def test_what_is_in_trouble_comes_first_and_the_rest_by_name(recovery: ErrorRecoveryService) -> None:
    """Among a thousand services one looks for those that are broken, the critical ones before all."""
    for name in ("zinc", "alpha", "Beta"):
        await recovery.service(name).call(answer)
    recovery.service("watched", circuit_mode="shadow")
    await trip(recovery, "news")
    await trip(recovery, "venue", critical=True)
    status = status_of(recovery)
    assert [one["name"] for one in status["services"]] == [
        "venue",
        "news",
        "watched",
        "alpha",
        "Beta",
        "zinc",
    ]
    assert status["counts"] == {
        "services": 6,
        "matching": 6,
        "shown": 6,
        "unavailable": 2,
        "degraded": 0,
        "circuits_open": 2,
        "circuits_half_open": 0,
    }
    assert status["overall_health"] == "unhealthy"
    # The same words as the health.
    shown = {one["name"]: one for one in status["services"]}
    for name, health in recovery.get_health_status()["services"].items():
        assert health.items() <= shown[name].items()


async def test_only_so_many_and_only_those_asked_for_are_shown(recovery: ErrorRecoveryService) -> None:
    """A page of a thousand rows is none; the counts are those of all."""
    for number in range(60):
        recovery.service(f"feed-{number}")
    await trip(recovery, "Broker")
    assert len(status_of(recovery)["services"]) == 50
    few = status_of(recovery, matching="BROK", most=3)
    assert [one["name"] for one in few["services"]] == ["Broker"]
    assert (few["counts"]["services"], few["counts"]["matching"]) == (61, 1)


async def test_secrets_are_hidden_and_the_rest_is_json(recovery: ErrorRecoveryService) -> None:
    """Names, errors, reasons and checkpoints are the program's own texts."""
    recovery.register_secret("hunter2hunter2")
    history = StatusHistory(recovery)
    await trip(recovery, "venue hunter2hunter2", "api_key=AKIA99 hunter2hunter2" + "x" * 1_000)
    recovery.set_circuit_mode("venue hunter2hunter2", "forced-open", "hunter2hunter2 leaked")
    async with recovery.operation("rebalance", key="of hunter2hunter2") as operation:
        await operation.checkpoint(token="AKIA99", done=7)
        text = json.dumps(status_of(recovery, history))
    assert "hunter2" not in text
    assert "AKIA99" not in text
    assert len(json.loads(text)["errors"][0]["error_message"]) <= 501
    assert '"done": 7' in json.loads(text)["pending"][0]["progress"]


async def test_a_secret_is_hidden_from_the_moment_it_is_known(recovery: ErrorRecoveryService) -> None:
    """Also in a text that was shown before."""
    recovery.service("venue of hunter2hunter2")
    assert "hunter2" in json.dumps(status_of(recovery))
    recovery.register_secret("hunter2hunter2")
    assert "hunter2" not in json.dumps(status_of(recovery))


async def test_what_the_original_program_left_pending_shows_until_it_is_saved_no_more(
    tmp_path: Path, clock: VirtualClock
) -> None:
    """Its state is the program's own from the restore on; what the journal knows is not told a second time."""
    (tmp_path / "state").mkdir()
    left = {"operation": "fetch_data", "symbol": "AAPL", "api_key": "s3cret", "status": "pending"}
    (tmp_path / "state" / "system_state.json").write_text(
        json.dumps(
            {
                "timestamp": "2026-02-12T11:55:00",
                "service_statuses": {},
                "active_operations": [left, {"operation": "done", "status": "completed"}],
                "cached_data": {},
                "configuration": {},
            }
        )
    )
    async with ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock) as recovery:
        assert status_of(recovery)["pending_in_state"] == {"count": 0, "first": []}
        state = await recovery.restore_state()
        assert state is not None
        told = status_of(recovery)["pending_in_state"]
        assert told["count"] == 1
        (shown,) = told["first"]
        assert (shown["operation"], shown["key"], shown["kind"]) == ("fetch_data", None, "saved")
        assert "AAPL" in shown["progress"]
        assert "s3cret" not in json.dumps(told)

        async with recovery.operation("rebalance", key="1"):
            restored = await recovery.restore_state()
            assert restored is not None
            with pytest.warns(SecretNotSavedWarning) as warned:
                await recovery.save_state(restored.active_operations, force=True)
            assert warned[0].filename == __file__
            assert [one["key"] for one in status_of(recovery)["pending"]] == ["1"]
            assert status_of(recovery)["pending_in_state"]["count"] == 1
        await recovery.save_state([], force=True)
        assert status_of(recovery)["pending_in_state"] == {"count": 0, "first": []}


async def test_pending_operations_tell_since_when_and_how_far(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """As the journal has them in memory: nothing is waited for."""
    async with recovery.operation("rebalance", key="2026-11-26") as operation:
        began = clock.time()
        await operation.checkpoint(leg=2)
        (pending,) = status_of(recovery)["pending"]
    assert pending == {
        "operation": "rebalance",
        "key": "2026-11-26",
        "kind": "operation",
        "since": began,
        "begun": 1,
        "stopped_by": "",
        "progress": '{"leg": 2}',
    }
    assert status_of(recovery)["pending"] == []


async def test_errors_are_the_newest_first_and_counted_by_time(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """What is older than the window is in the list, and not in the picture."""
    broken = recovery.service("news", max_retries=0)
    for text, wait in (("old", 1_000.0), ("new", 20.0), ("newest", 0.0)):
        with pytest.raises(ConnectionError):
            await broken.call(failing(text))
        await clock.sleep(wait)
    status = status_of(recovery)
    assert [one["error_message"] for one in status["errors"]] == ["newest", "new", "old"]
    over_time = status["errors_over_time"]["by_severity"]["high"]
    assert (len(over_time), sum(over_time)) == (180, 2)
    assert over_time[-1] == 1


async def test_a_service_is_found_by_its_id_whatever_its_name(recovery: ErrorRecoveryService) -> None:
    """Slashes, markup and halves of surrogate pairs may be in a name, and stand in no link."""
    for name in ("a/b", "<b>", "\ud800"):
        recovery.service(name)
        assert named_by_id(recovery, id_of(name)) == name
    assert named_by_id(recovery, "nobody") is None


async def test_others_have_their_turn_on_the_loop_while_many_services_are_looked_at(
    recovery: ErrorRecoveryService,
) -> None:
    """A portion is a hundred services at most: a thousand hold nobody up."""
    for number in range(1_000):
        recovery.service(f"feed-{number}")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    status = await status_on_loop(recovery, most=3)
    counting.cancel()
    await asyncio.wait([counting])
    assert turns >= 10
    assert {**status, "at": 0} == {**status_of(recovery, most=3), "at": 0}
