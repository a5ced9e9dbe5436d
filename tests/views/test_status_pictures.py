"""The pictures of the status page: what matters is seen however small it is, and all of it is said in words."""

from __future__ import annotations

import re

from shockproof.views.status_history import BOUNDS
from shockproof.views.status_pictures import band, columns_of_lag, heat


def test_an_outage_of_a_moment_is_seen_among_a_quarter_of_an_hour() -> None:
    """A second in fifteen minutes would be less than a dot."""
    stretches = [
        {"state": None, "seconds": 100.0},
        {"state": "closed", "seconds": 700.0},
        {"state": "open", "seconds": 1.0},
        {"state": "closed", "seconds": 99.0},
    ]
    drawn = band(stretches, name="<venue>", seconds=900.0)
    found = re.findall(r'class="c-(\S+)" x="(\d+)" y="0" width="(\d+)"', drawn)
    assert found == [("closed", "20", "140"), ("open", "158", "2"), ("closed", "160", "20")]
    said = "circuit of &lt;venue&gt;: closed for 1 min 39 s, before that open for 1 s, before that closed for 11 min 40 s"
    assert said in drawn


def test_a_band_shows_no_more_than_its_window() -> None:
    """What was before that is cut off."""
    drawn = band(
        [{"state": "closed", "seconds": 840.0}, {"state": "open", "seconds": 60.0}], name="a", seconds=60.0
    )
    assert re.findall(r'class="c-(\S+)"', drawn) == ["open"]


def test_slow_calls_stand_high_and_many_stand_out() -> None:
    """A row for each range of durations, the longest on top; the line is where the 95th of a hundred is."""
    quick, slow = [0] * (len(BOUNDS) + 1), [0] * (len(BOUNDS) + 1)
    quick[1], slow[-1] = 100, 1
    drawn = heat([quick, slow], columns=12, title="t")
    cells = re.findall(r'<rect x="(\d+)" y="(\d+)" width="1" height="1" fill-opacity="([\d.]+)"', drawn)
    assert cells == [("10", "14", "1.00"), ("11", "0", "0.30")]
    assert '<path d="M10.5 14.05 L11.5 1.00"' in drawn


def test_a_late_loop_is_high_and_red_and_a_punctual_one_low_and_green() -> None:
    """By powers of ten: a millisecond is no column, ten seconds is a whole one; what was not measured is a gap."""
    drawn = columns_of_lag([0.0, None, 0.05, 10.0], columns=4, title="t")
    assert re.findall(r'class="(\w+)" x="([\d.]+)" y="[\d.]+" width="0.8" height="([\d.]+)"', drawn) == [
        ("good", "0.1", "0.06"),
        ("warn", "2.1", "1.70"),
        ("bad", "3.1", "4.00"),
    ]
