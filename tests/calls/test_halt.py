"""`recovery.halt`: nothing goes out any more but reads and what reduces risk, also in the next life."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    NOT_FOUND,
    CallHedged,
    CallRejected,
    ErrorRecoveryService,
    Event,
    Halted,
    HaltedError,
    Resumed,
    StateNotSavedError,
    attempts_of,
)
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.testing import VirtualClock, cancel_at_each_await

Script = Callable[..., Any]


def health(recovery: ErrorRecoveryService) -> dict[str, Any]:
    found = recovery.get_health_status()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


async def answer() -> str:
    return "answer"


def plain() -> str:
    return "answer"


async def absent(_key: str) -> Any:
    return NOT_FOUND


class Gate:
    """An async function that waits until it is let go, and counts who has come in."""

    def __init__(self) -> None:
        self.opens = asyncio.Event()
        self.entered = asyncio.Event()
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        self.entered.set()
        await self.opens.wait()
        return "answer"


# -- what is refused, and what passes --------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("effect", ["idempotent", "unsafe"])
@pytest.mark.parametrize("limits", [{}, {"max_concurrent": 2}, {"rate_limit": "10/s"}])
async def test_write_is_refused_in_every_form_until_somebody_resumes(
    recovery: ErrorRecoveryService, effect: Any, limits: dict[str, Any]
) -> None:
    """Called, decorated, as a block, plain or async; and it takes nothing with it."""
    venue = recovery.service("venue", effect=effect, **limits)
    decorated = venue(answer)
    assert await venue.call(answer) == "answer"
    assert await decorated() == "answer"

    _ = recovery.halt("lost the risk feed")

    async def block() -> None:
        async with venue.guard():
            pytest.fail("the block ran")

    async def blocks() -> None:
        async for attempt in venue.attempts():
            async with attempt:
                pytest.fail("the block ran")

    forms: list[Callable[[], Awaitable[object]]] = [
        lambda: venue.call(answer),
        lambda: venue.call(plain),
        decorated,
        venue(plain),
        block,
        blocks,
    ]
    for form in forms:
        with pytest.raises(HaltedError, match="service 'venue': halted: lost the risk feed"):
            await form()
    found = health(recovery)
    assert found["services"]["venue"]["rejections"] == len(forms)
    assert found["services"]["venue"]["status"] == "operational"
    assert found["services"]["venue"]["failures"] == 0
    assert found["services"]["venue"]["in_flight"] in {None, 0}

    _ = recovery.resume()
    assert await venue.call(answer) == await decorated() == await venue.call(plain) == "answer"


@pytest.mark.asyncio
async def test_reads_feeds_and_what_reduces_risk_pass(recovery: ErrorRecoveryService) -> None:
    """Also from handles of the same service, and in an operation."""
    venue = recovery.service("venue", effect="unsafe")
    _ = recovery.halt("enough")

    assert await venue.using(effect="read").call(answer) == "answer"
    assert await venue.using(risk_reducing=True).call(answer) == "answer"
    assert await recovery.retry_with_backoff(answer, service_name="venue") == "answer"
    cancel_all = venue.using(risk_reducing=True).once(confirm=absent)
    assert await cancel_all.call(answer) == "answer"
    async with recovery.operation("flatten"):
        with pytest.raises(HaltedError):
            await venue.call(answer)

    async def ticks() -> Any:
        yield 1

    async with recovery.service("feed", effect="idempotent").stream(ticks, may_end=True) as feed:
        assert [tick async for tick in feed] == [1]


@pytest.mark.asyncio
async def test_order_is_refused_before_anything_is_journalled(recovery: ErrorRecoveryService) -> None:
    """Nothing is pending of it, and the same object sends it when it may."""
    once = recovery.service("venue").once(confirm=absent)
    _ = recovery.halt("enough")

    with pytest.raises(HaltedError):
        await once.call(answer)
    assert not (recovery.state_dir / "journal").exists()

    _ = recovery.resume()
    assert await once.call(answer) == "answer"


@pytest.mark.asyncio
async def test_order_that_was_not_found_is_not_sent_again_when_it_was_halted_meanwhile(
    recovery: ErrorRecoveryService,
) -> None:
    """Its own error comes, and nothing is pending."""
    sent: list[str] = []

    async def submit() -> None:
        sent.append("sent")
        raise OSError("reset")

    async def halts(_key: str) -> Any:
        _ = recovery.halt("enough")
        return NOT_FOUND

    with pytest.raises(OSError, match="reset"):
        await recovery.service("venue", max_retries=3).once(confirm=halts).call(submit)
    assert sent == ["sent"]
    assert await recovery.reconcile() == []


@pytest.mark.asyncio
async def test_read_keeps_its_short_way_where_nothing_is_written(recovery: ErrorRecoveryService) -> None:
    """A service of reads alone pays nothing, halted or not."""
    market = recovery.service("market")
    assert await market.call(answer) == "answer"
    _ = recovery.halt("enough")
    assert market.plan.entrance.lane is not None
    venue = recovery.service("venue", effect="unsafe")
    with pytest.raises(HaltedError):
        await venue.call(answer)
    assert venue.plan.entrance.lane is None
    _ = recovery.resume()
    assert await venue.call(answer) == "answer"
    assert venue.plan.entrance.lane is not None


@pytest.mark.asyncio
async def test_first_write_of_a_service_that_has_only_read_asks_too(recovery: ErrorRecoveryService) -> None:
    """The short way that its reads have opened is not for it."""
    market = recovery.service("venue")
    assert await market.call(answer) == "answer"
    _ = recovery.halt("enough")
    with pytest.raises(HaltedError):
        await market.using(effect="idempotent").call(answer)


# -- what is under way -----------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_retry_of_a_write_does_not_go_out_and_its_error_comes_at_once(
    recovery: ErrorRecoveryService, script: Script, clock: VirtualClock
) -> None:
    """It waits between two attempts when the halt comes; a read beside it goes on waiting."""
    fetch, submit = script(OSError("reset"), "answer"), script(OSError("reset"), "answer")
    read = asyncio.ensure_future(recovery.service("venue", base_delay=60).call(fetch))
    write = asyncio.ensure_future(recovery.service("venue", base_delay=60, effect="idempotent").call(submit))
    await clock.sleep(10)

    _ = recovery.halt("enough")
    _ = recovery.resume()  # what was refused meanwhile is for somebody to decide
    with pytest.raises(OSError, match="reset") as caught:
        await write
    assert "it was halted" in "".join(caught.value.__notes__)
    assert len(attempts_of(caught.value)) == 1
    assert submit.times == [0.0]
    assert await read == "answer"
    assert fetch.times == [0.0, 60.0]


@pytest.mark.asyncio
async def test_write_that_fails_while_it_is_halted_ends_with_its_own_error(
    recovery: ErrorRecoveryService,
) -> None:
    """Neither retry nor hedge nor fallback follows."""
    elsewhere: list[str] = []

    async def submit() -> str:
        _ = recovery.halt("enough")
        raise OSError("reset")

    venue = recovery.service("venue", effect="idempotent", fallback=lambda: elsewhere.append("sent"))
    with pytest.raises(OSError, match="reset") as caught:
        await venue.call(submit)
    assert "it was halted: enough" in "".join(caught.value.__notes__)
    assert elsewhere == []
    assert recovery.get_error_summary()["errors_by_severity"] == {"high": 1}
    with pytest.raises(HaltedError):
        await venue.call(submit)
    assert elsewhere == []


@pytest.mark.asyncio
async def test_hedge_of_a_write_is_not_sent(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """The request that is out is waited for, and answers; and nobody is told of a hedge."""
    gate = Gate()
    events: list[Event] = []
    recovery.on_event(lambda event: events.append(event) if isinstance(event, CallHedged) else None)
    venue = recovery.service("venue", effect="idempotent", hedge_after=1.0)
    call = asyncio.ensure_future(venue.call(gate))
    await gate.entered.wait()
    _ = recovery.halt("enough")
    await clock.sleep(10)
    gate.opens.set()
    assert await call == "answer"
    assert gate.calls == 1
    await recovery.aclose()
    assert events == []


@pytest.mark.asyncio
@pytest.mark.parametrize("limits", [{"max_concurrent": 1, "max_queue": 5}, {"rate_limit": "1/s"}])
async def test_queued_write_is_refused_when_its_turn_comes_and_gives_back_what_it_took(
    recovery: ErrorRecoveryService, clock: VirtualClock, limits: dict[str, Any]
) -> None:
    """A read behind it in the same queue is sent."""
    gate = Gate()
    venue = recovery.service("venue", effect="unsafe", **limits)
    first = asyncio.ensure_future(venue.call(gate))
    await gate.entered.wait()
    queued = asyncio.ensure_future(venue.call(answer))
    read = asyncio.ensure_future(venue.using(effect="read").call(answer))
    await clock.sleep(0.01)

    _ = recovery.halt("enough")
    gate.opens.set()
    assert await first == "answer"
    with pytest.raises(HaltedError):
        await queued
    assert await read == "answer"
    found = health(recovery)["services"]["venue"]
    assert (found["in_flight"] or 0, found["queued"], found["failures"]) == (0, 0, 0)


@pytest.mark.asyncio
async def test_write_that_waits_for_a_thread_is_refused_when_it_has_one(tmp_path: Path) -> None:
    """A plain function that never began does not begin any more."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path, max_threads=1)
    venue = recovery.service("venue", effect="unsafe", max_retries=0)
    began, ends, sent = threading.Event(), threading.Event(), list[int]()

    def blocks() -> None:
        began.set()
        ends.wait(60)

    first = asyncio.ensure_future(venue.call(blocks))
    await asyncio.to_thread(began.wait, 60)
    second = asyncio.ensure_future(venue.call(sent.append, 1))
    await asyncio.sleep(0)
    _ = recovery.halt("enough")
    ends.set()
    await first
    with pytest.raises(HaltedError):
        await second
    assert sent == []


