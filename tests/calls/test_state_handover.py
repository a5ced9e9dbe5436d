"""A bot that moves to another machine takes its state along: through the store, and never what a former owner left behind."""

from __future__ import annotations

import asyncio
import hashlib
import random
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.fernet import Fernet

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    ErrorRecoveryService,
    Found,
    LookUp,
    MemoryStore,
    OutcomeUnknownError,
    RateLimitedError,
    Redacted,
    StateVersionError,
    StoreUnavailableError,
)
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.fleet import shared_state
from shockproof.memory.journal.journal_files import JournalFiles
from shockproof.policies.state_publication import Lineage, StateHead
from shockproof.testing import VirtualClock
from tests.memory.fleet.forgetful_store import Forgetful
from tests.memory.fleet.weather import Weather

pytestmark = pytest.mark.asyncio

KEY = "state/account 7"


class Machines:
    """Each has directories of its own; a bot is started on one, by its number."""

    def __init__(self, path: Path, clock: VirtualClock) -> None:
        self._path = path
        self._clock = clock
        self.store = MemoryStore(clock=clock)
        self.bots: list[ErrorRecoveryService] = []
        self.ways: list[Weather] = []

    async def start(self, machine: int, **options: Any) -> ErrorRecoveryService:
        self.ways.append(Weather(self.store))
        bot = ErrorRecoveryService(
            self._path / f"machine {machine}" / "state",
            self._path / f"machine {machine}" / "errors",
            store=self.ways[-1],
            owns="account 7",
            share_state=True,
            process_name=f"bot-{len(self.bots)}",
            state_save_interval=0.0,
            clock=self._clock,
            rng=random.Random(len(self.bots)),
            **options,
        )
        self.bots.append(bot)
        await bot.start()
        return bot

    async def is_stored(self, bot: ErrorRecoveryService) -> None:
        await is_on_its_way(bot)
        async with asyncio.timeout(60.0):
            while told(bot)["is_behind"]:  # noqa: ASYNC110 - the event is another task's
                await asyncio.sleep(0.01)

    async def dies(self, bot: ErrorRecoveryService) -> None:
        """As a process that is killed: the store hears of it no more."""
        self.ways[self.bots.index(bot)].turn("away")
        await asyncio.sleep(40.0)

    async def bytes_in_store(self) -> bytes:
        found = []
        for entry in await self.store.entries(KEY):
            found.append(entry.value)
            for at in range(len(entry.value) - 1):
                if entry.value[at : at + 1] == b"\x78":
                    try:
                        found.append(zlib.decompressobj().decompress(entry.value[at:]))
                    except zlib.error:
                        continue
        return b"".join(found)


def told(bot: ErrorRecoveryService) -> dict[str, Any]:
    health: dict[str, Any] = bot.get_health_status()["shared"]["saved_state"]
    return health


async def is_on_its_way(bot: ErrorRecoveryService) -> None:
    """The writer's thread has made of it what is to be put; it is no part of a save, and time does not wait for it."""
    assert bot._handover is not None
    await bot._handover.settle()


def trouble(bot: ErrorRecoveryService) -> str:
    return str(bot.get_health_status()["shared"]["trouble"])


@pytest_asyncio.fixture
async def machines(tmp_path: Path, clock: VirtualClock) -> AsyncIterator[Machines]:
    machines = Machines(tmp_path, clock)
    yield machines
    for bot in machines.bots:
        await bot.aclose()


async def cached(bot: ErrorRecoveryService) -> dict[str, Any] | None:
    state = await bot.restore_state()
    return None if state is None else state.cached_data


