"""Exact rolling windows, several at once."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from shockproof.policies.rate_limit import (
    WEIGHT,
    Rate,
    RollingWindows,
    Sent,
    Weight,
    parse_rates,
    parse_window,
)


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
    windows.pause(0.0, 5.0)

    assert windows.paused_for(2.0) == refused(windows, 2.0) == 3.0
    assert windows.paused_for(1.0) == 3.0  # a thread whose clock is a little behind
    assert windows.paused_for(5.5) == 0.0
    admitted(windows, 5.0)


@pytest.mark.parametrize(
    ("weight", "complaint"),
    [
        (11, "weight=11 can never be sent: only 10 weight in 60 s"),
        ({"weight": 1, "orders": 3}, "can never be sent: only 2 orders in 1 s"),
        ({"weight": 1, "cancels": 1}, "counts 'cancels', and there are only rates of orders, weight"),
    ],
)
def test_weight_that_can_never_be_sent_is_refused_at_once(weight: Weight, complaint: str) -> None:
    """Before it would wait for ever, and with what stands in its way."""
    with pytest.raises(ValueError, match=complaint):
        windows_of("10/min", "2 orders/s").check(weight)


@pytest.mark.parametrize("weight", [10, 1, {"orders": 2}, {"weight": 10, "orders": 1}, {}])
def test_weight_that_fits_into_an_empty_window_is_no_mistake(weight: Weight) -> None:
    """Up to the whole limit."""
    windows_of("10/min", "2 orders/s").check(weight)


def test_looking_takes_nothing() -> None:
    """The wait is 0 as long as there is room, however often one asks."""
    windows = windows_of("2/s")
    admitted(windows, 0.0)

    assert [windows.wait(0.0, 1) for _ in range(5)] == [0.0] * 5
    assert windows.wait(0.25, 2) == 0.75


def windows_of(*rates: str) -> RollingWindows:
    return RollingWindows(parse_rates("rate_limit", rates))


def test_orders_and_weight_are_counted_apart_and_taken_together() -> None:
    """A call is one order whatever it weighs; market data is no order at all."""
    windows = windows_of("2 orders/s", "100 weight/min")
    admitted(windows, 0.0, 40)
    admitted(windows, 0.0, {"orders": 1, "weight": 20})

    assert windows.used(0.0) == (2, 60)
    assert refused(windows, 0.0, 1) == 1.0
    admitted(windows, 0.0, {"weight": 40})
    assert refused(windows, 0.0, {"weight": 1}) == 60.0


def test_weight_that_never_fits_is_told_by_an_infinite_wait() -> None:
    """Not by one that ends, and is followed by another."""
    assert refused(windows_of("5/s"), 0.0, 6) == math.inf


def test_what_the_other_side_counts_beyond_us_takes_room() -> None:
    """Another process uses the same key: the venue counts both."""
    windows = windows_of("100/min")
    admitted(windows, 0.0, 10)

    assert windows.report(1.0, 60.0, 95, names=[WEIGHT])
    assert windows.used(1.0) == (95,)
    assert refused(windows, 1.0, 6) == 59.0  # our own ten leave then
    admitted(windows, 1.0, 5)
    assert windows.used(61.0) == (0,)


def test_lower_report_changes_nothing() -> None:
    """An answer may come late, and what we sent ourselves is known better here."""
    windows = windows_of("100/min")
    admitted(windows, 0.0, 50)
    windows.report(1.0, 60.0, 80, names=[WEIGHT])
    windows.report(2.0, 60.0, 3, names=[WEIGHT])

    assert windows.used(2.0) == (80,)


def test_report_holds_until_the_other_side_forgets() -> None:
    """Fixed windows begin anew: whoever says when is not waited for any longer."""
    windows = windows_of("100/min")
    windows.report(0.0, 60.0, 100, names=[WEIGHT], resets_in=7.0)

    assert refused(windows, 0.0) == 7.0
    admitted(windows, 7.0, 100)


def test_lower_report_that_ends_earlier_ends_nothing_earlier() -> None:
    """Both are over when the higher one is."""
    windows = windows_of("100/min")
    windows.report(0.0, 60.0, 80, names=[WEIGHT])
    windows.report(0.0, 60.0, 50, names=[WEIGHT], resets_in=7.0)

    assert windows.used(59.9) == (80,)
    assert windows.used(60.0) == (0,)


def test_pause_is_news_only_when_it_is_longer() -> None:
    """Ten calls that get the same answer make one event."""
    windows = windows_of("10/s")

    assert windows.pause(0.0, 5.0) is True
    assert windows.pause(0.0, 5.0) is False
    assert windows.pause(2.0, 1.0) is False
    assert windows.pause(2.0, 4.0) is True
    assert windows.paused_for(2.0) == 4.0


def test_report_on_a_window_that_is_not_declared_is_told() -> None:
    """Nothing is guessed."""
    windows = windows_of("10 orders/s", "100/min")

    assert not windows.report(0.0, 10.0, 5, names=[WEIGHT])
    assert windows.report(0.0, 1.0, 5, names=["orders", WEIGHT])
    assert windows.used(0.0) == (5, 0)


def test_remainder_is_for_the_rate_with_its_limit_or_for_the_only_one() -> None:
    """Of several, nothing is guessed."""
    windows = windows_of("10/s", "100/min")

    assert windows.report_left(0.0, 30, limit=100)
    assert windows.used(0.0) == (0, 70)
    assert not windows.report_left(0.0, 5)
    assert not windows.report_left(0.0, 5, limit=50)
    assert windows_of("10/s").report_left(0.0, 5)


def test_remainder_is_taken_from_the_limit_that_the_other_side_names() -> None:
    """It may allow more than was declared here; and more left than the limit means that nothing is used."""
    windows = windows_of("100/min")

    assert windows.report_left(0.0, 120, limit=120)
    assert windows.used(0.0) == (0,)
    assert windows.report_left(0.0, 30, limit=120, resets_in=7.0)
    assert windows.used(6.9) == (90,)
    assert windows.used(7.0) == (0,)


def test_windows_without_a_rate_let_everything_go_that_is_not_paused() -> None:
    """A rate may be taken away while calls wait for it; what the other side asked for stays."""
    windows = RollingWindows(parse_rates("rate_limit", "1/s"))
    assert isinstance(windows.admit(0.0, 1), Sent)
    windows.change(0.0, ())
    assert isinstance(windows.admit(0.0, 5), Sent)
    windows.pause(0.0, 3.0)
    assert windows.wait(1.0, 5) == 2.0


def test_rates_of_the_same_window_forget_apart() -> None:
    """Two limits on one window are a waste, and no harm."""
    windows = windows_of("10/s")
    windows.report(0.0, 1.0, 8, names=[WEIGHT])
    windows.change(0.0, parse_rates("rate_limit", ("10/s", "20/s")))

    assert windows.used(0.5) == (8, 8)
    assert windows.used(1.0) == (0, 0)


def test_new_rates_count_what_was_sent_under_the_old_ones() -> None:
    """A limit that is lowered at run time is kept from this moment on."""
    windows = windows_of("10/s", "100/min")
    sent = admitted(windows, 0.0, 8)
    windows.change(0.5, parse_rates("rate_limit", ("4/s", "50/10s")))

    assert windows.rates == (Rate(4, 1.0), Rate(50, 10.0))
    assert windows.used(0.5) == (8, 8)
    assert refused(windows, 0.5) == 0.5
    windows.give_back(sent)
    assert windows.used(0.5) == (0, 0)


def test_what_left_before_a_change_is_not_given_back_from_the_new_windows() -> None:
    """The longer window never counted it."""
    windows = windows_of("10/s")
    sent = admitted(windows, 0.0)
    windows.change(5.0, parse_rates("rate_limit", "10/min"))
    windows.give_back(sent)

    assert windows.used(5.0) == (0,)


def test_restart_forgets_nothing_that_was_sent() -> None:
    """What an earlier life sent counts until it leaves the window, and a ban goes on."""
    windows = windows_of("5 orders/10s", "100/min")
    admitted(windows, 100.0, 30)
    admitted(windows, 103.0, {"weight": 40})
    windows.report(104.0, 60.0, 90, names=[WEIGHT])
    windows.pause(104.0, 5.0)
    exported = json.loads(json.dumps(windows.export(104.0)))

    later = windows_of("5 orders/10s", "100/min")
    later.restore(7.0, 2.0, exported)  # two seconds later, with another monotonic clock

    assert later.used(7.0) == (1, 90)
    assert refused(later, 7.0, {"orders": 1}) == 3.0
    assert later.used(11.0) == (0, 90)
    assert later.used(61.5) == (0, 60)  # the first call has left
    assert later.used(64.5) == (0, 20)  # the second, too: what others sent was reported later
    assert later.used(65.5) == (0, 0)


@pytest.mark.parametrize(
    ("elapsed", "used", "wait"),
    [(-1e9, 30, 45.0), (-1.0, 30, 45.0), (0.0, 30, 45.0), (44.0, 30, 1.0), (45.0, 0, 0.0), (1e9, 0, 0.0)],
)
def test_wall_clock_that_was_set_meanwhile_never_makes_it_wait_longer(
    elapsed: float, used: int, wait: float
) -> None:
    """Set back, no time has passed, and what was sent leaves when it would have; set forward, it has left."""
    windows = windows_of("100/min")
    admitted(windows, 0.0, 30)
    windows.pause(0.0, 60.0)
    later = windows_of("100/min")
    later.restore(7.0, elapsed, windows.export(15.0))

    assert later.used(7.0) == (used,)
    assert later.wait(7.0, 100) == wait
    assert later.paused_for(7.0) == wait


def test_export_is_json_and_of_an_untouched_one_empty() -> None:
    """A pause that is over, or never was, is no pause; JSON has no infinity."""
    windows = windows_of("5/s")
    empty = {"rates": [[5, 1.0, "weight"]], "sent": [], "others": [], "paused_for": 0.0}
    assert windows.is_untouched(0.0)
    assert json.loads(json.dumps(windows.export(0.0), allow_nan=False)) == empty
    windows.pause(0.0, 3.0)
    assert not windows.is_untouched(2.0)
    assert windows.export(2.0)["paused_for"] == 1.0
    assert windows.is_untouched(3.0)
    assert windows.export(3.0) == empty
    admitted(windows, 3.0)
    assert not windows.is_untouched(3.5)
    assert windows.is_untouched(4.0)


def test_windows_are_made_from_an_export_alone() -> None:
    """Where nobody has declared the rates again yet, those of the earlier life keep what was sent."""
    windows = windows_of("5 orders/10s", "100/min")
    admitted(windows, 100.0, 30)
    later = RollingWindows.from_export(7.0, 2.0, json.loads(json.dumps(windows.export(104.0))))

    assert later.rates == windows.rates
    assert later.used(7.0) == (1, 30)
    assert later.used(11.0) == (0, 30)
    assert later.used(61.0) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {"rates": [[0, 1.0, "weight"]]},
        {"rates": [[1, 0.0, "weight"]]},
        {"rates": [[1, "soon", "weight"]]},
        {"rates": [[math.inf, 1.0, "weight"]]},
        {"rates": [[1, math.inf, "weight"]]},
        {"sent": [[-1.0, {"weight": 1}]]},
        {"sent": [[math.nan, {"weight": 1}]]},
        {"sent": [[1.0, {"weight": -1}]]},
        {"sent": [[1.0, {"weight": math.inf}]]},
        {"sent": [[1.0, 1]]},
        {"others": [[1.0, "weight", 1.0]]},
        {"others": [[1.0, "weight", -1.0, 1]]},
        {"paused_for": None},
        {"paused_for": math.inf},
    ],
)
def test_what_is_no_export_is_refused_and_counts_nothing(wrong: Any) -> None:
    """Somebody edited the file."""
    good = windows_of("5/s").export(0.0)
    exported = {**good, **wrong} if isinstance(wrong, dict) else wrong

    with pytest.raises(
        ValueError, match=r"Error: |its rates are|no length|no count|could not convert|not enough"
    ):
        RollingWindows.from_export(0.0, 0.0, exported)


def test_smallest_windows_are_made_from_an_export_too() -> None:
    """One in half a second is a rate like any other."""
    exported = {**windows_of("5/s").export(0.0), "rates": [[1, 0.5, "weight"]]}

    assert RollingWindows.from_export(0.0, 0.0, exported).rates == (Rate(1, 0.5, "weight"),)


def test_rates_that_make_no_sense_are_named() -> None:
    """Whoever reads the file by hand finds them."""
    exported = {**windows_of("5/s").export(0.0), "rates": [[0, 1.0, "weight"]]}

    with pytest.raises(ValueError, match=r"its rates are \[\[0, 1\.0, 'weight'\]\]"):
        RollingWindows.from_export(0.0, 0.0, exported)


def test_export_of_a_busy_day_stays_small() -> None:
    """What falls together counts as sent at its last moment: never too little."""
    windows = windows_of("1000000/d")
    for second in range(0, 80_000, 8):
        admitted(windows, float(second), 3)
    exported = windows.export(80_000.0)
    later = windows_of("1000000/d")
    later.restore(0.0, 0.0, exported)

    assert len(exported["sent"]) <= 502
    assert later.used(0.0) == (30_000,)


def test_repr_shows_how_full_the_windows_are() -> None:
    """What a person sees at night: each window with its own count."""
    windows = windows_of("2 orders/s", "100/min")
    admitted(windows, 0.0, 40)

    assert repr(windows) == "<RollingWindows 1 of 2 orders in 1 s, 40 of 100 weight in 60 s>"


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


@pytest.mark.parametrize(
    "text",
    ["10", "ten/s", "0/s", "10/fortnight", "10/0s", "-1/s", "", "9" * 5000 + "/s", "1/" + "9" * 400 + "s"],
)
def test_what_is_no_rate_is_refused_with_the_form(text: str) -> None:
    """The message shows how rates are written."""
    with pytest.raises(ValueError, match=r'^rate_limit must be rates such as "10/s"'):
        parse_rates("rate_limit", text)


@pytest.mark.parametrize("value", [10, None, ("10/s", 5)])
def test_rates_that_are_no_text_are_refused_with_the_form(value: object) -> None:
    """A bare number does not say of what time."""
    with pytest.raises(TypeError, match=r'^rate_limit must be rates such as "10/s"'):
        parse_rates("rate_limit", value)


def test_no_rates_at_all_are_refused() -> None:
    """Whoever wants no limit leaves the option out."""
    with pytest.raises(ValueError, match=r'^rate_limit must be rates such as "10/s"'):
        parse_rates("rate_limit", ())


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m", 60), ("1M", 60), ("10S", 10), ("min", 60), ("1d", 86400), ("0.5s", 0.5)]
)
def test_windows_are_read_as_venues_write_them(text: str, seconds: float) -> None:
    """1M is a minute in the headers of the largest venue."""
    assert parse_window("window", text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "fortnight", "10", "9" * 400 + "s"])
def test_what_is_no_window_is_refused_with_the_form(text: str) -> None:
    """The message shows how windows are written."""
    with pytest.raises(ValueError, match=r'^window must be a window such as "10s"'):
        parse_window("window", text)


def test_window_that_is_no_text_is_refused_with_the_form() -> None:
    """Seconds are written with their unit."""
    with pytest.raises(TypeError, match=r'^window must be a window such as "10s"'):
        parse_window("window", 10)


RATES = (Rate(5, 2.0), Rate(12, 8.0), Rate(3, 4.0, "orders"))
WEIGHTS: st.SearchStrategy[Weight] = st.one_of(
    st.integers(1, 5),
    st.fixed_dictionaries({"orders": st.integers(0, 2), "weight": st.integers(1, 4)}),
)


class WindowsAgainstModel(RuleBasedStateMachine):
    """A list of everything that ever happened, looked through at each step, says who is admitted and when."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.windows, self.rates, self.now = RollingWindows(RATES), RATES, 64.0
        self.sent: list[tuple[float, Weight, Sent]] = []
        self.reports: dict[tuple[float, str], list[tuple[float, int]]] = {}
        self.paused_until = 0.0

    def part(self, rate: Rate, weight: Weight) -> int:
        if isinstance(weight, int):
            return weight if rate.name == "weight" else 1
        return weight.get(rate.name, 0)

    def own(self, rate: Rate, now: float) -> int:
        return sum(self.part(rate, weight) for at, weight, _ in self.sent if now - rate.seconds < at)

    def used(self, rate: Rate, now: float) -> int:
        told = [others for until, others in self.reports.get(rate[1:], []) if until > now]
        return self.own(rate, now) + max(told, default=0)

    def fits(self, weight: Weight, now: float) -> bool:
        room = all(
            self.part(rate, weight) == 0 or self.used(rate, now) + self.part(rate, weight) <= rate.limit
            for rate in self.rates
        )
        return room and now >= self.paused_until

    @rule(target=taken, weight=WEIGHTS)
    def send(self, weight: Weight) -> Sent | None:
        answer = self.windows.admit(self.now, weight)
        assert isinstance(answer, Sent) == self.fits(weight, self.now)
        if isinstance(answer, Sent):
            self.sent.append((self.now, weight, answer))
            return answer
        if answer == math.inf:
            assert any(self.part(rate, weight) > rate.limit for rate in self.rates)
        else:
            assert self.fits(weight, self.now + answer)
            assert not self.fits(weight, self.now + answer - 1 / 32)
        return None

    @rule(sixteenths=st.integers(1, 48))
    def let_time_pass(self, sixteenths: int) -> None:
        self.now += sixteenths / 16

    @rule(sent=consumes(taken))
    def give_back(self, sent: Sent | None) -> None:
        if sent is not None:
            self.windows.give_back(sent)
            self.sent = [one for one in self.sent if one[2] is not sent]

    @rule(sixteenths=st.integers(1, 32))
    def pause(self, sixteenths: int) -> None:
        self.windows.pause(self.now, sixteenths / 16)
        self.paused_until = max(self.paused_until, self.now + sixteenths / 16)

    @rule(rate=st.sampled_from(RATES), used=st.integers(0, 12))
    def report(self, rate: Rate, used: int) -> None:
        known = self.windows.report(self.now, rate.seconds, used, names=[rate.name])
        assert known == (rate[1:] in [one[1:] for one in self.rates])
        others = used - self.own(rate, self.now)
        if known and others > 0:
            self.reports.setdefault(rate[1:], []).append((self.now + rate.seconds, others))

    @rule(limits=st.tuples(st.integers(1, 8), st.integers(1, 15), st.integers(1, 4)))
    def change(self, limits: tuple[int, int, int]) -> None:
        self.rates = tuple(rate._replace(limit=limit) for rate, limit in zip(RATES, limits, strict=True))
        self.windows.change(self.now, self.rates)

    @invariant()
    def windows_hold_what_the_model_holds(self) -> None:
        assert self.windows.used(self.now) == tuple(self.used(rate, self.now) for rate in self.rates)


TestWindowsAgainstModel = WindowsAgainstModel.TestCase
TestWindowsAgainstModel.settings = settings(max_examples=200, stateful_step_count=40)
