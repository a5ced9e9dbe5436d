"""What was sent under a rate limit counts after a kill, whoever saved the state when: it is on the disk ahead of the sending."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import NOT_FOUND, ErrorRecoveryService, Handle, LookUp, RateLimitedError
from shockproof.memory.disk.directory import DurableDirectory
from shockproof.memory.disk.writer import wait_on_this_loop
from shockproof.memory.services import kept_sends
from shockproof.testing import VirtualClock, virtual_time
from tests.memory.disk.simulated_disk import Files, SimulatedDisk

pytestmark = pytest.mark.asyncio

FILE = "rate_limits.json"
BLOCK = 40  # of 1200/min


class Lives:
    """One program, killed again and again: each life goes on from what was on the disk at the kill."""

    def __init__(self, directory: Path, clock: VirtualClock) -> None:
        self.directory = directory
        self.clock = clock
        self.made: list[ErrorRecoveryService] = []

    @property
    def state_dir(self) -> Path:
        return self.directory / f"life {len(self.made) - 1}"

    def killed(self) -> ErrorRecoveryService:
        """The next life, before it has restored anything."""
        before = self.state_dir
        state = self.directory / f"life {len(self.made)}"
        if self.made and before.exists():
            shutil.copytree(before, state, ignore=shutil.ignore_patterns(".*.tmp"))
        self.made.append(ErrorRecoveryService(state, self.directory / "errors", clock=self.clock))
        return self.made[-1]

    async def next(self, **options: Any) -> Handle:
        """The venue in the next life, which has restored what there was."""
        recovery = self.killed()
        venue = venue_of(recovery, **options)
        await recovery.restore_state()
        return venue

    async def disk(self) -> None:
        """Return when the disk has kept up."""
        await written(self.made[-1])


@pytest_asyncio.fixture
async def lives(clock: VirtualClock, tmp_path: Path) -> AsyncIterator[Lives]:
    lives = Lives(tmp_path, clock)
    yield lives
    for service in lives.made:
        await service.aclose()


def venue_of(recovery: ErrorRecoveryService, **options: Any) -> Handle:
    return recovery.service("venue", **{"rate_limit": "1200/min", "max_wait": 0.0, **options})


async def written(recovery: ErrorRecoveryService) -> None:
    await wait_on_this_loop(recovery._kept_sends._submit(lambda: None))


def used(venue: Handle, which: int = 0) -> int:
    limits = venue.rate_limit._plan.state.limits
    count: int = limits.usage(limits._clock.monotonic())[which]["used"]
    return count


async def answer() -> str:
    return "answer"


async def send(venue: Handle, times: int) -> None:
    for _ in range(times):
        await venue.call(answer)


# ---- a kill


@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("sent", [0, 1, 19, 20, 21, 100])
async def test_all_that_was_sent_counts_after_a_kill_and_a_block_at_most_beyond(
    lives: Lives, clock: VirtualClock, sent: int, saves: bool
) -> None:
    """Whether the state was ever saved or not; each of the later ones leaves when it would have."""
    venue = await lives.next()
    for number in range(sent):
        await venue.call(answer)
        await lives.disk()
        if saves and number == sent // 2:
            await lives.made[-1].save_state(force=True)
        await clock.sleep(0.1)
    venue = await lives.next()
    assert sent <= used(venue) <= sent + BLOCK
    await clock.sleep(60.1)
    assert used(venue) == 0


async def test_state_that_is_newer_counts_nothing_twice(lives: Lives, clock: VirtualClock) -> None:
    """Beside a day's window the state keeps slices of minutes; what the file knows of the last one is told apart."""
    rates = ("100/s", "1000/d")
    venue = await lives.next(rate_limit=rates)
    for _ in range(480):
        await venue.call(answer)
        await lives.disk()
        await clock.sleep(0.02)
    await lives.made[-1].save_state(force=True)
    venue = await lives.next(rate_limit=rates)
    assert 480 <= used(venue, 1) <= 480 + 100


async def test_lives_that_send_nothing_use_up_no_long_limit(lives: Lives) -> None:
    """Of each one call counts, and not the burst that a limit by the second would have allowed."""
    rates = ("100/s", "1000/d")
    for _ in range(10):
        await lives.next(rate_limit=rates)
    assert used(await lives.next(rate_limit=rates), 1) <= 10


