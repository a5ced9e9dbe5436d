"""
Random histories of three machines with a journal each, the account that one of them owns, its store and its venue.

Machines die and are closed, in the middle of orders and of take-overs; they are cut off and come back; the store is started again as it was
long before; the venue books late and loses answers. Its ledger is the judge: each order is there once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from shockproof import NOT_FOUND, UNKNOWN, ErrorRecoveryService, Found, LookUp, ShockproofError
from shockproof.memory.journal import journal as journals
from shockproof.testing import VirtualClock
from tests.memory.fleet.forgetful_store import Forgetful
from tests.memory.fleet.weather import Weather

HISTORIES = int(os.environ.get("ACCOUNT_HISTORIES", "3"))
SETTLE = 30.0
TIMEOUT = 5.0
KEYS = [f"K-{number}" for number in range(6)]
MACHINES = (1, 2, 3)

pytestmark = pytest.mark.timeout(120 + 10 * HISTORIES)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What befalls them is warned of each time."""
    caplog.set_level(logging.CRITICAL, "shockproof")


class Venue:
    """Shows what it has booked less than the settle window after it got it; that it was cancelled says nothing."""

    def __init__(self, clock: VirtualClock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._shown_from: dict[str, float] = {}
        self.ledger: Counter[str] = Counter()

    def _books(self, key: str) -> None:
        self.ledger[key] += 1
        self._shown_from.setdefault(key, self._clock.monotonic() + self._chance.uniform(0.0, SETTLE / 2 - 1))

    async def submit(self, key: str) -> str:
        chance = self._chance.random()
        if chance < 0.1:
            raise ConnectionRefusedError
        if chance < 0.2:
            await asyncio.sleep(self._chance.uniform(0.0, 2 * TIMEOUT))
            raise ConnectionResetError("it never arrived")
        late = self._chance.uniform(0.0, SETTLE / 2 - 1 if chance < 0.5 else TIMEOUT / 2)
        asyncio.get_running_loop().call_later(late, self._books, key)
        if chance < 0.7:
            await asyncio.sleep(self._chance.uniform(0.0, 2 * TIMEOUT))
            raise ConnectionResetError("the answer is lost")
        await asyncio.sleep(late + 0.01)
        return key

    async def find(self, key: str) -> LookUp[str]:
        chance = self._chance.random()
        if chance < 0.15:
            raise ConnectionResetError
        if chance < 0.3:
            return UNKNOWN
        if chance < 0.6:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
        is_shown = self._shown_from.get(key, float("inf")) <= self._clock.monotonic()
        return Found(key) if is_shown else NOT_FOUND


class Bot:
    """One life of a program on one of the machines."""

    def __init__(self, world: World, machine: int) -> None:
        world.lives += 1
        self.world, self.machine = world, machine
        self.way = Weather(world.store)
        self.recovery = ErrorRecoveryService(
            world.path / f"machine {machine}" / "state",
            world.path / f"machine {machine}" / "errors",
            store=self.way,
            owns="account 7",
            share_state=world.shares_state,
            state_save_interval=0.0,
            process_name=f"bot-{world.lives}",
            clock=world.clock,
            rng=random.Random(world.lives),
        )
        self._orders: set[asyncio.Task[None]] = set()

    @property
    def is_owner(self) -> bool:
        is_owner: bool = self.recovery.get_health_status()["shared"]["owns"]["is_owner"]
        return is_owner

    def order(self, key: str) -> None:
        """In the background: whatever comes of it, the ledger tells."""
        task = asyncio.ensure_future(self._order(key))
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    async def _order(self, key: str) -> None:
        venue, retries = self.world.venue, self.world.retries
        more = {"base_delay": 20.0, "max_delay": 60.0} if retries else {}
        orders = self.recovery.service(
            "orders", effect="unsafe", timeout=TIMEOUT, circuit_threshold=None, max_retries=retries, **more
        )
        try:
            await orders.once(key, confirm=venue.find, settle=SETTLE).call(venue.submit, key)
        except (ShockproofError, ConnectionError):
            pass

    async def ends(self, *, is_killed: bool) -> None:
        """One that is killed gives nothing back; what it had under way is cut off."""
        if is_killed:
            self.way.turn("away")
        for task in list(self._orders):
            task.cancel()
        await asyncio.gather(*self._orders, return_exceptions=True)
        await self.recovery.aclose()
        # The next life knows what is on the disk, and nothing else.
        journals._journals.pop(str(self.recovery.state_dir / "journal"), None)


class World:
    """All that there is in one history."""

    def __init__(self, path: Path, clock: VirtualClock, seed: int) -> None:
        self.path, self.clock, self.chance = path, clock, random.Random(seed)
        self.shares_state = seed % 2 == 0
        self.retries = 3 if seed % 4 < 2 else 0
        self.store = Forgetful(clock)
        self.venue = Venue(clock, self.chance)
        self.lives = 0
        self.bots: dict[int, Bot] = {}

    @property
    def owner(self) -> Bot | None:
        owners = [bot for bot in self.bots.values() if bot.is_owner]
        assert len(owners) <= 1
        return owners[0] if owners else None

    async def begins(self, machine: int) -> None:
        self.bots[machine] = bot = Bot(self, machine)
        await bot.recovery.start()
        bot.recovery.service("orders").once(confirm=self.venue.find, settle=SETTLE)

    async def something_happens(self) -> None:
        what, owner = self.chance.random(), self.owner
        bot = self.bots[self.chance.choice(MACHINES)]
        if owner is not None and self.chance.random() < 0.7:
            bot = owner
        if what < 0.5:
            (owner or bot).order(self.chance.choice(KEYS))
        elif what < 0.6:
            await bot.ends(is_killed=self.chance.random() < 0.6)
            await self.begins(bot.machine)
        elif what < 0.7:
            bot.way.turn(self.chance.choice(["away", "hangs"]))
        elif what < 0.8:
            for one in self.bots.values():
                one.way.turn("fair")
        elif what < 0.84:
            await self.store.writes_down()
        elif what < 0.87:
            await self._store_starts_again()
        elif owner is not None and what < 0.94:
            await self._settles(owner)

    async def _store_starts_again(self) -> None:
        kinds = {bot: bot.way.kind for bot in self.bots.values()}
        for bot in kinds:
            bot.way.turn("away")
        await self.store.starts_again()
        await asyncio.sleep(0.05)
        for bot, kind in kinds.items():
            bot.way.turn(kind)

    async def _settles(self, owner: Bot) -> None:
        try:
            async with asyncio.timeout(60.0):
                await owner.recovery.restore_state()
                await owner.recovery.reconcile()
                await owner.recovery.save_state(force=True)
        except (TimeoutError, ShockproofError):
            pass

    async def goes_by(self) -> None:
        for machine in MACHINES:
            await self.begins(machine)
        await asyncio.sleep(60.0)  # all of them have seen who owns it
        for _ in range(60):
            await self.something_happens()
            pause = self.chance.choice([0.0, 0.1, 1.0, 5.0, 10.0, 30.0])
            await asyncio.sleep(pause * self.chance.random())
        for bot in self.bots.values():
            bot.way.turn("fair")
        await asyncio.sleep(120.0)
        for _ in range(8):
            assert self.owner is not None
            for key in KEYS:
                self.owner.order(key)
            await asyncio.sleep(120.0)
        for bot in self.bots.values():
            await bot.ends(is_killed=False)


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_whatever_befalls_the_machines_of_an_account_each_order_is_there_once(
    tmp_path: Path, seed: int
) -> None:
    """Three journals that know nothing of each other, and no order twice."""
    clock = VirtualClock()
    world = World(tmp_path, clock, seed)
    clock.run(world.goes_by())
    assert world.venue.ledger == Counter(KEYS)
