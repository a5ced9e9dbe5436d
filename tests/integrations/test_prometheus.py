"""What a scrape tells of a recovery service, and that calls know nothing of it."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    CallFailed,
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Found,
    Outcome,
    OutcomeUnknownError,
    RateLimitedError,
    RetryBudget,
    Verdict,
)
from shockproof.integrations.prometheus import ShockproofCollector, alert_rules, grafana_dashboard
from shockproof.memory.services.counts_by_type import MOST_TYPES, OTHER_TYPES
from shockproof.testing import VirtualClock, record_events

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """One recovery service on virtual time, and a registry that scrapes it."""

    def __init__(self, folder: Path, *, loop_monitor: bool = False, **options: Any) -> None:
        self.clock = VirtualClock()
        self.recovery = ErrorRecoveryService(
            folder / "state", folder / "errors", clock=self.clock, loop_monitor=loop_monitor
        )
        self.registry = CollectorRegistry()
        self.collector = ShockproofCollector(self.recovery, **options)
        self.registry.register(self.collector)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def all(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The values of one metric by one of its labels, where the others are as given."""
        return {
            sample.labels[label]: sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def run(self, main: Callable[[], Any]) -> None:
        async def to_the_end() -> None:
            await main()
            await self.recovery.aclose()

        self.clock.run(to_the_end())


async def fine() -> str:
    return "fine"


async def failing(error: Exception | None = None) -> None:
    raise error or ConnectionError("reset")


async def ends_with(error: type[BaseException], call: Any) -> None:
    with pytest.raises(error):
        await call


def test_each_call_is_counted_once_by_how_it_ended(tmp_path: Path) -> None:
    """Whatever was repeated, refused or stood in for: the outcomes add up to the calls."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker", max_retries=1, base_delay=1.0, circuit_threshold=5)

    async def main() -> None:
        for _ in range(3):
            await broker.call(fine)  # 3 successes
        answers = iter([ConnectionError("reset"), None])

        async def second_try() -> None:
            error = next(answers)
            if error is not None:
                raise error

        await broker.call(second_try)  # a success, with a retry
        await ends_with(ConnectionError, broker.call(failing))  # a failure, with a retry
        assert await broker.using(fallback="cached").call(failing) == "cached"  # a failure, stood in for
        await broker.call(fine)
        await ends_with(TimeoutError, broker.using(effect="unsafe", timeout=1.0).call(asyncio.sleep, 9))
        await ends_with(ConnectionError, broker.using(max_retries=9).call(failing))  # opens it
        await ends_with(CircuitOpenError, broker.call(fine))  # rejected
        assert await broker.using(fallback="cached").call(fine) == "cached"  # rejected, stood in for
        task = asyncio.create_task(scraped.recovery.service("news").call(asyncio.sleep, 9))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

    scraped.run(main)
    assert scraped.all("shockproof_calls_total", "outcome", service="broker") == {
        "success": 5,
        "failure": 3,
        "unknown": 1,
        "rejected": 2,
    }
    # The caller's own cancellation counts nowhere.
    assert sum(scraped.all("shockproof_calls_total", "outcome", service="news").values()) == 0
    assert scraped.value("shockproof_fallbacks_total", service="broker") == 2
    assert scraped.value("shockproof_timeouts_total", service="broker") == 1
    assert scraped.all("shockproof_failures_total", "error_type", service="broker") == {
        "ConnectionError": 9,
        "AttemptTimeoutError": 1,
    }
    assert scraped.all("shockproof_retries_total", "error_type", service="broker") == {"ConnectionError": 6}
    assert scraped.all("shockproof_rejections_total", "policy", service="broker") == {"circuit_breaker": 2}


def _already_there(ended_with: object, call: CallInfo) -> Verdict | None:
    return Verdict(Outcome.NEUTRAL, effect="done") if isinstance(ended_with, KeyError) else None


def _nothing_done(ended_with: object, call: CallInfo) -> Verdict | None:
    return Verdict(Outcome.UNKNOWN, effect="none") if isinstance(ended_with, OSError) else None


_CUT = ConnectionResetError("cut")


@pytest.mark.parametrize(
    ("ends", "looked_up", "options", "raised", "outcome", "seconds", "status"),
    [
        ([_CUT], Found("mine"), {}, None, "success", 1.0, "operational"),
        ([_CUT, None], NOT_FOUND, {}, None, "success", 12.0, "operational"),
        ([_CUT, None], NOT_FOUND, {"deadline": 60.0}, None, "success", 12.0, "operational"),
        ([_CUT, _CUT], NOT_FOUND, {}, ConnectionResetError, "failure", 22.0, "unavailable"),
        ([_CUT], UNKNOWN, {}, OutcomeUnknownError, "unknown", 21.0, "unavailable"),
        ([_CUT], "what?", {}, TypeError, "unknown", 1.0, "unavailable"),
        ([KeyError()], Found("mine"), {"classify": _already_there}, None, "success", 1.0, "operational"),
        (
            [KeyError()],
            UNKNOWN,
            {"classify": _already_there},
            OutcomeUnknownError,
            "unknown",
            21.0,
            "unavailable",
        ),
        (
            [_CUT],
            Found("mine"),
            {"classify": _nothing_done},
            ConnectionResetError,
            "failure",
            1.0,
            "unavailable",
        ),
    ],
    ids=[
        "found",
        "lost and sent again",
        "lost and sent again within a deadline",
        "lost each time",
        "unknown",
        "a look-up with a mistake in it",
        "there already",
        "there already and not found",
        "unknown without an effect",
    ],
)
def test_an_order_is_one_call_counted_when_it_was_looked_up(
    tmp_path: Path,
    ends: list[Exception | None],
    looked_up: Any,
    options: dict[str, Any],
    raised: type[Exception] | None,
    outcome: str,
    seconds: float,
    status: str,
) -> None:
    """However often it was sent: its end is that of the whole, and so are its duration, its event and the status."""
    scraped = Scraped(tmp_path, durations=True)
    broker = scraped.recovery.service("broker", max_retries=1, circuit_threshold=9, **options)
    events = record_events(scraped.recovery)

    async def send(key: str) -> str:
        await asyncio.sleep(1.0)
        end = ends.pop(0)
        if end is not None:
            raise end
        return "sent"

    async def find(key: str) -> Any:
        return looked_up

    async def main() -> None:
        order = broker.once("k", confirm=find, key_argument="key", settle=10.0).call(send)
        if raised is None:
            await order
        else:
            await ends_with(raised, order)

    scraped.run(main)
    counted = scraped.all("shockproof_calls_total", "outcome", service="broker")
    assert counted == {"success": 0, "failure": 0, "unknown": 0, "rejected": 0, outcome: 1}
    name = "shockproof_call_duration_seconds"
    assert scraped.all(f"{name}_count", "outcome", service="broker") == {outcome: 1}
    assert scraped.value(f"{name}_sum", service="broker", outcome=outcome) == pytest.approx(seconds, abs=1.0)
    assert scraped.recovery.get_health_status()["service_statuses"] == {"broker": status}
    assert [one.outcome.value for one in events.of(CallFailed)] == [outcome] * (outcome != "success")
    assert ends == []


def test_an_order_of_an_earlier_call_is_counted_as_it_is_looked_up(tmp_path: Path) -> None:
    """Nothing is sent by the later calls: they are calls all the same. One that is cancelled over it counts nowhere."""
    scraped = Scraped(tmp_path, durations=True)
    broker = scraped.recovery.service("broker", circuit_threshold=1, circuit_timeout=600.0)
    answers = {"a": UNKNOWN}

    async def send(key: str) -> None:
        raise ConnectionResetError("cut")

    async def find(key: str) -> Any:
        return answers["a"]

    async def main() -> None:
        order = broker.once("k", confirm=find, key_argument="key", settle=10.0)
        await ends_with(OutcomeUnknownError, order.call(send))
        assert broker.status.value == "unavailable"
        broker_state = scraped.recovery.get_health_status()["services"]["broker"]
        assert broker_state["circuit"] == "open"
        scraped.recovery.reset_circuit_breaker("broker")
        task = asyncio.create_task(order.call(send))
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.wait([task])
        await ends_with(OutcomeUnknownError, order.call(send))
        answers["a"] = Found("mine")
        assert await order.call(send) == "mine"
        assert broker.status.value == "operational"

    scraped.run(main)
    counted = scraped.all("shockproof_calls_total", "outcome", service="broker")
    assert counted == {"success": 1, "failure": 0, "unknown": 2, "rejected": 0}


def test_an_order_whose_look_up_is_cancelled_is_unknown(tmp_path: Path) -> None:
    """It was sent, and nobody waits for an answer any more."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker")

    async def send(key: str) -> None:
        raise ConnectionResetError("cut")

    async def find(key: str) -> Any:
        return UNKNOWN

    async def main() -> None:
        order = broker.once("k", confirm=find, key_argument="key", settle=10.0)
        task = asyncio.create_task(order.call(send))
        await asyncio.sleep(5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    scraped.run(main)
    assert scraped.value("shockproof_calls_total", service="broker", outcome="unknown") == 1


def test_an_order_that_may_not_be_sent_again_is_one_rejected_call(tmp_path: Path) -> None:
    """Its lost attempt has opened the circuit: it is counted by the refusal only."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker", circuit_threshold=1, circuit_timeout=600.0)

    async def send(key: str) -> None:
        raise ConnectionResetError("cut")

    async def find(key: str) -> Any:
        return NOT_FOUND

    async def main() -> None:
        order = broker.once("k", confirm=find, key_argument="key", settle=10.0)
        await ends_with(CircuitOpenError, order.call(send))

    scraped.run(main)
    counted = scraped.all("shockproof_calls_total", "outcome", service="broker")
    assert counted == {"success": 0, "failure": 0, "unknown": 0, "rejected": 1}


def test_a_found_order_closes_no_circuit_and_ends_no_streak(tmp_path: Path) -> None:
    """Its answers are lost all the same: for the circuit nothing has changed."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker", circuit_threshold=3, circuit_timeout=600.0)

    async def send(key: str) -> None:
        raise ConnectionResetError("cut")

    async def find(key: str) -> Any:
        return Found("mine")

    async def main() -> None:
        for number in range(3):
            assert broker.status.value == "operational"
            await broker.once(f"k{number}", confirm=find, key_argument="key", settle=1.0).call(send)
        assert broker.status.value == "unavailable"
        await ends_with(CircuitOpenError, broker.call(fine))

    scraped.run(main)
    assert scraped.value("shockproof_calls_total", service="broker", outcome="unknown") == 0