@pytest.mark.asyncio
async def test_order_that_waits_for_the_journal_when_the_halt_comes_is_not_sent(
    recovery: ErrorRecoveryService,
) -> None:
    """At whichever step it is before it is sent."""
    for step in range(100):
        _ = recovery.resume()
        sent: list[str] = []

        async def submit(sent: list[str] = sent) -> str:
            sent.append("sent")
            return "answer"

        once = recovery.service("venue", max_retries=0).once(confirm=absent)
        call = asyncio.ensure_future(once.call(submit))
        for _ in range(step):
            await asyncio.sleep(0)
        was_sent = bool(sent)
        _ = recovery.halt("enough")
        try:
            await call
        except HaltedError:
            assert sent == []
        else:
            assert was_sent
        if was_sent:
            break
        assert await recovery.reconcile() == []


# -- over restarts ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_next_life_is_halted_from_its_first_write_on(tmp_path: Path) -> None:
    """Until it is resumed, and then the life after that is not."""
    first = ErrorRecoveryService(tmp_path, tmp_path)
    await first.halt("lost the risk feed")
    since = health(first)["halt"]["since"]

    second = ErrorRecoveryService(tmp_path, tmp_path)
    assert not health(second)["halt"]["is_known"]
    with pytest.raises(HaltedError, match="lost the risk feed"):
        await second.service("venue", effect="unsafe").call(answer)
    for form in ("guard", "once"):
        other = ErrorRecoveryService(tmp_path, tmp_path).service("venue", effect="unsafe")
        call = other.guard().__aenter__() if form == "guard" else other.once(confirm=absent).call(answer)
        with pytest.raises(HaltedError, match="lost the risk feed"):
            await call
    assert health(second)["halted"]
    assert health(second)["halt"] == {
        "reason": "lost the risk feed",
        "since": since,
        "is_known": True,
        "is_durable": True,
        "last_error": None,
    }
    await second.resume()

    third = ErrorRecoveryService(tmp_path, tmp_path)
    await third.start()
    assert health(third)["halt"]["is_known"]
    assert not health(third)["halted"]
    assert await third.service("venue", effect="unsafe").call(answer) == "answer"


