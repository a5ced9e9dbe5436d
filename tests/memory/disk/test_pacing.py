"""A background thread gives way often enough, and not more often than that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shockproof.memory.disk import pacing
from shockproof.memory.disk.pacing import Pace

if TYPE_CHECKING:
    import pytest


class FakeTime:
    """Time that only sleeping and working let pass."""

    def __init__(self, disturbance: float) -> None:
        self.now = 0.0
        self.naps: list[float] = []
        self.disturbance = disturbance

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds + self.disturbance * bool(seconds)


def naps_of(monkeypatch: pytest.MonkeyPatch, *, disturbance: float, work: float) -> list[float]:
    fake = FakeTime(disturbance)
    monkeypatch.setattr(pacing, "time", fake)
    pace = Pace()
    for _ in range(1_000):
        fake.now += 0.00001
        pace.keep()
        if fake.now > work:
            break
    return fake.naps


def test_work_that_is_short_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single record takes no nap."""
    assert naps_of(monkeypatch, disturbance=0.0, work=0.00015) == []


def test_whoever_waits_is_let_in_after_every_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nap that took longer than it should have found somebody, so the next one is real again."""
    naps = naps_of(monkeypatch, disturbance=0.001, work=0.01)

    assert len(naps) > 5
    assert set(naps) == {0.00005}


def test_alone_it_naps_rarely_and_still_looks_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bursts without a real nap, then one, as long as nobody is found; and longer ones."""
    naps = naps_of(monkeypatch, disturbance=0.00001, work=0.01)

    assert naps[:10] == [0.00005, *[0] * 4, 0.00005, *[0] * 4]
    assert len(naps) <= 20


def test_whoever_comes_to_one_that_was_alone_is_let_in_every_time_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next real nap finds him, and the bursts are short again."""
    fake = FakeTime(0.00001)
    monkeypatch.setattr(pacing, "time", fake)
    pace = Pace()
    while len(fake.naps) < 6:
        fake.now += 0.00001
        pace.keep()
    fake.disturbance = 0.001
    until = fake.now + 0.02
    while fake.now < until:
        fake.now += 0.00001
        pace.keep()

    assert fake.naps == [0.00005, *[0] * 4, 0.00005, *[0] * 4, *[0.00005] * len(fake.naps[10:])]
    assert len(fake.naps[10:]) > 10