def test_what_an_earlier_life_left_pending_is_counted_once_it_was_read(tmp_path: Path) -> None:
    """Until the journal is open and counts itself; what nobody can settle is on the page for as long as it is there."""

    async def find(key: str) -> Any:
        return UNKNOWN

    async def send(key: str) -> None:
        raise ConnectionResetError("cut")

    first = Scraped(tmp_path)

    async def leaves_an_order() -> None:
        order = first.recovery.service("broker").once("k", confirm=find, key_argument="key", settle=1.0)
        await ends_with(OutcomeUnknownError, order.call(send))

    first.run(leaves_an_order)
    assert first.value("shockproof_journal_pending") == 1  # also when the journal is closed
    for how in ("restore", "reconcile"):
        copy = tmp_path / how
        shutil.copytree(tmp_path / "state", copy / "state")
        scraped = Scraped(copy)

        async def main(how: str = how, scraped: Scraped = scraped) -> None:
            assert scraped.value("shockproof_journal_pending") == 0
            if how == "restore":
                await scraped.recovery.restore_state()
            else:
                await scraped.recovery.reconcile()
            journal = scraped.recovery.get_health_status()["journal"]
            assert (journal["state"], journal["pending"], journal["last_error"]) == ("closed", 1, None)
            assert scraped.value("shockproof_journal_pending") == 1
            async with scraped.recovery.operation("job"):
                assert scraped.value("shockproof_journal_pending") == 2
            answer = Found("mine")

            async def knows(key: str) -> Any:
                return answer

            scraped.recovery.service("broker").once(confirm=knows)
            assert [one.outcome for one in await scraped.recovery.reconcile()] == [answer]
            await scraped.recovery.restore_state()
            assert scraped.value("shockproof_journal_pending") == 0

        scraped.run(main)
        assert scraped.value("shockproof_journal_pending") == 0