def test_killed_program_comes_back_halted(tmp_path: Path) -> None:
    """What was durable when halt() had been awaited is there after kill -9."""
    trader = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("halted_trader.py")), str(tmp_path)],
        stdout=subprocess.PIPE,
    )
    try:
        assert trader.stdout is not None
        assert trader.stdout.readline() == b"halted\n"
        os.kill(trader.pid, signal.SIGKILL)
    finally:
        trader.kill()
        trader.communicate()

    async def next_life() -> None:
        async with ErrorRecoveryService(tmp_path, tmp_path) as recovery:
            venue = recovery.service("venue", effect="unsafe")
            with pytest.raises(HaltedError, match="lost the risk feed"):
                await venue.once(confirm=absent).call(answer)
            await recovery.resume()
            assert await venue.once(confirm=absent).call(answer) == "answer"

    asyncio.run(next_life())


def test_halt_that_nobody_awaits_is_written_when_the_program_ends(tmp_path: Path) -> None:
    """Outside of any loop, too."""
    program = "import sys, shockproof; shockproof.ErrorRecoveryService(sys.argv[1]).halt('enough')"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    assert json.loads((tmp_path / "halted.json").read_text())["reason"] == "enough"


@pytest.mark.asyncio
async def test_damaged_mark_counts_as_halted(tmp_path: Path) -> None:
    """That it is there is what counts."""
    (tmp_path / "halted.json").write_bytes(b'{"reas')
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    with pytest.raises(HaltedError, match="damaged"):
        await recovery.service("venue", effect="unsafe").call(answer)


