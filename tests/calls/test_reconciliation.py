"""`calls.reconciliation`: many orders are looked up within a bound, and by one place at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    OperationCompletedError,
    OutcomeUnknownError,
    ServiceStatus,
)
from shockproof.calls.reconciliation import _BEGUN_AT_ONCE, look_up
from shockproof.memory.journal.sending import Sending
from shockproof.testing import VirtualClock


async def leave_pending(recovery: ErrorRecoveryService, count: int, service: str = "orders") -> None:
    """Orders that are on their way, as the journal of a life that has just died shows them."""
    for number in range(count):
        sending = recovery._sendings.sending(service, f"order-{number}")
        await sending.claim(is_under_way=lambda: False)
        await sending.about_to_send(at_most_for=0.0, even_without_space=False)
        sending.release()


class LookUps:
    """A ``confirm`` that knows how often and how many at a time it was asked."""

    def __init__(self, answer: Any = NOT_FOUND, *, takes: float | None = None) -> None:
        self.answer = answer
        self.takes = takes
        self.asked: Counter[str] = Counter()
        self.now = self.most = 0

    async def confirm(self, key: str) -> Any:
        self.asked[key] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await (asyncio.Event().wait() if self.takes is None else asyncio.sleep(self.takes))
        finally:
            self.now -= 1
        return self.answer


@pytest.mark.asyncio
async def test_lookup_that_hangs_costs_the_time_of_one_order_however_many_there_are(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A program that starts while the venue is down must not stand still for an hour."""
    await leave_pending(recovery, 100)
    look_ups = LookUps()
    recovery.service("orders").once(confirm=look_ups.confirm, settle=10.0)
    begun = clock.monotonic()

    settled = await recovery.reconcile()

    assert [one.outcome for one in settled] == [UNKNOWN] * 100
    assert look_ups.most == 8
    # The window, as long again for an answer, and the last question.
    assert clock.monotonic() - begun <= 10.0 + 10.0 + 10.0 + 0.1