def test_a_rejection_is_counted_under_the_policy_that_refused(tmp_path: Path) -> None:
    """Whoever raises a limit has to know which."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker", rate_limit="1/min", max_wait=0.0, max_retries=0)

    async def main() -> None:
        await broker.call(fine)
        await ends_with(RateLimitedError, broker.call(fine))
        scraped.recovery.set_circuit_mode("broker", "forced-open")
        await ends_with(CircuitOpenError, broker.call(fine))
        await ends_with(CircuitOpenError, broker.call(fine))

    scraped.run(main)
    assert scraped.all("shockproof_rejections_total", "policy", service="broker") == {
        "circuit_breaker": 2,
        "rate_limit": 1,
    }
    assert scraped.value("shockproof_calls_total", service="broker", outcome="rejected") == 3


def test_a_circuit_shows_its_state_its_mode_and_how_it_changed(tmp_path: Path) -> None:
    """One gauge a state, 1 for the one it is in; half-open by the time alone."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker", max_retries=0, circuit_threshold=1, circuit_timeout=60.0)
    seen: list[tuple[dict[str, float], float | None]] = []

    def look() -> None:
        states = scraped.all("shockproof_breaker_state", "state", service="broker")
        seen.append((states, scraped.value("shockproof_breaker_open_for_seconds", service="broker")))

    async def main() -> None:
        await broker.call(fine)
        look()
        await ends_with(ConnectionError, broker.call(failing))
        scraped.clock.advance(20.0)
        look()
        scraped.clock.advance(40.0)
        look()
        await ends_with(ConnectionError, broker.call(failing))
        scraped.clock.advance(60.0)
        await broker.call(fine)
        scraped.recovery.set_circuit_mode("broker", "forced-open", "maintenance")
        look()
        scraped.recovery.set_circuit_mode("broker", "normal")

    scraped.run(main)
    assert seen == [
        ({"closed": 1, "open": 0, "half-open": 0}, 0.0),
        ({"closed": 0, "open": 1, "half-open": 0}, 40.0),
        ({"closed": 0, "open": 0, "half-open": 1}, 0.0),
        ({"closed": 0, "open": 1, "half-open": 0}, None),
    ]
    assert scraped.value("shockproof_breaker_mode", service="broker", mode="normal") == 1
    ways = {
        (sample.labels["from_state"], sample.labels["to_state"]): sample.value
        for family in scraped.registry.collect()
        for sample in family.samples
        if sample.name == "shockproof_breaker_transitions_total"
    }
    assert ways == {
        ("closed", "open"): 2,
        ("open", "half-open"): 2,
        ("half-open", "open"): 1,
        ("half-open", "closed"): 1,
        ("open", "closed"): 1,
    }