@pytest.mark.asyncio
async def test_directory_in_the_place_of_the_mark_halts_and_is_set_aside_by_resume(tmp_path: Path) -> None:
    """A backup that was unpacked badly: nobody can replace it, and nobody is left halted for ever."""
    (tmp_path / "halted.json" / "in it").mkdir(parents=True)
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    venue = recovery.service("venue", effect="unsafe")
    with pytest.raises(HaltedError, match="cannot be read"):
        await venue.call(answer)
    await recovery.halt("for a reason")
    assert (tmp_path / "halted.json").is_dir()
    await recovery.resume()
    await venue.call(answer)
    assert (tmp_path / "damaged" / "halted.json" / "in it").is_dir()

    reborn = ErrorRecoveryService(tmp_path, tmp_path)
    await reborn.service("venue", effect="unsafe").call(answer)
    (tmp_path / "halted.json").mkdir()
    await reborn.resume()
    assert (tmp_path / "damaged" / "halted.json_").is_dir()


@pytest.mark.asyncio
async def test_empty_mark_is_a_halt_by_hand(tmp_path: Path) -> None:
    """Who halts a program that does not run touches the file, and is told of no damage."""
    (tmp_path / "halted.json").touch()
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    with pytest.raises(HaltedError, match="by hand, no reason given"):
        await recovery.service("venue", effect="unsafe").call(answer)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "since",
    [
        "9999-12-31T23:59:59-12:00",
        "9999-12-31T23:59:59+00:00",
        "9999-12-31T23:59:59",
        "0001-01-01T00:00:00+14:00",
        "0001-01-01T00:00:00",
    ],
)
async def test_mark_since_a_moment_that_cannot_be_shown_counts_as_halted_and_is_shown(
    tmp_path: Path, since: str
) -> None:
    """The health, which a monitor asks for while it is halted, does not fail over it."""
    (tmp_path / "halted.json").write_text(json.dumps({"reason": "enough", "since": since}))
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    with pytest.raises(HaltedError, match="damaged"):
        await recovery.service("venue", effect="unsafe").call(answer)
    health = recovery.get_health_status()
    assert health["halted"]
    assert datetime.fromisoformat(health["halt"]["since"]).tzinfo is not None