async def test_a_bot_that_moves_takes_values_circuits_limits_and_what_was_pending_along(
    machines: Machines,
) -> None:
    """Nothing of it was on the other machine; whose clock tells another time is not asked."""
    first = await machines.start(1)
    await first.owned()
    venue = first.service("venue", circuit_threshold=1, circuit_timeout=300.0, max_retries=0)
    limited = first.service("limited", rate_limit="2/h", max_retries=0)

    async def fails() -> None:
        raise ConnectionError("reset")

    async def sends() -> None: ...

    with pytest.raises(ConnectionError):
        await venue.call(fails)
    await limited.call(sends)
    await limited.call(sends)
    operation = first.operation("rebalance", key="2026-11-26")
    await operation.__aenter__()
    await operation.checkpoint(index=3)
    assert await first.save_state([{"id": 1}], {"position": 100}, {"mode": "live"})
    await first.aclose()

    second = await machines.start(2)
    await second.owned()
    state = await second.restore_state()
    assert state is not None
    assert (state.cached_data, state.configuration) == ({"position": 100}, {"mode": "live"})
    assert state.active_operations == [
        {"id": 1},
        {"operation": "rebalance", "key": "2026-11-26", "status": "pending", "index": 3},
    ]
    second.service("venue", circuit_timeout=300.0)
    assert second.is_circuit_open("venue")
    with pytest.raises(RateLimitedError):
        await second.service("limited", rate_limit="2/h", deadline=1.0, max_retries=0).call(sends)
    assert second.get_health_status()["overall_health"] == "unhealthy", "of the circuit, and nothing else"
    assert second.get_health_status()["shared"]["trouble"] is None


class Venue:
    """Places what it gets, and its answers get lost; who asks for an order learns nothing at first."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.is_up = False

    async def submit(self, *, client_id: str) -> str:
        self.orders.append(client_id)
        raise ConnectionResetError

    async def find(self, key: str) -> LookUp[str]:
        if not self.is_up:
            return UNKNOWN
        return Found(key) if key in self.orders else NOT_FOUND

    async def leaves_pending(self, key: str, *, on: ErrorRecoveryService) -> None:
        """An order that nobody knows of is saved with the state, and its machine goes."""
        await on.owned()
        once = on.service("venue", max_retries=0).once(key, confirm=self.find, key_argument="client_id")
        with pytest.raises(OutcomeUnknownError):
            await once.call(self.submit)
        assert await on.save_state()
        await on.aclose()
        self.is_up = True


async def test_an_order_that_was_pending_on_the_other_machine_is_pending_here(machines: Machines) -> None:
    """From the restore on this journal knows it, as durably as an order of its own: `reconcile` looks it up."""
    venue = Venue()
    await venue.leaves_pending("bot-1", on=await machines.start(1))

    second = await machines.start(2)
    await second.owned()
    await second.restore_state()
    assert second.get_health_status()["journal"]["pending"] == 1
    await second.aclose()

    third = await machines.start(2)
    await third.owned()
    third.service("venue").once(confirm=venue.find, key_argument="client_id")
    assert [(one.key, one.outcome) for one in await third.reconcile()] == [("bot-1", Found("bot-1"))]
    await third.restore_state()
    assert await third.reconcile() == [], "what is known here is not pending again"


async def test_details_stay_on_the_other_machine_and_a_look_up_that_needs_them_proves_nothing(
    machines: Machines,
) -> None:
    """Asked with an empty dict, a confirm may look in another market; with the key's own details it finds it."""
    venue = Venue()
    await venue.leaves_pending("bot-1", on=await machines.start(1))

    async def find_in_its_market(key: str, details: Mapping[str, object]) -> LookUp[str]:
        return Found(key) if details.get("symbol", "BTC") == "ETH" else NOT_FOUND

    second = await machines.start(2)
    await second.owned()
    await second.restore_state()
    service = second.service("venue")
    service.once(confirm=find_in_its_market)
    assert [(one.key, one.outcome) for one in await second.reconcile()] == [("bot-1", UNKNOWN)]
    once = service.once(
        "bot-1", confirm=find_in_its_market, details={"symbol": "ETH"}, key_argument="client_id"
    )
    assert await once.call(venue.submit) == "bot-1"
    assert venue.orders == ["bot-1"]


