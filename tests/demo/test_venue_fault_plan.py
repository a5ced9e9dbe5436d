"""The fault plan: readable, complete, and the same for the same seed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.demo.venue.fault_injector import FaultInjector
from shockproof.demo.venue.fault_plan import (
    BOOKED_WITHIN,
    FAULT_LEVELS,
    Endpoint,
    FaultKind,
    FaultPlan,
    FaultWindow,
    parse_faults,
)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    """Venue and trader build it apart and must agree."""
    assert FaultPlan.make("normal", seed=7) == FaultPlan.make("normal", seed=7)
    assert FaultPlan.make("normal", seed=7).windows != FaultPlan.make("normal", seed=8).windows


@pytest.mark.parametrize("level", FAULT_LEVELS)
def test_a_level_contains_exactly_its_kinds(level: str) -> None:
    """What a level promises is in the plan, and nothing else."""
    plan = FaultPlan.make(level)
    assert {window.kind for window in plan.windows} == FAULT_LEVELS[level]


def test_a_list_of_kinds_gives_these_kinds() -> None:
    """For trying one thing at a time."""
    plan = FaultPlan.make("late, cut_after")
    assert {window.kind for window in plan.windows} == {FaultKind.LATE, FaultKind.CUT_AFTER}


@pytest.mark.parametrize("faults", ["", "heavyy", "late,", "late,none"])
def test_an_unknown_kind_is_refused_with_what_is_allowed(faults: str) -> None:
    """The complaint names the word, the levels and the kinds."""
    with pytest.raises(
        ValueError, match=r"faults must be one of none, light, normal, heavy, all.*cut_after.*got"
    ):
        parse_faults(faults)


@pytest.mark.parametrize("name", ["seconds", "client_timeout"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_length_that_is_none_is_refused_by_name(name: str, value: float) -> None:
    """A session needs a length, and so does patience."""
    with pytest.raises(ValueError, match=f"{name} must be a number of seconds greater than 0, got"):
        FaultPlan.make(**{name: value})


@given(
    level=st.sampled_from(sorted(FAULT_LEVELS)),
    seconds=st.floats(1, 4000),
    seed=st.integers(0, 10**9),
)
def test_every_plan_begins_and_ends_quietly_and_survives_json(level: str, seconds: float, seed: int) -> None:
    """Time to load markets at first, time to settle at last, and a plan that can be sent."""
    plan = FaultPlan.make(level, seconds=seconds, seed=seed)
    assert all(window.start > 0.05 * min(seconds, 60) for window in plan.windows)
    assert all(window.end <= seconds - 0.1 * min(seconds, 60) for window in plan.windows)
    assert all(0 < window.rate <= 1 for window in plan.windows)
    assert FaultPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("seconds", [10, 30, 60, 600])
def test_an_outage_lasts_long_enough_to_open_a_circuit_and_not_for_ever(seconds: int) -> None:
    """At least three seconds and at most ten, whatever the session's length."""
    for window in FaultPlan.make("normal", seconds=seconds).of_kind(FaultKind.OUTAGE):
        assert 3.0 <= window.end - window.start <= 10.0


@pytest.mark.parametrize("seconds", [10, 30, 80, 600])
def test_the_outage_leaves_the_uncertain_outcomes_their_time(seconds: int) -> None:
    """Whatever its length, it is over before the first answer that hides a booking."""
    plan = FaultPlan.make("normal", seconds=seconds, seed=3)
    outages, errors = plan.of_kind(FaultKind.OUTAGE), plan.of_kind(FaultKind.ERROR_AFTER)
    assert len(outages) == len(errors)
    assert all(outage.end < error.start for outage, error in zip(outages, errors, strict=True))


def test_the_second_source_fails_only_while_the_exchange_is_away() -> None:
    """So that the third source, the cache, is needed once."""
    plan = FaultPlan.make("normal")
    outage, reference = plan.of_kind(FaultKind.OUTAGE)[0], plan.of_kind(FaultKind.REFERENCE_OUTAGE)[0]
    assert outage.start < reference.start < reference.end < outage.end


def test_the_trader_dies_once_while_outcomes_are_uncertain() -> None:
    """The moment is fixed by the plan, even in a long session."""
    for seconds in (30, 300):
        plan = FaultPlan.make("normal", seconds=seconds)
        (kill,) = plan.of_kind(FaultKind.KILL)
        active = {window.kind for window in plan.active(kill.start)}
        assert active & {FaultKind.ERROR_AFTER, FaultKind.CUT_AFTER}
        assert 0.3 * seconds < kill.start < 0.8 * seconds


def window(kind: FaultKind, rate: float = 1.0, start: float = 0.0, end: float = 10.0) -> FaultWindow:
    return FaultWindow(kind, start, end, frozenset({Endpoint.PLACE_ORDER}), rate)


