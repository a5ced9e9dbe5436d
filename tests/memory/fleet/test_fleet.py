"""Processes that share what they know of a service: several recovery services on one store and one virtual clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import (
    CallInfo,
    CircuitOpenError,
    ErrorRecoveryService,
    Handle,
    MemoryStore,
    Outcome,
    StateStore,
    Verdict,
)
from shockproof.testing import VirtualClock
from tests.memory.fleet.weather import Weather

pytestmark = pytest.mark.asyncio

REFUSED = "refused"


class TurnedAwayError(ConnectionError):
    """The venue says for how long it wants to be left alone."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"come back in {wait:g} s")
        self.wait = wait


def told_to_wait(error: object, call: CallInfo) -> Verdict | None:
    return Verdict(Outcome.FAILURE, retry_after=error.wait) if isinstance(error, TurnedAwayError) else None


class Bot:
    """One process: it calls the venue, which does for it as it is told."""

    def __init__(self, recovery: ErrorRecoveryService, **options: Any) -> None:
        self.recovery = recovery
        self.venue: Handle = recovery.service(
            "venue", shared=True, max_retries=0, circuit_threshold=3, circuit_timeout=30.0, **options
        )
        self.is_down = False
        self.wait: float | None = None
        self.sent = 0

    async def call(self) -> str:
        async def send() -> str:
            self.sent += 1
            if self.is_down:
                raise ConnectionError("reset") if self.wait is None else TurnedAwayError(self.wait)
            return "fine"

        try:
            return await self.venue.call(send)
        except CircuitOpenError:
            return REFUSED
        except ConnectionError:
            return "failed"

    async def opens(self) -> None:
        self.is_down = True
        assert [await self.call() for _ in range(3)] == ["failed"] * 3

    @property
    def circuit(self) -> str:
        return str(self.recovery.get_health_status()["circuit_breakers"]["venue"])


@pytest.fixture
def store(clock: VirtualClock) -> Weather:
    return Weather(MemoryStore(clock=clock))


def recovery_of(
    directory: Path, name: str, store: StateStore, clock: VirtualClock, machine: str
) -> ErrorRecoveryService:
    return ErrorRecoveryService(
        directory / name / "state", directory / name / "errors", store=store, process_name=name,
        machine_name=machine, clock=clock, rng=random.Random(name),
    )  # fmt: skip


Joins = Callable[..., Awaitable[Bot]]


@pytest_asyncio.fixture
async def joins(clock: VirtualClock, store: Weather, tmp_path: Path) -> AsyncIterator[Joins]:
    """Another process of the fleet, which has looked at the store when it is given."""
    bots: list[Bot] = []

    async def join(**options: Any) -> Bot:
        name = f"bot-{len(bots)}"
        machine = options.pop("machine", f"machine of {name}")
        recovery = recovery_of(tmp_path, name, store, clock, machine)
        bots.append(Bot(recovery, **options))
        await recovery.start()
        return bots[-1]

    yield join
    for bot in bots:
        await bot.recovery.aclose()


async def settled() -> None:
    """Everything that is on its way has arrived; no time has passed."""
    for _ in range(60):
        await asyncio.sleep(0)


def numbered(count: int) -> Iterator[int]:
    return iter(range(count))


async def fleet_of(joins: Joins, count: int, **options: Any) -> list[Bot]:
    return [await joins(**options) for _ in numbered(count)]


async def test_one_process_that_finds_the_venue_down_opens_nobody_elses_circuit(joins: Joins) -> None:
    """It may be its own network. The others call on, as long as they are answered."""
    bad, *good = await fleet_of(joins, 4)
    for _ in range(5):
        await bad.opens()
        await settled()
        assert [await bot.call() for bot in good] == ["fine"] * 3
        await asyncio.sleep(31.0)
        assert await bad.call() in {"failed", REFUSED}
        await settled()
        await asyncio.sleep(31.0)
        bad.recovery.reset_circuit_breaker("venue")
    assert all(bot.circuit == "closed" for bot in good)