def test_error_types_are_bounded(tmp_path: Path) -> None:
    """A program that makes classes as it runs fills no metrics store."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker", max_retries=0, circuit_threshold=None)

    async def main() -> None:
        for number in range(MOST_TYPES + 7):
            error = type(f"Error{number}", (Exception,), {})
            await ends_with(Exception, broker.call(failing, error()))

    scraped.run(main)
    counted = scraped.all("shockproof_failures_total", "error_type", service="broker")
    assert len(counted) == MOST_TYPES + 1
    assert counted[OTHER_TYPES] == 7


def test_limits_budgets_feeds_and_the_disk_are_there_as_they_are_now(tmp_path: Path) -> None:
    """What is absent from a service has no series; what is there is read at the scrape."""
    scraped = Scraped(tmp_path)
    recovery = scraped.recovery
    broker = recovery.service(
        "broker",
        max_concurrent=2,
        max_queue=5,
        rate_limit="100/s",
        retry_budget=RetryBudget(capacity=4.0),
        critical=True,
        max_retries=1,
    )
    recovery.service("plain")

    async def ticks() -> Any:
        yield 1
        await asyncio.sleep(3600)

    async def main() -> None:
        await ends_with(ConnectionError, broker.call(failing))
        calls = [asyncio.create_task(broker.call(asyncio.sleep, 9)) for _ in range(5)]
        async with recovery.service("plain").stream(ticks) as feed:
            await anext(feed)
            await asyncio.sleep(3)
            value = scraped.value
            assert value("shockproof_bulkhead_in_flight", service="broker") == 2
            assert value("shockproof_bulkhead_limit", service="broker") == 2
            assert value("shockproof_queued", service="broker") == 3
            assert value("shockproof_rate_limit_limit", service="broker", rate="100 weight/1s") == 100
            assert value("shockproof_retry_budget_ratio", service="broker") == 0.75
            assert value("shockproof_critical", service="broker") == 1
            assert value("shockproof_streams", service="plain", phase="live") == 1
            assert value("shockproof_stream_item_age_seconds", service="plain") == pytest.approx(3.0)
            for name in ("bulkhead_in_flight", "queued", "retry_budget_ratio"):
                assert value(f"shockproof_{name}", service="plain") is None
        await asyncio.gather(*calls)
        assert value("shockproof_bulkhead_in_flight", service="broker") == 0
        assert value("shockproof_streams", service="plain", phase="live") is None
        assert value("shockproof_state_saved_timestamp_seconds") is None
        await recovery.save_state()
        assert value("shockproof_state_saved_timestamp_seconds") == scraped.clock.time()
        assert value("shockproof_halted") == 0
        await recovery.halt("enough")
        assert value("shockproof_halted") == 1

    scraped.run(main)
    assert scraped.value("shockproof_error_log_written_total") == 2
    assert scraped.value("shockproof_error_log_state", state="ok") == 1


def test_the_age_of_a_state_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was restored is as old as it was."""
    first = Scraped(tmp_path)
    first.run(first.recovery.save_state)
    second = Scraped(tmp_path)
    second.run(second.recovery.restore_state)
    saved_at = second.value("shockproof_state_saved_timestamp_seconds")
    assert saved_at == pytest.approx(first.clock.time(), abs=1e-5)