async def test_an_order_that_was_pending_on_the_other_machine_is_asked_for_where_the_journal_was_not_told(
    machines: Machines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program had the journal of this machine when the state was restored."""
    venue = Venue()
    await venue.leaves_pending("bot-1", on=await machines.start(1))

    other = JournalFiles(tmp_path / "machine 2" / "state" / "journal", layer=SystemFiles())
    await asyncio.to_thread(other.open)
    second = await machines.start(2)
    await second.owned()
    await second.restore_state()
    await asyncio.to_thread(other.close)
    assert "pending on another machine could not be journalled here" in caplog.text
    once = second.service("venue").once("bot-1", confirm=venue.find, key_argument="client_id")
    assert await once.call(venue.submit) == "bot-1"
    assert venue.orders == ["bot-1"]


async def test_after_a_crash_the_next_owner_has_what_had_reached_the_store(machines: Machines) -> None:
    """And the dead one, back on its own machine, has what it had saved since, unless somebody has gone on meanwhile."""
    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    await machines.is_stored(first)
    machines.ways[0].turn("away")
    assert await first.save_state(cached_data={"save": 2}), "it is durable here"
    assert told(first)["is_behind"]
    await machines.dies(first)

    again = await machines.start(1)
    await again.owned()
    assert await cached(again) == {"save": 2}, "of the disk: it is newer than that in the store"
    await machines.dies(again)

    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 1}
    await second.save_state(cached_data={"save": 3})
    await second.aclose()

    third = await machines.start(1)
    await third.owned()
    assert await cached(third) == {"save": 3}, "of the store: that on the disk is a former owner's"


@pytest.mark.parametrize("when", ["the same life", "its next life"])
async def test_what_another_owner_has_left_is_not_overwritten_before_it_was_restored(
    machines: Machines, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """Nobody loses what he has not seen; the saves are on the disk meanwhile, and health says what to do."""
    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    await first.aclose()
    second = await machines.start(2)
    await second.owned()
    assert await second.save_state(cached_data={"save": 2})
    await is_on_its_way(second)
    await asyncio.sleep(5.0)
    assert "is not overwritten: await recovery.restore_state() after recovery.owned()" in trouble(second)
    assert second.get_health_status()["overall_health"] == "degraded"
    assert caplog.text.count("was not restored, and is not overwritten") == 1
    assert b'"save": 1' in await machines.bytes_in_store()
    if when == "its next life":
        await second.aclose()
        second = await machines.start(2)
        await second.owned()
    assert await cached(second) == {"save": 1}, "although its own token is the higher one"
    await machines.is_stored(second)
    await asyncio.sleep(5.0)
    assert second.get_health_status()["shared"]["trouble"] is None
    assert b'"save": 2' not in await machines.bytes_in_store()
    await second.save_state(cached_data={"save": 3})
    await machines.is_stored(second)
    await machines.dies(second)
    third = await machines.start(3)
    await third.owned()
    assert await cached(third) == {"save": 3}


async def test_what_is_saved_under_a_new_lease_is_older_than_what_another_owner_left_meanwhile(
    machines: Machines,
) -> None:
    """It has restored before, but not since; what nobody has gone on from meanwhile, stays the newest."""
    first = await machines.start(1)
    await first.owned()
    await cached(first)
    await first.save_state(cached_data={"save": 1})
    await machines.is_stored(first)
    await machines.dies(first)
    machines.ways[0].turn("fair")
    await first.owned()
    await first.save_state(cached_data={"save": 2})
    assert await cached(first) == {"save": 2}, "nobody else has had it"
    await machines.is_stored(first)
    await machines.dies(first)

    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 2}
    await second.save_state(cached_data={"save": 3})
    await second.aclose()
    machines.ways[0].turn("fair")
    await first.owned()
    await first.save_state(cached_data={"save": "late"})
    assert await cached(first) == {"save": 3}
    await first.save_state(cached_data={"save": 4})
    await first.aclose()
    third = await machines.start(3)
    await third.owned()
    assert await cached(third) == {"save": 4}


async def test_a_put_that_is_refused_while_somebody_restores_does_not_hide_what_was_restored(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before, and knows less: what is saved from then on goes on from what was restored."""
    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    await machines.is_stored(first)
    await machines.dies(first)
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 1}
    await second.save_state(cached_data={"save": 2})
    await second.aclose()

    way, restored = machines.ways[0], asyncio.Event()
    put = way.put

    async def slowly(key: str, value: bytes, **options: Any) -> int:
        if key == KEY and not restored.is_set():
            assert await cached(first) == {"save": 2}
            restored.set()
        return await put(key, value, **options)

    monkeypatch.setattr(way, "put", slowly)
    way.turn("fair")
    await first.owned()
    await first.save_state(cached_data={"save": "late"})
    await restored.wait()
    await first.save_state(cached_data={"save": 3})
    await first.aclose()
    third = await machines.start(3)
    await third.owned()
    assert await cached(third) == {"save": 3}