async def test_where_one_has_found_it_down_two_own_failures_are_enough(joins: Joins) -> None:
    """What two see is an outage: the second need not fail as often as the first."""
    first, second, third = await fleet_of(joins, 3)
    await first.opens()
    await settled()
    second.is_down = True
    assert [await second.call() for _ in range(3)] == ["failed", "failed", REFUSED]
    await settled()
    assert (third.sent, await third.call()) == (0, REFUSED), "and two votes are the quorum"


async def test_who_was_answered_since_opens_by_its_usual_number_and_seconds_the_suspicion_then(
    joins: Joins,
) -> None:
    """What one machine sees that is bad for long makes nobody else's two failures an outage, and three are one as ever."""
    first, second, third = await fleet_of(joins, 3)
    await first.opens()
    await settled()
    assert await second.call() == "fine"
    second.is_down = True
    assert [await second.call() for _ in range(4)] == ["failed"] * 3 + [REFUSED]
    await settled()
    assert (third.sent, await third.call()) == (0, REFUSED)


async def test_another_machine_that_finds_it_down_is_a_suspicion_anew(joins: Joins) -> None:
    """What was well before that says nothing about it; and what one machine tells again is no news."""
    first, second, third = await fleet_of(joins, 3, circuit_quorum=3)
    await first.opens()
    await settled()
    assert await third.call() == "fine"
    await asyncio.sleep(31.0)
    assert await first.call() == REFUSED  # it has no lease yet
    await settled()
    assert await first.call() == "failed", "it votes once more"
    await settled()
    third.is_down = True
    assert [await third.call() for _ in range(2)] == ["failed"] * 2
    third.is_down = False
    assert await third.call() == "fine"
    second.is_down = True
    assert [await second.call() for _ in range(3)] == ["failed", "failed", REFUSED]
    await settled()
    third.is_down = True
    assert [await third.call() for _ in range(3)] == ["failed", "failed", REFUSED]


async def test_a_quorum_opens_all_at_once_and_tells_them_why(joins: Joins) -> None:
    """Nobody has to find out for itself what the fleet knows."""
    bots = await fleet_of(joins, 5)
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    assert [await bot.call() for bot in bots] == [REFUSED] * 5
    assert [bot.sent for bot in bots] == [3, 3, 0, 0, 0]
    told = bots[4].recovery.get_health_status()["shared"]
    assert told["open_for_all"] == ["venue"]
    assert told["votes"] == {"venue": ["bot-0", "bot-1"]}
    with pytest.raises(CircuitOpenError) as refused:
        await bots[4].venue.call(bots[4].call)
    assert refused.value.last_error == "ConnectionError: reset"
    assert refused.value.retry_after == pytest.approx(30.0)


async def test_a_bad_machine_opens_its_own_circuits_and_no_other_machines(joins: Joins) -> None:
    """Its way to the venue is bad, however many processes it has. One probe there is for all of them, as in the whole fleet."""
    bad, good = [await joins(machine="bad") for _ in range(4)], await fleet_of(joins, 2)
    for bot in bad[:2]:
        await bot.opens()
    await settled()
    assert [await bot.call() for bot in bad] == [REFUSED] * 4
    assert [bot.sent for bot in bad] == [3, 3, 0, 0]
    for _ in range(3):
        assert [await bot.call() for bot in good] == ["fine"] * 2
    told = [bot.recovery.get_health_status()["shared"] for bot in (bad[3], good[0])]
    assert [(one["open_for_all"], one["open_for_machine"]) for one in told] == [([], ["venue"]), ([], [])]
    assert told[1]["votes"] == {"venue": ["bot-0", "bot-1"]}
    assert told[1]["voting_machines"] == {"venue": ["bad"]}
    for bot in bad:
        bot.is_down = False
    await asyncio.sleep(31.0)
    assert "fine" in [await bot.call() for bot in bad], "one of them has the lease"
    await settled()
    assert [bot.circuit for bot in bad] == ["closed"] * 4
    assert good[0].recovery.get_health_status()["shared"]["votes"] == {}