def test_a_retired_service_has_no_series_until_it_is_called_again(tmp_path: Path) -> None:
    """Thousands of symbols come and go; a handle that is still there goes on with its own counts."""
    scraped = Scraped(tmp_path, durations=True)
    recovery = scraped.recovery
    symbol = recovery.service("AAPL", health_check=fine)
    decorated = symbol(fine)

    async def main() -> None:
        await recovery.retry_with_backoff(fine, service_name="MSFT")
        await decorated()
        assert recovery.retire_service("MSFT")
        assert recovery.retire_service("AAPL")
        assert not recovery.retire_service("AAPL")
        text = {line for family in scraped.registry.collect() for line in map(str, family.samples)}
        assert not [line for line in text if "AAPL" in line or "MSFT" in line]
        assert recovery.get_health_status()["services"] == {}
        await decorated()
        assert list(recovery.get_health_status()["services"]) == ["AAPL"]
        gc.collect()
        await recovery.retry_with_backoff(fine, service_name="MSFT")
        assert symbol.plan.state is recovery.service("AAPL").plan.state

    scraped.run(main)
    assert scraped.value("shockproof_calls_total", service="AAPL", outcome="success") == 2
    # Nobody held that one: it begins anew, which Prometheus takes for a restart.
    assert scraped.value("shockproof_calls_total", service="MSFT", outcome="success") == 1


