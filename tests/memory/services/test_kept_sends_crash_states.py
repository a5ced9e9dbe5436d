"""Every state in which a power cut can leave what is kept of a rate limit, over two lives; and every call of the disk that can fail."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from shockproof.calls.limits import Limits
from shockproof.memory.journal.moments import moment_of
from shockproof.memory.services.earlier_life import SavedAt, restore_kept_sends
from shockproof.memory.services.kept_sends import FILE_NAME, KeptSends
from shockproof.memory.services.registry import Registry
from shockproof.policies.rate_limit import Rate, Sent
from shockproof.policies.reserved_sends import ReservedSends
from shockproof.testing import VirtualClock
from tests.memory.disk.crash_histories import Findings, Known, complaints_where_calls_fail, crash_everywhere
from tests.memory.disk.simulated_disk import SimulatedDisk
from tests.memory.disk.wrong_disks import WRONG_DISKS

HOME = Path("/state")
BLOCK = 2
SENDS = 60


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be read or written is logged each time."""
    caplog.set_level(logging.CRITICAL + 1, "shockproof")


def at_once(job: Callable[[], None]) -> Future[None]:
    """The disk keeps up: what is asked for is done before anything else."""
    told: Future[None] = Future()
    job()
    told.set_result(None)
    return told


class Process:
    """One life: it counts what it finds, and sends."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.clock = VirtualClock()
        registry = Registry(circuit_threshold=5, circuit_timeout=60.0, on_transition=lambda *_: None)
        moment = moment_of(self.clock)
        self.kept = KeptSends(
            HOME,
            registry=registry,
            clock=self.clock,
            moment=lambda: moment,
            submit=at_once,
            layer=disk,
        )
        earlier = self.kept._read()
        if earlier is not None:
            now, wall = self.clock.monotonic(), self.clock.time()
            restore_kept_sends(registry, earlier, {}, [], SavedAt(now, moment, wall, wall, 0.0))
        state = registry.get_or_create("venue")
        self.limits = state.limits = Limits("venue", self.clock)
        self.limits.declare({"rate_limit": (Rate(1000, 86_400.0),)})
        state.limits_are_there()

    @property
    def used(self) -> int:
        count: int = self.limits.usage(self.clock.monotonic())[0]["used"]
        return count

    def begin(self) -> None:
        self.kept.is_on = True
        for state in self.kept._registry.all():
            self.kept.watch(state)

    def send(self) -> None:
        assert self.limits._rate is not None
        assert isinstance(self.limits._rate.take(1, 1), Sent)


class SendsOnAndOn:
    """A program that is killed while it sends; what it knows is how much was sent in all lives, as far as the disk took it."""

    at_first = 0

    def live(self, disk: SimulatedDisk, facts: int, life: int) -> Known[int]:
        known = Known(disk, facts)
        process = Process(disk)
        process.begin()
        for _ in range(SENDS if life == 1 else 4):
            if process.kept.last_error is None:
                known.now(known.facts + 1)
            process.send()
            if process.kept.last_error is not None:
                break
        return known

    def complaint(self, disk: SimulatedDisk, facts: int) -> str | None:
        used = Process(disk).used
        if used < facts:
            return f"{used} counted, and {facts} were sent"
        return f"{used} counted, and only {facts} were sent" if used > facts + 2 * BLOCK else None


def crashes(kind: type[SimulatedDisk], *, second_life_each: int, most: int | None = None) -> Findings:
    return crash_everywhere(
        SendsOnAndOn(), lambda files: kind(files, takes=200), second_life_each=second_life_each, most=most
    )


@pytest.mark.timeout(900)  # seconds of a processor, of which a busy machine gives little
def test_whatever_a_crash_leaves_all_that_was_sent_counts_and_two_blocks_more_at_most() -> None:
    """One for each crash."""
    findings = crashes(SimulatedDisk, second_life_each=1)
    print(f"kept sends: {findings}")

    assert findings.wrong == []
    assert findings.states > 20_000
    assert findings.second_crashes > 15_000


# ---- what must be noticed


@pytest.mark.parametrize("kind", WRONG_DISKS)
def test_step_left_out_or_out_of_order_is_caught(kind: type[SimulatedDisk]) -> None:
    """The test above would notice."""
    assert crashes(kind, second_life_each=1, most=1).wrong


Patch = Callable[[pytest.MonkeyPatch], None]


def overwrites_it_in_place(patch: pytest.MonkeyPatch) -> None:
    def write(self: KeptSends, content: bytes) -> None:
        layer, path = self._layer, HOME / FILE_NAME
        assert isinstance(layer, SimulatedDisk)
        handle = layer.rewrite(path) if path in layer.names else layer.create(path)
        layer.names[path].data = b""
        layer.write(handle, memoryview(content))
        layer.fsync(handle)
        layer.fsync_directory(HOME)

    patch.setattr(KeptSends, "_replace", write)


def reserves_nothing(patch: pytest.MonkeyPatch) -> None:
    ahead = ReservedSends.ahead
    patch.setattr(ReservedSends, "ahead", lambda self, **_: ahead(self, is_last=True))


def asks_when_a_block_is_used_up(patch: pytest.MonkeyPatch) -> None:
    durable = ReservedSends.durable

    def late(self: ReservedSends, ahead: object) -> None:
        durable(self, ahead)  # type: ignore[arg-type]  # handed on
        for name in self._low_from:
            self._low_from[name] += BLOCK

    patch.setattr(ReservedSends, "durable", late)


def counts_only_what_was_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("shockproof.memory.services.earlier_life._counts", lambda one, name: {})


def a_new_life_counts_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeptSends, "_read", lambda self: None)


WRONG_PROTOCOLS: list[Patch] = [
    overwrites_it_in_place,
    reserves_nothing,
    asks_when_a_block_is_used_up,
    counts_only_what_was_sent,
    a_new_life_counts_nothing,
]


@pytest.mark.parametrize("mutate", WRONG_PROTOCOLS)
def test_wrong_protocol_is_caught(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would notice."""
    mutate(monkeypatch)
    assert crashes(SimulatedDisk, second_life_each=1, most=1).wrong


def test_at_least_twelve_mistakes_are_tried() -> None:
    """What catches two or three may do so by luck."""
    assert len(WRONG_DISKS) + len(WRONG_PROTOCOLS) >= 12


# ---- calls that fail


@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("failure", [errno.EIO, errno.ENOSPC])
def test_whichever_call_fails_what_was_sent_before_it_counts(failure: int, is_lasting: bool) -> None:
    """The Nth call for every N, until it is not reached any more; it is logged, and no call is held up by it."""
    calls, complaints = complaints_where_calls_fail(SendsOnAndOn(), failure, is_lasting=is_lasting)

    assert complaints == []
    assert calls > 30