async def test_a_bad_machine_does_not_get_the_probe_of_all_again_and_again(joins: Joins) -> None:
    """Its failure is known: another one is asked, and a machine that was wrong about an outage is well after one round."""
    bad, good = [await joins(machine="bad") for _ in range(8)], await fleet_of(joins, 2)
    for bot in bad:
        bot.is_down = True
    for bot in bad[:2]:
        await bot.opens()
    await settled()
    good[0].is_down = True
    assert [await good[0].call() for _ in range(2)] == ["failed"] * 2
    good[0].is_down = False
    await settled()
    assert [bot.circuit for bot in bad + good] == ["open"] * 10
    for _ in range(40):
        await asyncio.sleep(1.0)
        for bot in bad + good:
            await bot.call()
        await settled()
    assert [await bot.call() for bot in good] == ["fine"] * 2
    assert good[0].recovery.get_health_status()["shared"]["open_for_all"] == []


async def test_what_one_machine_was_told_to_wait_keeps_the_others_no_longer_than_any_outage(
    joins: Joins,
) -> None:
    """A ban of one address, beside trouble elsewhere that is over soon; and whoever was told so waits."""
    banned, *good = await fleet_of(joins, 3, classify=told_to_wait)
    await good[0].opens()
    await settled()
    banned.is_down, banned.wait = True, 3600.0
    assert [await banned.call() for _ in range(2)] == ["failed", REFUSED]
    await settled()
    assert [bot.circuit for bot in good] == ["open"] * 2
    good[0].is_down = False
    answers = list[str]()
    for _ in range(60):
        await asyncio.sleep(1.0)
        answers.append(await good[1].call())
        assert await banned.call() == REFUSED
        await settled()
    assert answers[-20:] == ["fine"] * 20
    assert banned.sent == 1


async def test_what_two_machines_were_told_to_wait_all_wait(joins: Joins) -> None:
    """It is the account that has to."""
    bots = await fleet_of(joins, 3, classify=told_to_wait)
    for bot in bots[:2]:
        bot.is_down, bot.wait = True, 600.0
        assert await bot.call() == "failed"
        await settled()
    for _ in range(59):
        await asyncio.sleep(10.0)
        assert await bots[2].call() == REFUSED
    assert bots[2].sent == 0


async def test_a_quorum_of_one_follows_the_first(joins: Joins) -> None:
    """Who trusts every process of his may say so."""
    first, second = await fleet_of(joins, 2, circuit_quorum=1)
    await first.opens()
    await settled()
    assert await second.call() == REFUSED


async def test_the_fleet_has_one_probe_and_its_success_closes_all(joins: Joins) -> None:
    """A venue that comes back is not run over; and who did not probe need not wait."""
    bots = await fleet_of(joins, 5)
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    assert [await bot.call() for bot in bots] == [REFUSED] * 5
    in_flight, most, answered = 0, 0, asyncio.Event()

    async def probe() -> str:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await answered.wait()
        in_flight -= 1
        return "fine"

    await asyncio.sleep(30.0)
    calls = [asyncio.ensure_future(bot.venue.call(probe)) for bot in bots for _ in range(3)]
    await asyncio.sleep(5.0)
    calls += [asyncio.ensure_future(bot.venue.call(probe)) for bot in bots for _ in range(3)]
    await settled()
    assert [bot.circuit for bot in bots] == ["half-open"] * 5
    assert (in_flight, most) == (1, 1)
    answered.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results.count("fine") == 1
    assert all(isinstance(one, CircuitOpenError) for one in results if one != "fine")
    await settled()
    for bot in bots:
        bot.is_down = False
    assert [await bot.call() for bot in bots] == ["fine"] * 5


async def test_a_probe_that_fails_opens_all_for_another_time(joins: Joins) -> None:
    """One process has asked for all: the others do not ask again."""
    bots = await fleet_of(joins, 4)
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    for bot in bots:
        bot.is_down = True
        assert await bot.call() == REFUSED
    before = sum(bot.sent for bot in bots)
    for round_ in range(1, 4):
        await asyncio.sleep(30.0)
        for _ in range(3):
            for bot in bots:
                await bot.call()
            await settled()
        assert sum(bot.sent for bot in bots) - before == round_
        assert [bot.circuit for bot in bots] == ["open"] * 4


