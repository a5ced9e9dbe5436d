"""A rate limit that several processes divide: by the venue's own count, on virtual time, through whatever befalls the store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shockproof import ErrorRecoveryService, MemoryStore, RateLimitedError, take_lease
from shockproof.calls.limits import Limits
from shockproof.memory.fleet.marked import marked
from shockproof.memory.fleet.shared_limit import SharedLimit
from shockproof.policies.fleet_limit import LimitMember, LimitRecord
from shockproof.policies.rate_limit import Rate, parse_rates
from shockproof.testing import VirtualClock
from tests.memory.fleet.lossy_store import LossyStore, Server

LIFE = 15.0


class Venue:
    """It counts what everybody sends."""

    def __init__(self, clock: VirtualClock, rates: tuple[Rate, ...]) -> None:
        self._clock = clock
        self.rates = rates
        self.sent: list[tuple[float, str, int]] = []

    def receive(self, who: str, weight: int) -> None:
        self.sent.append((self._clock.monotonic(), who, weight))

    def by(self, who: str, since: float = 0.0) -> int:
        return sum(weight for at, name, weight in self.sent if name == who and at >= since)

    def total(self, since: float) -> int:
        return sum(weight for at, _, weight in self.sent if at >= since)

    def windows_above(self) -> list[tuple[Rate, float, int]]:
        """Every rolling window in which more was sent than is allowed."""
        above = []
        for rate in self.rates:
            first, inside = 0, 0
            for at, _, weight in self.sent:
                inside += weight
                while self.sent[first][0] <= at - rate.seconds + 1e-9:  # of rounding
                    inside -= self.sent[first][2]
                    first += 1
                if inside > rate.limit:
                    above.append((rate, at, inside))
        return above


class Bot:
    """One process: it sends as told, from its share."""

    def __init__(
        self,
        name: str,
        clock: VirtualClock,
        venue: Venue,
        store: LossyStore,
        rates: tuple[Rate, ...],
        seed: int,
    ) -> None:
        self.name = name
        self.store = store
        self.venue = venue
        self.shared = SharedLimit(store, "venue", name, clock=clock, rng=random.Random(seed))
        self.limits = Limits("venue", clock)
        self.limits.declare({"rate_limit": rates})
        self.limits.share(self.shared)
        self.shared.ensure()
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(job)
        self._running.add(task)

    async def send(self, weight: int = 1, *, within: float | None = None) -> bool:
        until = None if within is None else asyncio.get_running_loop().time() + within
        try:
            await self.limits.enter(weight=weight, rank=2, until=until)
        except RateLimitedError:
            return False
        self.venue.receive(self.name, weight)
        return True

    async def send_all_the_time(self, weights: list[int], *, apart: float = 0.0) -> None:
        while True:
            for weight in weights:
                await self.send(weight)
                await asyncio.sleep(apart)

    def crash(self) -> None:
        """Without a word to anybody."""
        self.shared.pause()
        for task in self._running:
            task.cancel()

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.shared.aclose()


class Desk:
    """Bots on one store, which knows of an earlier fleet that has sent nothing for long."""

    def __init__(self, clock: VirtualClock, *rates: str) -> None:
        self.clock = clock
        self.rates = parse_rates("rate_limit", rates)
        self.server = Server(clock)
        self.venue = Venue(clock, self.rates)
        self.bots: list[Bot] = []

    async def knows_the_past(self) -> Desk:
        inner = self.server.inner
        await inner.put("limits/venue", marked(LimitRecord({}).to_bytes(), await inner.era()))
        return self

    def join(self, **weather: float) -> Bot:
        number = len(self.bots)
        store = LossyStore(self.server, number, **weather)
        self.bots.append(Bot(f"bot-{number}", self.clock, self.venue, store, self.rates, number))
        return self.bots[-1]

    async def close(self) -> None:
        for bot in self.bots:
            await bot.close()


@pytest.mark.asyncio
async def test_a_fleet_that_wants_more_than_there_is_sends_all_of_it_in_even_parts(
    clock: VirtualClock,
) -> None:
    """Not one above the limit, hardly any left unused, and nobody has to be content with less than the others."""
    desk = await Desk(clock, "60/min").knows_the_past()
    for _ in range(4):
        bot = desk.join(delay=0.01)
        for _ in range(30):
            bot.start(bot.send_all_the_time([1]))
    await asyncio.sleep(600.0)
    since = clock.monotonic() - 300.0
    assert desk.venue.windows_above() == []
    assert desk.venue.total(since) >= 0.95 * 300
    assert all(60 <= desk.venue.by(bot.name, since) <= 90 for bot in desk.bots)
    await desk.close()


@pytest.mark.asyncio
async def test_one_that_is_alone_has_the_whole_limit(clock: VirtualClock) -> None:
    """What nobody else wants is not kept for him."""
    desk = await Desk(clock, "100/min").knows_the_past()
    busy, idle = desk.join(), desk.join()
    busy.start(busy.send_all_the_time([1]))
    assert await idle.send()
    await asyncio.sleep(200.0)
    assert desk.venue.by("bot-0", clock.monotonic() - 60.0) >= 94
    await desk.close()


@pytest.mark.asyncio
async def test_more_processes_than_calls_a_second_all_have_their_turn(clock: VirtualClock) -> None:
    """Who was served stands behind those who wait."""
    desk = await Desk(clock, "2/s").knows_the_past()
    for _ in range(5):
        bot = desk.join(delay=0.005)
        bot.start(bot.send_all_the_time([1]))
    await asyncio.sleep(30.0)
    since = clock.monotonic() - 25.0
    assert desk.venue.windows_above() == []
    assert desk.venue.total(since) >= 0.75 * 50
    assert all(4 <= desk.venue.by(bot.name, since) <= 15 for bot in desk.bots)
    await desk.close()


@pytest.mark.asyncio
async def test_a_heavy_call_is_served_where_light_ones_never_end(clock: VirtualClock) -> None:
    """It is not overtaken for ever by those whom less is enough."""
    desk = await Desk(clock, "100/min").knows_the_past()
    for _ in range(3):
        bot = desk.join()
        for _ in range(50):
            bot.start(bot.send_all_the_time([1]))
    await asyncio.sleep(150.0)
    heavy = desk.join()
    async with asyncio.timeout(150.0):
        assert await heavy.send(90)
    assert desk.venue.windows_above() == []
    await desk.close()


@pytest.mark.asyncio
async def test_in_calm_nobody_asks_the_store_for_a_call(clock: VirtualClock) -> None:
    """A share renews itself: what the store is asked is the same for a hundred calls and for ten thousand."""
    desk = await Desk(clock, "6000/min").knows_the_past()
    bots = [desk.join() for _ in range(3)]
    for bot in bots:
        bot.start(bot.send_all_the_time([1], apart=0.05))
    await asyncio.sleep(120.0)
    before, sent = sum(bot.store.steps for bot in bots), len(desk.venue.sent)
    await asyncio.sleep(60.0)
    assert len(desk.venue.sent) - sent >= 3500
    assert sum(bot.store.steps for bot in bots) - before <= 3 * 12 * 4
    await desk.close()


@pytest.mark.asyncio
async def test_without_the_store_each_sends_of_its_share_and_then_nothing(clock: VirtualClock) -> None:
    """So long that nobody else can have been given it; and when the store is there again, all goes on."""
    desk = await Desk(clock, "60/min").knows_the_past()
    bots = [desk.join() for _ in range(3)]
    for bot in bots:
        bot.start(bot.send_all_the_time([1], apart=0.5))
    await asyncio.sleep(120.0)
    desk.server.is_down = True
    desk.server.cut_off()
    went = clock.monotonic()
    await asyncio.sleep(LIFE + 0.1)
    assert desk.venue.total(went) > 0
    gone = clock.monotonic()
    await asyncio.sleep(100.0)
    assert desk.venue.total(gone) == 0
    assert not await bots[0].send(within=1.0)
    desk.server.is_down = False
    await asyncio.sleep(120.0)
    assert desk.venue.total(clock.monotonic() - 60.0) >= 50
    assert desk.venue.windows_above() == []
    await desk.close()


@pytest.mark.asyncio
async def test_a_store_that_came_back_empty_gives_nothing_for_a_window(clock: VirtualClock) -> None:
    """Those who were there before may have sent everything, and it knows of none of them."""
    desk = await Desk(clock, "60/min").knows_the_past()
    old, other = desk.join(), desk.join()
    for bot in (old, other):
        bot.start(bot.send_all_the_time([1]))
    await asyncio.sleep(100.0)
    old.crash()
    desk.server.restart()
    began = clock.monotonic()
    late = desk.join()
    late.start(late.send_all_the_time([1]))
    await asyncio.sleep(60.0)
    assert desk.venue.by(late.name) == 0
    await asyncio.sleep(60.0)
    assert desk.venue.by(late.name) > 0
    assert clock.monotonic() - began <= 130.0
    assert desk.venue.windows_above() == []
    await desk.close()


@pytest.mark.asyncio
async def test_a_store_that_came_back_as_it_was_long_before_gives_nothing_for_a_window(
    clock: VirtualClock,
) -> None:
    """Its shares are those of then, and nobody in it seems to live: those who do may have sent everything since."""
    desk = await Desk(clock, "60/min").knows_the_past()
    old, other = desk.join(), desk.join()
    for bot in (old, other):
        await bot.send()
    await desk.server.inner.writes_down()
    await asyncio.sleep(100.0)
    for bot in (old, other):
        bot.start(bot.send_all_the_time([1]))
    await asyncio.sleep(20.0)
    await desk.server.goes_back()
    late = desk.join()
    late.start(late.send_all_the_time([1]))
    await asyncio.sleep(60.0)
    assert desk.venue.by(late.name) == 0
    await asyncio.sleep(60.0)
    assert desk.venue.by(late.name) > 0
    assert desk.venue.windows_above() == []
    await desk.close()


@pytest.mark.asyncio
async def test_what_a_dead_process_had_is_the_others_when_it_has_left_the_window(clock: VirtualClock) -> None:
    """Not before: what it sent still counts. One that ends in peace gives back at once what it has not used."""
    desk = await Desk(clock, "60/min").knows_the_past()
    dead, living = desk.join(), desk.join()
    dead.start(dead.send_all_the_time([1]))
    await asyncio.sleep(100.0)
    dead.crash()
    died = clock.monotonic()
    living.start(living.send_all_the_time([1]))
    await asyncio.sleep(150.0)
    assert desk.venue.windows_above() == []
    assert desk.venue.by("bot-1", clock.monotonic() - 60.0) >= 55
    assert clock.monotonic() - died == 150.0
    await desk.close()


@pytest.mark.asyncio
async def test_who_ends_in_peace_gives_back_what_it_has_not_used(clock: VirtualClock) -> None:
    """What it sent stays its own until it has left the window."""
    desk = await Desk(clock, "60/min").knows_the_past()
    first, second = desk.join(), desk.join()
    for _ in range(40):
        first.start(first.send_all_the_time([1], apart=100.0))
    await asyncio.sleep(30.0)
    assert desk.venue.by("bot-0") == 40
    await first.close()
    assert await second.send(20, within=1.0)
    assert not await second.send(1, within=1.0)
    await asyncio.sleep(20.0)  # the others have looked for the dead since
    assert not await second.send(1, within=1.0)
    await desk.close()


@pytest.mark.asyncio
async def test_a_longer_window_that_comes_later_is_kept_to_also_by_what_was_leased_before(
    clock: VirtualClock,
) -> None:
    """The lease has to outlast it. Of two rates for the same window the lower one decides."""
    desk = await Desk(clock, "10/s").knows_the_past()
    bots = [desk.join(), desk.join()]
    for bot in bots:
        bot.start(bot.send_all_the_time([1], apart=0.01))
    await asyncio.sleep(10.0)
    desk.venue.rates = parse_rates("rate_limit", ("10/s", "8/s", "100/2min"))
    desk.venue.sent.clear()
    for bot in bots:
        bot.limits.change({"rate_limit": desk.venue.rates})
    await asyncio.sleep(400.0)
    assert desk.venue.windows_above() == []
    assert desk.venue.total(clock.monotonic() - 240.0) >= 180
    await desk.close()


class HeldStore(LossyStore):
    """What is put in the record stays on its way as long as *held* says."""

    held: asyncio.Event | None = None

    async def put(self, key: str, value: bytes, **options: Any) -> int:
        if self.held is not None and key == "limits/venue":
            await self.held.wait()
        return await super().put(key, value, **options)


@pytest.mark.asyncio
async def test_what_was_on_its_way_when_the_store_lost_everything_takes_nothing(clock: VirtualClock) -> None:
    """Not even where a new record has the very version that the lost one had."""
    desk = await Desk(clock, "60/min").knows_the_past()
    store = HeldStore(desk.server, 0)
    bot = Bot("bot-0", clock, desk.venue, store, desk.rates, 0)
    desk.bots.append(bot)
    assert await bot.send()
    await asyncio.sleep(1.0)
    entry = await desk.server.inner.get("limits/venue")
    assert entry is not None
    store.held = asyncio.Event()
    for _ in range(30):
        bot.start(bot.send_all_the_time([1]))
    await asyncio.sleep(1.0)
    sent = len(desk.venue.sent)
    desk.server.restart()
    fresh = desk.server.inner
    earlier = await take_lease(fresh, "limits/venue/earlier/1", length=1000.0, clock=clock)
    assert earlier is not None
    while await fresh.put("something else", b"") < entry.version - 1:
        pass
    record = LimitRecord({earlier.name: LimitMember(0, {"weight/60": 60})})
    value = marked(record.to_bytes(), await fresh.era())
    assert await fresh.put("limits/venue", value) == entry.version
    store.held.set()
    await asyncio.sleep(30.0)
    assert len(desk.venue.sent) == sent
    await desk.close()


@pytest.mark.asyncio
async def test_services_that_are_shared_have_one_limit_and_calls_that_need_not_wait(
    clock: VirtualClock, tmp_path: Path
) -> None:
    """On a new store nothing is sent for a window, for it may have lost what was there; then all of the limit, and no more."""
    store, sent = MemoryStore(clock=clock), Venue(clock, parse_rates("rate_limit", "20/min"))
    bots: dict[str, ErrorRecoveryService] = {}
    for name in ("a", "b"):
        bots[name] = recovery = ErrorRecoveryService(
            tmp_path / name / "state", tmp_path / name / "errors", store=store, process_name=name, clock=clock
        )
        recovery.service("venue", shared=True, max_retries=0, rate_limit="20/min")
        await recovery.start()

    async def send(name: str) -> None:
        sent.receive(name, 1)

    async def try_often() -> int:
        before = len(sent.sent)
        for _ in range(40):
            for name, recovery in bots.items():
                try:
                    await recovery.service("venue", max_retries=0, deadline=0.1).call(send, name)
                except RateLimitedError:
                    pass
        return len(sent.sent) - before

    assert await try_often() == 0
    began = clock.monotonic()
    waited = bots["a"].service("venue", max_retries=0)
    await waited.call(send, "a")
    assert 60.0 <= clock.monotonic() - began <= 90.0
    assert await try_often() == 19
    health = bots["a"].get_health_status()
    (rate,) = health["services"]["venue"]["rate_limit"]
    assert health["shared"]["limits"] == {"venue": {"processes": 2, "is_certain": True, "mismatch": None}}
    assert rate["used"] == sent.by("a")
    assert 0 < rate["share"] < 20
    for recovery in bots.values():
        recovery.service("venue").configure(rate_limit="30/min")
    await asyncio.sleep(1.0)
    assert await try_often() == 10
    await asyncio.sleep(120.0)
    assert bots["b"].retire_service("venue")
    for recovery in bots.values():
        await recovery.aclose()


@pytest.mark.asyncio
async def test_of_two_limits_the_lower_one_holds_and_health_says_so(
    clock: VirtualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A deployment that reached only half of the fleet: nobody sends above the lower one, and nobody has to find out alone."""
    store, venue = MemoryStore(clock=clock), Venue(clock, parse_rates("rate_limit", "10/min"))
    await store.put("limits/venue", LimitRecord({}).to_bytes())
    bots: dict[str, ErrorRecoveryService] = {}
    for name, rate in (("high", "20/min"), ("low", "10/min")):
        bots[name] = recovery = ErrorRecoveryService(
            tmp_path / name / "state", tmp_path / name / "errors", store=store, process_name=name, clock=clock
        )
        recovery.service("venue", shared=True, max_retries=0, rate_limit=rate)
        await recovery.start()
    await asyncio.sleep(1.0)

    async def send(name: str, weight: int) -> None:
        venue.receive(name, weight)

    async def sends(name: str, weight: int = 1) -> bool:
        try:
            await (
                bots[name]
                .service("venue", max_retries=0, weight=weight, deadline=0.1)
                .call(send, name, weight)
            )
        except RateLimitedError:
            return False
        return True

    for _ in range(80):
        for name in bots:
            await sends(name)
        await asyncio.sleep(5.0)
    assert venue.windows_above() == []
    assert venue.total(clock.monotonic() - 120.0) >= 19
    with pytest.raises(RateLimitedError):
        await bots["high"].service("venue", max_retries=0, weight=15).call(send, "high", 15)
    (told, other) = [one.get_health_status() for one in bots.values()]
    assert told["overall_health"] == "degraded"
    assert told["shared"]["trouble"] == (
        "the shared rate limit of 'venue': 'low' was told 10 weight in 60 s and this process 20: "
        "the lower one holds until both are given the same"
    )
    assert (
        "'high' was told 20 weight in 60 s and this process 10"
        in other["shared"]["limits"]["venue"]["mismatch"]
    )
    assert [one.levelname for one in caplog.records] == ["WARNING", "WARNING"], "once for each of them"
    bots["low"].service("venue").configure(rate_limit="20/min")
    await asyncio.sleep(1.0)
    assert [one.get_health_status()["overall_health"] for one in bots.values()] == ["healthy"] * 2
    await asyncio.sleep(120.0)
    assert await sends("high", 15)
    bots["low"].service("venue").configure(rate_limit=("20/min", "5 orders/s"))
    await asyncio.sleep(1.0)
    differs = [one.get_health_status()["shared"]["limits"]["venue"]["mismatch"] for one in bots.values()]
    assert differs == [
        "'low' was told of 5 orders in 1 s, which this process does not know: give both the same rates",
        "'high' was not told of 5 orders in 1 s, which this process keeps to",
    ]
    for recovery in bots.values():
        await recovery.aclose()


