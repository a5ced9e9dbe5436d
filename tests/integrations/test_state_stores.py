"""One contract for everything that several processes may share their state in, against real servers."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof import (
    FileStore,
    MemoryStore,
    StateStore,
    StoreChange,
    StoreConflictError,
    StoreEntry,
    take_lease,
)
from shockproof.integrations.etcd import EtcdStore
from shockproof.integrations.redis import RedisStore
from tests.integrations.store_servers import PATIENCE, needs_servers

_prefixes = (f"test {os.getpid()}-{number}" for number in itertools.count())

Open = Callable[[], StateStore]
"""Another process's view of the same store."""


@pytest_asyncio.fixture(params=["memory", "file", "redis", "etcd"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    kind: str = request.param
    prefix, stores = next(_prefixes), list[StateStore]()
    shared = MemoryStore()

    def make() -> StateStore:
        match kind:
            case "memory":
                return shared
            case "file":
                return FileStore(tmp_path / "shared.db", timeout=PATIENCE, poll_every=0.01)
            case "redis":
                server = request.getfixturevalue("redis_session")
                return RedisStore(f"redis://{server.address}", prefix=prefix, timeout=PATIENCE)
            case _:
                server = request.getfixturevalue("etcd_session")
                return EtcdStore(f"http://{server.address}", prefix=prefix, timeout=PATIENCE)

    def another() -> StateStore:
        stores.append(make())
        return stores[-1]

    another()
    yield another
    for store in stores:
        await store.aclose()


@pytest.fixture
def store(opened: Open) -> StateStore:
    return opened()


pytestmark = [needs_servers, pytest.mark.asyncio]


async def test_what_was_put_is_got_by_everybody_with_its_version(store: StateStore, opened: Open) -> None:
    """Bytes come back as they are, whatever they are, under any name."""
    assert await store.get("a/ключ") is None
    version = await store.put("a/ключ", bytes(range(256)))
    assert version > 0
    assert await opened().get("a/ключ") == StoreEntry("a/ключ", bytes(range(256)), version)
    assert await store.put("empty", b"") > version
    assert await store.get("empty") is not None


async def test_each_put_has_a_higher_version_also_after_a_delete(store: StateStore) -> None:
    """Nobody takes a later value for the one that was read, however it came there."""
    versions = [await store.put("a", b"1"), await store.put("b", b"1"), await store.put("a", b"1")]
    assert await store.delete("a")
    assert await store.get("a") is None
    versions.append(await store.put("a", b"1"))
    assert versions == sorted(set(versions))


async def test_the_second_of_two_writers_is_told_and_overwrites_nothing(
    store: StateStore, opened: Open
) -> None:
    """What one has not seen it cannot destroy."""
    read = await store.put("a", b"old")
    theirs = await opened().put("a", b"theirs", expect=read)
    with pytest.raises(
        StoreConflictError, match=rf"'a' has version {theirs} and not version {read}"
    ) as conflict:
        await store.put("a", b"mine", expect=read)
    assert (conflict.value.key, conflict.value.expected, conflict.value.found) == ("a", read, theirs)
    with pytest.raises(StoreConflictError):
        await store.delete("a", expect=read)
    assert await store.get("a") == StoreEntry("a", b"theirs", theirs)
    assert await store.delete("a", expect=theirs)
    with pytest.raises(StoreConflictError, match=rf"'a' has no value and not version {theirs}"):
        await store.put("a", b"mine", expect=theirs)


async def test_only_the_first_puts_where_nothing_is(store: StateStore, opened: Open) -> None:
    """Expecting version 0 is how one of many is chosen."""

    async def tries(number: int) -> bool:
        try:
            await opened().put("chosen", str(number).encode(), expect=0)
        except StoreConflictError:
            return False
        return True

    results = await asyncio.gather(*(tries(number) for number in range(10)))
    chosen = await store.get("chosen")
    assert results.count(True) == 1
    assert chosen is not None
    assert chosen.value == str(results.index(True)).encode()


async def test_no_count_is_lost_between_writers_that_read_and_compare(
    store: StateStore, opened: Open
) -> None:
    """Compare-and-swap is one step, however many there are."""
    await store.put("count", b"0")

    async def add(mine: StateStore) -> None:
        while True:
            read = await mine.get("count")
            assert read is not None
            try:
                await mine.put("count", str(int(read.value) + 1).encode(), expect=read.version)
            except StoreConflictError:
                continue
            return

    await asyncio.gather(*(add(mine) for mine in (store, opened(), opened()) for _ in range(5)))
    counted = await store.get("count")
    assert counted is not None
    assert counted.value == b"15"


async def test_deleting_what_is_not_there_is_no_error(store: StateStore) -> None:
    """It tells, and whoever was faster was faster."""
    assert not await store.delete("a")
    assert not await store.delete("a", expect=7)


async def test_entries_are_those_below_the_prefix_and_no_others(store: StateStore) -> None:
    """By key; a name that only begins alike is another."""
    for key in ("b/2", "b/1", "b", "bb/1", "a/1", "c"):
        await store.put(key, key.encode())
    await store.delete("b/2")
    await store.put("b/é", b"x")
    assert [entry.key for entry in await store.entries("b/")] == ["b/1", "b/é"]
    assert [entry.key for entry in await store.entries("")] == ["a/1", "b", "b/1", "b/é", "bb/1", "c"]
    assert (await store.entries("b/1"))[0] == await store.get("b/1")
    assert await store.entries("nothing/") == []


async def test_what_expires_is_gone_after_its_time_and_not_before_and_a_renewal_begins_it_anew(
    store: StateStore,
) -> None:
    """The store's clock decides; whoever renews has it longer."""
    version, renewed_at = 0, 0.0
    while True:
        version = await store.put("a", b"x", expires_after=0.3)
        renewed_at = time.monotonic()
        if await store.renew("a", version):  # else this machine stood still for that long: again
            break
    async with asyncio.timeout(PATIENCE):
        while await store.get("a") is not None:  # noqa: ASYNC110 - the event is on the server
            await asyncio.sleep(0.01)
    assert time.monotonic() - renewed_at >= 0.29
    assert not await store.renew("a", version)
    assert await store.entries("") == []
    again = await store.put("a", b"y", expect=0)
    assert again > version
    assert await store.renew("a", again), "what does not expire is there"
    assert not await store.renew("a", version)


async def test_what_is_put_again_without_a_time_stays(store: StateStore) -> None:
    """The last put decides of everything."""
    await store.put("a", b"x", expires_after=60.0)
    version = await store.put("a", b"y")
    assert await store.renew("a", version)
    assert await store.get("a") == StoreEntry("a", b"y", version)


async def test_a_guarded_put_is_refused_once_the_guard_has_changed(store: StateStore) -> None:
    """So a former owner is kept from writing."""
    token = await store.put("guard", b"me")
    version = await store.put("a", b"1", guard=("guard", token))
    await store.put("guard", b"somebody else")
    with pytest.raises(StoreConflictError, match="'guard' has version"):
        await store.put("a", b"2", guard=("guard", token))
    with pytest.raises(StoreConflictError, match="'guard' has version"):
        await store.put("a", b"2", expect=version, guard=("guard", token))
    with pytest.raises(StoreConflictError, match="'guard' has version"):
        await store.delete("a", guard=("guard", token))
    await store.delete("guard")
    with pytest.raises(StoreConflictError, match="'guard' has no value"):
        await store.put("a", b"2", guard=("guard", token))
    assert await store.get("a") == StoreEntry("a", b"1", version)


async def test_a_watcher_is_told_of_puts_and_deletes_below_its_prefix(
    store: StateStore, opened: Open
) -> None:
    """From the entry of its block on, and of nothing else."""
    theirs = opened()
    await theirs.put("a/before", b"x")
    async with asyncio.timeout(PATIENCE), store.watch("a/") as changes:
        await theirs.put("b/1", b"other")
        first = await theirs.put("a/1", b"one \x00 two")
        assert await anext(changes) == StoreChange("a/1", b"one \x00 two", first)
        second = await theirs.put("a/1", b"")
        assert await anext(changes) == StoreChange("a/1", b"", second)
        await theirs.delete("a/1")
        gone = await anext(changes)
        assert (gone.key, gone.value) == ("a/1", None)


async def test_a_watch_can_be_cancelled_while_nothing_happens(store: StateStore) -> None:
    """A task that waits for news ends at once, and the store goes on."""
    is_watching = asyncio.Event()

    async def watch() -> None:
        async with store.watch("") as changes:
            is_watching.set()
            async for _ in changes:
                pass

    async with asyncio.timeout(PATIENCE):
        task = asyncio.create_task(watch())
        await is_watching.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await store.put("a", b"x")


async def test_a_lease_has_one_holder_and_a_higher_token_each_time(store: StateStore, opened: Open) -> None:
    """Two never both own something, and what the former one sends can be told apart."""
    mine = await take_lease(store, "journal", length=600.0, holder="bot-1")
    assert mine is not None
    assert mine.is_held
    assert await mine.renew()
    other = opened()
    assert await take_lease(other, "journal", length=600.0) is None
    assert await take_lease(other, "another", length=600.0) is not None
    await mine.release()
    assert not mine.is_held
    theirs = await take_lease(other, "journal", length=600.0, holder="bot-2")
    assert theirs is not None
    assert theirs.token > mine.token
    await other.put("state", b"theirs", guard=theirs.guard)
    with pytest.raises(StoreConflictError):
        await store.put("state", b"mine", guard=mine.guard)
    assert not await mine.renew()
    await mine.release()
    assert await theirs.renew(), "who gives back what it no longer has takes nothing away"


async def test_the_era_of_a_store_that_runs_stays(store: StateStore, opened: Open) -> None:
    """For everybody, in one line."""
    era = await store.era()
    await store.put("a", b"x")
    assert await opened().era() == era
    assert "\n" not in era


async def test_stores_can_be_used_again_after_they_were_closed(store: StateStore) -> None:
    """Closing gives connections back, and no more."""
    await store.put("a", b"x")
    await store.aclose()
    assert await store.get("a") is not None


async def test_who_gives_connections_back_cuts_off_nobody_who_uses_them(store: StateStore) -> None:
    """A recovery service that ends does so with the store that its program uses, too."""
    async with asyncio.timeout(PATIENCE), store.watch("told/") as changes:
        await store.put("a", b"x")
        steps = [asyncio.create_task(store.put(f"b/{number}", b"x")) for number in range(5)]
        for _ in range(3):
            await asyncio.sleep(0)
        await store.aclose()
        assert len(await asyncio.gather(*steps)) == 5
        version = await store.put("told/1", b"x")
        assert (await anext(changes)).version == version


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"key": ""}, "key must not be empty"),
        ({"key": 7}, "key must be a string, got 7"),
        ({"value": "s3cret"}, "value must be bytes, got a value of type str"),
        ({"expect": -1}, "expect must be a whole number of at least 0, got -1"),
        ({"expires_after": 0}, "expires_after must be seconds"),
        ({"guard": "lease"}, "guard must be a key and its version"),
    ],
)
async def test_what_cannot_be_put_is_refused_by_name(
    store: StateStore, wrong: dict[str, object], told: str
) -> None:
    """The argument and its value, but never a value that may be a secret."""
    with pytest.raises((TypeError, ValueError), match=told):
        await store.put(**{"key": "a", "value": b"x", **wrong})  # type: ignore[arg-type]  # the mistakes under test
