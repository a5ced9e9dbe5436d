"""The storm simulator: the same storm for everybody, counted second by second."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from shockproof import RetryBudget
from shockproof.testing import Storm, StormResult, StormSecond, VirtualClock, compare_storms

NO_RETRIES: dict[str, Any] = {"max_retries": 0, "timeout": 1.0, "circuit_threshold": None}


def test_the_same_seed_gives_the_same_storm() -> None:
    """Down to the last latency; another seed gives another."""
    storm = Storm(seconds=5, outage=(2, 3))
    assert storm.run(NO_RETRIES) == storm.run(NO_RETRIES)
    assert storm.run(NO_RETRIES).seconds != Storm(seconds=5, outage=(2, 3), seed=8).run(NO_RETRIES).seconds


def test_policies_do_not_change_the_weather() -> None:
    """Jitter draws from a source of its own: with any options the same calls are begun at the same times."""
    storm = Storm(seconds=10, outage=(2, 6))
    offered = [
        [one.offered for one in storm.run(options).seconds]
        for options in (NO_RETRIES, {"jitter": "full", "timeout": 0.5})
    ]
    assert offered[0] == offered[1]


def test_a_quiet_storm_answers_everybody() -> None:
    """At 80 % of the capacity the queue is short: as M/M/1 says, 1 / (capacity - load) in the mean."""
    result = Storm(seconds=200, outage=(0, 0)).run({**NO_RETRIES, "timeout": None})

    assert result.goodput() == 1.0
    assert result.load() == pytest.approx(1.0, abs=0.01)
    latencies = [latency for one in result.seconds for latency in one.latencies]
    assert sum(latencies) / len(latencies) == pytest.approx(1 / 20, rel=0.25)
    assert result.recovered_after() == 0.0


def test_latency_on_the_way_adds_to_each_call() -> None:
    """Nobody is faster than the network."""
    result = Storm(seconds=10, outage=(0, 0), latency=0.25, load=10).run(NO_RETRIES)
    assert min(result.seconds[0].latencies) > 0.25


def test_a_server_without_capacity_refuses_connections() -> None:
    """For as long as the outage lasts, and at once."""
    result = Storm(seconds=10, outage=(3, 6), outage_capacity=0).run(NO_RETRIES)
    assert [round(one.answered / one.offered, 1) for one in result.seconds] == [1.0] * 3 + [0.0] * 3 + [
        1.0
    ] * 4


def test_each_client_has_policies_of_its_own() -> None:
    """One circuit each: the failures of one open no circuit of another."""
    made: list[dict[str, Any]] = []

    def options() -> dict[str, Any]:
        made.append({"retry_budget": RetryBudget(), "timeout": 1.0})
        return made[-1]

    Storm(seconds=2, outage=(0, 0), clients=7).run(options)
    assert len(made) == 7


def test_refused_calls_are_counted_apart() -> None:
    """A circuit that is open costs the server nothing."""
    result = Storm(seconds=20, outage=(2, 20), outage_capacity=0).run({"timeout": 1.0, "max_retries": 0})
    assert sum(one.attempts for one in result.seconds[3:]) == 0
    assert all(one.refused == one.offered for one in result.seconds[3:])


@pytest.mark.asyncio
async def test_a_storm_passes_on_a_running_loop_too(clock: VirtualClock) -> None:
    """In a coroutine test `simulate` is awaited; `run` says so."""
    storm = Storm(seconds=5, outage=(1, 2))
    with pytest.raises(RuntimeError, match=r"await storm\.simulate"):
        storm.run(NO_RETRIES)
    result = await storm.simulate(NO_RETRIES, name="here")
    assert result.seconds == pytest.approx(storm_in_its_own_loop(storm).seconds)


def storm_in_its_own_loop(storm: Storm) -> StormResult:
    import threading

    results: list[StormResult] = []
    thread = threading.Thread(target=lambda: results.append(storm.run(NO_RETRIES)))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.asyncio
async def test_a_real_loop_is_refused() -> None:
    """A minute of storm would take a minute."""
    with pytest.raises(RuntimeError, match="needs virtual time"):
        await Storm().simulate(NO_RETRIES)


def second(number: int, offered: int, answered: int, attempts: int, *latencies: float) -> StormSecond:
    return StormSecond(
        second=number, offered=offered, answered=answered, refused=0, attempts=attempts, latencies=latencies
    )


@pytest.fixture
def made() -> StormResult:
    """An outage in the second second, over at once, and a relapse in the fifth."""
    answered = [10, 0, 10, 10, 0, 10, 10, 10, 10, 10]
    return StormResult(
        name="made",
        storm=Storm(seconds=10, outage=(1, 2), load=10),
        seconds=tuple(
            second(i, 10, n, 20 - n, *[0.1 * (k + 1) for k in range(n)]) for i, n in enumerate(answered)
        ),
    )


def test_shares_and_quantiles_are_those_of_the_seconds_asked_for(made: StormResult) -> None:
    """The end is not part of it."""
    assert made.goodput(0, 2) == 0.5
    assert made.load(0, 2) == 1.5
    assert made.latency(0.5, 0, 1) == pytest.approx(0.5)
    assert made.latency(1.0, 0, 1) == pytest.approx(1.0)
    assert made.latency(0.01, 0, 1) == pytest.approx(0.1)
    assert math.isinf(made.latency(0.5, 1, 2))


def test_recovery_counts_from_where_it_lasts(made: StormResult) -> None:
    """A second that is well before a relapse is no recovery."""
    assert made.recovered_after(within=1) == 3.0
    assert made.recovered_after(1.0, within=3) == 3.0
    assert made.recovered_after(0.3, within=3) == 0.0
    assert StormResult(name="", storm=made.storm, seconds=made.seconds[:5]).recovered_after(within=1) is None


def test_the_picture_shows_the_outage_below_the_load(made: StormResult) -> None:
    """One column a second, of which each knows its full height."""
    assert str(made).splitlines() == [
        "made",
        "  outage     x",
        "  answered  █ ██ █████  (full height: 10/s)",
        "  requests  ▄█▄▄█▄▄▄▄▄  (full height: 20/s)",
    ]


def test_a_comparison_has_a_line_and_a_picture_for_each(storm: Callable[..., Storm]) -> None:
    """One reads the figures first and looks at the pictures then."""
    text = compare_storms(
        storm(seconds=8, outage=(2, 3)), {"alone": NO_RETRIES, "patient": {**NO_RETRIES, "timeout": None}}
    )
    assert "alone" in text.splitlines()[1]
    assert "patient" in text.splitlines()[2]
    assert text.count("full height") == 4


@pytest.mark.parametrize(
    ("parameters", "kind", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be more than 0"),
        ({"load": "80"}, TypeError, "load must be a number"),
        ({"clients": 0}, ValueError, "clients must be a whole number of at least 1"),
        ({"outage": 10}, TypeError, "outage must be a pair"),
        ({"outage": (20, 10)}, ValueError, "within seconds=60"),
        ({"outage": (10, 100)}, ValueError, "within seconds=60"),
        ({"outage_capacity": -1}, ValueError, "outage_capacity must be a number of at least 0"),
    ],
)
def test_a_storm_that_makes_no_sense_is_refused(parameters: Any, kind: type[Exception], message: str) -> None:
    """By the name of what is wrong."""
    with pytest.raises(kind, match=message):
        Storm(**parameters)


def test_a_budget_for_all_clients_and_all_runs_is_refused() -> None:
    """The second run would begin with what the first has left."""
    with pytest.raises(TypeError, match="give a function"):
        Storm().run({"retry_budget": RetryBudget()})


def test_questions_that_make_no_sense_are_refused(made: StormResult) -> None:
    """By their value."""
    with pytest.raises(ValueError, match="quantile must be more than 0"):
        made.latency(99)
    with pytest.raises(ValueError, match="no second from 50"):
        made.goodput(50)
