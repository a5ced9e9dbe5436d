"""What the store in a file makes of a machine that was started anew, whose clock has begun again."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from shockproof import FileStore, take_lease
from shockproof.memory.stores import file_store

pytestmark = pytest.mark.asyncio


class Machine:
    """It is started anew by the test."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.starts = 1
        self.uptime = 5000.0

    @property
    def boot(self) -> str | None:
        return None if self.name is None else f"{self.name} {self.starts}"

    def starts_anew(self) -> None:
        self.starts += 1
        self.uptime = 20.0


@pytest.fixture(params=["start", None], ids=["with-boot-id", "without"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(request.param)
    monkeypatch.setattr(file_store, "this_boot", lambda: machine.boot)
    monkeypatch.setattr(file_store, "time", SimpleNamespace(monotonic=lambda: machine.uptime, time=time.time))
    return machine


async def test_a_lease_outlasts_a_start_of_the_machine_by_its_whole_length(
    machine: Machine, tmp_path: Path
) -> None:
    """Its holder is gone; what it sent under a rate limit in its last moment is in the window still."""
    store = FileStore(tmp_path / "shared.db")
    await take_lease(store, "a share of a rate limit", length=75.0)
    await store.put("forever", b"1")
    machine.starts_anew()

    machine.uptime += 100.0  # until somebody looks
    held_from = machine.uptime
    assert await take_lease(store, "a share of a rate limit") is None
    machine.uptime = held_from + 74.9
    assert await take_lease(store, "a share of a rate limit") is None
    machine.uptime = held_from + 75.0
    assert await take_lease(store, "a share of a rate limit") is not None
    entry = await store.get("forever")
    assert entry is not None
    assert entry.value == b"1"


async def test_what_was_over_before_a_start_of_the_machine_stays_gone(
    machine: Machine, tmp_path: Path
) -> None:
    """Also when the clock of the new start gets to where that of the old one was: nobody has opened this circuit."""
    store = FileStore(tmp_path / "shared.db")
    await store.put("circuits/venue", b"open", expires_after=180.0)
    machine.uptime += 180.0
    assert await store.get("circuits/venue") is None
    await store.put("another", b"1", expires_after=10.0)
    machine.starts_anew()

    for uptime in (20.0, 100.0, 4999.0, 5001.0, 5100.0, 5181.0):
        machine.uptime = uptime
        assert await store.get("circuits/venue") is None


async def test_what_was_put_since_the_start_lives_its_time_once_only(
    machine: Machine, tmp_path: Path
) -> None:
    """The start is noticed at the first step after it, and not again at each."""
    store = FileStore(tmp_path / "shared.db")
    await store.put("before", b"1", expires_after=10.0)
    machine.starts_anew()
    await store.put("since", b"1", expires_after=10.0)
    for after, left in ((9.0, ["before", "since"]), (10.0, []), (4990.0, [])):
        machine.uptime = 20.0 + after
        assert [entry.key for entry in await store.entries("")] == left


async def test_what_is_over_takes_no_room_in_the_file(machine: Machine, tmp_path: Path) -> None:
    """Each life of a process has a lease with a name of its own."""
    store = FileStore(tmp_path / "shared.db")
    for life in range(8):
        await store.put(f"lease/limits/venue/bot/{life}", bytes(100_000), expires_after=1.0)
        machine.uptime += 2.0
    assert store.path.stat().st_size < 300_000