def injector(*windows: FaultWindow, seed: int = 1, client_timeout: float = 2.0) -> FaultInjector:
    return FaultInjector(FaultPlan(seed=seed, seconds=10.0, client_timeout=client_timeout, windows=windows))


def test_the_same_requests_meet_the_same_faults_in_every_run() -> None:
    """Decisions come from seed, window, endpoint and number: nothing else."""
    plan = FaultPlan.make("heavy", seed=3)
    requests = [
        (endpoint, elapsed / 10)
        for elapsed in range(300)
        for endpoint in (Endpoint.PLACE_ORDER, Endpoint.TICKER)
    ]
    runs = [
        [each.decide(*request) for request in requests] for each in (FaultInjector(plan), FaultInjector(plan))
    ]
    assert runs[0] == runs[1]
    assert any(runs[0])


def test_requests_to_other_endpoints_do_not_shift_the_faults() -> None:
    """A trader that asks for more quotes meets the same faults with its orders."""
    window_ = FaultWindow(
        FaultKind.ERROR_AFTER, 0, 10, frozenset({Endpoint.PLACE_ORDER, Endpoint.TICKER}), 0.5
    )
    alone, busy = injector(window_), injector(window_)
    for _ in range(30):
        busy.decide(Endpoint.TICKER, 1.0)
    assert [alone.decide(Endpoint.PLACE_ORDER, 1.0) for _ in range(30)] == [
        busy.decide(Endpoint.PLACE_ORDER, 1.0) for _ in range(30)
    ]


def test_the_first_request_in_a_window_is_always_hit() -> None:
    """However low the rate: each kind is seen in each session."""
    faults = injector(window(FaultKind.CUT_AFTER, rate=0.001))
    assert faults.decide(Endpoint.PLACE_ORDER, 1.0) is not None
    assert faults.decide(Endpoint.PLACE_ORDER, 1.1) is None


def test_a_request_outside_the_window_or_to_another_endpoint_is_answered_honestly() -> None:
    """A window has a beginning, an end, and a list of endpoints."""
    faults = injector(window(FaultKind.CUT_AFTER, start=1.0, end=2.0))
    assert faults.decide(Endpoint.PLACE_ORDER, 0.99) is None
    assert faults.decide(Endpoint.PLACE_ORDER, 2.0) is None
    assert faults.decide(Endpoint.TICKER, 1.5) is None


def test_an_outage_comes_before_everything_else() -> None:
    """When the exchange is away, nothing is booked behind a cut."""
    faults = injector(window(FaultKind.CUT_AFTER), window(FaultKind.OUTAGE))
    fault = faults.decide(Endpoint.PLACE_ORDER, 1.0)
    assert fault is not None
    assert fault.kind is FaultKind.OUTAGE


@given(seed=st.integers(0, 10**6), client_timeout=st.floats(0.05, 60))
def test_slow_is_within_the_clients_patience_and_late_is_beyond(seed: int, client_timeout: float) -> None:
    """What separates a latency spike from an unknown outcome."""
    for kind, least, most in (
        (FaultKind.LATENCY, 0.1 * client_timeout, 0.75 * client_timeout),
        (FaultKind.LATE, 1.25 * client_timeout, 2 * client_timeout),
        (FaultKind.BOOKED_LATER, 0.0, BOOKED_WITHIN),
    ):
        fault = injector(window(kind), seed=seed, client_timeout=client_timeout).decide(
            Endpoint.PLACE_ORDER, 1.0
        )
        assert fault is not None
        assert least < fault.delay <= most


def test_who_waits_as_long_as_retry_after_says_is_served() -> None:
    """The header points behind the window's end, in whole seconds."""
    faults = injector(window(FaultKind.RATE_LIMIT, start=1.0, end=2.5))
    for elapsed in (1.0, 1.7, 2.49):
        fault = faults.decide(Endpoint.PLACE_ORDER, elapsed)
        assert fault is not None
        assert (fault.status, fault.retry_after >= 1, elapsed + fault.retry_after >= 2.5) == (429, True, True)


def test_the_log_counts_what_was_done_by_kind() -> None:
    """For the summary, and for whoever compares it with what the client saw."""
    faults = injector()
    faults.record(FaultKind.LATE, Endpoint.PLACE_ORDER, 1.23456, client_order_id="a", booked=True)
    faults.record(FaultKind.LATE, Endpoint.TICKER, 2.0)
    assert faults.to_dict()["counts"] == {"late": 2}
    assert faults.to_dict()["log"][0] == {
        "number": 1,
        "at": 1.235,
        "kind": FaultKind.LATE,
        "endpoint": Endpoint.PLACE_ORDER,
        "client_order_id": "a",
        "booked": True,
    }
    assert json.dumps(faults.to_dict())
