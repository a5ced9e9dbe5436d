"""A state that one owner after the other puts in a store, behind a bad network: on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof import MemoryStore, StoreUnavailableError, take_lease
from shockproof.memory.fleet import shared_state
from shockproof.memory.fleet.ownership import Ownership
from shockproof.memory.fleet.shared_state import SharedState
from shockproof.memory.services.listeners import Listeners
from shockproof.policies.state_publication import Lineage
from shockproof.testing import VirtualClock
from tests.memory.fleet.lossy_store import LossyStore, Server


class Books:
    """What the store has acknowledged."""

    def __init__(self) -> None:
        self.acknowledged = Lineage(0, 0)
        self.put = 0


class Files:
    """Of a machine of its own; nothing befalls them here."""

    hindrance = None
    may_still_send = False

    def __init__(self, number: int) -> None:
        self._identity = f"journal {number}"

    async def take_over(self, account: str, former: str | None) -> str:
        return self._identity

    async def seen(self, account: str, owner: str) -> None: ...

    def before_owning(self) -> None: ...

    def while_owning(self) -> None: ...

    def no_longer(self) -> None: ...


class Bot:
    """A process that wants to own the account, restores when it does, and saves all the time then."""

    def __init__(
        self, clock: VirtualClock, server: Server, books: Books, number: int, **weather: float
    ) -> None:
        self._clock = clock
        self._books = books
        self._store = LossyStore(server, number, **weather)
        self._ownership = Ownership("account 7", f"bot-{number}", Files(number), clock, Listeners())
        self._shared = SharedState(
            self._store, self._ownership, complete=self._as_it_is, clock=clock, rng=random.Random(number)
        )
        self._shared.ensure()
        self._tasks = [asyncio.ensure_future(self._keeps_it()), asyncio.ensure_future(self._lives())]

    @staticmethod
    async def _as_it_is(data: bytes) -> bytes:
        return data

    async def _keeps_it(self) -> None:
        while True:
            try:
                wait = await self._ownership.keep(self._store)
            except StoreUnavailableError:
                wait = 0.5
            await asyncio.sleep(max(wait, 0.001))  # rounding may leave less than a clock can tell

    async def _lives(self) -> None:
        tenure = None
        while True:
            await asyncio.sleep(0.7)
            lease = self._ownership.lease
            if lease is None:
                continue
            if lease.token != tenure:
                before = self._books.acknowledged
                try:
                    stored = await self._shared.read()
                except StoreUnavailableError:
                    continue
                found = Lineage(0, 0) if stored is None else stored.head.lineage
                if self._ownership.lease is not None:
                    assert found >= before, "an owner has less than another one was told to be safe"
                assert stored is None or stored.data == str(found).encode() * 3
                self._shared.goes_on_from(found)
                self._shared.saw(stored)
                tenure = lease.token
            save = self._shared.next_save()
            self._shared.publish(save, 0.0, str(save.lineage).encode() * 3)
            head = self._shared._head
            if head is not None and head.lineage > self._books.acknowledged:
                self._books.acknowledged = head.lineage
                self._books.put += 1

    async def dies(self) -> None:
        """Whatever it was about to do; what is on its way already arrives all the same."""
        for task in (*self._tasks, self._shared._task):
            assert task is not None
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, AssertionError):
                raise result


class Disturbed(MemoryStore):
    """Something happens right behind a put of the head."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock=clock)
        self.then: Callable[[], Any] | None = None  # Any: a coroutine, whatever it gives

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        version = await super().put(key, value, **options)
        if key == "state/account 7" and self.then is not None:
            then, self.then = self.then, None
            await then()
        return version


async def owner_of(store: MemoryStore, clock: VirtualClock) -> tuple[Ownership, SharedState]:
    """It owns the account, and has found nothing there."""
    ownership = Ownership("account 7", "bot", Files(1), clock, Listeners())
    shared = SharedState(store, ownership, complete=Bot._as_it_is, clock=clock, rng=random.Random(1))
    shared.is_asked_again("first")
    while not ownership.is_held:  # noqa: ASYNC110 - on virtual time, as long as the owner itself rests
        await asyncio.sleep(max(await ownership.keep(store), 0.001))
    shared.saw(await shared.read())
    return ownership, shared


def test_a_former_owner_leaves_no_part_of_its_state_where_the_next_one_puts_its_own(
    clock: VirtualClock,
) -> None:
    """Its lease was given to another one while it believed that it had it: the store alone can tell."""

    async def history() -> None:
        store = MemoryStore(clock=clock)
        ownership, shared = await owner_of(store, clock)
        assert ownership.lease is not None
        key, _ = ownership.lease.guard
        await store.delete(key)
        assert await take_lease(store, ownership.lease.name, clock=clock) is not None
        shared.publish(shared.next_save(), 0.0, b"larger than a part" * 10)
        await shared._put_pending()
        assert await store.entries("state/account 7") == []

    with patch.object(shared_state, "_PART", 50):
        clock.run(history())


def test_what_was_put_while_the_store_was_started_again_is_put_once_more(clock: VirtualClock) -> None:
    """It has answered, and forgotten it."""

    async def history() -> None:
        store = Disturbed(clock)
        _, shared = await owner_of(store, clock)

        async def starts_again() -> None:
            await store.delete("state/account 7")
            shared.is_asked_again("second")

        store.then = starts_again
        shared.publish(shared.next_save(), 0.0, b"position 100")
        await shared._put_pending()
        stored = await shared.read()
        assert stored is not None
        assert stored.data == b"position 100"

    clock.run(history())


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    delay=st.sampled_from([0.0, 0.2, 0.8]),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    part=st.sampled_from([50, 1000]),
    events=st.lists(
        st.tuples(st.floats(1.0, 40.0), st.sampled_from(["join", "die", "down", "up"])), max_size=10
    ),
)
def test_whatever_happens_an_owner_goes_on_from_the_last_state_that_was_known_to_be_put(
    seed: int, delay: float, loss: float, part: int, events: list[tuple[float, str]]
) -> None:
    """Late and lost answers, crashes, several that want to own it: nothing that was safe is overwritten unseen."""
    clock, books = VirtualClock(), Books()

    async def history() -> None:
        server = Server(clock)
        bots: list[Bot] = []

        def join() -> None:
            bots.append(Bot(clock, server, books, seed + len(bots), delay=delay, loss=loss))

        join()
        join()
        for after, what in [(40.0, "join"), *events, (1.0, "up"), (60.0, "join")]:
            await asyncio.sleep(after)
            if what == "join":
                join()
            elif what == "die":
                await bots.pop(0).dies() if bots else None
            else:
                server.is_down = what == "down"
        await asyncio.sleep(60.0)
        for bot in bots:
            await bot.dies()

    with patch.object(shared_state, "_PART", part):
        clock.run(history())
    assert books.put or loss or delay
