"""Rate limits and retry budgets over a restart: the venue does not forget, and an outage is not over because we restarted."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Handle,
    LookUp,
    OutcomeUnknownError,
    RateLimitedError,
    RetryBudget,
)
from shockproof.memory.journal.name import name_of_sending
from shockproof.memory.journal.sending import Sending
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
    """Whether the rates are declared before or after restoring; of a machine that was started again, a clock set back counts as no time."""
    first = process()
    for _ in range(3):
        await venue_of(first).call(answer)
    await clock.sleep(15)
    await first.save_state()
    await clock.sleep(10)
    clock.step_wall(step)
    clock.boot = "another"
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


@pytest.mark.parametrize("step", [-1e8, 30.0, 1e8])
async def test_clock_that_is_set_while_the_machine_runs_on_changes_nothing_that_was_saved(
    process: Make, clock: VirtualClock, step: float
) -> None:
    """Neither what counts in a rate limit nor how low a budget is; there is another clock, that nobody sets."""
    first = process()
    venue = venue_of(first, retry_budget=RetryBudget(), circuit_threshold=None, base_delay=0.0)
    with pytest.raises(ConnectionError):
        await venue.using(max_retries=2).call(fail)
    await clock.sleep(15)
    await first.save_state()
    await clock.sleep(10)
    clock.step_wall(step)
    second, budget = process(), RetryBudget()
    await second.restore_state()
    venue = venue_of(second, retry_budget=budget)
    assert budget.tokens == 8.0
    with pytest.raises(RateLimitedError) as refused:
        await venue.call(answer)
    assert refused.value.retry_after == pytest.approx(35.0)


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


async def test_a_kill_of_a_life_that_has_restored_nothing_forgets_what_it_sent_since_the_last_save(
    process: Make,
) -> None:
    """It does not know what the life before has left, and would write over it."""
    first = process()
    for _ in range(2):
        await venue_of(first).call(answer)
    await first.save_state()
    await venue_of(first).call(answer)
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
    clock.boot = "another"
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


# ---- orders, which the journal knows of


async def not_there(key: str) -> LookUp[str]:
    return NOT_FOUND


async def place(venue: Handle, key: str, submit: Callable[[], Any] = answer) -> None:
    once = venue.once(key, confirm=not_there, key_argument="order_id", settle=1.0)

    async def with_key(*, order_id: str) -> Any:
        return await submit()

    await once.call(with_key)


async def refuse() -> None:
    raise ConnectionRefusedError("nobody listens")


def killed(directory: Path, clock: VirtualClock) -> ErrorRecoveryService:
    """A service on what is on the disk now, as after a kill."""
    copy = directory / "as it was killed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory / "state", copy, ignore=shutil.ignore_patterns(".*.tmp"))  # which come and go
    return ErrorRecoveryService(copy, directory / "errors", clock=clock)


@pytest.mark.parametrize("declares", ["before", "after"])
@pytest.mark.parametrize("saves", [True, False])
async def test_orders_since_the_last_save_count_after_a_kill(
    process: Make, clock: VirtualClock, tmp_path: Path, declares: str, saves: bool
) -> None:
    """Each attempt was journalled before it was sent, also of an order that was refused; what was saved counts once."""
    first = process()
    venue = venue_of(first, rate_limit=("20/min", "9 orders/min"), weight={"weight": 3, "orders": 1})
    await place(venue, "a")
    await place(venue, "b")
    await clock.sleep(1.0)
    if saves:
        await first.save_state(force=True)
    await clock.sleep(9.0)
    await place(venue, "c")
    with pytest.raises(ConnectionRefusedError):
        await place(venue.using(max_retries=1), "d", refuse)  # a second attempt, a second later
    await clock.sleep(10.0)

    second = killed(tmp_path, clock)
    rates: dict[str, Any] = {"rate_limit": ("20/min", "9 orders/min")}
    if declares == "before":
        venue_of(second, **rates)
    await second.restore_state()
    await second.restore_state()  # which counts nothing again
    venue_of(second, **rates)

    def counts() -> list[int]:
        return [one["used"] for one in second.get_health_status()["services"]["venue"]["rate_limit"]]

    assert counts() == [15, 5]
    await clock.sleep(40.0)  # the first two leave
    assert counts() == [9, 3]
    await clock.sleep(11.0)
    assert counts() == [0, 0]
    await second.aclose()


@pytest.mark.parametrize("step", [-3_600.0, 3_600.0])
async def test_orders_of_a_killed_program_count_no_longer_than_they_did_whatever_the_clock_says(
    process: Make, clock: VirtualClock, tmp_path: Path, step: float
) -> None:
    """Set back, it counts as no time; set forward, they go early: as what was saved."""
    await place(venue_of(process()), "a")
    clock.step_wall(step)
    second = killed(tmp_path, clock)
    await second.restore_state()
    venue_of(second)
    assert used(second) == (1 if step < 0 else 0)
    await clock.sleep(60.0)
    assert used(second) == 0
    await second.aclose()


async def test_orders_without_a_rate_limit_leave_nothing_to_count(process: Make, tmp_path: Path) -> None:
    """Their records hold no weight."""
    first = process()
    await place(first.service("venue"), "a")
    assert first._journal.known(name_of_sending("venue", "a")) is not None
    assert b"weight" not in next((tmp_path / "state" / "journal").glob("journal-*")).read_bytes()


async def test_orders_of_earlier_lives_count_with_their_last_attempt(
    process: Make, clock: VirtualClock, tmp_path: Path
) -> None:
    """A life that died soon, and saved nothing, has begun another segment: what it took over tells of the one before."""
    first = process()
    await place(venue_of(first), "a")
    await first.aclose()
    between = process()
    await between.restore_state()
    await clock.sleep(1.0)  # when that was written down, "b" had not been sent yet
    await place(venue_of(between), "b")
    second = killed(tmp_path, clock)
    await second.restore_state()
    venue_of(second)
    assert used(second) == 2
    await second.aclose()


class Lives:
    """One program, killed again and again: each life goes on from the state and the journal as they were at the kill."""

    def __init__(self, directory: Path, clock: VirtualClock) -> None:
        self.directory = directory
        self.clock = clock
        self.made: list[ErrorRecoveryService] = []

    async def next(self) -> ErrorRecoveryService:
        state = self.directory / f"life {len(self.made)}"
        if self.made:
            # What is kept beside the journal is not there: each of the two has to know of every order.
            alone = shutil.ignore_patterns("*rate_limits.json*")
            shutil.copytree(self.directory / f"life {len(self.made) - 1}", state, ignore=alone)
        self.made.append(ErrorRecoveryService(state, self.directory / "errors", clock=self.clock))
        await self.made[-1].restore_state()
        return self.made[-1]


@pytest_asyncio.fixture
async def lives(clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Lives]:
    """`await lives.next()`: the next life, which has restored what there was."""
    lives = Lives(tmp_path, clock)
    yield lives
    for service in lives.made:
        await service.aclose()


@pytest.mark.parametrize("kills", [2, 3, 5])
async def test_each_attempt_counts_once_however_often_the_program_is_killed(
    lives: Lives, clock: VirtualClock, kills: int
) -> None:
    """Also of an order that was certainly not placed, and before its last; what waits for a look-up counts no second time."""

    async def lose(*, order_id: str) -> str:
        raise ConnectionResetError("where is it?")

    async def no_idea(key: str) -> LookUp[str]:
        return UNKNOWN

    rates = {"rate_limit": "1000/min"}
    for life in range(kills):
        venue = venue_of(await lives.next(), **rates)
        assert used(lives.made[-1]) == 5 * life
        with pytest.raises(ConnectionRefusedError):
            await place(venue.using(max_retries=1, base_delay=1.0, jitter="none"), f"refused {life}", refuse)
        await place(venue, f"well {life}")
        once = venue.once(f"lost {life}", confirm=no_idea, key_argument="order_id", settle=0.5)
        for _ in range(2):
            with pytest.raises((OutcomeUnknownError, ConnectionResetError)):
                await once.call(lose)
        await place(venue, f"well again {life}")
    venue_of(await lives.next(), **rates)
    assert used(lives.made[-1]) == 5 * kills
    await clock.sleep(61.0)
    assert used(lives.made[-1]) == 0


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("step", [-3_600.0, -20.0])
async def test_clock_that_is_set_back_between_lives_forgets_no_order(
    lives: Lives, clock: VirtualClock, step: float, saves: bool
) -> None:
    """Those sent after it seem older than the save, and are not."""
    first = await lives.next()
    await place(venue_of(first, rate_limit="9/min"), "a")
    await clock.sleep(1.0)
    if saves:
        await first.save_state(force=True)
    await clock.sleep(1.0)
    clock.step_wall(step)
    second = await lives.next()
    await place(venue_of(second, rate_limit="9/min"), "b")
    await clock.sleep(1.0)
    third = await lives.next()
    venue = venue_of(third, rate_limit="9/min")
    assert used(third) == 2
    await place(venue, "c")
    fourth = await lives.next()
    venue_of(fourth, rate_limit="9/min")
    assert used(fourth) == 3
    await clock.sleep(60.0)
    assert used(fourth) == 0


async def test_attempt_that_is_journalled_anew_counts_once(
    lives: Lives, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk took its time, and the attempt would have begun too late for what it had taken down."""
    about_to_send, told = Sending.about_to_send, list[bool]()

    async def slowly(self: Sending, *, is_told_again: bool = False, **how: Any) -> Any:
        until = await about_to_send(self, is_told_again=is_told_again, **how)
        told.append(is_told_again)
        await clock.sleep(0.0 if is_told_again else 10.0)
        return until

    monkeypatch.setattr(Sending, "about_to_send", slowly)
    await place(venue_of(await lives.next(), timeout=5.0), "a")
    assert told == [False, True]
    venue_of(await lives.next())
    assert used(lives.made[-1]) == 1


async def test_many_orders_are_carried_along_and_counted_in_full(lives: Lives, clock: VirtualClock) -> None:
    """As some hundred moments; each rate counts what it would have counted."""
    rates: dict[str, Any] = {"rate_limit": ("5000/min", "4000 orders/h"), "weight": 3}
    venue = venue_of(await lives.next(), **rates)
    for number in range(1_500):
        await place(venue, f"{number}")
        await clock.sleep(0.01)
    for more in range(3):
        recovery = await lives.next()
        venue = venue_of(recovery, **rates)
        counts = [one["used"] for one in recovery.get_health_status()["services"]["venue"]["rate_limit"]]
        assert counts == [3 * (1_500 + more), 1_500 + more]
        await place(venue, f"one more in life {more}")
