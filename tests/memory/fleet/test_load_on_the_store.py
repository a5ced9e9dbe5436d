"""How the load on a store grows with the processes: the simulation of benchmarks/fleet.py, which goes to 10,000, in small."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

MORE = 1.25
"""By how much more than its processes the load of a fleet may grow: some of it comes in steps."""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The simulation, a module of the benchmarks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fleet.load")


def test_circuits_cost_the_store_no_more_than_the_processes_are_more_and_the_venue_nothing(load: Any) -> None:
    """Eight times as many: so many more steps in calm and in the worst second, and not one more call of a venue that is down."""
    few, many = load.an_outage(10), load.an_outage(80)
    assert (few.closed, many.closed) == (10, 80)
    assert (few.met, many.met) == (8, 8)
    assert few.peak > few.calm > 0
    assert many.calm <= MORE * 8 * few.calm
    assert many.peak <= MORE * 8 * few.peak
    assert many.more <= MORE * 8 * few.more


def test_a_rate_limit_of_which_there_is_enough_costs_steps_by_process_and_bytes_by_its_square(
    load: Any,
) -> None:
    """Each reads a record in which each has its line; and the limit is kept, and used."""
    few, many = load.a_limit(20, 0.5), load.a_limit(80, 0.5)
    assert few.total > 0
    assert many.total <= MORE * 4 * few.total
    assert many.bytes <= MORE * 16 * few.bytes
    assert many.record <= MORE * 4 * few.record
    assert all(one.sent > 0.9 and one.most <= 1.0 for one in (few, many))


def test_a_rate_limit_of_which_all_want_more_stays_within_it_at_a_cost_by_the_square(load: Any) -> None:
    """Who gives something back is news for all the others."""
    few, many = load.a_limit(5, 2.0), load.a_limit(10, 2.0)
    assert few.total > 0
    assert many.total <= 2 * 4 * few.total, "which depends on who is first, too"
    assert all(one.sent > 0.7 and one.most <= 1.0 for one in (few, many))
