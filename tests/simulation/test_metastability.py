"""
A storm that outlives its cause: does the load come down again when the trigger is over?

One server, 100 calls a second, first in first out; it works off what nobody waits for any more. Clients
ask 80 times a second and wait one second. For ten seconds the server has half its capacity. Naive
retries then keep it overloaded for ever ("Metastable Failures in the Wild", OSDI 2022). The page
docs/how-to/storms.md shows the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shockproof import RetryBudget
from shockproof.testing import Storm

STORM = Storm(capacity=100, load=80, outage=(10, 20), outage_capacity=50, seconds=60)
WITHIN = 30

NAIVE: dict[str, Any] = {"timeout": 1.0, "jitter": "full", "circuit_threshold": None}
DEFAULTS: dict[str, Any] = {"timeout": 1.0}


def preset() -> dict[str, Any]:
    """The one that docs/how-to/storms.md recommends."""
    return {
        "timeout": 1.0,
        "jitter": "full",
        "failure_rate": 0.5,
        "circuit_threshold": None,
        "circuit_timeout": 5.0,
        "retry_budget": RetryBudget(),
    }


def storms(*seeds: int, seconds: int = 60) -> list[Any]:
    """The same storm with other dice, and with one program or twenty at the other end."""
    return [
        pytest.param(
            replace(STORM, seconds=seconds, seed=seed, clients=clients), id=f"{seed}, {clients} clients"
        )
        for seed in seeds
        for clients in (1, 20)
    ]


@pytest.mark.parametrize("storm", storms(7, seconds=40))
def test_naive_retries_keep_the_server_down_for_ever(storm: Storm) -> None:
    """Long after the trigger nobody is answered, and several times the load arrives."""
    result = storm.run(NAIVE)

    assert result.goodput(30) < 0.05
    assert result.load(30) > 3
    assert result.recovered_after() is None


@pytest.mark.parametrize("storm", storms(7, 8, 9))
def test_the_preset_recovers_when_the_trigger_is_over(storm: Storm) -> None:
    """A breaker by rate and a budget funded by successes: well within thirty seconds, and never above 1.3."""
    result = storm.run(preset)

    recovered = result.recovered_after(0.95)
    assert recovered is not None
    assert recovered <= WITHIN
    assert result.goodput(20 + WITHIN) > 0.95
    # In each stretch of five seconds from the trigger's end on: that is what lets the server come back.
    assert max(result.load(begin, begin + 5) for begin in range(20, 56)) <= 1.3


def test_the_preset_of_one_program_holds_its_load_down_during_the_trigger_too() -> None:
    """Its budget is what it may ask for on top; each of twenty programs has one of its own."""
    loads = [STORM.run(preset).load(begin, begin + 5) for begin in (10, 15)]

    assert max(loads) <= 1.3


def test_the_seeds_defaults_end_the_storm_and_rest_for_a_minute() -> None:
    """Five failures in a row open the circuit: the server is left alone, and nobody is served meanwhile."""
    result = STORM.run(DEFAULTS)

    assert result.goodput(50) == 0.0
    assert result.load(50) == 0.0


def test_the_seeds_defaults_serve_again_after_their_minute() -> None:
    """The probe finds the server well, and the storm does not come back."""
    result = replace(STORM, seconds=100).run(DEFAULTS)

    assert result.goodput(90) > 0.95
    assert result.load(90) < 1.3
    recovered = result.recovered_after()
    assert recovered is not None
    assert 40 < recovered < 60


@pytest.mark.parametrize("storm", storms(7, 8))
def test_adaptive_retries_stop_by_themselves(storm: Storm) -> None:
    """While nothing succeeds nothing is repeated: what reaches the server is what was offered."""
    result = storm.run({"timeout": 1.0, "jitter": "full", "circuit_threshold": None, "adaptive": True})

    assert result.load(30) < 1.05


@pytest.mark.parametrize("storm", storms(7, 8))
def test_adaptive_retries_behind_a_breaker_recover(storm: Storm) -> None:
    """The breaker lets what has piled up drain, and the budget keeps the retries from piling it up anew."""
    result = storm.run(
        {
            "timeout": 1.0,
            "jitter": "full",
            "failure_rate": 0.5,
            "circuit_threshold": None,
            "circuit_timeout": 5.0,
            "adaptive": True,
        }
    )

    recovered = result.recovered_after()
    assert recovered is not None
    assert recovered <= WITHIN
    assert result.goodput(30) > 0.95
    assert result.load(30) < 1.3