def test_durations_are_of_whole_calls(tmp_path: Path) -> None:
    """What the caller waited for: attempts, the waits between them, and the wait for a place."""
    scraped = Scraped(tmp_path, durations=True, buckets=(1.0, 5.0))
    broker = scraped.recovery.service("broker", max_retries=1, base_delay=2.0, max_concurrent=1, max_queue=1)
    decorated = broker(asyncio.sleep)

    async def main() -> None:
        await broker.call(asyncio.sleep, 0.5)  # 0.5
        await decorated(0.5)  # 0.5
        async with broker.guard():
            await asyncio.sleep(0.25)  # 0.25
        await ends_with(ConnectionError, broker.call(failing))  # 2.0, a failure
        await asyncio.gather(broker.call(asyncio.sleep, 4.0), broker.call(asyncio.sleep, 4.0))  # 4.0, 8.0
        await ends_with(TimeoutError, broker.using(effect="unsafe", timeout=3.0).call(asyncio.sleep, 9))

    scraped.run(main)
    name = "shockproof_call_duration_seconds"
    assert scraped.all(f"{name}_bucket", "le", outcome="success") == {"1.0": 3, "5.0": 4, "+Inf": 5}
    assert scraped.value(f"{name}_sum", service="broker", outcome="success") == pytest.approx(13.25)
    assert scraped.all(f"{name}_bucket", "le", outcome="failure") == {"1.0": 0, "5.0": 1, "+Inf": 1}
    assert scraped.value(f"{name}_sum", service="broker", outcome="failure") == pytest.approx(2.0)
    assert scraped.value(f"{name}_sum", service="broker", outcome="unknown") == pytest.approx(3.0)


def test_a_closed_collector_times_no_calls(tmp_path: Path) -> None:
    """And the services are as they were before: a success is no news to anybody."""
    scraped = Scraped(tmp_path, durations=True, loop_lag=True)
    broker = scraped.recovery.service("broker")

    async def main() -> None:
        await broker.call(fine)
        await broker.call(fine)
        assert broker.plan.state.entrance.stirred
        scraped.collector.close()
        await broker.call(fine)
        assert not broker.plan.state.entrance.stirred

    scraped.run(main)
    assert scraped.value("shockproof_call_duration_seconds_count", service="broker", outcome="success") == 2
    assert not scraped.recovery._periodic


def test_a_healthy_call_does_not_know_that_it_is_scraped(tmp_path: Path) -> None:
    """It goes the short way, no success is news, and no event is built."""
    scraped = Scraped(tmp_path)
    broker = scraped.recovery.service("broker")

    async def main() -> None:
        await broker.call(fine)
        scraped.value("shockproof_halted")
        assert broker.plan.entrance.lane is not None
        assert not broker.plan.state.entrance.stirred
        assert not scraped.recovery._listeners

    scraped.run(main)


def test_scrapes_from_another_thread_while_services_come_and_go(tmp_path: Path) -> None:
    """Every scrape is whole, and no call is disturbed."""
    scraped = Scraped(tmp_path, durations=True, loop_lag=True)
    ended = threading.Event()
    troubles: list[Exception] = []

    def scrape() -> None:
        try:
            while not ended.is_set():
                for family in scraped.registry.collect():
                    assert all(sample.value >= 0 for sample in family.samples)
        except Exception as trouble:  # noqa: BLE001 - whatever it is, it fails the test
            troubles.append(trouble)

    scraper = threading.Thread(target=scrape)
    scraper.start()

    async def main() -> None:
        for number in range(300):
            name = f"service {number % 20}"
            await scraped.recovery.retry_with_backoff(fine, service_name=name)
            if number % 7 == 0:
                call = scraped.recovery.retry_with_backoff(failing, service_name=f"{name}b", max_retries=0)
                await ends_with(ConnectionError, call)
            if number % 3 == 0:
                scraped.recovery.retire_service(name)

    try:
        scraped.run(main)
    finally:
        ended.set()
        scraper.join()
    assert not troubles


def test_a_registry_refuses_a_second_collector(tmp_path: Path) -> None:
    """Two services of one name in one page of metrics would be taken for one."""
    scraped = Scraped(tmp_path)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        scraped.registry.register(ShockproofCollector(scraped.recovery))


