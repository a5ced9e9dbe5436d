"""Alerts on virtual time: what a target is told, when it fails, hangs, or somebody cancels."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from shockproof import CircuitOpenError, ErrorRecoveryService
from shockproof.alerts import AlertNotSentError, AlertRules, Alerts, Notice
from shockproof.testing import VirtualClock, cancel_at_each_await


class Recording:
    """A target that plays its outcomes one by one, then takes everything."""

    timeout = 10.0
    at_once = 20

    def __init__(
        self, clock: VirtualClock, *outcomes: BaseException | float, name: str = "recording"
    ) -> None:
        self.name = name
        self.secrets = ("s3cret-of-the-target",)
        self.clock = clock
        self.outcomes = list(outcomes)
        self.began = clock.monotonic()
        self.attempts: list[float] = []
        self.messages: list[list[str]] = []
        self.notices: list[Notice] = []

    async def send(self, notices: Sequence[Notice]) -> None:
        self.attempts.append(round(self.clock.monotonic() - self.began, 3))
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not None:
            await asyncio.sleep(outcome)
        self.messages.append([f"{one.kind} {one.incident.key}" for one in notices])
        self.notices += notices


class Desk:
    """A recovery service on virtual time, with services that fail when they are told to."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.recovery = ErrorRecoveryService(
            folder / "state", folder / "errors", clock=self.clock, circuit_threshold=1, circuit_timeout=600.0
        )

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def to_the_end() -> None:
            async with self.recovery:
                await main()

        self.clock.run(to_the_end())

    async def fails(self, name: str = "broker", text: str = "reset") -> None:
        async def fetch() -> None:
            raise ConnectionError(text)

        with pytest.raises((ConnectionError, CircuitOpenError)):
            await self.recovery.retry_with_backoff(fetch, service_name=name, max_retries=0)

    def target(self, *outcomes: BaseException | float, **options: Any) -> Recording:
        return Recording(self.clock, *outcomes, **options)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_happens_between_two_looks_is_told_in_one_message(desk: Desk) -> None:
    """And once only; the end is told when nothing was seen of it for resolve_after."""
    target = desk.target()

    async def main() -> None:
        async with Alerts(desk.recovery, [target], every=5, rules=AlertRules(resolve_after=60)) as alerts:
            await desk.fails("broker")
            await desk.fails("market")
            await asyncio.sleep(20)
            assert target.messages == [["opened service:broker", "opened service:market"]]
            assert [one.key for one in alerts.incidents] == ["service:broker", "service:market"]
            desk.recovery.reset_circuit_breaker("broker")
            desk.recovery.retire_service("market")

            async def fine() -> None:
                pass

            await desk.recovery.retry_with_backoff(fine, service_name="broker")
            await asyncio.sleep(80)

    desk.run(main)
    assert target.messages[1:] == [["resolved service:broker", "resolved service:market"]]
    assert target.attempts[0] == 5.0


def test_one_outage_of_a_critical_service_pages_once(desk: Desk) -> None:
    """With all defaults, for a quarter of an hour in which each probe fails, and once more when it is over."""
    target = desk.target()
    recovery = ErrorRecoveryService(desk.recovery.state_dir, desk.recovery.error_log_dir, clock=desk.clock)
    is_down = True

    async def fetch() -> None:
        if is_down:
            raise ConnectionError("down")

    async def main() -> None:
        nonlocal is_down
        venue = recovery.service("venue", critical=True)
        async with recovery, Alerts(recovery, [target]):
            for second in range(1000):
                is_down = second < 900
                with contextlib.suppress(ConnectionError, CircuitOpenError):
                    await venue.call(fetch)
                await asyncio.sleep(1)
            await asyncio.sleep(100)

    desk.clock.run(main())
    assert target.messages == [["opened service:venue"], ["resolved service:venue"]]


def test_a_call_never_waits_for_a_target_that_hangs(desk: Desk) -> None:
    """Nor does another target."""
    stuck, well = desk.target(1e9, name="stuck"), desk.target(name="well")

    async def main() -> None:
        async with Alerts(desk.recovery, [stuck, well], sending={"timeout": None}):
            await desk.fails("a")
            await asyncio.sleep(6)
            began = desk.clock.monotonic()
            await desk.fails("b")
            assert desk.clock.monotonic() == began
            await asyncio.sleep(6)
            assert well.messages == [["opened service:a"], ["opened service:b"]]

    desk.run(main)
    assert len(stuck.attempts) == 1


def test_retry_after_is_heeded_and_the_message_arrives(desk: Desk) -> None:
    """By the policies that guard every other call."""
    busy = AlertNotSentError("slow down", status=429, headers={"Retry-After": "17"})
    target = desk.target(busy)

    async def main() -> None:
        async with Alerts(desk.recovery, [target]):
            await desk.fails()
            await asyncio.sleep(60)

    desk.run(main)
    assert target.attempts == [5.0, 22.0]
    assert target.messages == [["opened service:broker"]]


