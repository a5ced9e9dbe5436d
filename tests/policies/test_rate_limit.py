"""Exact rolling windows, several at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.policies.rate_limit import Rate, RollingWindows, Sent, parse_rates


def admitted(windows: RollingWindows, now: float, weight: int = 1) -> Sent:
    sent = windows.admit(now, weight)
    assert isinstance(sent, Sent)
    return sent


def refused(windows: RollingWindows, now: float, weight: int = 1) -> float:
    wait = windows.admit(now, weight)
    assert isinstance(wait, float)
    return wait


def test_no_more_than_the_limit_is_admitted_in_a_window() -> None:
    """The call above the limit is told when the oldest one leaves."""
    windows = RollingWindows(parse_rates("rate_limit", "2/s"))
    admitted(windows, 10.0)
    admitted(windows, 10.25)

    assert refused(windows, 10.5) == 0.5
    admitted(windows, 11.0)
    assert refused(windows, 11.0) == 0.25


def test_several_windows_are_taken_together_or_not_at_all() -> None:
    """A call that one window refuses leaves no trace in the other."""
    windows = RollingWindows(parse_rates("rate_limit", ("2/s", "3/min")))
    admitted(windows, 0.0)
    admitted(windows, 0.0)
    admitted(windows, 1.0)

    assert refused(windows, 1.5) == 58.5
    assert windows.used(1.5) == (1, 3)


def test_a_heavy_call_waits_until_enough_has_left() -> None:
    """The wait is for all the weight that is needed, not for the first bit of it."""
    windows = RollingWindows(parse_rates("rate_limit", "10/s"))
    admitted(windows, 0.0, 4)
    admitted(windows, 0.25, 4)
    admitted(windows, 0.5, 2)

    assert refused(windows, 0.75, 6) == 0.5


def test_what_is_given_back_may_be_taken_again() -> None:
    """A call that was not sent after all does not count."""
    windows = RollingWindows(parse_rates("rate_limit", "1/s"))
    windows.give_back(admitted(windows, 0.0))

    admitted(windows, 0.0)


def test_a_pause_holds_everybody_until_its_end() -> None:
    """The other side asked for silence: there is room, and nobody may use it."""
    windows = RollingWindows(parse_rates("rate_limit", "10/s"))
    windows.pause_until(5.0)

    assert refused(windows, 2.0) == 3.0
    admitted(windows, 5.0)


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5)), max_size=80),
    st.lists(st.tuples(st.integers(5, 20), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=3),
)
def test_no_stretch_of_a_windows_length_ever_holds_more_than_its_limit(
    steps: list[tuple[float, int]], limits: list[tuple[int, float]]
) -> None:
    """Whatever comes whenever, the venue never sees more than it allows; and what is told to wait fits then."""
    rates = [Rate(limit, seconds) for limit, seconds in limits]
    windows, now, sent = RollingWindows(rates), 100.0, list[tuple[float, int]]()
    for gap, weight in steps:
        now += gap
        answer = windows.admit(now, weight)
        if isinstance(answer, float):
            assert answer > 0
            now += answer + 1e-9
            answer = windows.admit(now, weight)
        assert isinstance(answer, Sent)
        sent.append((now, weight))

    for rate in rates:
        for begun, _ in sent:
            within = sum(weight for at, weight in sent if begun <= at < begun + rate.seconds - 1e-6)
            assert within <= rate.limit


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1)),
        ("1200/min", Rate(1200, 60)),
        ("100/10s", Rate(100, 10)),
        ("5 / 0.5s", Rate(5, 0.5)),
    ],
)
def test_rates_are_read_as_people_write_them(text: str, rate: Rate) -> None:
    """A number, a slash, and a time."""
    assert parse_rates("rate_limit", text) == (rate,)


@pytest.mark.parametrize("text", ["10", "ten/s", "0/s", "10/fortnight", "10/0s", "-1/s", ""])
def test_what_is_no_rate_is_refused_with_the_form(text: str) -> None:
    """The message shows how rates are written."""
    with pytest.raises(ValueError, match="10/s"):
        parse_rates("rate_limit", text)