async def test_a_former_owner_that_wakes_up_in_the_middle_of_a_put_overwrites_nothing(
    machines: Machines,
) -> None:
    """Its put goes with the lease that it had."""
    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    await machines.is_stored(first)
    way, on_its_way, goes_on = machines.ways[0], asyncio.Event(), asyncio.Event()
    put = way.put

    async def slow(key: str, value: bytes, **options: Any) -> int:
        if key == KEY:
            on_its_way.set()
            await goes_on.wait()
            return await machines.store.put(key, value, **options)
        return await put(key, value, **options)

    way.put = slow  # type: ignore[method-assign]  # it stops in the middle
    await first.save_state(cached_data={"save": "late"})
    await on_its_way.wait()
    await machines.dies(first)
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 1}
    await second.save_state(cached_data={"save": 2})
    await machines.is_stored(second)
    goes_on.set()
    way.turn("fair")
    await asyncio.sleep(30.0)
    await second.aclose()
    third = await machines.start(3)
    await third.owned()
    assert await cached(third) == {"save": 2}


async def test_a_put_whose_answer_was_lost_is_found_to_be_done(machines: Machines) -> None:
    """It is not taken for somebody else's."""
    first = await machines.start(1)
    await first.owned()
    way = machines.ways[0]
    put, lost = way.put, 0

    async def forgetful(key: str, value: bytes, **options: Any) -> int:
        nonlocal lost
        version = await put(key, value, **options)
        if key == KEY and not lost:
            lost += 1
            raise StoreUnavailableError("has not answered within 1 s")
        return version

    way.put = forgetful  # type: ignore[method-assign]  # an answer is lost
    await first.save_state(cached_data={"save": 1})
    await machines.is_stored(first)
    await first.save_state(cached_data={"save": 2})
    await machines.is_stored(first)
    assert lost == 1
    await first.aclose()
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 2}


async def test_without_the_store_the_disk_is_enough_and_afterwards_all_is_there(machines: Machines) -> None:
    """Neither saving nor restoring fails, and what was put meanwhile by nobody is put later."""
    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    machines.ways[0].turn("hangs")
    assert await cached(first) == {"save": 1}
    assert await first.save_state(cached_data={"save": 2})
    await is_on_its_way(first)
    await asyncio.sleep(5.0)
    assert told(first)["is_behind"]
    machines.ways[0].turn("fair")
    await machines.is_stored(first)
    await first.aclose()
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 2}