@pytest.mark.parametrize("buckets", [(), (0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_buckets_that_are_none_are_refused(tmp_path: Path, buckets: tuple[float, ...]) -> None:
    """With what they must be."""
    with pytest.raises(ValueError, match=r"buckets must be seconds above 0 in ascending order"):
        Scraped(tmp_path, durations=True, buckets=buckets)
    with pytest.raises(TypeError, match="buckets must be seconds"):
        Scraped(tmp_path, durations=True, buckets=["soon"])


def test_dashboard_and_rules_name_metrics_that_exist(tmp_path: Path) -> None:
    """Whoever renames a metric renames it there, too."""
    scraped = Scraped(tmp_path, durations=True, loop_lag=True)
    known = set()
    for family in scraped.collector.describe():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
        known |= {family.name + suffix for suffix in suffixes.get(family.type, [""])}
    for text in (grafana_dashboard(), alert_rules()):
        expressions = re.findall(r'"(?:expr|query|definition)": "(.*)"', text) or [text]
        named = {name for one in expressions for name in re.findall(r"\bshockproof_\w+", one)}
        assert len(named) > 10
        assert named <= known


def test_dashboard_has_panels_that_do_not_overlap() -> None:
    """Each has a place of its own, an id of its own, and words for those who see it first."""
    board = json.loads(grafana_dashboard())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or panel["description"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_dashboard_names_each_line_and_uses_what_is_there() -> None:
    """No two lines of a panel have one name, units are Grafana's, and every variable is defined."""
    text = grafana_dashboard()
    board = json.loads(text)
    variables = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", text))
    assert used <= variables | {"__rate_interval", "__all"}
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["type"] in {"stat", "state-timeline", "timeseries"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in {"short", "s", "cps", "percentunit"}
        assert panel["type"] != "state-timeline" or defaults["mappings"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            # What the outermost sum leaves apart is told apart; of what is not summed up, everything is.
            left = re.search(r"by \(([\w, ]+)\)", target["expr"])
            if left is not None and panel["type"] != "stat":
                told = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                assert told == set(left[1].split(", ")) - {"le"}, panel["title"]


def test_dashboard_says_all_that_grafanas_schema_requires() -> None:
    """What a panel leaves out, not every Grafana fills in; an annotation without a target is passed over in silence."""
    board = json.loads(grafana_dashboard())
    legend = {"showLegend", "displayMode", "placement", "calcs"}
    for panel in board["panels"]:
        if panel["type"] == "row":
            assert panel.keys() >= {"id", "title", "collapsed", "gridPos", "panels"}
            continue
        options, config = panel["options"], panel["fieldConfig"]
        assert config.keys() == {"defaults", "overrides"}
        for step in config["defaults"].get("thresholds", {"steps": []})["steps"][:1]:
            assert step["value"] is None  # minus infinity
        if panel["type"] == "stat":
            assert options["reduceOptions"].keys() == {"calcs", "fields", "values"}
            assert options.keys() >= {"graphMode", "colorMode", "justifyMode", "textMode", "orientation"}
            assert all(target["instant"] for target in panel["targets"])
        else:
            assert options["legend"].keys() == legend
            assert options["tooltip"].keys() == {"mode", "sort"}
        if panel["type"] == "state-timeline":
            assert options.keys() >= {"showValue", "rowHeight", "mergeValues", "alignValue"}
    for annotation in board["annotations"]["list"]:
        assert annotation.keys() >= {"name", "datasource", "enable", "iconColor"}
        assert annotation["target"] == {"refId": "Anno", "expr": annotation["expr"]}
        assert "$__interval" not in annotation["expr"]  # it may be too short for two scrapes
    for variable in board["templating"]["list"]:
        assert variable.keys() >= {"name", "type", "query", "current"}


def test_the_loop_monitor_is_what_the_lag_is_read_from_where_there_is_one(tmp_path: Path) -> None:
    """Nothing is measured twice, and its verdict and its stalls are told beside."""
    scraped = Scraped(tmp_path, loop_lag=True, loop_monitor=True)

    async def main() -> None:
        await scraped.recovery.service("broker").call(fine)
        await scraped.clock.sleep(1.0)
        scraped.clock.advance(2.0)
        await scraped.clock.sleep(0.1)
        assert scraped.value("shockproof_loop_degraded") == 1
        assert not scraped.recovery._periodic
        await scraped.recovery.aclose()

    scraped.run(main)
    assert scraped.value("shockproof_loop_stalls_total") == 1
    lag = scraped.all("shockproof_loop_lag_seconds_bucket", "le")
    assert lag["+Inf"] == lag["2.5"] == lag["0.1"] + 1
    assert lag["+Inf"] > 15