@pytest.mark.asyncio
async def test_mark_that_cannot_be_read_counts_as_halted_and_can_be_lifted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot know that it is safe to trade does not trade, and is told the way out."""
    read = SystemFiles.read

    def refuses(self: SystemFiles, path: Path, limit: int) -> bytes:
        if path.name == "halted.json":
            raise PermissionError(13, "Permission denied")
        return read(self, path, limit)

    monkeypatch.setattr(SystemFiles, "read", refuses)
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    venue = recovery.service("venue", effect="unsafe")
    with pytest.raises(HaltedError, match=r"cannot be read .*Permission denied.*resume\(\)"):
        await venue.call(answer)
    await recovery.resume()
    assert await venue.call(answer) == "answer"


@pytest.mark.asyncio
async def test_disk_that_refuses_stops_no_halt_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In memory it acts, the health is degraded, and closing the service writes it when the disk is back."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    venue = recovery.service("venue", effect="unsafe")
    with monkeypatch.context() as full:
        full.setattr(SystemFiles, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StateNotSavedError, match="No space left"):
            await recovery.halt("enough")
    with pytest.raises(HaltedError):
        await venue.call(answer)
    assert health(recovery)["overall_health"] == "degraded"
    assert "No space left" in health(recovery)["halt"]["last_error"]
    assert not health(recovery)["halt"]["is_durable"]
    assert "After a restart it would not be halted" in caplog.text

    await recovery.aclose()
    assert health(recovery)["halt"]["is_durable"]
    assert (tmp_path / "halted.json").exists()


@pytest.mark.asyncio
async def test_disk_that_refuses_a_resume_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next life would still be halted."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    await recovery.halt("enough")
    monkeypatch.setattr(SystemFiles, "unlink", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(StateNotSavedError, match="still be halted"):
        await recovery.resume()
    assert await recovery.service("venue", effect="unsafe").call(answer) == "answer"
    assert health(recovery)["overall_health"] == "degraded"
    monkeypatch.undo()
    await recovery.resume()
    assert health(recovery)["overall_health"] == "healthy"
    assert not (tmp_path / "halted.json").exists()


@pytest.mark.asyncio
async def test_hanging_disk_refuses_the_first_write_within_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for no longer than the call has, and the next call asks again."""
    answers = threading.Event()
    read = SystemFiles.read

    def hangs(self: SystemFiles, path: Path, limit: int) -> bytes:
        answers.wait(60)
        return read(self, path, limit)

    monkeypatch.setattr(SystemFiles, "read", hangs)
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    venue = recovery.service("venue", effect="unsafe")
    with pytest.raises(HaltedError, match="has not told in time"):
        await venue.using(deadline=0.01).call(answer)
    answers.set()
    assert await venue.call(answer) == "answer"