async def test_a_large_state_is_put_in_parts_and_the_one_before_stays_whole_until_then(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store takes at a time is not what a state may have; far too large a one is refused, with the way out."""
    monkeypatch.setattr(shared_state, "_PART", 10_000)
    monkeypatch.setattr("shockproof.calls.state_handover.MOST_BYTES", 100_000)
    monkeypatch.setattr(shared_state, "MOST_BYTES", 100_000)
    large = random.Random(1).randbytes(30_000).hex()
    first = await machines.start(1)
    await first.owned()
    for number in range(3):
        await first.save_state(cached_data={"save": number, "large": large})
        await machines.is_stored(first)
    parts = await machines.store.entries(f"{KEY}/")
    assert {entry.key.removeprefix(KEY)[:3] for entry in parts} == {"/0/", "/1/"}
    assert all(len(entry.value) <= 10_000 for entry in parts)
    await first.save_state(cached_data={"save": 3, "large": random.Random(1).randbytes(200_000).hex()})
    await is_on_its_way(first)
    assert (
        "the state of 'account 7' is not in the store: compressed it has more than the 100,000 bytes"
        in trouble(first)
    )
    assert told(first)["is_behind"]
    second = await machines.start(2)
    stood_by = await second.restore_state()
    assert stood_by is not None
    assert stood_by.cached_data == {"save": 2, "large": large}
    await first.save_state(cached_data={"save": 4})
    await machines.is_stored(first)
    assert first.get_health_status()["shared"]["trouble"] is None
    assert await cached(second) == {"save": 4}


async def test_secrets_are_encrypted_in_the_store_as_on_disk_or_left_out(machines: Machines) -> None:
    """Never plain, also those of what is pending."""
    key = Fernet.generate_key()
    first = await machines.start(1, encryption_key=key)
    await first.owned()
    operation = first.operation("log in", key="1")
    await operation.__aenter__()
    await operation.checkpoint(password="s3cret-1")
    await first.save_state(configuration={"api_key": "s3cret-2", "mode": "live"})
    await machines.is_stored(first)
    stored = await machines.bytes_in_store()
    assert b"live" in stored
    assert b"log in" in stored
    assert b"s3cret" not in stored
    second = await machines.start(2, encryption_key=key)
    state = await second.restore_state()
    assert state is not None
    assert state.configuration == {"api_key": "s3cret-2", "mode": "live"}
    assert state.active_operations[0]["password"] == "s3cret-1"
    third = await machines.start(3)
    without = await third.restore_state()
    assert without is not None
    assert isinstance(without.configuration["api_key"], Redacted)


async def test_a_damaged_state_in_the_store_is_left_there_and_the_disk_is_used(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever finds nonsense neither fails nor overwrites it."""
    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    await machines.is_stored(first)
    entry = await machines.store.get(KEY)
    assert entry is not None
    packed = (4).to_bytes(4) + b"abcd"
    whole = StateHead(Lineage(1 << 60, 1), 0.0, len(packed), hashlib.sha256(packed).hexdigest())
    for wrong in (
        b"nonsense",
        entry.value[:-1],
        entry.value.replace(b'"lineage"', b'"linage"'),
        whole.to_bytes(packed),
        whole._replace(parts=2).to_bytes(),
    ):
        await machines.store.put(KEY, wrong)
        second = await machines.start(2)
        assert await cached(second) is None
        assert "is restored from disk, and not from the store" in caplog.text
        assert second._handover is not None
        assert second._handover.shared._seen is None, "and so it does not take its place"
        caplog.clear()
        await second.aclose()


async def test_a_state_of_a_newer_program_in_the_store_is_refused(machines: Machines) -> None:
    """As one on disk."""

    def to_two(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "cached_data": {"migrated": True}}

    first = await machines.start(1)
    await first.owned()
    await first.save_state(cached_data={"save": 1})
    await first.aclose()
    second = await machines.start(2, state_migrations=[to_two])
    await second.owned()
    assert await cached(second) == {"migrated": True}
    await second.save_state(cached_data={"save": 2})
    await second.aclose()
    third = await machines.start(3)
    await third.owned()
    with pytest.raises(StateVersionError, match="account 7"):
        await third.restore_state()
    assert await third.save_state(cached_data={"save": 3})
    await is_on_its_way(third)
    await asyncio.sleep(5.0)
    assert "is not overwritten" in trouble(third)
    await third.aclose()
    fourth = await machines.start(4, state_migrations=[to_two])
    assert await cached(fourth) == {"save": 2}


async def test_a_store_that_has_lost_its_data_makes_no_old_state_the_newest(machines: Machines) -> None:
    """Its tokens begin anew, lower than those that stand in files."""
    first = await machines.start(1)
    await first.owned()
    for _ in range(50):
        await machines.store.put("other", b"")
    await first.aclose()
    again = await machines.start(1)
    await again.owned()
    await again.save_state(cached_data={"save": 1})
    await again.aclose()
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 1}
    await second.save_state(cached_data={"save": 2})
    await second.aclose()

    machines.store = MemoryStore(clock=machines._clock)
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"save": 2}
    await second.save_state(cached_data={"save": 3})
    await second.aclose()
    first = await machines.start(1)
    await first.owned()
    assert await cached(first) == {"save": 3}