def test_a_target_that_is_down_rests_behind_its_circuit_and_hears_later_what_is_still_true(
    desk: Desk,
) -> None:
    """What began and ended meanwhile is never told; the failures are in the health and in no alert."""
    target = desk.target(*[ConnectionError("down")] * 5)

    async def main() -> None:
        rules = AlertRules(resolve_after=0)
        async with Alerts(desk.recovery, [target], rules=rules) as alerts:
            await desk.fails("broker")
            await asyncio.sleep(29)
            assert len(target.attempts) == 5
            assert desk.recovery.is_circuit_open("alerts.recording")
            await desk.fails("brief")
            await asyncio.sleep(6)
            assert {one.key for one in alerts.incidents} == {"service:broker", "service:brief"}
            desk.recovery.retire_service("brief")
            await asyncio.sleep(60)

    desk.run(main)
    assert target.messages == [["opened service:broker"]]


def test_a_refusal_that_another_attempt_cannot_change_is_not_retried_at_once(desk: Desk) -> None:
    """A webhook that was taken away: each look asks once, until the circuit opens, and then ever less often."""
    gone = AlertNotSentError("no_service", status=404)
    target = desk.target(*[gone] * 100)

    async def main() -> None:
        async with Alerts(desk.recovery, [target]):
            await desk.fails()
            await asyncio.sleep(3600)

    desk.run(main)
    assert target.attempts[:6] == [5.0, 10.0, 15.0, 20.0, 25.0, 55.0]
    assert len(target.attempts) < 20


def test_one_message_holds_no_more_than_the_target_takes_at_once(desk: Desk) -> None:
    """What was taken before one failed is not told again."""
    target = desk.target()
    target.at_once = 1
    target.outcomes = [0.0, AlertNotSentError("no", status=400)]

    async def main() -> None:
        async with Alerts(desk.recovery, [target]):
            await desk.fails("a")
            await desk.fails("b")
            await asyncio.sleep(30)

    desk.run(main)
    assert target.messages == [["opened service:a"], ["opened service:b"]]


def test_alerts_leave_while_everything_is_halted(desk: Desk) -> None:
    """That is when somebody has to hear of it."""
    target = desk.target()

    async def main() -> None:
        async with Alerts(desk.recovery, [target]):
            await desk.recovery.halt("a bad day")
            await desk.fails()
            await asyncio.sleep(6)

    desk.run(main)
    assert target.messages == [["opened service:broker"]]


def test_alerts_started_inside_a_retry_are_retried_all_the_same(desk: Desk) -> None:
    """Layers do not multiply, and an alert is no layer of what happens to run where it was started."""
    target = desk.target(ConnectionError("down"))
    failures = [ConnectionError("the first attempt")]

    async def program() -> None:
        if failures:
            raise failures.pop()
        async with Alerts(desk.recovery, [target]):
            await desk.fails()
            await asyncio.sleep(9)
            assert target.messages == [["opened service:broker"]]

    async def main() -> None:
        await desk.recovery.service("program", circuit_threshold=None).call(program)

    desk.run(main)
    assert target.attempts[0] == 6.0
    assert 6.0 <= target.attempts[1] <= 7.0  # a retry, not the next look


def test_closing_tells_what_is_due_and_can_be_started_again(desk: Desk) -> None:
    """On another loop, too, and what was told stays told."""
    target = desk.target()
    alerts = Alerts(desk.recovery, [target])

    async def main() -> None:
        async with alerts:
            await desk.fails()
            with pytest.raises(RuntimeError, match="started already"):
                await alerts.start()
        assert target.messages == [["opened service:broker"]]
        assert not desk.recovery._listeners
        await alerts.aclose()  # a second time it does nothing

    desk.run(main)
    desk.run(main)
    assert target.messages == [["opened service:broker"]]