async def test_who_has_the_lease_and_no_call_gives_way_to_one_that_has_calls(joins: Joins) -> None:
    """However long it would have it: another one that has refused a second call says so."""
    first, idle, busy = await fleet_of(joins, 3)
    for bot in (first, idle):
        bot.is_down = True
        while await bot.call() != REFUSED:
            await settled()
        await settled()
    assert await idle.call() == REFUSED  # it will want to probe, and fetches the lease ahead
    await asyncio.sleep(31.0)
    assert await busy.call() == REFUSED
    results = []
    for _ in range(12):
        await asyncio.sleep(1.0)
        results.append(await busy.call())
    assert "fine" in results
    assert idle.circuit == "closed"


@pytest.mark.parametrize("timeout", [2.0, None])
@pytest.mark.parametrize("every", [15.0, 50.0, 300.0])
async def test_who_calls_more_rarely_than_a_lease_lasts_probes_with_its_next_call(
    joins: Joins, every: float, timeout: float | None
) -> None:
    """As long as nobody else wants the lease it stays where a call was refused, and the circuit is not open for ever."""
    rare, idle = await fleet_of(joins, 2, timeout=timeout)
    for bot in (idle, rare):
        await bot.opens()
    rare.is_down = False
    await asyncio.sleep(70.0)
    answers = [await rare.call()]
    for _ in range(2):
        await asyncio.sleep(every)
        answers.append(await rare.call())
    assert answers[1:] == ["fine"] * 2
    assert idle.circuit == "closed"


async def test_who_calls_rarely_does_not_take_the_lease_from_another_one_that_does(joins: Joins) -> None:
    """Or neither would ever have it with a call: who has refused one call alone waits for the other's."""
    bots = await fleet_of(joins, 2, timeout=2.0)
    for bot in bots:
        await bot.opens()
        bot.is_down = False
    answers = []
    await asyncio.sleep(40.0)
    for _ in range(2):
        for bot in bots:
            answers.append(await bot.call())
            await asyncio.sleep(150.0)
    assert answers == [REFUSED, REFUSED, "fine", "fine"]


async def test_a_bad_machine_that_calls_all_the_time_leaves_the_probe_to_good_ones_that_call_rarely(
    joins: Joins,
) -> None:
    """It has had its say, and stands back as long as another one has the lease, though not for ever."""
    bad, good = await joins(machine="bad"), await joins()
    for bot in (bad, good):
        bot.is_down = True
        while await bot.call() != REFUSED:
            await settled()
        await settled()
    good.is_down = False
    sent, answers = bad.sent, list[str]()
    for second in range(300):
        await asyncio.sleep(1.0)
        await bad.call()
        if second % 50 == 10:
            answers.append(await good.call())
        await settled()
    assert bad.sent > sent
    assert answers[-2:] == ["fine"] * 2


async def test_a_lease_that_was_fetched_ahead_is_given_back_where_the_circuit_is_held_open(
    joins: Joins, store: Weather
) -> None:
    """Nobody probes there any more."""
    held, other = await fleet_of(joins, 2)
    for bot in (held, other):
        await bot.opens()
    await settled()
    assert await held.call() == REFUSED
    await asyncio.sleep(31.0)
    assert await store.inner.get("lease/probe of venue") is not None
    held.recovery.set_circuit_mode("venue", "forced-open", reason="by hand")
    await asyncio.sleep(3.0)
    assert await store.inner.get("lease/probe of venue") is None


async def test_who_probes_when_the_store_has_forgotten_the_outage_closes_for_all_the_same(
    joins: Joins, store: Weather
) -> None:
    """Nobody called for minutes, or whoever had the lease did not use it: the others need no probe of their own."""
    bots = await fleet_of(joins, 4)
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    assert [bot.circuit for bot in bots] == ["open"] * 4
    await asyncio.sleep(600.0)
    assert await store.inner.get("circuits/venue") is None
    bots[0].is_down = False
    assert await bots[0].call() == REFUSED  # it has no lease yet
    await settled()
    assert await bots[0].call() == "fine"
    await settled()
    assert [bot.circuit for bot in bots] == ["closed"] * 4


