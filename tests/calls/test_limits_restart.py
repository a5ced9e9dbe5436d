"""Rate limits and retry budgets over a restart: the venue does not forget, and an outage is not over because we restarted."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import ErrorRecoveryService, Handle, RateLimitedError, RetryBudget
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Make = Callable[[], ErrorRecoveryService]


@pytest_asyncio.fixture
async def process(clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Make]:
    """`process()`: a recovery service like one of a program that was started anew, on the same directories."""
    made: list[ErrorRecoveryService] = []

    def make() -> ErrorRecoveryService:
        made.append(ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock))
        return made[-1]

    yield make
    for service in made:
        await service.aclose()


async def answer() -> str:
    return "answer"


async def fail() -> None:
    raise ConnectionError("down")


def venue_of(recovery: ErrorRecoveryService, **options: Any) -> Handle:
    return recovery.service("venue", **{"rate_limit": "3/min", "max_wait": 0.0, **options})


def used(recovery: ErrorRecoveryService) -> int:
    count: int = recovery.get_health_status()["services"]["venue"]["rate_limit"][0]["used"]
    return count


def saved(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "state" / "system_state.json").read_text())
    return content


@pytest.mark.parametrize(
    ("step", "count", "wait"),
    [(0.0, 3, 35.0), (-3_600.0, 3, 45.0), (-1e8, 3, 45.0), (30.0, 3, 5.0), (3_600.0, 0, 0.0), (1e8, 0, 0.0)],
)
@pytest.mark.parametrize("declares", ["before", "after"])
async def test_what_was_sent_counts_after_a_restart_until_it_would_have_left(
    process: Make, clock: VirtualClock, step: float, count: int, wait: float, declares: str
) -> None:
    """Whether the rates are declared before or after restoring; a clock set back counts as no time."""
    first = process()
    for _ in range(3):
        await venue_of(first).call(answer)
    await clock.sleep(15)
    await first.save_state()
    await clock.sleep(10)
    clock.step_wall(step)
    second = process()
    if declares == "before":
        venue_of(second)
    await second.restore_state()
    venue = venue_of(second)
    assert used(second) == count
    if count:
        with pytest.raises(RateLimitedError) as refused:
            await venue.call(answer)
        assert refused.value.retry_after == pytest.approx(wait)
        await clock.sleep(wait)
    assert await venue.call(answer) == "answer"


async def test_what_was_sent_after_a_save_by_hand_is_saved_at_an_orderly_end_if_the_state_is_tracked(
    process: Make,
) -> None:
    """Closing saves once more, whatever was saved before."""
    first = process()
    first.track_state(dict)
    await first.save_state(force=True)
    for _ in range(3):
        await venue_of(first).call(answer)
    await first.aclose()
    second = process()
    await second.restore_state()
    venue_of(second)
    assert used(second) == 3


async def test_a_kill_forgets_what_was_sent_since_the_last_save_and_no_more(
    process: Make, clock: VirtualClock
) -> None:
    """The state is tracked by the second, so that it is what one second has sent."""
    first = process()
    stop = first.track_state(dict, every=1.0)
    for _ in range(2):
        await venue_of(first).call(answer)
    await clock.sleep(1.5)
    await first.restore_state()  # behind the write
    await venue_of(first).call(answer)
    stop()
    second = process()
    await second.restore_state()
    venue_of(second)
    assert used(second) == 2


async def test_ban_goes_on_over_a_restart_and_becomes_no_longer(process: Make, clock: VirtualClock) -> None:
    """Nothing is sent while the venue wants to be left alone, whoever asks."""
    first = process()
    venue_of(first).rate_limit.pause(600.0)
    await clock.sleep(100)
    await first.save_state()
    clock.step_wall(-86_400.0)
    second = process()
    await second.restore_state()
    with pytest.raises(RateLimitedError) as refused:
        await venue_of(second).call(answer)
    assert refused.value.retry_after == pytest.approx(500.0)


async def test_two_restarts_within_a_window_forget_nothing(process: Make, clock: VirtualClock) -> None:
    """Also when the life in between never came to declare the rates."""
    first = process()
    await venue_of(first).call(answer)
    await first.save_state()
    await clock.sleep(10)
    second = process()
    await second.restore_state()
    await second.save_state()
    await clock.sleep(10)
    third = process()
    await third.restore_state()
    await venue_of(third).call(answer)
    await third.save_state()
    await clock.sleep(10)
    fourth = process()
    venue = venue_of(fourth)
    await fourth.restore_state()
    assert used(fourth) == 2
    await venue.call(answer)
    with pytest.raises(RateLimitedError) as refused:
        await venue.call(answer)
    assert refused.value.retry_after == pytest.approx(30.0)
    await clock.sleep(30.0)
    assert used(fourth) == 2


async def test_rates_that_come_while_the_program_runs_count_it_too(
    process: Make, clock: VirtualClock
) -> None:
    """A service whose limits are only set by `configure`."""
    first = process()
    await venue_of(first).call(answer)
    await first.save_state()
    second = process()
    await second.restore_state()
    venue = second.service("venue", max_concurrent=2)
    venue.configure(rate_limit="3/min")
    assert used(second) == 1


@pytest.mark.parametrize("times", [1, 2])
async def test_restoring_again_counts_nothing_twice(process: Make, clock: VirtualClock, times: int) -> None:
    """Nor what this life itself has sent and saved."""
    first = process()
    await venue_of(first).call(answer)
    await first.save_state()
    second = process()
    venue = venue_of(second)
    for _ in range(times):
        await second.restore_state()
    await venue.call(answer)
    await second.save_state()
    await second.restore_state()
    assert used(second) == 2


async def test_life_that_saved_before_it_restored_counts_its_own_once(
    process: Make, clock: VirtualClock
) -> None:
    """Its file is all there is then, and tells of its own calls."""
    first = process()
    await venue_of(first).call(answer)
    await first.save_state()
    await first.restore_state()
    assert used(first) == 1


async def test_what_has_left_its_window_leaves_no_trace_in_the_file(
    process: Make, clock: VirtualClock, tmp_path: Path
) -> None:
    """A file without anything to tell is as it always was."""
    first = process()
    await venue_of(first, retry_budget=RetryBudget()).call(answer)
    await first.save_state()
    assert saved(tmp_path)["rate_limits"] == {
        "venue": {
            "rates": [[3, 60.0, "weight"]],
            "sent": [[0.0, {"weight": 1}]],
            "others": [],
            "paused_for": 0.0,
        }
    }
    await clock.sleep(60)
    await first.save_state(force=True)
    assert not {"rate_limits", "retry_budgets", "circuit_breakers"} & set(saved(tmp_path))


@pytest.mark.parametrize(
    ("step", "tokens"), [(0.0, 7.0), (-1e8, 7.0), (289.0, 7.0), (290.0, 10.0), (1e8, 10.0)]
)
@pytest.mark.parametrize("declares", ["before", "after"])
@pytest.mark.parametrize("kind", ["declared", "adaptive"])
async def test_retry_budget_is_as_low_as_the_life_before_has_left_it(
    process: Make, clock: VirtualClock, step: float, tokens: float, declares: str, kind: str
) -> None:
    """A program that restarts in an outage has no new retries; one that was down for five minutes has."""

    def handle(recovery: ErrorRecoveryService) -> Handle:
        options: dict[str, Any] = (
            {"retry_budget": RetryBudget()} if kind == "declared" else {"adaptive": True}
        )
        return recovery.service("venue", circuit_threshold=None, max_retries=3, base_delay=0.0, **options)

    def left(recovery: ErrorRecoveryService) -> float:
        (state,) = recovery._registry.all()
        assert state.paying_budget is not None
        return state.paying_budget.tokens

    first = process()
    with pytest.raises(ConnectionError):
        await handle(first).call(fail)
    assert left(first) == 7.0
    await first.save_state()
    await clock.sleep(10)
    clock.step_wall(step)
    second = process()
    if declares == "before":
        handle(second)
    await second.restore_state()
    if declares == "after":
        handle(second)
    assert left(second) == tokens


async def test_budget_that_is_lower_already_is_not_raised(process: Make, clock: VirtualClock) -> None:
    """What was spent before restoring is spent."""
    first = process()
    budget = RetryBudget()
    first.service("venue", retry_budget=budget)
    budget.take(3.0)
    await first.save_state()
    budget = RetryBudget()
    second = process()
    second.service("venue", retry_budget=budget)
    budget.take(8.0)
    await second.restore_state()
    assert budget.tokens == 2.0


@pytest.mark.parametrize(
    ("section", "content", "complaint"),
    [
        ("rate_limits", [1], "the saved rate limits were not restored: they are a list"),
        (
            "rate_limits",
            {"venue": {"rates": "many"}},
            "the saved rate limit of service 'venue' was not restored: ",
        ),
        ("rate_limits", {"": {}}, "the saved rate limit of service '' was not restored: '' is no name"),
        ("retry_budgets", 5, "the saved retry budgets were not restored: they are a int"),
        (
            "retry_budgets",
            {"venue": -1},
            "the saved retry budget of service 'venue' was not restored: it holds -1",
        ),
        (
            "retry_budgets",
            {"venue": "all"},
            "the saved retry budget of service 'venue' was not restored: it holds 'all'",
        ),
    ],
)
async def test_what_cannot_be_read_is_logged_and_stops_nothing(
    process: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    section: str,
    content: Any,
    complaint: str,
) -> None:
    """Somebody edited the file: the rest is restored all the same."""
    first = process()
    await first.save_state(cached_data={"AAPL": 150.0})
    edited = {**saved(tmp_path), section: content, "checksum": None}
    (tmp_path / "state" / "system_state.json").write_text(json.dumps(edited))
    second = process()
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        state = await second.restore_state()
    assert state is not None
    assert state.cached_data == {"AAPL": 150.0}
    assert any(message.startswith(complaint) for message in caplog.messages)