def test_closing_ends_within_its_bound_and_names_what_was_not_told(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Even with a target that hangs."""
    target = desk.target(1e9)

    async def main() -> None:
        alerts = Alerts(desk.recovery, [target], sending={"timeout": None})
        await alerts.start()
        await desk.fails()
        began = desk.clock.monotonic()
        await alerts.aclose(timeout=3)
        assert desk.clock.monotonic() - began == 3

    with caplog.at_level(logging.WARNING, "shockproof"):
        desk.run(main)
    assert "not told to recording: error: broker: circuit open: ConnectionError: reset" in caplog.text


def test_what_many_incidents_leave_untold_is_one_line_of_bounded_length(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """The worst are named, and how many more there are; and who is told one hears how many wait."""
    target = desk.target()

    async def main() -> None:
        async with Alerts(desk.recovery, [target], max_per_minute=1):
            for number in range(30):
                await desk.fails(f"s{number}", "x" * 1000)

    with caplog.at_level(logging.WARNING, "shockproof"):
        desk.run(main)
    assert target.notices[0].text.endswith("x; 29 more wait")
    assert target.notices[0].to_dict()["waiting"] == 29
    (line,) = [one.getMessage() for one in caplog.records if "not told to" in one.getMessage()]
    assert line.count("circuit open") == 20
    assert line.endswith("; and 9 more")
    assert len(line) < 20 * 400


def test_a_cancelled_close_ends_at_once_and_leaves_nothing_behind(desk: Desk) -> None:
    """Cancellation wins over flushing."""
    target = desk.target(1e9)

    async def main() -> None:
        alerts = Alerts(desk.recovery, [target], sending={"timeout": None})
        await alerts.start()
        await desk.fails()
        closing = asyncio.ensure_future(alerts.aclose(timeout=1000))
        await asyncio.sleep(1)
        closing.cancel()
        began = desk.clock.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.sleep(0.1)
        assert desk.clock.monotonic() - began == pytest.approx(0.1)
        assert not desk.recovery._listeners
        assert not [task for task in asyncio.all_tasks() if "alert" in task.get_name()]

    desk.run(main)


def test_cancelled_at_any_await_nothing_of_the_alerts_is_left(desk: Desk) -> None:
    """No task and no subscription; the next ones are told as if nothing had been."""
    runs: list[int] = []

    async def program() -> None:
        async with Alerts(desk.recovery, [desk.target(1.0)]):
            await desk.fails()
            await asyncio.sleep(6)
            await desk.fails(f"the {len(runs)}th")  # told by the last look

    async def main() -> None:
        async for run in cancel_at_each_await(program):
            runs.append(run.waits)
            await asyncio.sleep(0.1)
            assert not desk.recovery._listeners
            assert not [task for task in asyncio.all_tasks() if "alert" in task.get_name()]

    desk.run(main)
    assert len(runs) > 2


def test_secrets_are_in_no_alert_and_in_no_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Neither those in errors nor those of the target."""
    target = desk.target(AlertNotSentError("no such key s3cret-of-the-target", status=400))

    async def main() -> None:
        async with Alerts(desk.recovery, [target]):
            await desk.fails(text="refused: api_key=abc123def s3cret-of-the-target")
            desk.recovery.service("held")
            desk.recovery.set_circuit_mode("held", "forced-open", "password=abc123def")
            await asyncio.sleep(30)

    desk.run(main)
    summaries = {notice.incident.service_name: notice.incident.summary for notice in target.notices}
    assert summaries["broker"].endswith("refused: api_key=*** ***")
    assert summaries["held"].endswith("by hand: password=***")
    logged = "".join(path.read_text("utf-8") for path in desk.recovery.error_log_dir.rglob("*.jsonl"))
    assert "AlertNotSentError" in logged
    assert "alerts could not be told to recording: AlertNotSentError: no such key ***" in caplog.text
    assert "s3cret" not in logged + caplog.text
    assert "abc123def" not in logged + caplog.text


def test_a_look_that_fails_is_logged_and_the_next_one_looks(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alerts outlive a mistake of ours."""
    target = desk.target()
    asked = desk.recovery._error_log_report
    answers = iter([ZeroDivisionError("a mistake")])

    def once_wrong() -> dict[str, Any]:
        for error in answers:
            raise error
        return asked()

    async def main() -> None:
        async with Alerts(desk.recovery, [target]):
            monkeypatch.setattr(desk.recovery, "_error_log_report", once_wrong)
            await desk.fails()
            await asyncio.sleep(11)

    desk.run(main)
    assert "looking for what to alert failed" in caplog.text
    assert target.attempts == [10.0]


def test_bad_arguments_are_refused_by_name(desk: Desk) -> None:
    """The name, the value, the way out."""
    target = desk.target()
    with pytest.raises(ValueError, match="targets must be at least one"):
        Alerts(desk.recovery, [])
    with pytest.raises(ValueError, match=r"different names, got 'recording' twice: give one a name"):
        Alerts(desk.recovery, [target, desk.target()])
    with pytest.raises(TypeError, match="rules must be AlertRules"):
        Alerts(desk.recovery, [target], rules={"circuit_opened": 1})  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match="every must be seconds"):
        Alerts(desk.recovery, [target], every=0)
    with pytest.raises(ValueError, match="max_per_minute must be"):
        Alerts(desk.recovery, [target], max_per_minute=0)


def test_a_thousand_services_are_looked_at_in_portions(desk: Desk) -> None:
    """Others have their turn on the loop in between; and what is noted of one that was passed already is not lost."""
    target = desk.target()
    turns = 0

    async def main() -> None:
        nonlocal turns
        desk.recovery.service("feed-0", critical=True, circuit_threshold=None)
        for number in range(1, 1_000):
            desk.recovery.service(f"feed-{number}")
        alerts = Alerts(desk.recovery, [target], rules=AlertRules(service_unavailable=None))
        async with alerts:
            looking = asyncio.ensure_future(alerts._look())
            while not looking.done():
                turns += 1
                if turns == 5:  # it is past the first one
                    await desk.fails("feed-0")
                await asyncio.sleep(0)
            assert alerts.incidents == ()
            await asyncio.sleep(6)
            (incident,) = alerts.incidents
            assert (incident.rule, incident.service_name) == ("critical_error", "feed-0")

    desk.run(main)
    assert turns >= 10