async def test_the_circuit_closes_again_where_a_probe_may_take_longer_than_it_was_open(joins: Joins) -> None:
    """The lease that was fetched ahead is too short for it, and renewing it would never make it longer."""
    bots = await fleet_of(joins, 3, timeout=100.0)
    for bot in bots[:2]:
        await bot.opens()
    for bot in bots:
        bot.is_down = False
    for _ in range(70):  # they call all the time, also while the lease is fetched
        await asyncio.sleep(1.0)
        for bot in bots:
            await bot.call()
    assert [bot.circuit for bot in bots] == ["closed"] * 3


async def test_a_process_that_joins_learns_what_the_fleet_knows_and_resets_nothing(joins: Joins) -> None:
    """A restart is no reason to call a venue that is down."""
    bots = await fleet_of(joins, 2)
    for bot in bots:
        await bot.opens()
    await settled()
    late = await joins()
    assert (await late.call(), late.sent) == (REFUSED, 0)
    assert [bot.circuit for bot in bots] == ["open", "open"]
    suspicious, venue = await joins(), late.recovery.get_health_status()["shared"]["votes"]
    assert venue == {"venue": ["bot-0", "bot-1"]}
    assert suspicious.circuit == "open"


async def test_a_reset_by_hand_closes_the_circuit_of_all(joins: Joins) -> None:
    """Whoever knows better tells one, and has told all."""
    bots = await fleet_of(joins, 3)
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    bots[2].recovery.reset_circuit_breaker("venue")
    await settled()
    assert [bot.circuit for bot in bots] == ["closed"] * 3


async def test_after_a_week_nothing_is_left_of_a_fleet_that_ended_with_an_open_circuit(
    joins: Joins, store: Weather
) -> None:
    """What is long over keeps nobody waiting."""
    bots = await fleet_of(joins, 2)
    for bot in bots:
        await bot.opens()
    await settled()
    for bot in bots:
        await bot.recovery.aclose()
    await asyncio.sleep(7 * 86_400.0)
    late = await joins()
    assert await late.call() == "fine"