async def test_each_kill_costs_a_block_and_forgets_nothing(lives: Lives) -> None:
    """A program that dies again and again sends less and less, and never too much."""
    sent, block = 0, 14
    for life in range(1, 6):
        venue = await lives.next(rate_limit="400/min")
        assert sent <= used(venue) <= sent + block * life
        for _ in range(30):
            await venue.call(answer)
            await lives.disk()
        sent += 30
    venue = await lives.next(rate_limit="400/min")
    with contextlib.suppress(RateLimitedError):
        while sent <= 400:
            await venue.call(answer)
            sent += 1
    assert 400 - 6 * block <= sent <= 400


@pytest.mark.parametrize(("is_done", "known"), [(False, BLOCK), (True, 100 + BLOCK)])
async def test_what_is_sent_while_the_disk_is_busy_is_what_can_be_missing(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, is_done: bool, known: int
) -> None:
    """No call waits for it. Of those that it has not heard of, a block is covered."""
    venue = await lives.next()
    jobs: list[Callable[[], None]] = []

    def later(job: Callable[[], None]) -> Future[None]:
        jobs.append(job)
        return Future()

    kept = lives.made[-1]._kept_sends
    monkeypatch.setattr(kept, "_submit", later)
    await send(venue, 100)
    assert len(jobs) == 1  # however many ask
    monkeypatch.undo()
    if is_done:
        await wait_on_this_loop(kept._submit(jobs.pop()))
    assert used(await lives.next()) == known


@pytest.mark.parametrize("step", [-3_600.0, -20.0, 0.0])
async def test_clock_that_is_set_back_forgets_nothing(lives: Lives, clock: VirtualClock, step: float) -> None:
    """It counts as no time at all."""
    venue = await lives.next()
    await send(venue, 50)
    await lives.disk()
    await lives.made[-1].save_state(force=True)
    clock.step_wall(step)
    venue = await lives.next()
    assert used(venue) >= 50
    await clock.sleep(60.1)
    assert used(venue) == 0


@pytest.mark.parametrize("step", [-1e8, -3_600.0, 40.0, 3_600.0, 1e8])
@pytest.mark.parametrize("saves", [False, True])
async def test_clock_that_is_set_between_two_lives_on_a_machine_that_runs_on_changes_nothing(
    lives: Lives, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, step: float, saves: bool
) -> None:
    """There is another one that nobody sets, for the file and for the state, which may know more than the file has reserved."""
    venue, sent = await lives.next(), 60
    await send(venue, 50)
    await lives.disk()
    with monkeypatch.context() as patch:
        patch.setattr(lives.made[-1]._kept_sends, "_submit", lambda job: Future())
        await clock.sleep(1.0)
        await send(venue, 10)
        if saves:
            await send(venue, 90)
            sent += 90
            await lives.made[-1].save_state(force=True)
    await clock.sleep(30.0)
    clock.step_wall(step)
    venue = await lives.next()
    assert sent <= used(venue) <= sent + BLOCK
    await clock.sleep(28.9)
    assert used(venue) >= sent
    await clock.sleep(1.2)
    assert used(venue) <= BLOCK
    await clock.sleep(30.0)
    assert used(venue) == 0


@pytest.mark.parametrize(("step", "count"), [(-3_600.0, 50), (3_600.0, BLOCK)])
async def test_machine_that_was_started_again_goes_by_the_clock_on_the_wall(
    lives: Lives, clock: VirtualClock, step: float, count: int
) -> None:
    """Nothing else is left of the time before; set back, it counts as no time. What may have been sent counts as sent now."""
    await send(await lives.next(), 50)
    await lives.disk()
    clock.step_wall(step)
    clock.boot = "another"
    venue = await lives.next()
    assert count <= used(venue) <= count + BLOCK
    await clock.sleep(60.1)
    assert used(venue) == 0