async def test_a_state_that_the_store_does_not_take_is_told_of_until_it_does(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    """It is durable on the disk all the same, and its owner stays: a store that is full renews what it has."""
    caplog.set_level("INFO")
    bot = await machines.start(1)
    await bot.owned()
    machines.ways[0].turn("full")
    assert await bot.save_state(cached_data={"saved": 1})
    await is_on_its_way(bot)
    await asyncio.sleep(120.0)
    shared = bot.get_health_status()["shared"]
    assert (shared["state"], shared["owns"]["is_owner"], told(bot)["is_behind"]) == ("away", True, True)
    assert shared["trouble"].startswith(
        "the store is away, this process may write for 'account 7' for another "
    )
    assert shared["trouble"].endswith("it is full")
    machines.ways[0].turn("fair")
    await asyncio.sleep(20.0)
    assert not told(bot)["is_behind"]
    assert (bot.get_health_status()["shared"]["state"], trouble(bot)) == ("reachable", "None")
    lines = [one.getMessage() for one in caplog.records if "store of the fleet" in one.getMessage()]
    assert [("away" in line, "back" in line) for line in lines] == [(True, False), (False, True)]


@pytest.mark.parametrize("was_there", ["nothing", "an earlier save", "what another owner had left"])
async def test_what_a_store_that_went_back_in_time_has_lost_is_put_there_again(
    machines: Machines, clock: VirtualClock, was_there: str
) -> None:
    """It was in the store once: whoever follows goes on from that, and not from what was there before."""
    machines.store = store = Forgetful(clock)
    if was_there == "what another owner had left":
        earlier = await machines.start(0)
        await earlier.owned()
        await earlier.save_state(cached_data={"saved": 1})
        await earlier.aclose()
        await store.writes_down()
    first = await machines.start(1)
    await first.owned()
    await first.restore_state()
    if was_there == "an earlier save":
        await first.save_state(cached_data={"saved": 1})
        await machines.is_stored(first)
        await store.writes_down()
    await first.save_state(cached_data={"saved": 2})
    await machines.is_stored(first)
    machines.ways[-1].turn("away")
    await asyncio.sleep(0.1)
    await store.starts_again()
    machines.ways[-1].turn("fair")
    await asyncio.sleep(60.0)
    assert (told(first)["is_behind"], trouble(first)) == (False, "None")
    await machines.dies(first)
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"saved": 2}


async def test_who_lost_the_account_when_the_store_went_back_puts_nothing_again_over_its_successors_state(
    machines: Machines, clock: VirtualClock
) -> None:
    """The successor may have restored less, and has gone on from there."""
    machines.store = store = Forgetful(clock)
    first = await machines.start(1)
    await first.owned()
    for number in (1, 2):
        await first.save_state(cached_data={"saved": number})
        await machines.is_stored(first)
        if number == 1:
            await store.writes_down()
    machines.ways[0].turn("away")
    await asyncio.sleep(0.1)
    await store.starts_again()
    second = await machines.start(2)
    await second.owned()
    assert await cached(second) == {"saved": 1}
    await second.save_state(cached_data={"saved": 3})
    await machines.is_stored(second)
    machines.ways[0].turn("fair")
    await asyncio.sleep(60.0)
    await second.aclose()
    await first.owned()
    await asyncio.sleep(60.0)
    assert await cached(first) == {"saved": 3}


async def test_it_is_for_those_who_own_something(tmp_path: Path) -> None:
    """Or two would overwrite each other's."""
    with pytest.raises(ValueError, match="share_state=True needs a name that one process at a time owns"):
        ErrorRecoveryService(tmp_path, tmp_path, store=MemoryStore(), share_state=True)
    with pytest.raises(TypeError, match="share_state must be True or False, got 1"):
        ErrorRecoveryService(tmp_path, tmp_path, share_state=1)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    "wrong",
    [
        b"", b"7\n", b"{}\n", b'{"lineage": [1], "at": 1, "size": 1, "digest": "", "slot": 0, "parts": 0}\n',
        b'{"lineage": [1, -1], "at": 1, "size": 1, "digest": "", "slot": 0, "parts": 0}\n',
        b'{"lineage": [1, 1], "at": "x", "size": 1, "digest": "", "slot": 0, "parts": 0}\n',
        b'{"lineage": [1, 1], "at": 1, "size": 1, "digest": 7, "slot": 0, "parts": 0}\n',
        b'{"lineage": [1, 1], "at": 1, "size": 1, "digest": "", "slot": 0, "parts": true}\n',
    ],
)  # fmt: skip
async def test_what_is_no_head_is_refused(wrong: bytes) -> None:
    """One kind of error, whatever somebody has put there."""
    with pytest.raises(ValueError, match=r"."):
        StateHead.from_bytes(wrong)