@pytest.mark.parametrize("kind", ["away", "hangs", "broken"])
async def test_calls_go_on_while_the_store_is_away_and_what_was_found_is_told_when_it_is_back(
    joins: Joins, store: Weather, clock: VirtualClock, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No call waits for it or fails by it; each decides by itself, health says so, and then they are one again."""
    bots = await fleet_of(joins, 3)
    store.turn(kind)
    await asyncio.sleep(20.0)
    assert bots[0].recovery.get_health_status()["shared"]["state"] == "away"
    began = clock.monotonic()
    assert [await bot.call() for bot in bots] == ["fine"] * 3
    for bot in bots[:2]:
        await bot.opens()
    assert clock.monotonic() == began
    assert await bots[2].call() == "fine"
    await asyncio.sleep(30.0)
    assert await bots[0].call() == "failed", "each has its own probe"
    assert await bots[1].call() == "failed"
    store.turn("fair")
    await asyncio.sleep(10.0)
    assert bots[0].recovery.get_health_status()["shared"]["state"] == "reachable"
    assert await bots[2].call() == REFUSED
    assert "each process decides by itself" in caplog.text


async def test_a_store_that_is_full_is_told_of_once_and_its_end_once(
    joins: Joins, store: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers whoever reads. So an outage is over when something was put again, however often somebody has tried until then."""
    caplog.set_level("INFO")
    bots = await fleet_of(joins, 3)
    store.turn("full")
    for _ in range(10):
        await bots[0].opens()
        await asyncio.sleep(31.0)
        bots[0].is_down = False
        assert await bots[0].call() == "fine", "each has its own probes"
        assert await bots[1].call() == "fine"
        told = bots[0].recovery.get_health_status()["shared"]
        assert (told["state"], told["last_error"]) == ("away", "it is full")
        assert told["trouble"] == "the store is away, each process decides by itself: it is full"
        await asyncio.sleep(60.0)
    await bots[0].opens()
    store.turn("fair")
    await asyncio.sleep(10.0)
    assert bots[0].recovery.get_health_status()["shared"]["state"] == "reachable"
    bots[1].is_down = True
    assert [await bots[1].call() for _ in range(2)] == ["failed"] * 2
    await settled()
    assert await bots[2].call() == REFUSED, "what was found out meanwhile was told"
    assert [
        one.message.split(",")[0].split(":")[0]
        for one in caplog.records
        if "store of the fleet" in one.message
    ] == [
        "the store of the fleet is away",
        "the store of the fleet is back",
    ]


async def test_a_store_that_takes_nothing_for_a_rate_limit_is_away(
    joins: Joins, store: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    """Although nobody's circuit has anything to tell: whatever could not be put, it is told once, for all that is shared."""
    bots = await fleet_of(joins, 2, rate_limit="100/s")
    await asyncio.sleep(60.0)
    assert await bots[0].call() == "fine"
    store.turn("full")
    for _ in range(100):
        await asyncio.gather(*(bots[0].call() for _ in range(20)))
        await asyncio.sleep(1.0)
    told = bots[0].recovery.get_health_status()["shared"]
    assert (told["state"], told["last_error"]) == ("away", "it is full")
    assert sum("is away" in one.message for one in caplog.records) == len(
        [bot for bot in bots if bot.recovery.get_health_status()["shared"]["state"] == "away"]
    )


async def test_a_process_that_cannot_reach_the_store_at_its_start_starts_all_the_same(
    joins: Joins, store: Weather
) -> None:
    """It waits for one question, and then goes on alone."""
    store.turn("hangs")
    bot = await joins()
    assert await bot.call() == "fine"
    told = bot.recovery.get_health_status()["shared"]
    assert (told["state"], told["last_error"]) == ("away", "has not answered within 1 s")


async def test_what_stands_in_the_store_and_is_no_circuit_is_passed_over(
    joins: Joins, store: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    """Nonsense opens nothing, and is overwritten by what is true."""
    bots = await fleet_of(joins, 3)
    for nonsense in (
        b"\xff\x00",
        b"[]",
        b'{"is_open": true, "votes": 7}',
        b'{"is_open": true, "votes": [], "circuit": 7}',
    ):
        await store.put("circuits/venue", nonsense)
        await settled()
        assert [await bot.call() for bot in bots] == ["fine"] * 3
    await asyncio.sleep(600.0)
    told = [one for one in caplog.records if "is no circuit" in one.message]
    assert len(told) == 4 * 3, "once for each process, however often it looks"
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    assert bots[2].circuit == "open"


async def test_a_store_that_has_lost_everything_learns_again_who_has_opened(
    joins: Joins, store: Weather
) -> None:
    """What each has found for itself outlives what they share it in."""
    bots = await fleet_of(joins, 3)
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    store.turn("away")
    await asyncio.sleep(1.0)
    await store.loses_everything()
    late = await joins()
    store.turn("fair")
    await asyncio.sleep(10.0)
    assert late.circuit == "open"


async def test_sharing_needs_a_store(tmp_path: Path) -> None:
    """It would share with nobody, and nobody would notice."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    with pytest.raises(ValueError, match="service 'venue': shared=True needs what is shared in"):
        recovery.service("venue", shared=True)
    recovery.service("venue", shared=False)


async def test_a_store_is_asked_once_in_a_while_when_nothing_happens(joins: Joins, store: Weather) -> None:
    """What a healthy fleet costs the store does not grow with its calls."""
    bots = await fleet_of(joins, 2)
    before = store.steps
    for _ in range(600):
        for bot in bots:
            await bot.call()
        await asyncio.sleep(1.0)
    assert store.steps - before <= 2 * 600 / 7.5 + 2


async def test_a_retired_service_shares_nothing_any_more(joins: Joins) -> None:
    """It is forgotten in the fleet as well."""
    bots = await fleet_of(joins, 3)
    assert bots[2].recovery.retire_service("venue")
    for bot in bots[:2]:
        await bot.opens()
    await settled()
    assert await bots[2].call() == "fine"