@pytest.mark.parametrize("when", ["between the lives", "before the orders"])
async def test_orders_count_whenever_the_clock_was_set_forward(
    lives: Lives, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The journal knows their times of day, and the file from which moment on these may be wrong."""
    venue = await lives.next()
    monkeypatch.setattr(lives.made[-1]._kept_sends, "_submit", lambda job: Future())
    await clock.sleep(1.0)
    if when == "before the orders":
        clock.step_wall(3_600.0)
    for number in range(50):
        await place(venue, f"{number}")
    await clock.sleep(30.0)
    if when == "between the lives":
        clock.step_wall(3_600.0)
    monkeypatch.undo()
    venue = await lives.next()
    assert used(venue) == 50
    await clock.sleep(30.1 if when == "between the lives" else 60.1)
    assert used(venue) == 0


async def test_service_that_the_next_life_declares_later_or_never_is_not_forgotten(
    lives: Lives, clock: VirtualClock
) -> None:
    """It is carried along."""
    venue = await lives.next()
    await send(venue, 30)
    await lives.disk()
    for _ in range(2):
        await lives.killed().restore_state()
        await clock.sleep(1.0)
    recovery = lives.killed()
    await recovery.restore_state()
    venue = venue_of(recovery)
    assert 30 <= used(venue) <= 30 + BLOCK
    await lives.disk()
    assert used(await lives.next()) >= 30 + BLOCK  # and reserves from there on


@pytest.mark.parametrize("declares", ["first", "last"])
async def test_each_rate_counts_its_own(lives: Lives, declares: str) -> None:
    """Weights and names are kept apart."""
    rates: dict[str, Any] = {
        "rate_limit": ("6000/min", "300 orders/min"),
        "weight": {"weight": 20, "orders": 1},
    }
    venue = await lives.next(**rates)
    for _ in range(30):
        await venue.call(answer)
        await lives.disk()
    recovery = lives.killed()
    if declares == "first":
        venue_of(recovery, **rates)
    await recovery.restore_state()
    venue = venue_of(recovery, **rates)
    assert 600 <= used(venue) <= 600 + 200
    assert 30 <= used(venue, 1) <= 30 + 10


async def test_rates_that_change_while_it_runs_are_reserved_from(lives: Lives) -> None:
    """A larger block for a larger limit, in which what was sent counts."""
    venue = await lives.next(rate_limit="60/min")
    await send(venue, 10)
    venue.configure(rate_limit="6000/min")
    await lives.disk()
    await send(venue, 150)
    await lives.disk()
    venue = await lives.next(rate_limit="6000/min")
    assert 160 <= used(venue) <= 160 + 200


async def test_ban_and_what_others_sent_outlive_a_kill(lives: Lives, clock: VirtualClock) -> None:
    """They are written when they come, for nobody could reserve them."""
    venue = await lives.next()
    venue.rate_limit.used("1m", 900)
    venue.rate_limit.pause(600.0)
    await lives.disk()
    await lives.disk()  # one that came while the first was written
    await clock.sleep(10.0)
    venue = await lives.next()
    assert 900 <= used(venue) <= 900 + BLOCK
    with pytest.raises(RateLimitedError) as refused:
        await venue.call(answer)
    assert refused.value.retry_after == pytest.approx(590.0)


async def test_handed_in_usage_is_kept_as_well(lives: Lives) -> None:
    """What a program keeps in a store of its own."""
    venue = await lives.next()
    await send(venue, 100)
    exported = venue.rate_limit.export()
    other = Lives(lives.directory / "other", lives.clock)
    venue = await other.next()
    venue.rate_limit.restore(exported)
    await other.disk()
    assert used(await other.next()) >= 100
    for service in other.made:
        await service.aclose()


async def place(venue: Handle, key: str) -> None:
    async def not_there(key: str) -> LookUp[str]:
        return NOT_FOUND

    async def submit(*, order_id: str) -> str:
        return order_id

    await venue.once(key, confirm=not_there, key_argument="order_id").call(submit)


@pytest.mark.parametrize("saves", [False, True])
async def test_orders_that_the_journal_knows_too_count_once(
    lives: Lives, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, saves: bool
) -> None:
    """They are taken off the block, which stands for what nobody knows of; and count beyond it, if the disk has not kept up."""
    venue = await lives.next(rate_limit="8/min")  # blocks of two
    monkeypatch.setattr(lives.made[-1]._kept_sends, "_submit", lambda job: Future())
    for number in range(5):
        await clock.sleep(0.1)
        await place(venue, f"{number}")
        if saves and number == 2:
            await lives.made[-1].save_state(force=True)
    monkeypatch.undo()
    assert used(await lives.next(rate_limit="8/min")) == 5


# ---- an orderly end


@pytest.mark.parametrize("tracks", [False, True])
async def test_orderly_end_loses_nothing_and_reserves_nothing(lives: Lives, tracks: bool) -> None:
    """Whether the state is saved or not."""
    venue = await lives.next()
    if tracks:
        lives.made[-1].track_state(dict)
    await send(venue, 77)
    await lives.made[-1].aclose()
    assert used(await lives.next()) == 77


async def test_service_that_goes_on_after_its_end_is_kept_again(lives: Lives) -> None:
    """What it sends then is no less sent."""
    venue = await lives.next()
    await lives.made[-1].aclose()
    await venue.call(answer)
    await lives.disk()
    await send(venue, 10)
    assert used(await lives.next()) == 1 + BLOCK


async def test_program_without_rate_limits_or_without_a_restore_leaves_no_file(lives: Lives) -> None:
    """Who never asks for what the life before has left would write over it."""
    recovery = lives.killed()
    await recovery.restore_state()
    await recovery.service("news").call(answer)
    await recovery.aclose()
    assert not (lives.state_dir / FILE).exists()
    recovery = lives.killed()
    await venue_of(recovery).call(answer)
    await recovery.aclose()
    assert not (lives.state_dir / FILE).exists()


# ---- what goes wrong


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b'{"checksum": 1}', b"\xff"])
async def test_damaged_file_is_set_aside_and_stops_nothing(
    lives: Lives, clock: VirtualClock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """With the time in its name, as a damaged state is. The saved state tells what it knows."""
    venue = await lives.next()
    await send(venue, 5)
    await lives.made[-1].save_state()
    (lives.state_dir / FILE).write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        venue = await lives.next()
    assert used(venue) == 5
    assert "what was sent under rate limits is not known" in caplog.text
    (aside,) = (lives.state_dir / "damaged").iterdir()
    assert aside.name == f"{FILE}.{datetime.fromtimestamp(clock.time(), UTC):%Y%m%dT%H%M%SZ}"
    assert aside.read_bytes() == content
    await send(venue, 50)
    await lives.disk()
    assert used(await lives.next()) >= 55


async def test_service_that_cannot_be_read_is_logged_and_the_others_count(
    lives: Lives, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody edited the file, with its checksum."""
    venue = await lives.next()
    other = lives.made[-1].service("other", rate_limit="9/min")
    await send(venue, 5)
    await lives.disk()
    path = lives.state_dir / FILE
    content = json.loads(path.read_text())
    del content["checksum"]
    content["services"]["other"]["reserved"] = {"weight": "many"}
    path.write_bytes(kept_sends._encoded(content))
    assert other is not None
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        assert used(await lives.next()) >= 5
    assert "the saved rate limit of service 'other' was not restored" in caplog.text


async def test_disk_that_refuses_is_told_of_once_and_asked_again(
    lives: Lives, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls go out all the same; after a second the next one has it written."""
    venue = await lives.next()
    kept = lives.made[-1]._kept_sends
    real, refuse = kept._layer, True

    class Full:
        def create(self, path: Path) -> int:
            if refuse:
                raise OSError(28, "No space left on device")
            return real.create(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    kept._layer = Full()  # the rest of it is the real one
    with caplog.at_level(logging.WARNING, logger="shockproof"):
        for _ in range(3):
            await send(venue, 20)
            await lives.disk()
            await clock.sleep(1.0)
    assert caplog.text.count("would be forgotten after a kill") == 1
    refuse = False
    await send(venue, 1)
    await lives.disk()
    assert kept.last_error is None
    assert used(await lives.next()) >= 61


class HangsOnWriting(SimulatedDisk):
    """It is read, and hangs as soon as something is written, until it is let go."""

    def __init__(self, files: Files) -> None:
        super().__init__(files)
        self.goes_on = threading.Event()

    def called(self, what: str) -> None:
        self.goes_on.wait(60.0)
        super().called(what)


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_disk_that_hangs_on_writing_holds_a_start_up_for_ten_seconds(
    lives: Lives,
    clock: VirtualClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_damaged: bool,
) -> None:
    """What the life before has sent counts; log and health tell of it, calls go out, and once it goes on all is well."""
    await send(await lives.next(), 50)
    await lives.disk()
    content = b"{" if is_damaged else (lives.state_dir / FILE).read_bytes()
    recovery = lives.killed()
    venue = venue_of(recovery)
    left_over = recovery.state_dir / f".{FILE}.1-1.tmp"
    disk = HangsOnWriting({recovery.state_dir / FILE: content, left_over: b"half of it"})
    kept = recovery._kept_sends
    kept._layer, kept._durable_directory = disk, DurableDirectory(disk, recovery.state_dir)
    try:
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="shockproof"):
            patch.setattr(virtual_time, "_PATIENCE", 0.01)
            began = clock.monotonic()
            await recovery.restore_state()
        assert clock.monotonic() - began == pytest.approx(10.0)
        assert caplog.text.count("the disk has not answered within 10 s") == 1
        assert used(venue) >= (0 if is_damaged else 50)
        health = recovery.get_health_status()
        why = "the disk has not answered for 10 s"
        assert health["kept_sends"] == {"state": "degraded", "last_error": why}
        assert health["overall_health"] == "degraded"
        await send(venue, 7)
    finally:
        disk.goes_on.set()
    await lives.disk()
    assert recovery.get_health_status()["kept_sends"] == {"state": "ok", "last_error": None}
    told = kept_sends._decoded(disk.names[recovery.state_dir / FILE].data).services["venue"]
    assert sum(counts["weight"] for _, counts in told["sent"]) + told["reserved"]["weight"] >= used(venue)
    assert left_over not in disk.names
    aside = {path: inode.data for path, inode in disk.names.items() if path.parent.name == "damaged"}
    assert list(aside.values()) == ([content] if is_damaged else [])


async def test_orderly_end_tells_what_a_disk_that_refused_from_the_start_has_not_taken(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again then, also where nothing was ever written."""
    await send(await lives.next(), 50)
    await lives.disk()
    recovery = lives.killed()
    venue, layer = venue_of(recovery), recovery._kept_sends._layer

    def refuse(path: Path) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(layer, "create", refuse)
        await recovery.restore_state()
        before = used(venue)
        await send(venue, 3)
        await lives.disk()
    await recovery.aclose()
    assert used(await lives.next()) == before + 3


async def test_rate_limit_that_was_taken_away_during_a_pause_stops_nobody_from_being_kept(
    lives: Lives,
) -> None:
    """Nothing counts in no rate; the state is saved, the others are kept, and the pause lasts."""
    venue = await lives.next()
    other = lives.made[-1].service("other", rate_limit="1200/min", max_wait=0.0)
    await send(venue, 1)
    venue.rate_limit.pause(600.0)
    venue.configure(rate_limit=None)
    await lives.made[-1].save_state(force=True)
    await send(other, 100)
    await lives.disk()
    venue = await lives.next()
    assert used(lives.made[-1].service("other", rate_limit="1200/min")) >= 100
    with pytest.raises(RateLimitedError):
        await venue.call(answer)


async def test_mistake_while_it_is_written_is_logged_and_it_is_written_again(
    lives: Lives, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it is: nobody waits in that thread who would see it."""
    venue = await lives.next()

    def broken(content: dict[str, Any]) -> bytes:
        raise ValueError("cannot be encoded")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="shockproof"):
        patch.setattr("shockproof.memory.services.kept_sends._encoded", broken)
        await send(venue, 30)
        await lives.disk()
    assert "cannot be written: cannot be encoded" in caplog.text
    await clock.sleep(1.0)
    await send(venue, 1)
    await lives.disk()
    assert used(await lives.next()) >= 31


async def test_child_process_writes_nothing_over_its_parents_file(lives: Lives) -> None:
    """It is the parent's; a child that restores the state keeps its own."""
    venue = await lives.next()
    kept = lives.made[-1]._kept_sends
    kept._in_the_child()
    await send(venue, 100)
    assert not kept.is_on
    kept.soon()
    await lives.disk()
    assert used(await lives.next()) == BLOCK