@pytest.mark.asyncio
async def test_lookup_that_is_slow_gets_through_all_of_them(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It answers: what had to wait for its turn is not given up, however long that takes."""
    await leave_pending(recovery, 100)
    look_ups = LookUps(takes=4.0)
    recovery.service("orders").once(confirm=look_ups.confirm, settle=5.0)
    begun = clock.monotonic()

    settled = await recovery.reconcile()

    assert [one.outcome for one in settled] == [NOT_FOUND] * 100
    assert clock.monotonic() - begun > 4 * (5.0 + 5.0)
    assert max(look_ups.asked.values()) <= 2


@pytest.mark.asyncio
async def test_many_orders_are_asked_after_less_often(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A venue counts look-ups, too: once at the beginning, and once behind the window."""
    await leave_pending(recovery, 400)
    look_ups = LookUps(takes=0.01)
    recovery.service("orders").once(confirm=look_ups.confirm, settle=10.0)

    settled = await recovery.reconcile()

    assert [one.outcome for one in settled] == [NOT_FOUND] * 400
    assert set(look_ups.asked.values()) == {2}


@pytest.mark.asyncio
async def test_one_order_is_asked_after_again_when_a_question_hangs(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """On a dead connection it would hang for all of its time, and the next one finds the order."""
    await leave_pending(recovery, 1)
    asked: list[float] = []

    async def confirm(key: str) -> Any:
        asked.append(clock.monotonic())
        if len(asked) == 1:
            await asyncio.Event().wait()
        return Found(key)

    recovery.service("orders").once(confirm=confirm, settle=30.0)

    assert [one.outcome for one in await recovery.reconcile()] == [Found("order-0")]
    assert asked[1] - asked[0] == pytest.approx(10.05)


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", ["found", "not found"])
async def test_order_that_is_being_reconciled_is_waited_for_by_whoever_places_it_again(
    recovery: ErrorRecoveryService, answer: str
) -> None:
    """It is no error of the program that comes second: it gets the order, or sends it."""
    await leave_pending(recovery, 1)
    asked, gate, sent = asyncio.Event(), asyncio.Event(), list[str]()

    async def confirm(key: str) -> Any:
        asked.set()
        await gate.wait()
        return Found("the order") if answer == "found" else NOT_FOUND

    async def submit(client_order_id: str) -> str:
        sent.append(client_order_id)
        return client_order_id

    once = recovery.service("orders").once(
        "order-0", confirm=confirm, key_argument="client_order_id", settle=10.0
    )
    reconciling = asyncio.ensure_future(recovery.reconcile())
    await asked.wait()
    placing = asyncio.ensure_future(once.call(submit))
    asyncio.get_running_loop().call_later(5.0, gate.set)
    await asyncio.wait({reconciling, placing})

    if answer == "found":
        error = placing.exception()
        assert isinstance(error, OperationCompletedError)
        assert error.result == "the order"
    else:
        assert await placing == "order-0"
    assert sent == ([] if answer == "found" else ["order-0"])


def test_orders_of_another_thread_wait_for_what_this_one_looks_up(tmp_path: Path) -> None:
    """One service, two loops: neither may trade while the other still finds out what there is."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    asked, gate = threading.Event(), threading.Event()
    done: list[str] = []

    async def confirm(key: str) -> Any:
        asked.set()
        assert await asyncio.to_thread(gate.wait, 60)
        done.append("looked up")
        return Found(key)

    async def submit() -> None:
        done.append("sent")

    once = recovery.service("orders").once(confirm=confirm)

    async def first_loop() -> None:
        await leave_pending(recovery, 1)
        await recovery.reconcile()

    async def second_loop() -> None:
        order = asyncio.ensure_future(once.call(submit))
        for _ in range(10):  # as many turns of the journal as the order itself needs
            await recovery._journal.pending(lambda entry: None)
        assert done == []
        gate.set()
        await order

    looking = threading.Thread(target=lambda: asyncio.run(first_loop()))
    looking.start()
    assert asked.wait(60)
    asyncio.run(second_loop())
    looking.join(60)

    assert done == ["looked up", "sent"]
    asyncio.run(recovery.aclose())


def test_order_does_not_wait_for_a_loop_that_has_stopped(tmp_path: Path) -> None:
    """Its look-up is asleep, and may be for ever: what it holds stays pending, and others go on."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    sent: list[str] = []

    async def confirm(key: str) -> Any:
        asked.set()
        await asyncio.Event().wait()

    async def submit() -> None:
        sent.append("sent")

    once = recovery.service("orders").once(confirm=confirm)
    stopped = asyncio.new_event_loop()
    asked = asyncio.Event()

    async def begin() -> asyncio.Task[Any]:
        await leave_pending(recovery, 1)
        looking = asyncio.ensure_future(recovery.reconcile())
        await asked.wait()
        return looking

    looking = stopped.run_until_complete(begin())

    asyncio.run(once.call(submit))

    assert sent == ["sent"]
    looking.cancel()
    stopped.run_until_complete(asyncio.wait({looking}))
    stopped.close()
    asyncio.run(recovery.aclose())


class CannotBeShown:
    def __repr__(self) -> str:
        raise RuntimeError("not even that")


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [None, {"id": 1}, CannotBeShown()], ids=["None", "dict", "no repr"])
async def test_lookup_that_gives_garbage_leaves_its_order_pending_and_the_others_settled(
    recovery: ErrorRecoveryService, clock: VirtualClock, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    """One bad service takes nobody's outcomes with it; what it gave is logged, and it is asked again the next time."""
    for service in ("bad", "orders"):
        await leave_pending(recovery, 1, service)
    bad, good = LookUps(answer, takes=0.0), LookUps(Found("filled"), takes=0.0)
    recovery.service("bad").once(confirm=bad.confirm)
    recovery.service("orders").once(confirm=good.confirm)

    with caplog.at_level(logging.ERROR, "shockproof"):
        settled = await recovery.reconcile()

    assert {one.service_name: one.outcome for one in settled} == {"bad": UNKNOWN, "orders": Found("filled")}
    (record,) = caplog.records
    assert "'order-0' of service 'bad'" in record.getMessage()
    assert type(answer).__name__ in record.getMessage() or repr(answer) in record.getMessage()
    assert [one.service_name for one in await recovery.reconcile()] == ["bad"]


async def _cancelled_within(key: str) -> Any:
    inner = asyncio.ensure_future(asyncio.Event().wait())
    inner.cancel()
    await inner


@pytest.mark.asyncio
async def test_lookup_whose_inner_task_was_cancelled_proves_nothing(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Nobody has cancelled the caller: it is an exception of confirm like any other."""
    for service in ("bad", "orders"):
        await leave_pending(recovery, 1, service)
    recovery.service("bad").once(confirm=_cancelled_within, settle=1.0)
    recovery.service("orders").once(confirm=LookUps(Found("filled"), takes=0.0).confirm)

    settled = await recovery.reconcile()

    assert {one.service_name: one.outcome for one in settled} == {"bad": UNKNOWN, "orders": Found("filled")}

    async def answer_lost(key: str) -> None:
        raise ConnectionResetError

    once = recovery.service("new", max_retries=0).once(confirm=_cancelled_within, settle=1.0)
    with pytest.raises(OutcomeUnknownError):
        await once.call(answer_lost, once.key)


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before it is asked", "while it is asked"])
async def test_cancellation_of_who_reconciles_passes(
    recovery: ErrorRecoveryService, clock: VirtualClock, when: str
) -> None:
    """Also the one that reaches the look-up as its first await."""
    asked = asyncio.Event()

    async def confirm(key: str) -> Any:
        if when == "before it is asked":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        asked.set()
        await asyncio.Event().wait()

    looking = asyncio.ensure_future(
        look_up(confirm, "key", closes_at=clock.monotonic(), settle=10.0, clock=clock)
    )
    await asked.wait()
    if when == "while it is asked":
        looking.cancel()
    await asyncio.wait({looking})

    assert looking.cancelled()


@pytest.mark.asyncio
async def test_reconciliation_that_is_cancelled_while_it_asks_for_a_key_gives_it_back(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal gives it the key all the same; nobody would look it up until the garbage collector came by."""
    await leave_pending(recovery, 1)
    recovery.service("orders").once(confirm=LookUps(takes=0.0).confirm, settle=0.0)
    made: list[Sending] = []
    claim = Sending.claim

    async def claimed(sending: Sending, *, is_under_way: Any) -> Any:
        made.append(sending)
        asyncio.get_running_loop().call_soon(looking.cancel)
        return await claim(sending, is_under_way=is_under_way)

    with monkeypatch.context() as patched:
        patched.setattr(Sending, "claim", claimed)
        looking = asyncio.ensure_future(recovery.reconcile())
        await asyncio.wait({looking})
    assert looking.cancelled()

    assert [one.outcome for one in await recovery.reconcile()] == [NOT_FOUND]
    assert len(made) == 1


class Claims:
    """In which turn of the loop each key was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, each: Any = lambda: None) -> None:
        self.turn = 0
        self.turns: list[int] = []
        claim = Sending.claim

        async def claimed(sending: Sending, *, is_under_way: Any) -> Any:
            self.turns.append(self.turn)
            each()
            return await claim(sending, is_under_way=is_under_way)

        monkeypatch.setattr(Sending, "claim", claimed)

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_many_orders_are_begun_in_portions(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands that a crash left would hold the loop for more than a second, at the start of all times."""
    await leave_pending(recovery, 2 * _BEGUN_AT_ONCE + 5)
    recovery.service("orders").once(confirm=LookUps(takes=0.0).confirm, settle=0.0)
    claims = Claims(monkeypatch)

    counting = asyncio.ensure_future(claims.count_turns())
    settled = await recovery.reconcile()
    counting.cancel()

    assert [(one.key, one.outcome) for one in settled] == [
        (f"order-{number}", NOT_FOUND) for number in range(2 * _BEGUN_AT_ONCE + 5)
    ]
    assert list(Counter(claims.turns).values()) == [_BEGUN_AT_ONCE, _BEGUN_AT_ONCE, 5]


@pytest.mark.asyncio
async def test_reconciliation_that_is_cancelled_between_two_portions_gives_the_first_one_back(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its keys is looked up any more when the cancellation passes, and the next one settles all of them."""
    await leave_pending(recovery, 2 * _BEGUN_AT_ONCE)
    recovery.service("orders").once(confirm=LookUps(takes=0.0).confirm, settle=0.0)

    def cancel() -> None:
        looking.cancel()

    with monkeypatch.context() as patched:
        claims = Claims(patched, each=cancel)
        looking = asyncio.ensure_future(recovery.reconcile())
        await asyncio.wait({looking})
        assert looking.cancelled()
        assert len(claims.turns) == _BEGUN_AT_ONCE
        assert not recovery._sendings._looked_up

    assert [one.outcome for one in await recovery.reconcile()] == [NOT_FOUND] * 2 * _BEGUN_AT_ONCE


@pytest.mark.asyncio
async def test_look_up_that_nobody_waits_for_any_more_ends_with_its_service(
    recovery: ErrorRecoveryService,
) -> None:
    """Or the journal would stay locked, and a second process be refused, until this one ends."""
    await leave_pending(recovery, 1)
    look_ups = LookUps()
    orders = recovery.service("orders")

    async def submit(key: str) -> str:
        return key

    waiting = [
        asyncio.ensure_future(orders.once(key, confirm=look_ups.confirm, settle=30.0).call(submit, key))
        for key in ("new", "newer")
    ]
    while not look_ups.now:  # noqa: ASYNC110  the look-up begins behind the disk
        await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    await recovery._sendings.stop()
    assert look_ups.now == 1  # somebody waits still
    waiting[1].cancel()
    await asyncio.wait({waiting[1]})

    await recovery.aclose()

    assert look_ups.now == 0
    assert not recovery._journal._files.is_open


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "then", "status"),
    [
        (Found("the order"), "nothing", ServiceStatus.OPERATIONAL),
        (NOT_FOUND, "nothing", ServiceStatus.UNAVAILABLE),
        (UNKNOWN, "nothing", ServiceStatus.UNAVAILABLE),
        (Found("the order"), "failed", ServiceStatus.UNAVAILABLE),
    ],
)
async def test_order_that_is_found_later_makes_its_service_well_if_it_was_the_last_that_was_heard_of_it(
    recovery: ErrorRecoveryService, answer: Any, then: str, status: ServiceStatus
) -> None:
    """The venue had done its part. The call has ended unknown all the same, and stays counted so."""
    says: Any = UNKNOWN

    async def confirm(key: str) -> Any:
        return says

    async def lost(key: str) -> None:
        raise ConnectionResetError

    async def fails() -> None:
        raise ConnectionResetError

    orders = recovery.service("orders", max_retries=0)
    with pytest.raises(OutcomeUnknownError):
        await orders.once("mine", confirm=confirm, settle=0.0).call(lost, "mine")
    assert recovery.get_service_status("orders") is ServiceStatus.UNAVAILABLE
    if then == "failed":
        with pytest.raises(ConnectionResetError):
            await orders.call(fails)
    says = answer

    settled = await recovery.reconcile()

    assert [one.outcome for one in settled] == [answer]
    assert recovery.get_service_status("orders") is status
    assert orders.plan.state.unknown_calls == 1


@pytest.mark.asyncio
async def test_a_lookup_that_was_cut_off_and_says_not_found_has_proven_nothing(
    recovery: ErrorRecoveryService,
) -> None:
    """Its own except swallowed the limit, and what it had not seen by then it takes for absent: a second order."""
    await leave_pending(recovery, 1)

    async def confirm(key: str) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return NOT_FOUND

    recovery.service("orders").once(confirm=confirm, settle=1.0)
    assert [one.outcome for one in await recovery.reconcile()] == [UNKNOWN]


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [NOT_FOUND, UNKNOWN, Found("the order")])
async def test_a_lookup_that_swallows_its_callers_cancellation_does_not_undo_it(
    recovery: ErrorRecoveryService, answer: Any
) -> None:
    """Who cancels an order in the middle of its look-up must not see it sent again."""
    sent = 0
    asked = asyncio.Event()

    async def submit(client_order_id: str) -> None:
        nonlocal sent
        sent += 1
        raise ConnectionResetError("the answer was lost")

    async def confirm(key: str) -> Any:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return answer

    orders = recovery.service("orders", max_retries=3, timeout=100.0)
    order = asyncio.ensure_future(
        orders.once("k", confirm=confirm, key_argument="client_order_id", settle=0.0).call(submit)
    )
    await asked.wait()
    order.cancel()
    with pytest.raises(asyncio.CancelledError):
        await order
    assert sent == 1
    state = await recovery.restore_state()
    assert state is not None
    assert [one["key"] for one in state.active_operations] == ["k"]