EVENTS = st.lists(
    st.tuples(
        st.floats(0.0, 20.0),
        st.sampled_from(
            [
                "join",
                "crash",
                "close",
                "restart",
                "writes down",
                "goes back",
                "down",
                "up",
                "burst",
                "burst",
                "cut",
            ]
        ),
        st.integers(0, 5),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(
    rates=st.sampled_from([("5/10s",), ("20/10s", "40/40s"), ("3/s", "30/20s"), ("100/30s",)]),
    count=st.integers(1, 4),
    delay=st.sampled_from([0.0, 0.05, 0.8]),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    knows=st.booleans(),
    events=EVENTS,
)
def test_whatever_happens_no_window_is_above_the_limit(
    rates: tuple[str, ...],
    count: int,
    delay: float,
    loss: float,
    knows: bool,
    events: list[tuple[float, str, int]],
) -> None:
    """Late and lost answers, crashes, joins, a store that is down, comes back empty or as it was before: the venue's count decides."""
    clock = VirtualClock()

    async def history() -> None:
        desk = Desk(clock, *rates)
        if knows:
            await desk.knows_the_past()
        for _ in range(count):
            bot = desk.join(delay=delay, loss=loss)
            bot.start(bot.send_all_the_time([1, 2, 1, 3], apart=0.3))
        for after, what, number in [*events, (40.0, "burst", 0)]:
            await asyncio.sleep(after)
            bot = desk.bots[number % len(desk.bots)]
            if what == "join":
                newcomer = desk.join(delay=delay, loss=loss)
                newcomer.start(newcomer.send_all_the_time([2], apart=0.1))
            elif what == "crash":
                bot.crash()
            elif what == "close":
                await bot.close()
            elif what == "restart":
                desk.server.restart()
            elif what == "writes down":
                await desk.server.inner.writes_down()
            elif what == "goes back":
                await desk.server.goes_back()
            elif what in {"down", "up"}:
                desk.server.is_down = what == "down"
            elif what == "cut":
                desk.server.cut_off()
            else:
                for _ in range(20):
                    bot.start(bot.send_all_the_time([1], apart=5.0))
        await asyncio.sleep(60.0)
        assert desk.venue.windows_above() == []
        for one in desk.bots:
            one.crash()

    clock.run(history())
