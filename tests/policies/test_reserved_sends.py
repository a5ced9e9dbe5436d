"""What the disk tells is never less than what was sent, and is told anew before a block is used up."""

from __future__ import annotations

import random

import pytest

from shockproof.policies.rate_limit import RollingWindows, parse_rates
from shockproof.policies.reserved_sends import Ahead, ReservedSends, block_of


def is_low(reserved: ReservedSends) -> bool:
    """As it is now: a checker of types takes an attribute for what it was."""
    return reserved.is_low


@pytest.mark.parametrize(
    ("rates", "heaviest", "block"),
    [
        ("1200/min", 1, 40),  # two seconds of it
        ("1200/min", 30, 60),  # two calls at least
        ("1200/min", 400, 300),  # but no more than a quarter
        ("10/s", 1, 10),  # all of it: a kill closes it for a second
        ("100/10s", 1, 20),
        ("60/min", 1, 2),
        ("4/min", 1, 1),
        ("1200/min", 0, 40),
        (("100/s", "1000/d"), 0, 1),  # before the first call
        (("100/s", "1000/d"), 1, 100),
        ("3/min", 0, 0),
        ("3/min", 1, 0),
        ("1/d", 1, 0),  # a kill must not stop it for a day
        ("10000/d", 1, 2),
        (("50/s", "10000/d"), 1, 50),  # as many as are sent in a burst
        (("50/s", "100/d"), 1, 25),
        (("6000/min", "7 orders/min"), 50, 200),
    ],
)
def test_block_lasts_two_seconds_and_leaves_most_of_a_long_window(
    rates: str | tuple[str, ...], heaviest: int, block: int
) -> None:
    """The longer a window, the less of it a kill may cost."""
    assert block_of(parse_rates("rate_limit", rates), "weight", heaviest) == block


def test_next_block_is_due_when_half_of_one_is_used() -> None:
    """Until it is told, and then not before half of that is used."""
    reserved = ReservedSends(parse_rates("rate_limit", "1200/min"))
    assert is_low(reserved)
    reserved.durable(reserved.ahead())
    used = 0
    while not is_low(reserved):
        reserved.sent(1)
        used += 1
    assert used == 20
    ahead = reserved.ahead()
    assert ahead.reserved == {"weight": 40}
    for _ in range(3):  # while it is being written
        reserved.sent(1)
    reserved.durable(ahead)
    while not is_low(reserved):
        reserved.sent(1)
        used += 1
    assert used == 20 + 17


def test_where_nothing_is_reserved_the_disk_is_told_of_each_send() -> None:
    """And of none that it knows of."""
    reserved = ReservedSends(parse_rates("rate_limit", "3/min"))
    for _ in range(3):
        reserved.durable(reserved.ahead())
        assert not is_low(reserved)
        reserved.sent(1)
        assert is_low(reserved)


def test_last_word_reserves_nothing() -> None:
    """What is sent after it has to be told."""
    reserved = ReservedSends(parse_rates("rate_limit", "1200/min"))
    reserved.sent(5)
    last = reserved.ahead(is_last=True)
    assert (last.reserved, last.covers) == ({}, {"weight": 5})
    reserved.durable(last)
    assert not is_low(reserved)
    reserved.sent(1)
    assert is_low(reserved)


def test_what_is_given_back_makes_room_in_the_block() -> None:
    """It was not sent."""
    reserved = ReservedSends(parse_rates("rate_limit", "60/min"))
    reserved.durable(reserved.ahead())
    reserved.sent(1)
    reserved.given_back(1)
    reserved.durable(reserved.ahead())
    assert not is_low(reserved)


def test_news_that_come_while_it_is_written_are_told_with_the_next() -> None:
    """A ban that came a moment too late for the disk."""
    reserved = ReservedSends(parse_rates("rate_limit", "60/min"))
    ahead = reserved.ahead()
    reserved.has_news()
    reserved.durable(ahead)
    assert is_low(reserved)
    reserved.durable(reserved.ahead())
    assert not is_low(reserved)


def test_limits_that_change_while_it_is_written_are_due_after_it() -> None:
    """What the disk tells of those before counts from another beginning."""
    windows = RollingWindows(parse_rates("rate_limit", "1200/min"))
    windows.reserve()
    for _ in range(500):
        windows.admit(0.0, 1)
    writing = windows.ahead(is_last=False)
    assert writing is not None
    windows.change(0.0, parse_rates("rate_limit", "1300/min"))
    windows.reserve()
    windows.told(writing)
    assert windows.reserved is not None
    assert is_low(windows.reserved)


def test_what_others_send_is_told_by_half_blocks_too() -> None:
    """And again when what was told of them is over."""
    (rate,) = parse_rates("rate_limit", "1200/min")
    reserved = ReservedSends([rate])
    reserved.heard(rate, 500)
    reserved.durable(reserved.ahead())
    reserved.heard(rate, 519)
    assert not is_low(reserved)
    reserved.heard(rate, 520)
    assert is_low(reserved)
    reserved.durable(reserved.ahead())
    reserved.heard(rate, 19)
    assert not is_low(reserved)
    reserved.heard(rate, 20)
    assert is_low(reserved)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rates", ["1200/min", "3/min", ("5/s", "90 orders/min"), "7/10s"])
def test_disk_tells_of_all_that_was_sent_whenever_it_keeps_up(
    seed: int, rates: str | tuple[str, ...]
) -> None:
    """Sends, gifts and writes that take some sends, in any order: nothing is missing but what came beyond a block during a write."""
    choice = random.Random(seed)
    windows = RollingWindows(parse_rates("rate_limit", rates))
    windows.reserve()
    assert windows.reserved is not None
    names = {rate.name for rate in windows.rates}
    sent = dict.fromkeys(names, 0)
    told = dict.fromkeys(names, 0)
    writing: Ahead | None = None
    now = 0.0
    for _ in range(2_000):
        now += choice.random()
        if writing is None and is_low(windows.reserved):
            writing = windows.ahead(is_last=False)
        if writing is not None and choice.random() < 0.5:
            windows.told(writing)
            told, writing = writing.covers, None
        if writing is None and not is_low(windows.reserved):
            assert all(sent[name] <= told[name] for name in names)
        admitted = windows.admit(now, choice.choice((1, 2)) if rates == "1200/min" else 1)
        if isinstance(admitted, float):
            continue
        if choice.random() < 0.1:
            windows.give_back(admitted)
            continue
        for name in names:
            assert isinstance(admitted.weight, int)
            sent[name] += admitted.weight if name == "weight" else 1
