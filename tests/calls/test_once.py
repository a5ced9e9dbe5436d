"""`handle.once`: an order is sent once, whatever the venue, the disk and the caller do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    AttemptTimeoutError,
    CallInfo,
    CallRejectedError,
    CircuitOpenError,
    DeadlineExceededError,
    ErrorRecoveryService,
    Found,
    JournalLockedError,
    JournalUnavailableError,
    LookUp,
    OperationBusyError,
    OperationCompletedError,
    Outcome,
    OutcomeUnknownError,
    Verdict,
)
from shockproof.calls import patience_with_the_journal
from shockproof.calls.ongoing_call import OngoingCall
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal import Journal
from shockproof.memory.journal.segment import HEAD_BYTES, read_segment
from shockproof.testing import VirtualClock, cancel_at_each_await

FIRST_FORM = Path(__file__).parents[1] / "data" / "journal-of-the-first-form"
"""A journal of before windows said by which clock they count: orders placed, unknown and under way, operations done and begun."""


class RejectedError(Exception):
    """The venue said no."""


async def wants_asynchronously() -> bool:
    return False


class Venue:
    """
    Takes orders, and misbehaves as its moods say; knows every order that it was ever sent.

    Without protection against duplicates: the same id twice is two orders.
    """

    def __init__(self, clock: VirtualClock, *moods: str) -> None:
        self.clock = clock
        self.moods = list(moods)
        self.booked: list[str] = []
        self.visible_at: dict[str, float] = {}
        self.sent_at: list[float] = []
        self.asked_at: list[float] = []
        self.blind_for = 0
        self.says: object = None
        self.reached = asyncio.Event()

    async def submit(self, symbol: str, *, client_order_id: str) -> dict[str, str]:
        self.sent_at.append(self.clock.monotonic())
        mood = self.moods.pop(0) if self.moods else "well"
        if mood == "refused":
            raise ConnectionRefusedError("nobody listens")
        if mood == "lost":
            raise ConnectionResetError("before it arrived")
        if mood == "no":
            raise RejectedError("insufficient funds")
        self.booked.append(client_order_id)
        late = 5.0 if mood == "late" else 0.0
        self.visible_at[client_order_id] = self.clock.monotonic() + late
        if mood in {"answer lost", "late"}:
            raise ConnectionResetError("after it arrived")
        if mood == "duplicate":
            raise RejectedError("duplicate id")
        if mood == "hangs":
            self.reached.set()
            await asyncio.Event().wait()
        return {"id": client_order_id, "symbol": symbol}

    async def find(self, key: str) -> Any:
        self.asked_at.append(self.clock.monotonic())
        if self.says is not None:
            return self.says
        if self.blind_for:
            self.blind_for -= 1
            raise ConnectionResetError("busy")
        if key in self.visible_at and self.clock.monotonic() >= self.visible_at[key]:
            return Found({"id": key, "symbol": "found"})
        return NOT_FOUND


class HangingDisk:
    """Whether syncs hang, and what comes of them."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.is_broken = False

    def hangs(self) -> None:
        self.is_asked.clear()
        self.answers.clear()


def classify(ended_with: object, call: CallInfo) -> Verdict | None:
    if isinstance(ended_with, RejectedError):
        effect = "done" if "duplicate" in str(ended_with) else "none"
        return Verdict(Outcome.NEUTRAL, effect=effect)  # type: ignore[arg-type]  # one of the two
    return None


Make = Callable[..., tuple[Any, Venue]]


@pytest.fixture
def make(recovery: ErrorRecoveryService, clock: VirtualClock) -> Make:
    """An order that is not sent yet, and its venue."""

    def made(*moods: str, service: ErrorRecoveryService | None = None, **options: Any) -> tuple[Any, Venue]:
        venue = options.pop("venue", None) or Venue(clock, *moods)
        once_options = {
            name: options.pop(name)
            for name in ("key", "settle", "valid_until", "still_wanted")
            if name in options
        }
        handle = (service or recovery).service("orders", max_retries=3, classify=classify).using(**options)
        once = handle.once(confirm=venue.find, key_argument="client_order_id", **once_options)
        return once, venue

    return made


async def pending(recovery: ErrorRecoveryService) -> list[dict[str, Any]]:
    state = await recovery.restore_state()
    return [] if state is None else state.active_operations


def after_a_crash(recovery: ErrorRecoveryService, clock: VirtualClock) -> ErrorRecoveryService:
    """A program that finds the directory as it is now."""
    copy = recovery.state_dir.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(recovery.state_dir, copy)
    return ErrorRecoveryService(copy, recovery.error_log_dir, clock=clock)


# ---- the key


@pytest.mark.asyncio
async def test_key_is_made_once_and_passed_to_the_function(make: Make) -> None:
    """Every venue we know takes 18 lower-case letters and digits."""
    once, venue = make("refused", "well")
    key = once.key

    assert re.fullmatch(r"[a-z0-9]{18}", key)
    assert await once.call(venue.submit, "AAPL") == {"id": key, "symbol": "AAPL"}
    assert once.key == key
    assert make()[0].key != key


@pytest.mark.asyncio
async def test_key_of_the_callers_own_is_used(make: Make) -> None:
    """Given twice it has to be the same."""
    once, venue = make(key="my-order")

    with pytest.raises(ValueError, match="client_order_id='other'"):
        await once.call(venue.submit, "AAPL", client_order_id="other")
    assert (await once.call(venue.submit, "AAPL", client_order_id="my-order"))["id"] == "my-order"


# ---- what the venue does