@pytest.mark.asyncio
async def test_decision_beats_what_the_disk_says_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that is being read when somebody resumes halts nothing any more."""
    await ErrorRecoveryService(tmp_path, tmp_path).halt("yesterday")
    answers, asked = threading.Event(), threading.Event()
    read = SystemFiles.read

    def slow(self: SystemFiles, path: Path, limit: int) -> bytes:
        content = read(self, path, limit)
        asked.set()
        answers.wait(60)
        return content

    monkeypatch.setattr(SystemFiles, "read", slow)
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    call = asyncio.ensure_future(recovery.service("venue", effect="unsafe").call(answer))
    await asyncio.to_thread(asked.wait, 60)
    durable = recovery.resume()
    answers.set()
    assert await call == "answer"
    await durable
    assert not health(recovery)["halted"]


# -- cancellation, threads, loops ------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_cancelled_first_write_leaves_the_question_to_others(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops waiting for the disk only stops waiting."""
    answers = threading.Event()
    read = SystemFiles.read

    def slow(self: SystemFiles, path: Path, limit: int) -> bytes:
        answers.wait(60)
        return read(self, path, limit)

    monkeypatch.setattr(SystemFiles, "read", slow)
    venue = recovery.service("venue", effect="unsafe")
    one, other = (asyncio.ensure_future(venue.call(answer)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    answers.set()
    assert await other == "answer"
    assert one.cancelled()


@pytest.mark.asyncio
async def test_halt_that_is_cancelled_while_it_is_awaited_is_written(tmp_path: Path) -> None:
    """At each await; in memory it was in force before the first."""
    made: list[ErrorRecoveryService] = []

    async def halts() -> None:
        directory = tmp_path / str(len(made))
        made.append(ErrorRecoveryService(directory, directory))
        await made[-1].halt("enough")

    async for _ in cancel_at_each_await(halts):
        assert health(made[-1])["halted"]
        await made[-1].aclose()
        assert (made[-1].state_dir / "halted.json").exists()
    assert len(made) > 1


@pytest.mark.asyncio
async def test_first_write_that_is_cancelled_at_any_await_gives_back_what_it_took(tmp_path: Path) -> None:
    """Also while it waits for the disk; the next one passes."""
    made: list[ErrorRecoveryService] = []
    limits: Any = {"effect": "unsafe", "max_concurrent": 1, "retry_budget": None}

    async def submits() -> str:
        directory = tmp_path / str(len(made))
        made.append(ErrorRecoveryService(directory, directory))
        return await made[-1].service("venue", **limits).call(answer)

    async for _ in cancel_at_each_await(submits):
        assert health(made[-1])["services"]["venue"]["in_flight"] == 0
        assert await made[-1].service("venue", **limits).call(answer) == "answer"
    assert len(made) > 1


def test_halt_from_another_thread_stops_the_loops_of_all(tmp_path: Path) -> None:
    """Those that send on the short way, too."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    venue = recovery.service("venue", effect="unsafe")
    running = threading.Barrier(3)
    refused: list[str] = []

    async def trade() -> None:
        await venue.call(answer)
        assert venue.plan.entrance.lane is not None
        running.wait(60)
        try:
            while True:
                await venue.call(answer)
        except HaltedError as error:
            refused.append(error.reason)

    traders = [threading.Thread(target=lambda: asyncio.run(trade())) for _ in range(2)]
    for trader in traders:
        trader.start()
    running.wait(60)
    _ = recovery.halt("enough")
    for trader in traders:
        trader.join(60)
    assert refused == ["enough", "enough"]


# -- what is told ----------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_halt_and_resume_are_told_and_logged(
    recovery: ErrorRecoveryService, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With a reason that holds no secret; the time of the first halt stays."""
    recovery.register_secret("hunter2")
    events: list[Event] = []

    async def heard(event: Event) -> None:
        events.append(event)

    recovery.on_event(heard)
    _ = recovery.resume()  # nobody knows yet whether an earlier life was halted: that is news
    _ = recovery.resume()
    _ = recovery.halt("key hunter2 leaked")
    since = health(recovery)["halt"]["since"]
    await clock.sleep(60)
    _ = recovery.halt("and more")
    assert health(recovery)["halt"]["since"] == since
    with pytest.raises(HaltedError):
        await recovery.service("venue", effect="unsafe").call(answer)
    await recovery.resume()
    await recovery.aclose()

    told = [(type(event).__name__, getattr(event, "reason", None)) for event in events]
    assert told == [
        ("Resumed", None),
        ("Halted", "key *** leaked"),
        ("Halted", "and more"),
        ("CallRejected", None),
        ("Resumed", None),
    ]
    assert isinstance(events[1], Halted)
    assert isinstance(events[-1], Resumed)
    assert isinstance(events[3], CallRejected)
    assert events[3].policy == "halt"
    assert "halted: key *** leaked" in caplog.text


@pytest.mark.asyncio
@pytest.mark.parametrize("reason", ["", None, 5])
async def test_halt_needs_a_reason(recovery: ErrorRecoveryService, reason: Any) -> None:
    """Whoever resumes has to know what for."""
    with pytest.raises((TypeError, ValueError), match="reason"):
        _ = recovery.halt(reason)
    assert not health(recovery)["halted"]


@pytest.mark.asyncio
async def test_error_travels_whole() -> None:
    """It pickles, with its reason."""
    error = pickle.loads(pickle.dumps(HaltedError("venue", reason="enough")))
    assert (error.service_name, error.policy, error.reason) == ("venue", "halt", "enough")


@pytest.mark.asyncio
async def test_halted_write_leaves_no_cycle(recovery: ErrorRecoveryService) -> None:
    """A refusal keeps nothing alive."""
    venue = recovery.service("venue", effect="unsafe")
    _ = recovery.halt("enough")
    with pytest.raises(HaltedError):
        await venue.call(answer)
    gc.collect()
    gc.disable()
    try:
        try:
            await venue.call(answer)
        except HaltedError:
            pass
        halted = [found for found in gc.get_objects() if isinstance(found, HaltedError)]
        assert [
            found for found in halted if found.reason == "enough"
        ] == []  # other tests keep some of their own
    finally:
        gc.enable()


def test_loop_that_has_asked_whether_it_is_halted_is_freed(tmp_path: Path) -> None:
    """The answer is all that is kept."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")

    def lives_and_ends() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(recovery._halt.learn())
        loop.close()
        return weakref.ref(loop)

    loop = lives_and_ends()
    recovery._state_writer.submit(lambda: None).result(60.0)  # its thread is not still at telling it
    gc.collect()
    assert recovery._halt.is_known
    assert loop() is None