@pytest.mark.asyncio
async def test_order_that_is_answered_is_sent_once_and_never_looked_up(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """The healthy case."""
    once, venue = make()

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "AAPL"
    assert (len(venue.booked), venue.asked_at) == (1, [])
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_order_is_on_the_disk_before_it_is_sent(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Who dies in the middle knows of it in the next life."""
    once, _ = make()
    seen: list[dict[str, Any]] = []

    async def submit(client_order_id: str) -> str:
        seen.extend(await pending(after_a_crash(recovery, clock)))
        return client_order_id

    await once.call(submit)

    assert seen == [{"operation": "orders.once", "key": once.key, "status": "pending"}]


@pytest.mark.asyncio
async def test_order_that_provably_did_nothing_is_sent_again_with_the_same_key(make: Make) -> None:
    """By the handle's own retry."""
    once, venue = make("refused", "refused", "well")

    await once.call(venue.submit, "AAPL")

    assert venue.booked == [once.key]
    assert len(venue.sent_at) == 3
    assert venue.asked_at == []


@pytest.mark.asyncio
async def test_order_whose_answer_was_lost_is_found_and_not_sent_again(make: Make) -> None:
    """What the look-up finds is the answer."""
    once, venue = make("answer lost")

    assert await once.call(venue.submit, "AAPL") == {"id": once.key, "symbol": "found"}
    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_order_that_arrives_late_is_not_sent_again(make: Make) -> None:
    """The first look-ups do not find it, and prove nothing."""
    once, venue = make("late", settle=10.0)

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert venue.booked == [once.key]
    assert len(venue.asked_at) > 3


@pytest.mark.asyncio
async def test_order_that_was_lost_is_sent_again_after_the_settle_window_only(make: Make) -> None:
    """Counted from the end of the attempt, and asked behind it."""
    once, venue = make("lost", "well", settle=10.0)

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "AAPL"
    first, second = venue.sent_at
    assert second - first >= 10.0
    assert venue.asked_at[-1] - first >= 10.0
    assert venue.booked == [once.key]


@pytest.mark.asyncio
async def test_order_that_is_lost_each_time_ends_with_its_own_error_and_nothing_pending(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """Certainly not placed; as often as retries allow."""
    once, venue = make(*["lost"] * 9, settle=1.0, max_retries=1)

    with pytest.raises(ConnectionResetError) as caught:
        await once.call(venue.submit, "AAPL")

    assert any("looked up: it is certain that nothing was placed" in note for note in caught.value.__notes__)
    assert len(venue.sent_at) == 2
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_order_that_the_venue_rejects_is_not_repeated_and_not_pending(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """A clear no is the end."""
    once, venue = make("no")

    with pytest.raises(RejectedError):
        await once.call(venue.submit, "AAPL")

    assert (len(venue.sent_at), venue.asked_at) == (1, [])
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_duplicate_id_answer_is_resolved_to_the_first_order(make: Make) -> None:
    """It is the venue's word that the order is there."""
    once, venue = make("duplicate")

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_duplicate_id_answer_is_believed_more_than_a_lookup_that_finds_nothing(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """
    A look-up among open orders does not find what is filled, and many venues keep ids apart among open orders only.

    Sent again it would be placed twice: in this life and in the next.
    """
    once, venue = make("duplicate", "well", key="mine", settle=5.0)
    venue.says = NOT_FOUND

    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    assert "let confirm look at orders that are filled" in caplog.text
    assert [one.outcome for one in await recovery.reconcile()] == [UNKNOWN]
    await recovery._journal.flush()
    reborn = after_a_crash(recovery, clock)
    with pytest.raises(OutcomeUnknownError):
        await make(key="mine", venue=venue, service=reborn, settle=5.0)[0].call(venue.submit, "AAPL")
    assert len(venue.sent_at) == 1
    venue.says = Found("the order")
    assert [one.outcome for one in await reborn.reconcile()] == [Found("the order")]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_order_that_nobody_can_tell_of_raises_and_stays_pending(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """Never a blind second send; the same once settles it later."""
    once, venue = make("answer lost", settle=5.0)
    venue.says = UNKNOWN

    with pytest.raises(OutcomeUnknownError, match=once.key) as caught:
        await once.call(venue.submit, "AAPL")

    assert caught.value.key == once.key
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert [one["key"] for one in await pending(recovery)] == [once.key]
    venue.says = None
    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert len(venue.sent_at) == 1
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_lookup_that_fails_is_no_proof(make: Make) -> None:
    """An exception means that nobody knows."""
    once, venue = make("answer lost", settle=5.0)
    venue.blind_for = 6

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_lookup_that_fails_again_and_again_is_logged_once_for_each_way_it_fails(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Not once for each question."""
    venue = make("answer lost")[1]
    asked: list[str] = []

    async def fails(key: str) -> Any:
        asked.append(key)
        if len(asked) > 4:
            raise TimeoutError
        raise ConnectionResetError

    venue.find = fails  # type: ignore[method-assign]  # before once takes it
    once, _ = make(venue=venue, settle=5.0)

    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")

    told = [line for line in caplog.messages if "which proves nothing" in line]
    assert len(asked) > 8
    assert ["ConnectionResetError" in told[0], "TimeoutError" in told[1], len(told)] == [True, True, 2]


@pytest.mark.asyncio
async def test_order_that_left_no_result_says_so_when_it_is_placed_again(make: Make) -> None:
    """The error does not promise what it does not have."""

    async def submit(client_order_id: str) -> None: ...

    await make(key="mine")[0].call(submit)

    with pytest.raises(OperationCompletedError, match="was completed before: it left no result; to do it"):
        await make(key="mine")[0].call(submit)


@pytest.mark.asyncio
async def test_lookup_that_hangs_does_not_hang_the_order(make: Make, recovery: ErrorRecoveryService) -> None:
    """It ends as unknown."""
    once, venue = make("answer lost", settle=5.0)

    async def hangs(key: str) -> Any:
        await asyncio.Event().wait()

    venue.find = hangs  # type: ignore[method-assign]  # before once takes it
    once, _ = make(venue=venue, settle=5.0)

    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", ["None", False, {"id": 1}])
async def test_lookup_that_answers_anything_else_is_a_mistake(
    make: Make, recovery: ErrorRecoveryService, answer: object
) -> None:
    """None most of all, which looks like not found; the order stays pending."""
    once, venue = make("answer lost")

    async def find(key: str) -> Any:
        return None if answer == "None" else answer

    venue.find = find  # type: ignore[method-assign]  # as above
    once, _ = make(venue=venue)
    with pytest.raises(TypeError, match="NOT_FOUND"):
        await once.call(venue.submit, "AAPL")
    assert len(await pending(recovery)) == 1


@pytest.mark.asyncio
async def test_lookup_that_is_not_async_is_a_mistake(make: Make, recovery: ErrorRecoveryService) -> None:
    """It is told by its name, before anything is sent, or journalled."""

    def find_order(key: str) -> Any:
        return NOT_FOUND

    _, venue = make("answer lost")
    venue.find = find_order  # type: ignore[method-assign]  # the mistake
    once, _ = make(venue=venue)
    with pytest.raises(
        TypeError, match=r"async function of the key, and find_order gave a .*Nothing was sent"
    ):
        await once.call(venue.submit, "AAPL")
    assert venue.booked == []
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_lookup_may_be_a_plain_function_that_gives_something_to_await(make: Make) -> None:
    """Such as a lambda around a guarded call; it is not asked in earnest before the order is sent."""
    _, venue = make("answer lost")
    find = venue.find

    def ask(key: str) -> Any:
        return find(key)

    venue.find = ask  # type: ignore[method-assign]  # as above
    once, _ = make(venue=venue, settle=1.0)
    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert (len(venue.booked), len(venue.asked_at)) == (1, 1)


@pytest.mark.asyncio
async def test_plain_lookup_that_fails_where_it_is_asked_proves_nothing(make: Make) -> None:
    """The order is sent, and unknown where its answer is lost."""
    _, venue = make("answer lost")

    def find(key: str) -> Any:
        raise ConnectionRefusedError("down")

    venue.find = find  # type: ignore[method-assign]  # as above
    once, _ = make(venue=venue, settle=1.0)
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    assert len(venue.booked) == 1


@pytest.mark.asyncio
async def test_lookup_with_a_mistake_in_it_is_logged_with_its_line_and_without_its_text(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It proves nothing each time it is asked: without the line nobody would find out why, and texts hold secrets."""
    _, venue = make("answer lost", settle=2.0)

    async def find(key: str) -> Any:
        raise NameError("api_key=hunter2")

    venue.find = find  # type: ignore[method-assign]  # as above
    once, _ = make(venue=venue)
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    line = find.__code__.co_firstlineno + 1
    assert f"which proves nothing: NameError in {__file__}:{line}" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.asyncio
async def test_attempt_that_times_out_is_looked_up(make: Make) -> None:
    """Our own timer proves nothing either."""
    once, venue = make("hangs", timeout=2.0)

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_attempt_that_was_left_behind_may_still_send_it(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """As long as its thread runs, "not found" is no proof."""
    once, venue = make("lost", "well", settle=5.0)
    state = recovery.service("orders").plan.state
    state.abandoned_threads += 1

    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    assert len(venue.sent_at) == 1

    state.abandoned_threads -= 1
    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "AAPL"


@pytest.mark.asyncio
async def test_order_that_was_lost_is_sent_again_only_where_its_error_is_to_be_repeated(make: Make) -> None:
    """``retry_on`` holds for it as well."""
    once, venue = make("lost", "well", settle=1.0, retry_on=TimeoutError)

    with pytest.raises(ConnectionResetError):
        await once.call(venue.submit, "AAPL")
    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_plain_function_is_sent_from_a_thread(make: Make) -> None:
    """As with any other call."""
    once, _ = make()

    def submit(client_order_id: str) -> str:
        return client_order_id

    assert await once.call(submit) == once.key


# ---- what the caller does


@pytest.mark.asyncio
async def test_cancelled_in_flight_it_stays_pending(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The cancellation passes at once; the next call with the key looks it up."""
    once, venue = make("hangs")
    task = asyncio.ensure_future(once.call(venue.submit, "AAPL"))
    await venue.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert venue.asked_at == []
    assert [one["key"] for one in await pending(recovery)] == [once.key]
    again, _ = make(key=once.key, venue=venue)
    assert (await again.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_cancelled_before_it_is_sent_it_leaves_nothing(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """At whichever await; and where it was sent, it is pending or there."""
    for awaits in range(1, 12):
        once, venue = make(key=f"order-{awaits}")
        task = asyncio.ensure_future(once.call(venue.submit, "AAPL"))
        for _ in range(awaits):
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            known = [one for one in await pending(recovery) if one["key"] == once.key]
            if venue.sent_at:
                assert known
            else:
                assert not known


@pytest.mark.asyncio
async def test_completed_key_is_refused_with_its_result(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Also in the next life."""
    once, venue = make(key="mine")
    await once.call(venue.submit, "AAPL")
    await recovery.aclose()
    for service in (recovery, after_a_crash(recovery, clock)):
        again, _ = make(key="mine", venue=venue, service=service)
        with pytest.raises(OperationCompletedError) as caught:
            await again.call(venue.submit, "AAPL")
        assert caught.value.result == {"id": "mine", "symbol": "AAPL"}
        await service.aclose()
    assert venue.booked == ["mine"]


@pytest.mark.asyncio
async def test_answer_that_cannot_be_journalled_is_returned_all_the_same(make: Make) -> None:
    """The journal then knows that the order is there, and not what it looked like."""
    once, _ = make(key="mine")

    class Answer:
        """A client's own class."""

    async def submit(client_order_id: str) -> Answer:
        return Answer()

    assert isinstance(await once.call(submit), Answer)
    with pytest.raises(OperationCompletedError) as caught:
        await make(key="mine")[0].call(submit)
    assert caught.value.result is None


@pytest.mark.asyncio
async def test_same_key_at_two_places_is_sent_by_one(make: Make) -> None:
    """The other one is refused at once."""
    once, venue = make("hangs", key="mine")
    task = asyncio.ensure_future(once.call(venue.submit, "AAPL"))
    await venue.reached.wait()
    with pytest.raises(OperationBusyError):
        await make(key="mine", venue=venue)[0].call(venue.submit, "AAPL")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_wrong_arguments_are_refused_before_anything_is_journalled(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """A mistake in the program is no order."""
    once, venue = make()
    with pytest.raises(TypeError, match=r"submit\(\) got an unexpected keyword argument 'nonsense'"):
        await once.call(venue.submit, "AAPL", nonsense=1)
    assert venue.sent_at == []
    assert not (recovery.state_dir / "journal").exists()


@pytest.mark.asyncio
async def test_order_that_is_too_old_is_not_sent(make: Make, clock: VirtualClock) -> None:
    """A price decided 8 seconds ago must not be sent because a retry came through."""
    until = datetime.fromtimestamp(clock.time() + 2.5, UTC)
    once, venue = make(*["refused"] * 5, valid_until=until)

    with pytest.raises(CallRejectedError) as caught:
        await once.call(venue.submit, "AAPL")

    assert caught.value.policy == "valid_until"
    assert len(venue.sent_at) == 2  # now and after a second; the next would have been after three


@pytest.mark.asyncio
async def test_wall_clock_that_is_set_back_makes_no_order_younger(make: Make, clock: VirtualClock) -> None:
    """Both clocks have to agree that it is still valid."""
    once, venue = make(valid_until=datetime.fromtimestamp(clock.time() + 2.0, UTC) + timedelta())
    clock.advance(3.0)
    clock.step_wall(-100.0)

    with pytest.raises(CallRejectedError):
        await once.call(venue.submit, "AAPL")
    assert venue.sent_at == []


@pytest.mark.asyncio
@pytest.mark.parametrize("wanted", [False, "raises"])
async def test_order_that_is_not_wanted_any_more_is_not_sent(
    make: Make, recovery: ErrorRecoveryService, wanted: object
) -> None:
    """Asked before every attempt; where the answer is not known, it is no."""
    answers = iter([True, True, wanted])

    def still_wanted() -> bool:
        answer = next(answers)
        if answer == "raises":
            raise LookupError
        return bool(answer)

    once, venue = make("refused", "well", still_wanted=still_wanted)
    with pytest.raises(CallRejectedError) as caught:
        await once.call(venue.submit, "AAPL")

    assert caught.value.policy == "still_wanted"
    assert len(venue.sent_at) == 1
    assert await pending(recovery) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("policy", ["valid_until", "still_wanted"])
async def test_order_that_is_not_wanted_any_more_when_it_has_a_thread_at_last_is_not_sent(
    recovery: ErrorRecoveryService, clock: VirtualClock, policy: str
) -> None:
    """A plain function waits for its thread behind all that was asked before; it is a refusal like any other."""
    gate = threading.Event()
    wanted, asked = True, 0
    sent: list[str] = []

    def still_wanted() -> bool:
        nonlocal asked
        asked += 1
        return wanted

    handle = recovery.service(
        "orders", max_retries=0, classify=lambda ended_with, call: Verdict(Outcome.FAILURE)
    )
    busy = [asyncio.ensure_future(handle.call(gate.wait, 60)) for _ in range(handle.plan.runtime.max_threads)]
    await asyncio.sleep(0)
    once = handle.once(
        confirm=Venue(clock).find,
        key_argument="client_order_id",
        valid_until=datetime.fromtimestamp(clock.time() + 5.0, UTC),
        still_wanted=still_wanted,
    )

    def submit(client_order_id: str) -> None:
        sent.append(client_order_id)

    order = asyncio.ensure_future(once.call(submit))
    while asked < 2:  # noqa: ASYNC110  behind the disk, in the step in which it joins the queue
        await asyncio.sleep(0)
    if policy == "still_wanted":
        wanted = False
    else:
        clock.advance(5.0)
    gate.set()

    with pytest.raises(CallRejectedError) as caught:
        await order

    assert (caught.value.policy, sent) == (policy, [])
    assert handle.plan.state.rejections == 1
    assert await pending(recovery) == []
    await asyncio.wait(busy)


# ---- circuits and the disk


@pytest.mark.asyncio
async def test_open_circuit_refuses_an_order_that_was_never_sent(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """Nothing is pending by it."""
    once, venue = make()
    handle = recovery.service("orders", circuit_threshold=1, max_retries=0)

    async def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        await handle.call(fails)
    with pytest.raises(CircuitOpenError):
        await once.call(venue.submit, "AAPL")
    assert await pending(recovery) == []


def break_the_journal(recovery: ErrorRecoveryService) -> None:
    recovery.state_dir.parent.mkdir(parents=True, exist_ok=True)
    recovery.state_dir.write_text("a file in the way")


@pytest.mark.asyncio
async def test_order_is_not_sent_without_the_journal(make: Make, recovery: ErrorRecoveryService) -> None:
    """What could not be known after a crash is not begun."""
    break_the_journal(recovery)
    once, venue = make()

    with pytest.raises((JournalUnavailableError, JournalLockedError, OSError)):
        await once.call(venue.submit, "AAPL")
    assert venue.sent_at == []


@pytest.mark.asyncio
async def test_close_is_sent_without_the_journal(make: Make, recovery: ErrorRecoveryService) -> None:
    """A broken disk must keep nobody from closing a position; it is on record, and journalled when the disk is there again."""
    break_the_journal(recovery)
    once, venue = make(risk_reducing=True)

    assert (await once.call(venue.submit, "AAPL"))["id"] == once.key
    assert recovery.get_error_summary()["errors_by_severity"] == {"critical": 1}
    with pytest.raises(OperationCompletedError):
        await once.call(venue.submit, "AAPL")
    with pytest.raises(JournalUnavailableError):
        await recovery.aclose()
    recovery.state_dir.unlink()
    await recovery.aclose()
    reborn = next_life(recovery, venue.clock, directory=recovery.state_dir)
    with pytest.raises(OperationCompletedError):
        await make(key=once.key, venue=venue, service=reborn)[0].call(venue.submit, "AAPL")
    assert len(venue.sent_at) == 1
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("booked", [True, False])
async def test_close_that_was_looked_up_without_the_journal_is_known_to_whoever_comes_next(
    make: Make, recovery: ErrorRecoveryService, booked: bool
) -> None:
    """Whoever looks it up tells the journal behind the one who sent it; or a third one would send it again."""
    break_the_journal(recovery)
    once, venue = make("answer lost" if booked else "lost", key="mine", risk_reducing=True, max_retries=0)
    venue.says = UNKNOWN
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    venue.says = None

    again, _ = make(key="mine", venue=venue, risk_reducing=True)
    await again.call(venue.submit, "AAPL")

    for _ in range(2):
        with pytest.raises(OperationCompletedError):
            await make(key="mine", venue=venue, risk_reducing=True)[0].call(venue.submit, "AAPL")
    assert venue.booked == ["mine"]
    recovery.state_dir.unlink()
    await recovery.aclose()
    reborn = next_life(recovery, venue.clock, directory=recovery.state_dir)
    assert await pending(reborn) == []
    with pytest.raises(OperationCompletedError):
        await make(key="mine", venue=venue, service=reborn)[0].call(venue.submit, "AAPL")
    await reborn.aclose()


@pytest.mark.asyncio
async def test_close_whose_look_up_was_cancelled_without_the_journal_is_still_unknown(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """Nobody else remembers that it was sent: whoever comes next looks it up, and does not send it again."""
    break_the_journal(recovery)
    once, venue = make("answer lost", key="mine", risk_reducing=True, max_retries=0)
    venue.says = UNKNOWN
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    for _ in range(2):
        asked = len(venue.asked_at)
        again = asyncio.ensure_future(
            make(key="mine", venue=venue, risk_reducing=True)[0].call(venue.submit, "AAPL")
        )
        while len(venue.asked_at) == asked and not again.done():  # noqa: ASYNC110  it is asked behind the disk
            await asyncio.sleep(0)
        assert not again.done()  # it is being looked up
        again.cancel()
        await asyncio.wait({again})
        assert again.cancelled()
    venue.says = None

    found = await make(key="mine", venue=venue, risk_reducing=True)[0].call(venue.submit, "AAPL")

    assert found == {"id": "mine", "symbol": "found"}
    assert venue.booked == ["mine"]
    recovery.state_dir.unlink()


@pytest.mark.asyncio
async def test_close_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say that it hangs; after a second the close is sent, and that is on record."""
    gate = threading.Event()
    monkeypatch.setattr(SystemFiles, "fsync", lambda self, handle: gate.wait(60))
    monkeypatch.setattr(patience_with_the_journal, "PATIENCE", 0.01)
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")

    async def close(client_order_id: str) -> str:
        return client_order_id

    async def find(key: str) -> Any:
        return NOT_FOUND

    once = recovery.service("orders", risk_reducing=True).once(
        "mine", confirm=find, key_argument="client_order_id"
    )
    assert await once.call(close) == "mine"
    assert recovery.get_error_summary()["errors_by_severity"]["critical"] > 0
    gate.set()
    await recovery.aclose()


@pytest.fixture
def hanging_disk(monkeypatch: pytest.MonkeyPatch) -> HangingDisk:
    """The disk of all journals that are written in this test, and closes have no patience with it."""
    disk = HangingDisk()
    sync_data = SystemFiles.sync_data

    def held_back(self: SystemFiles, handle: int) -> None:
        disk.is_asked.set()
        assert disk.answers.wait(30)
        if disk.is_broken:
            raise OSError(errno.EIO, "broken")
        sync_data(self, handle)

    monkeypatch.setattr(SystemFiles, "sync_data", held_back)
    monkeypatch.setattr(patience_with_the_journal, "PATIENCE", 0.01)
    return disk


@pytest.mark.asyncio
@pytest.mark.parametrize("the_disk", ["comes back", "fails"])
async def test_close_is_sent_once_whatever_the_disk_does_meanwhile(
    tmp_path: Path, hanging_disk: HangingDisk, the_disk: str
) -> None:
    """What this process did with a key stands in memory: no patience with the disk is needed to know it, nor its success."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    closes = recovery.service("orders", risk_reducing=True, max_retries=0)
    sent: list[str] = []

    async def close(key: str) -> str:
        sent.append(key)
        await asyncio.sleep(0)
        if key.startswith("lost"):
            raise asyncio.CancelledError  # while it is under way: it stays pending, and nobody is asked
        return f"closed {key}"

    async def nobody_knows(key: str) -> Any:
        return UNKNOWN

    async def there(key: str) -> Any:
        return Found(f"found {key}")

    async def closed(key: str, confirm: Any = nobody_knows) -> str:
        answer: str = await closes.once(key=key, confirm=confirm, settle=0.0).call(close, key)
        return answer

    async def something_else() -> None:
        async with recovery.operation("else", key="e"):
            pass

    await closed("before")
    with pytest.raises(asyncio.CancelledError):
        await closed("lost before")
    await recovery._journal.flush()
    hanging_disk.hangs()
    other = asyncio.ensure_future(something_else())
    await asyncio.to_thread(hanging_disk.is_asked.wait, 30)

    results = await asyncio.gather(*(closed("mine") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [str, OperationBusyError, OperationBusyError]
    for key in ("before", "mine"):
        with pytest.raises(OperationCompletedError) as completed:
            await closed(key)
        assert completed.value.result == f"closed {key}"
    for key in ("lost", "lost and not found"):
        with pytest.raises(asyncio.CancelledError):
            await closed(key)
    for key in ("lost before", "lost"):
        assert await closed(key, there) == f"found {key}"
    hanging_disk.is_broken = the_disk == "fails"
    hanging_disk.answers.set()
    await asyncio.gather(other, return_exceptions=True)
    hanging_disk.is_broken = False
    for key in ("before", "mine", "lost before", "lost"):
        with pytest.raises(OperationCompletedError):
            await closed(key)
    await recovery.aclose()

    assert sent == ["before", "lost before", "mine", "lost", "lost and not found"]
    known = [
        one["key"] for one in await pending(ErrorRecoveryService(tmp_path / "state", tmp_path / "errors"))
    ]
    assert "lost and not found" in known
    assert not {"before", "mine", "lost before", "lost"} & set(known)


@pytest.mark.asyncio
async def test_close_that_provably_never_arrived_leaves_nothing_when_the_disk_hung(
    tmp_path: Path, hanging_disk: HangingDisk
) -> None:
    """It went without the journal: nobody has to look it up."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    hanging_disk.hangs()
    operation = recovery.operation("else", key="e")
    other = asyncio.ensure_future(operation.__aenter__())
    await asyncio.to_thread(hanging_disk.is_asked.wait, 30)

    async def close() -> str:
        raise ConnectionRefusedError

    async def find(key: str) -> Any:
        return NOT_FOUND

    closes = recovery.service("orders", risk_reducing=True, max_retries=0)
    with pytest.raises(ConnectionRefusedError):
        await closes.once(key="mine", confirm=find).call(close)
    hanging_disk.answers.set()
    await other

    assert [one["key"] for one in await pending(recovery)] == ["e"]
    await operation.__aexit__(None, None, None)
    await recovery.aclose()


@pytest.mark.asyncio
async def test_close_that_did_not_wait_for_the_disk_counts_from_the_next_life_once_the_disk_wakes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk was asked to keep says when the attempt would have ended, had it begun then."""
    gate, reached, answered = threading.Event(), asyncio.Event(), asyncio.Event()
    real = SystemFiles.fsync
    monkeypatch.setattr(SystemFiles, "fsync", lambda self, handle: (gate.wait(60), real(self, handle)))
    monkeypatch.setattr(patience_with_the_journal, "PATIENCE", 0.01)
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")

    async def close(client_order_id: str) -> str:
        reached.set()
        await answered.wait()
        return client_order_id

    async def find(key: str) -> Any:
        return NOT_FOUND

    once = recovery.service("orders", risk_reducing=True, timeout=600.0).once(
        "mine", confirm=find, key_argument="client_order_id"
    )
    order = asyncio.ensure_future(once.call(close))
    await reached.wait()
    gate.set()
    await recovery._journal.flush()

    known = await recovery._journal.ask(lambda session: [one.body for one in session.table.pending()])

    assert [(one["key"], one["counts_from"]) for one in known] == [("mine", None)]
    answered.set()
    assert await order == "mine"
    await recovery.aclose()


@pytest.mark.asyncio
async def test_order_takes_one_turn_of_the_disk(
    make: Make, recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is claimed and durable with the same sync; the first order of a life looks first what there is."""
    asked = 0
    ask = recovery._journal.ask

    async def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return await ask(*args, **kwargs)

    monkeypatch.setattr(recovery._journal, "ask", counted)
    turns = []
    for _ in range(3):
        once, venue = make()
        before = asked
        await once.call(venue.submit, "AAPL")
        turns.append(asked - before)

    assert turns == [3, 1, 1]


@pytest.mark.asyncio
@pytest.mark.parametrize("refused_by", ["an open circuit", "still_wanted"])
async def test_order_that_is_refused_is_looked_for_first(
    make: Make, recovery: ErrorRecoveryService, refused_by: str
) -> None:
    """A refusal says that it was not sent, which must not be said of one that an earlier call has placed."""
    await make(key="other")[0].call(make()[1].submit, "AAPL")
    once, venue = make("answer lost", key="mine", settle=5.0)
    venue.says = UNKNOWN
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    venue.says = None
    refusing: dict[str, Any] = {"still_wanted": lambda: False}
    if refused_by == "an open circuit":
        refusing = {}
        recovery.set_circuit_mode("orders", "forced-open", "test")

    assert (await make(key="mine", venue=venue, **refusing)[0].call(venue.submit, "AAPL"))[
        "symbol"
    ] == "found"
    with pytest.raises(OperationCompletedError):
        await make(key="mine", venue=venue, **refusing)[0].call(venue.submit, "AAPL")
    with pytest.raises(CallRejectedError):
        await make(key="fresh", venue=venue, **refusing)[0].call(venue.submit, "AAPL")
    assert venue.booked == ["mine"]


@pytest.mark.asyncio
@pytest.mark.parametrize("awaits", range(1, 8))
async def test_cancelled_while_it_is_claimed_it_leaves_nothing(
    make: Make, recovery: ErrorRecoveryService, awaits: int
) -> None:
    """Claimed and journalled in one turn, it is given up in one, too."""
    await make(key="other")[0].call(make()[1].submit, "AAPL")
    once, venue = make("hangs", key="mine")
    task = asyncio.ensure_future(once.call(venue.submit, "AAPL"))
    for _ in range(awaits):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})

    known = [one for one in await pending(recovery) if one["key"] == "mine"]
    assert len(known) == len(venue.sent_at)
    venue.moods.clear()
    again = await make(key="mine", venue=venue)[0].call(venue.submit, "AAPL")
    assert again["symbol"] == ("found" if known else "AAPL")


# ---- the next life


async def dies_in_flight(make: Make, recovery: ErrorRecoveryService, *moods: str, **options: Any) -> Venue:
    """An order that was sent when the program died; gives its venue."""
    once, venue = make(*moods, "hangs", key="earlier", **options)
    task = asyncio.ensure_future(once.call(venue.submit, "AAPL"))
    await venue.reached.wait()
    shutil.rmtree(recovery.state_dir.with_name("copy"), ignore_errors=True)
    shutil.copytree(recovery.state_dir, recovery.state_dir.with_name("copy"))
    task.cancel()
    await asyncio.wait({task})
    return venue


def next_life(
    recovery: ErrorRecoveryService, clock: VirtualClock, *, directory: Path | None = None
) -> ErrorRecoveryService:
    directory = directory or recovery.state_dir.with_name("copy")
    return ErrorRecoveryService(directory, recovery.error_log_dir, clock=clock)


@pytest.mark.asyncio
async def test_reconcile_finds_what_an_earlier_life_left(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """And tells what became of it."""
    venue = await dies_in_flight(make, recovery)
    reborn = next_life(recovery, clock)
    make(venue=venue, service=reborn)  # says how to look up

    settled = await reborn.reconcile()

    assert [(one.service_name, one.key) for one in settled] == [("orders", "earlier")]
    assert settled[0].outcome == Found({"id": "earlier", "symbol": "found"})
    assert await pending(reborn) == []
    assert await reborn.reconcile() == []
    await reborn.aclose()


@pytest.mark.asyncio
async def test_reconcile_waits_for_the_window_of_the_last_send(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Counted from the journalled time, and not from the restart: a crash loop must come to an end."""
    venue = await dies_in_flight(make, recovery, timeout=5.0)
    venue.visible_at.clear()  # it never arrived
    sent = venue.sent_at[0]
    clock.advance(20.0)
    reborn = next_life(recovery, clock)
    make(venue=venue, service=reborn, settle=30.0)

    settled = await reborn.reconcile()

    assert settled[0].outcome is NOT_FOUND
    assert venue.asked_at[-1] == pytest.approx(sent + 37.0)
    assert await pending(reborn) == []
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_wall_clock_that_is_set_between_two_lives_changes_no_window(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock, step: float
) -> None:
    """Set forward it would shorten the window, and "not found" would be taken for proof while the order is on its way."""
    venue = await dies_in_flight(make, recovery, timeout=5.0)
    venue.visible_at.clear()
    clock.advance(20.0)
    clock.step_wall(step)
    reborn = next_life(recovery, clock)
    make(venue=venue, service=reborn, settle=30.0)

    settled = await reborn.reconcile()

    assert settled[0].outcome is NOT_FOUND
    assert venue.asked_at[-1] == pytest.approx(venue.sent_at[0] + 37.0)
    await reborn.aclose()


def crashed_again(service: ErrorRecoveryService, clock: VirtualClock, to: str) -> ErrorRecoveryService:
    """The life after *service*'s, which is killed as it stands."""
    place = service.state_dir.with_name(to)
    shutil.copytree(service.state_dir, place)
    return ErrorRecoveryService(place, service.error_log_dir, clock=clock)


@pytest.mark.asyncio
@pytest.mark.parametrize("why", ["other start of the machine", "no time limit", "older journal"])
async def test_window_whose_beginning_nobody_knows_counts_from_when_a_later_life_first_saw_it(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock, why: str
) -> None:
    """In full, whatever the wall clock says; and once, so that a program which crashes again and again gets through."""
    if why == "older journal":
        journal = recovery.state_dir.with_name("copy") / "journal"
        shutil.copytree(FIRST_FORM, journal)
        venue, key = Venue(clock), "under-way"
    else:
        venue, key = (
            await dies_in_flight(make, recovery, timeout=None if why == "no time limit" else 5.0),
            "earlier",
        )
    venue.visible_at.clear()
    clock.advance(3600.0)
    if why == "other start of the machine":
        clock.boot = "another"
    first_seen = clock.monotonic()
    service = next_life(recovery, clock)
    venue.says = UNKNOWN
    for life in range(4):
        make(venue=venue, service=service, settle=30.0)
        looking = asyncio.ensure_future(service.reconcile())
        while not venue.asked_at or venue.asked_at[-1] < first_seen + 4.0 * (life + 1):  # noqa: ASYNC110  virtual time
            await asyncio.sleep(0.5)
        await service._journal.flush()
        service = crashed_again(service, clock, f"life-{life}")
        looking.cancel()
        await asyncio.wait({looking})
    venue.says = NOT_FOUND
    make(venue=venue, service=service, settle=30.0)

    settled = await service.reconcile()

    assert {one.key: one.outcome for one in settled}[key] is NOT_FOUND
    assert venue.asked_at[-1] == pytest.approx(first_seen + 30.0)
    await service.aclose()


@pytest.mark.asyncio
async def test_journal_of_the_first_form_is_taken_over(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Its orders do not say by which clock they were sent: nothing of it is lost, and nothing is sent twice."""
    shutil.copytree(FIRST_FORM, recovery.state_dir / "journal")
    clock.advance(7200.0)
    once, venue = make(key="placed")
    venue.visible_at["unknown"] = 0.0

    assert await pending(recovery) == [
        {"operation": "orders.once", "key": "unknown", "status": "pending"},
        {"operation": "import", "key": "half", "status": "pending", "index": 3},
        {"operation": "orders.once", "key": "under-way", "status": "pending"},
    ]
    with pytest.raises(OperationCompletedError) as placed:
        await once.call(venue.submit, "AAPL")
    assert placed.value.result == {"id": "placed", "price": Decimal("1.10")}
    begun = clock.monotonic()
    make(venue=venue)  # without a key: how all are looked up
    outcomes = {one.key: one.outcome for one in await recovery.reconcile()}
    assert outcomes == {"unknown": Found({"id": "unknown", "symbol": "found"}), "under-way": NOT_FOUND}
    assert clock.monotonic() >= begun + 30.0
    async with recovery.operation("import", key="half") as operation:
        assert (operation.details, operation.progress) == ({"path": "bars.csv"}, {"index": 3})
    with pytest.raises(OperationCompletedError):
        async with recovery.operation("import", key="done"):
            pass
    assert venue.sent_at == []


# ---- what is left behind


class SlowClient:
    """A plain function's client: a submit that hangs until it is let go, and then ends as it is told."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.ends_with: object = "the order"

    def submit(self, client_order_id: str) -> object:
        self.begun.set()
        assert self.gate.wait(60)
        if isinstance(self.ends_with, Exception):
            raise self.ends_with
        return self.ends_with

    async def is_left_behind(self, call: Any) -> None:
        """Cancel *call* when its thread is at it."""
        task = asyncio.ensure_future(call)
        assert await asyncio.to_thread(self.begun.wait, 60)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    async def ends(self, recovery: ErrorRecoveryService) -> None:
        """Let it go, and wait until its end is known."""
        state = recovery.service("orders").plan.state
        self.gate.set()
        while state.abandoned_threads:  # noqa: ASYNC110  its last step sets no event
            await asyncio.sleep(0)
        await asyncio.sleep(0)  # what is judged on the loop
        await recovery._journal.flush()


@pytest.mark.asyncio
@pytest.mark.parametrize("classify_", [None, classify])
async def test_order_whose_thread_answers_after_the_cancellation_is_there(
    recovery: ErrorRecoveryService, clock: VirtualClock, classify_: Any
) -> None:
    """Nobody waits for the answer, and the journal tells the truth all the same."""
    client = SlowClient()

    def once() -> Any:
        return recovery.service("orders", classify=classify_).once(
            "mine", confirm=Venue(clock).find, key_argument="client_order_id"
        )

    await client.is_left_behind(once().call(client.submit))
    assert [one["key"] for one in await pending(recovery)] == ["mine"]

    await client.ends(recovery)

    assert await pending(recovery) == []
    with pytest.raises(OperationCompletedError) as caught:
        await once().call(client.submit)
    assert caught.value.result == "the order"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("error", "is_pending"),
    [
        (ConnectionRefusedError(), False),
        (RejectedError("no"), False),
        (RejectedError("duplicate"), True),
        (OSError(), True),
    ],
)
async def test_order_whose_thread_fails_after_the_cancellation_is_pending_unless_nothing_happened(
    recovery: ErrorRecoveryService, clock: VirtualClock, error: Exception, is_pending: bool
) -> None:
    """The same verdicts as for an error that somebody waits for."""
    client = SlowClient()
    client.ends_with = error
    once = recovery.service("orders", classify=classify).once(
        "mine", confirm=Venue(clock).find, key_argument="client_order_id"
    )
    await client.is_left_behind(once.call(client.submit))

    await client.ends(recovery)

    assert len(await pending(recovery)) == is_pending
    if "duplicate" in str(error):
        clock.advance(
            100.0
        )  # the window is over, the look-up finds nothing, and the venue has said that it is there
        assert [one.outcome for one in await recovery.reconcile()] == [UNKNOWN]


def refuses(answer: object, call: CallInfo) -> Verdict | None:
    """As the presets of clients that return a 400: well answered, and nothing done."""
    return Verdict(Outcome.SUCCESS, effect="none") if answer == 400 else None


@pytest.mark.asyncio
async def test_order_whose_thread_returns_a_no_after_the_cancellation_is_not_there(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The key is free, and is placed again without a window to wait for."""
    client = SlowClient()
    client.ends_with = 400
    once = recovery.service("orders", classify=refuses).once(
        "mine", confirm=Venue(clock).find, key_argument="client_order_id"
    )
    await client.is_left_behind(once.call(client.submit))

    await client.ends(recovery)

    assert await pending(recovery) == []
    client.ends_with = 200
    assert await once.call(client.submit) == 200


@pytest.mark.asyncio
async def test_no_that_is_returned_frees_the_key(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """Httpx and requests return a 400: it had been journalled as the order, which could never be placed any more."""
    answers = [400, 200]
    handle = recovery.service("orders", classify=refuses)

    async def submit() -> int:
        return answers.pop(0)

    async def place() -> int:
        return await handle.once("mine", confirm=Venue(clock).find).call(submit)

    assert await place() == 400
    assert await pending(recovery) == []
    assert handle.plan.state.successes == 1
    assert await place() == 200
    with pytest.raises(OperationCompletedError) as caught:
        await place()
    assert caught.value.result == 200


@pytest.mark.asyncio
async def test_call_around_an_order_that_was_refused_by_a_result_is_repeated(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Nothing was placed inside, so that another attempt places the first order."""
    answers = [400, 200, 200]
    strategy, orders = (
        recovery.service("strategy", max_retries=2),
        recovery.service("orders", classify=refuses),
    )

    async def submit() -> int:
        clock.advance(0.1)
        return answers.pop(0)

    async def step() -> None:
        await orders.once(confirm=Venue(clock).find).call(submit)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await strategy.call(step)
    assert answers == [200]  # and not after the one that is there


@pytest.mark.asyncio
@pytest.mark.parametrize("has_ended", [True, False])
async def test_window_of_what_was_left_behind_counts_from_its_real_end(
    recovery: ErrorRecoveryService, clock: VirtualClock, has_ended: bool
) -> None:
    """Of a thread that the crash ended too, nobody knows when it sent last: the next life begins to count."""
    client, venue = SlowClient(), Venue(clock)
    client.ends_with = OSError()
    once = recovery.service("orders").once(
        "mine", confirm=venue.find, key_argument="client_order_id", settle=30.0
    )
    await client.is_left_behind(once.call(client.submit))
    clock.advance(100.0)
    if has_ended:
        await client.ends(recovery)
    await recovery._journal.flush()
    reborn = after_a_crash(recovery, clock)
    clock.advance(10.0)
    begun = clock.monotonic()
    reborn.service("orders").once(confirm=venue.find, settle=30.0)

    settled = await reborn.reconcile()

    assert settled[0].outcome is NOT_FOUND
    assert clock.monotonic() - begun == pytest.approx(20.0 if has_ended else 30.0)
    await client.ends(recovery)
    await reborn.aclose()


@pytest.mark.asyncio
async def test_answer_of_an_attempt_that_was_given_up_is_the_answer(recovery: ErrorRecoveryService) -> None:
    """The look-up knows nothing, and the attempt itself does."""
    gate = asyncio.Event()

    async def submit(client_order_id: str) -> str:
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        return client_order_id

    async def find(key: str) -> Any:
        gate.set()
        return UNKNOWN

    once = recovery.service("orders", timeout=1.0, grace=1.0, max_retries=0).once(
        "mine", confirm=find, key_argument="client_order_id"
    )

    assert await once.call(submit) == "mine"
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_answer_that_comes_within_the_grace_of_a_cancellation_is_known_to_the_journal(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The caller is gone, and the order is there."""
    reached, gate = asyncio.Event(), asyncio.Event()

    async def submit(client_order_id: str) -> str:
        reached.set()
        while not gate.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await gate.wait()
        return client_order_id

    once = recovery.service("orders", grace=1.0).once(
        "mine", confirm=Venue(clock).find, key_argument="client_order_id"
    )
    task = asyncio.ensure_future(once.call(submit))
    await reached.wait()
    task.cancel()
    asyncio.get_running_loop().call_later(0.5, gate.set)
    await asyncio.wait({task})

    assert task.cancelled()
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_journal_is_no_other_processes_as_long_as_a_thread_that_was_left_behind_may_send(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The other would look up, find nothing, and send the order as well. It is given up behind the thread's answer."""
    client = SlowClient()
    once = recovery.service("orders").once("mine", confirm=Venue(clock).find, key_argument="client_order_id")
    await client.is_left_behind(once.call(client.submit))
    await recovery.aclose()
    other = Journal(recovery._journal.directory)
    with pytest.raises(JournalLockedError):
        await other.ask(lambda session: None)

    await client.ends(recovery)

    assert recovery.get_health_status()["journal"]["state"] == "closed"
    assert await pending(recovery) == []
    await other.ask(lambda session: None)
    await other.aclose()


@pytest.mark.asyncio
async def test_reconcile_without_a_lookup_leaves_it_pending(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Nobody has said how; it says so."""
    await dies_in_flight(make, recovery)
    reborn = next_life(recovery, clock)

    settled = await reborn.reconcile()

    assert settled[0].outcome is UNKNOWN
    assert len(await pending(reborn)) == 1
    await reborn.aclose()


@pytest.mark.asyncio
async def test_new_orders_wait_until_earlier_ones_are_settled(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """By themselves: the first order of a life looks them up. A close does not wait."""
    venue = await dies_in_flight(make, recovery)
    venue.visible_at.clear()
    reborn = next_life(recovery, clock)
    close, _ = make(venue=venue, service=reborn, risk_reducing=True)
    await close.call(venue.submit, "AAPL")
    assert venue.asked_at == []
    orders = [make(venue=venue, service=reborn)[0] for _ in range(3)]

    await asyncio.gather(*(once.call(venue.submit, "AAPL") for once in orders))

    first_sent = venue.sent_at[0]
    assert all(sent >= first_sent + 30.0 for sent in venue.sent_at[2:])
    assert len(venue.sent_at) == 5
    # Theirs may have asked in another place.
    assert [one["key"] for one in await pending(reborn)] == ["earlier"]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_key_of_an_earlier_life_is_looked_up_and_not_sent_again(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A program that makes its keys by itself simply places its orders again."""
    venue = await dies_in_flight(make, recovery)
    reborn = next_life(recovery, clock)
    again, _ = make(key="earlier", venue=venue, service=reborn)

    assert (await again.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert venue.booked == ["earlier"]
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("risk_reducing", [False, True])
async def test_key_that_a_damaged_journal_may_have_lost_is_looked_up_before_it_is_sent(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock, risk_reducing: bool
) -> None:
    """An order that it does not know may be there all the same. A key that is made now cannot be."""
    once, venue = make(key="placed")
    await once.call(venue.submit, "AAPL")
    await recovery.aclose()
    (segment,) = (recovery.state_dir / "journal").glob("journal-*")
    os.truncate(segment, HEAD_BYTES)
    reborn = after_a_crash(recovery, clock)

    def again(**more: Any) -> Any:
        options = {"settle": 5.0, "risk_reducing": risk_reducing, "venue": venue, "service": reborn}
        return make(**{**options, **more})[0]

    await again().call(venue.submit, "AAPL")
    assert venue.asked_at == []
    assert (await again(key="placed").call(venue.submit, "AAPL"))["symbol"] == "found"
    venue.says = UNKNOWN
    with pytest.raises(OutcomeUnknownError):
        await again(key="nobody knows").call(venue.submit, "AAPL")
    venue.says = None
    begun = clock.monotonic()
    await again(key="never placed").call(venue.submit, "AAPL")

    assert venue.booked.count("placed") == 1
    assert venue.booked[-1] == "never placed"
    assert clock.monotonic() - begun <= 5.0
    assert [one["key"] for one in await pending(reborn)] == ["nobody knows"]
    await reborn.aclose()


@pytest.mark.asyncio
async def test_later_lives_look_up_what_a_damaged_journal_may_have_lost_until_it_is_trusted_again(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Its segments are sound by then. The mark beside them says that something is missing, also one made by hand."""

    def next_life() -> ErrorRecoveryService:
        return ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir, clock=clock)

    once, venue = make(key="placed")
    await once.call(venue.submit, "AAPL")
    await recovery.aclose()
    journal = recovery.state_dir / "journal"
    (segment,) = journal.glob("journal-*")
    os.truncate(segment, HEAD_BYTES)
    damaged = next_life()
    await make(venue=venue, service=damaged)[0].call(venue.submit, "AAPL")
    await damaged.aclose()
    assert (journal / "incomplete.json").exists()

    later = next_life()
    await make(key="placed", settle=5.0, venue=venue, service=later)[0].call(venue.submit, "AAPL")
    await later.aclose()
    assert venue.booked.count("placed") == 1

    (journal / "incomplete.json").unlink()
    trusting = next_life()
    asked = len(venue.asked_at)
    await make(key="another", venue=venue, service=trusting)[0].call(venue.submit, "AAPL")
    assert len(venue.asked_at) == asked
    await trusting.aclose()

    (journal / "incomplete.json").touch()  # an older copy of the directory was put in place
    cautious = next_life()
    await make(key="a third", settle=5.0, venue=venue, service=cautious)[0].call(venue.submit, "AAPL")
    assert len(venue.asked_at) > asked
    await cautious.aclose()


@pytest.mark.asyncio
async def test_orders_of_a_journal_that_was_removed_or_cut_short_are_looked_up(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The next life knows from beside it that something is gone, says so in its health, and sends no known order again."""

    def next_life() -> ErrorRecoveryService:
        return ErrorRecoveryService(recovery.state_dir, recovery.error_log_dir, clock=clock)

    once, venue = make(key="placed")
    await once.call(venue.submit, "AAPL")
    assert recovery.get_health_status()["overall_health"] == "healthy"
    await recovery.aclose()
    journal = recovery.state_dir / "journal"
    (segment,) = journal.glob("journal-*")
    whole = segment.read_bytes()
    first = read_segment(1, whole).records[0]
    segment.write_bytes(whole[: first.end].ljust(len(whole), b"\0"))

    for missing in ("had been acknowledged as durable", "is gone"):
        later = next_life()
        await make(key="placed", settle=5.0, venue=venue, service=later)[0].call(venue.submit, "AAPL")
        assert venue.booked.count("placed") == 1
        health = later.get_health_status()
        assert (health["overall_health"], missing in health["journal"]["incomplete"]) == ("degraded", True)
        await later.aclose()
        shutil.rmtree(journal)


@pytest.mark.asyncio
@pytest.mark.parametrize("risk_reducing", [False, True])
async def test_key_that_was_made_is_looked_up_too_where_the_journal_was_lost_behind_its_first_call(
    make: Make, recovery: ErrorRecoveryService, risk_reducing: bool
) -> None:
    """Nobody has sent a key that was just made; the second call of the same object may be another matter."""
    once, venue = make("answer lost", risk_reducing=risk_reducing, max_retries=0)
    venue.says = UNKNOWN
    with pytest.raises(OutcomeUnknownError):
        await once.call(venue.submit, "AAPL")
    await recovery.aclose()
    shutil.rmtree(recovery.state_dir / "journal")
    venue.says = None

    assert (await once.call(venue.submit, "AAPL"))["symbol"] == "found"
    assert venue.booked == [once.key]


@pytest.mark.asyncio
async def test_cancelled_at_any_await_the_journal_tells_the_truth(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Sent and not answered: pending. Answered: completed. Never sent: nothing is known of it."""
    venues: list[Venue] = []

    def call() -> Any:
        venue = Venue(clock, "refused", "answer lost")
        venues.append(venue)
        once = recovery.service("orders", max_retries=3).once(
            f"order-{len(venues)}", confirm=venue.find, key_argument="client_order_id"
        )
        return once.call(venue.submit, "AAPL")

    runs = 0
    async for _ in cancel_at_each_await(call):
        runs += 1
        key = f"order-{len(venues)}"
        known = [one for one in await pending(recovery) if one["key"] == key]
        await recovery.reconcile()
        assert await pending(recovery) == []
        if venues[-1].booked:
            assert known or venues[-1].asked_at
        else:
            assert not known
    assert runs > 5
    assert all(len(venue.booked) <= 1 for venue in venues)


@pytest.mark.asyncio
async def test_order_that_is_not_sent_gives_its_place_and_its_permit_back(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A refusal behind the limits took nothing."""
    handle = recovery.service("orders", max_concurrent=1, rate_limit="1/min")
    venue = Venue(clock)
    stale = handle.once(confirm=venue.find, key_argument="client_order_id", still_wanted=lambda: False)
    with pytest.raises(CallRejectedError):
        await stale.call(venue.submit, "AAPL")
    begun = clock.monotonic()

    await handle.once(confirm=venue.find, key_argument="client_order_id").call(venue.submit, "AAPL")

    assert venue.sent_at == [begun]


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [{"max_concurrent": 5}, {"rate_limit": "100/s"}, {}])
async def test_every_order_of_a_service_is_journalled_and_asked_after_whatever_limits_it(
    recovery: ErrorRecoveryService, clock: VirtualClock, limit: dict[str, Any]
) -> None:
    """From the second call on, a service with a free place has a shorter way for its calls."""
    handle = recovery.service("orders", **limit)
    venue = Venue(clock)
    on_disk: list[int] = []

    async def submit(client_order_id: str) -> None:
        on_disk.append(len(await pending(after_a_crash(recovery, clock))))

    for _ in range(3):
        await handle.once(confirm=venue.find, key_argument="client_order_id").call(submit)
    with pytest.raises(CallRejectedError):
        await handle.once(
            confirm=venue.find, key_argument="client_order_id", still_wanted=lambda: False
        ).call(submit)

    assert on_disk == [1, 1, 1]


# ---- what would be forgotten, or known too early


@pytest.mark.asyncio
async def test_order_whose_deadline_passed_while_it_was_looked_up_is_not_sent_again(make: Make) -> None:
    """The deadline is one for all of its attempts."""
    once, venue = make("hangs", deadline=5.0, settle=10.0)
    venue.says = NOT_FOUND

    with pytest.raises(DeadlineExceededError):
        await once.call(venue.submit, "AAPL")

    assert len(venue.sent_at) == 1


@pytest.mark.asyncio
async def test_order_that_is_sent_again_has_what_is_left_of_the_deadline(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """It was lost at once, looked up for 4 s, and hangs then."""
    once, venue = make("lost", "hangs", deadline=10.0, settle=4.0)
    venue.says = NOT_FOUND

    with pytest.raises(DeadlineExceededError):
        await once.call(venue.submit, "AAPL")

    assert [at - venue.sent_at[0] for at in venue.sent_at] == pytest.approx([0.0, 4.0])
    assert venue.asked_at[-1] - venue.sent_at[0] == pytest.approx(14.0)
    assert await pending(recovery) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("hangs", ["fsync", "sync_data"])
async def test_order_does_not_wait_longer_than_its_deadline_for_a_disk_that_hangs(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    """It says that it was not sent. A disk that wakes up later knows so, too."""
    sent: list[str] = []

    async def submit(client_order_id: str) -> None:
        sent.append(client_order_id)

    async def find(key: str) -> Any:
        return NOT_FOUND

    def order(key: str, **options: Any) -> Any:
        handle = recovery.service("orders").using(**options)
        return handle.once(key, confirm=find, key_argument="client_order_id").call(submit)

    await recovery.start()  # whether an earlier life was halted is asked of the disk, too
    if hangs == "sync_data":
        await order("first")
        sent.clear()
    asked, gate = threading.Event(), threading.Event()
    real = getattr(SystemFiles, hangs)

    def held_back(self: SystemFiles, handle: int) -> None:
        asked.set()
        assert gate.wait(60)
        real(self, handle)

    monkeypatch.setattr(SystemFiles, hangs, held_back)
    second = asyncio.ensure_future(order("second", deadline=5.0))
    assert await asyncio.to_thread(asked.wait, 60)
    clock.advance(5.0)  # time stands still while the disk works: it is moved by hand

    with pytest.raises(JournalUnavailableError, match="deadline"):
        await second

    assert sent == []
    gate.set()
    await recovery.aclose()
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_order_that_waited_for_a_thread_all_its_time_was_not_sent(tmp_path: Path) -> None:
    """Nothing of it ran, and that is certain: nothing is pending."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    gate = threading.Event()

    async def find(key: str) -> Any:
        return NOT_FOUND

    handle = recovery.service("orders", max_retries=0)
    threads = handle.plan.runtime.max_threads
    busy = [asyncio.ensure_future(handle.call(gate.wait, 60)) for _ in range(threads)]
    await asyncio.sleep(0)
    once = handle.using(timeout=0.05).once("mine", confirm=find)

    with pytest.raises(AttemptTimeoutError):
        await once.call(lambda: None)

    assert await pending(recovery) == []
    gate.set()
    await asyncio.gather(*busy)
    await recovery.aclose()


@pytest.mark.asyncio
async def test_reconcile_knows_nothing_while_a_thread_that_was_left_behind_may_still_send(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """However long ago the call was cancelled: its thread is still at it."""
    gate, begun = threading.Event(), threading.Event()

    def submit() -> None:
        begun.set()
        gate.wait(60)

    once = recovery.service("orders").once("mine", confirm=Venue(clock).find, settle=10.0)
    task = asyncio.ensure_future(once.call(submit))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    await asyncio.wait({task})
    clock.advance(100.0)

    settled = await recovery.reconcile()

    assert settled[0].outcome is UNKNOWN
    gate.set()


@pytest.mark.asyncio
async def test_new_orders_wait_for_a_reconcile_that_is_under_way(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It looks the same keys up, so that the order has nothing to look up itself."""
    await dies_in_flight(make, recovery)
    reborn = next_life(recovery, clock)
    asked, gate, done = asyncio.Event(), asyncio.Event(), list[str]()

    async def find(key: str) -> Any:
        asked.set()
        await gate.wait()
        done.append("looked up")
        return Found(key)

    async def submit() -> None:
        done.append("sent")

    once = reborn.service("orders").once(confirm=find)
    reconciling = asyncio.ensure_future(reborn.reconcile())
    await asked.wait()
    order = asyncio.ensure_future(once.call(submit))
    await pending(reborn)  # behind the order's own question
    asyncio.get_running_loop().call_later(1.0, gate.set)

    await order

    assert done == ["looked up", "sent"]
    assert len(await reconciling) == 1
    await reborn.aclose()


@pytest.mark.asyncio
async def test_lookup_that_hides_the_cancellation_does_not_stop_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Clients do such things."""
    venue = Venue(clock, "answer lost")
    asked = asyncio.Event()

    async def find(key: str) -> Any:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as cancelled:
            raise ConnectionResetError("closed") from cancelled

    once = recovery.service("orders").once(confirm=find, key_argument="client_order_id")
    task = asyncio.ensure_future(once.call(venue.submit, "AAPL"))
    await asked.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.asyncio
async def test_warning_about_an_answer_is_no_error_of_the_order(
    make: Make, recovery: ErrorRecoveryService
) -> None:
    """Even where warnings are errors, as here: it is placed, and that is what the caller has to know."""
    once, _ = make()

    async def submit(client_order_id: str) -> dict[str, str]:
        return {"api_secret": "left out of the journal, with a warning"}

    assert await once.call(submit)
    assert await pending(recovery) == []


@pytest.mark.asyncio
async def test_crash_counts_the_window_from_when_the_attempt_would_have_been_over(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """An attempt may send at its very end; its timeout says when that is."""
    venue = await dies_in_flight(make, recovery, timeout=15.0)
    venue.visible_at.clear()
    clock.advance(20.0)
    reborn = next_life(recovery, clock)
    make(venue=venue, service=reborn, settle=30.0)

    settled = await reborn.reconcile()

    assert settled[0].outcome is NOT_FOUND
    assert venue.asked_at[-1] == pytest.approx(venue.sent_at[0] + 47.0)
    await reborn.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("by", ["the disk", "the loop", "the user's predicate"])
async def test_crash_counts_the_window_from_the_end_of_an_attempt_that_was_held_up_before_it_was_sent(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """What was journalled before must not be over sooner than the attempt: the window would be half over when it begins."""
    once, venue = make()
    await once.call(venue.submit, "AAPL")
    sync, ask = SystemFiles.sync_data, recovery._journal.ask
    asked = 0

    def slow(self: SystemFiles, handle: int) -> None:
        sync(self, handle)
        clock.advance(7.0)

    async def answered_late(*args: Any, **kwargs: Any) -> Any:
        answer = await ask(*args, **kwargs)
        clock.advance(7.0)
        return answer

    def still_wanted() -> bool:
        nonlocal asked
        asked += 1
        if asked > 1 and by == "the user's predicate":
            clock.advance(7.0)
        return True

    with monkeypatch.context() as patched:
        if by == "the disk":
            patched.setattr(SystemFiles, "sync_data", slow)
        if by == "the loop":
            patched.setattr(recovery._journal, "ask", answered_late)
        venue = await dies_in_flight(make, recovery, timeout=5.0, still_wanted=still_wanted)
    venue.visible_at.clear()
    clock.advance(20.0)
    reborn = next_life(recovery, clock)
    make(venue=venue, service=reborn, settle=30.0)

    settled = await reborn.reconcile()

    assert settled[0].outcome is NOT_FOUND
    assert len(venue.sent_at) == 1
    assert venue.asked_at[-1] - venue.sent_at[0] >= 5.0 + 30.0
    await reborn.aclose()


@pytest.mark.asyncio
async def test_attempt_whose_own_task_began_too_late_is_not_sent(
    make: Make, recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The loop stood still between the two, and a later life would count from a moment that is over."""
    asked = 0

    def still_wanted() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:  # behind the disk: this comes before the first step of the attempt's task
            asyncio.get_running_loop().call_soon(clock.advance, 60.0)
        return True

    once, venue = make(timeout=5.0, grace=1.0, still_wanted=still_wanted)

    with pytest.raises(CallRejectedError) as caught:
        await once.call(venue.submit, "AAPL")

    assert caught.value.policy == "timeout"
    assert venue.sent_at == []
    assert await pending(recovery) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("policy", ["timeout", "valid_until", "halt"])
@pytest.mark.parametrize("kind", ["coroutine", "own task"])
async def test_attempt_before_which_the_program_stood_still_is_not_sent(
    make: Make,
    recovery: ErrorRecoveryService,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    kind: str,
) -> None:
    """A laptop that slept, a thread that held everything up: between the last question and the first step of the coroutine."""
    options: dict[str, Any] = {"timeout": 5.0} if policy == "timeout" else {}
    if policy == "valid_until":
        options["valid_until"] = datetime.fromtimestamp(clock.time() + 30.0, UTC)
    if kind == "own task":
        options["grace"] = 1.0
    once, venue = make(**options)
    start_timer = OngoingCall.start_timer

    def stands_still(call: OngoingCall) -> Any:
        if call.plan.before_attempt is not None:
            clock.advance(60.0)
            if policy == "halt":
                recovery.halt("meanwhile")
        return start_timer(call)

    with monkeypatch.context() as patched:
        patched.setattr(OngoingCall, "start_timer", stands_still)
        with pytest.raises(CallRejectedError) as caught:
            await once.call(venue.submit, "AAPL")

    assert caught.value.policy == policy
    assert venue.sent_at == []
    assert await pending(recovery) == []
    await recovery.resume()


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [{"timeout": 5.0}, {"deadline": 5.0}])
async def test_window_of_an_order_that_a_thread_was_sending_counts_from_the_next_life(
    recovery: ErrorRecoveryService, clock: VirtualClock, limit: dict[str, float]
) -> None:
    """No time limit ends a thread: it may have sent at the moment of the crash."""
    client, venue = SlowClient(), Venue(clock)
    once = recovery.service("orders", **limit).once(
        "mine", confirm=venue.find, key_argument="client_order_id", settle=30.0
    )
    task = asyncio.ensure_future(once.call(client.submit))
    assert await asyncio.to_thread(client.begun.wait, 60)
    reborn = after_a_crash(recovery, clock)
    client.gate.set()
    assert await task == "the order"
    clock.advance(100.0)
    first_seen = clock.monotonic()
    reborn.service("orders").once(confirm=venue.find, settle=30.0)

    settled = await reborn.reconcile()

    assert settled[0].outcome is NOT_FOUND
    assert venue.asked_at[-1] == pytest.approx(first_seen + 30.0)
    await reborn.aclose()


# ---- what is refused


@pytest.mark.asyncio
async def test_fallback_is_refused(recovery: ErrorRecoveryService) -> None:
    """An order at another venue needs a key of its own."""

    async def find(key: str) -> Any:
        return NOT_FOUND

    with pytest.raises(ValueError, match="fallback"):
        recovery.service("orders", fallback=find).once(confirm=find)
    with pytest.raises(ValueError, match="hedge_after"):
        recovery.service("orders", hedge_after=1.0).once(confirm=find)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"confirm": None}, "confirm"),
        ({"settle": -1}, "settle"),
        ({"key": ""}, "key"),
        ({"key_argument": ""}, "key_argument"),
        ({"valid_until": 5}, "valid_until"),
        ({"valid_until": datetime.min}, "valid_until is out of range"),
        ({"still_wanted": True}, "still_wanted"),
        ({"still_wanted": wants_asynchronously}, "still_wanted"),
        ({"key": "a b", "key_pattern": "[a-z]{1,36}"}, "key_pattern"),
        ({"key": "ab", "key_pattern": "[a-z"}, "key_pattern"),
        ({"key_pattern": "[a-z]{1,8}"}, "key_pattern"),
    ],
)
async def test_arguments_are_checked_where_they_are_given(
    recovery: ErrorRecoveryService, wrong: dict[str, Any], match: str
) -> None:
    """Each refusal names the argument."""

    async def find(key: str) -> Any:
        return NOT_FOUND

    with pytest.raises((TypeError, ValueError), match=match):
        recovery.service("orders").once(**{"confirm": find, **wrong})


def test_policy_that_stands_alone_has_no_journal() -> None:
    """It says what has one."""
    from shockproof import Retry

    async def find(key: str) -> Any:
        return NOT_FOUND

    with pytest.raises(ValueError, match="ErrorRecoveryService"):
        Retry().once(confirm=find)


@pytest.mark.asyncio
@pytest.mark.parametrize("grace", [None, 1.0])
async def test_an_order_function_that_forgets_an_await_is_told_and_has_placed_nothing(
    recovery: ErrorRecoveryService, grace: float | None
) -> None:
    """The coroutine that it gives would stand in the journal as an order that was placed, for good."""
    placed: list[str] = []

    async def submit(client_id: str) -> str:
        placed.append(client_id)
        return client_id

    async def forgets(client_id: str) -> object:
        return submit(client_id)

    async def find(key: str) -> LookUp[str]:
        return Found(key) if key in placed else NOT_FOUND

    orders = recovery.service("orders", max_retries=0, grace=grace)

    def once() -> Any:  # Any: the key fills their parameter
        return orders.once("a", confirm=find, key_argument="client_id", settle=0.0)

    with pytest.raises(TypeError, match=r"submit.*which nobody has awaited"):
        await once().call(forgets)
    assert await once().call(submit) == "a"
    assert placed == ["a"]


@pytest.mark.parametrize(
    "pattern",
    [
        "[0-9a-z]{18}",
        "[0-9A-Z]{1,20}",
        "[A-Za-z0-9]{1,16}",
        "[a-z][a-z0-9]{7}",
        "[A-Z]{9}",
        "[a-z]{1,12}",
        "[1-9][0-9]{0,17}",
        "[0-9]{12}",
        "[0-9a-f]{32}",
        "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        r"\w{1,10}",
    ],
)
def test_a_key_that_is_made_here_is_one_that_the_venue_takes(
    recovery: ErrorRecoveryService, pattern: str
) -> None:
    """And another one each time."""

    async def find(key: str) -> LookUp[str]:
        return NOT_FOUND

    orders = recovery.service("orders")
    keys = [orders.once(confirm=find, key_pattern=pattern).key for _ in range(200)]
    assert all(re.fullmatch(pattern, key) for key in keys)
    assert len(set(keys)) == 200


@pytest.mark.parametrize("pattern", ["[a-z]{1,8}", "[0-9]{1,11}", "x-BROKER[a-z]{8}"])
def test_a_pattern_for_which_no_key_can_be_made_is_refused_with_the_way_out(
    recovery: ErrorRecoveryService, pattern: str
) -> None:
    """Every time, and not by chance: too short a key would soon be another order's."""

    async def find(key: str) -> LookUp[str]:
        return NOT_FOUND

    for _ in range(20):
        with pytest.raises(ValueError, match="give it a key of your own"):
            recovery.service("orders").once(confirm=find, key_pattern=pattern)
