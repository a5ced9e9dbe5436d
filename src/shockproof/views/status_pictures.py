"""
The pictures of the status page: bands of circuits, durations, and how late the loop was.

As in `shockproof.views.pictures` there is no text inside of them, colours are the page's, and what they show is said in
words for those who do not see them. No attribute is a style: the page allows none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shockproof.views.status_history import BOUNDS, quantile
from shockproof.views.words import duration_text, markup

__all__ = ["band", "columns_of_lag", "heat", "spark"]

_GRAIN: Final = 5.0
"""Seconds: a band moves on in jumps of that, so that a calm row does not change every second."""
_LEAST_GRAINS: Final = 2
_ROWS: Final = len(BOUNDS) + 1
_SHORTEST_LAG: Final = 0.001
_LONGEST_LAG: Final = 10.0


def band(stretches: Sequence[Mapping[str, Any]], *, name: str, seconds: float) -> str:  # Any: JSON
    """The circuit of a service over the last *seconds*: a stretch for each state, now at the right."""
    grain = min(_GRAIN, seconds / 60)
    end = seconds
    shapes: list[str] = []
    said: list[str] = []
    for stretch in reversed(stretches):
        state, begin = stretch["state"], max(0.0, end - stretch["seconds"])
        left, right = (round(edge / grain) for edge in (begin, end))
        if right - left < _LEAST_GRAINS and state in ("open", "forced-open", "half-open"):
            left = right - _LEAST_GRAINS  # a short outage is one all the same
        if state is not None and right > left:
            words = f"{_STATES.get(state, state)} for {duration_text(round(end - begin))}"
            said.append(words)
            shapes.append(
                f'<rect class="c-{markup(state)}" x="{left}" y="0" width="{right - left}" height="1">'
                f"<title>{markup(words)}</title></rect>"
            )
        end = begin
    latest = ", before that ".join(said[:6]) + (", and more before" if len(said) > 6 else "")
    return (
        f'<svg class="band" role="img" aria-label="{markup(f"circuit of {name}: {latest}")}" '
        f'viewBox="0 0 {seconds / grain:g} 1" preserveAspectRatio="none">{"".join(reversed(shapes))}</svg>'
    )


_STATES: Final = {"forced-open": "held open", "disabled": "switched off", "shadow": "only watching"}


def spark(seconds: Sequence[float | None], *, columns: int) -> str:
    """A small bar for each minute, higher where calls took longer; its numbers stand beside it."""
    shown = list(seconds)[-columns:]
    shapes = [
        f'<rect x="{columns - len(shown) + place + 0.1:.1f}" y="{1 - height:.2f}" width="0.8" height="{height:.2f}"/>'
        for place, one in enumerate(shown)
        if one is not None and (height := max(0.08, _height(one, BOUNDS[0], BOUNDS[-1])))
    ]
    return (
        f'<svg class="spark" aria-hidden="true" viewBox="0 0 {columns} 1" preserveAspectRatio="none">'
        f"{''.join(shapes)}</svg>"
    )


def heat(calls: Sequence[Sequence[int]], *, columns: int, title: str) -> str:
    """
    All calls: a column for each length of time, a row for each bucket, darker where there are more; a line for the 95th in a hundred.
    """
    most = max((max(column) for column in calls), default=0)
    first = columns - len(calls)
    shapes: list[str] = []
    line: list[str] = []
    for place, column in enumerate(calls, first):
        for bucket, count in enumerate(column):
            if count:
                strength = 0.18 + 0.82 * math.log1p(count) / math.log1p(most)
                shapes.append(
                    f'<rect x="{place}" y="{_ROWS - 1 - bucket}" width="1" height="1" fill-opacity="{strength:.2f}"/>'
                )
        slow = quantile(column, 0.95)
        if slow is not None:
            line.append(f"{'L' if line else 'M'}{place + 0.5:g} {_ROWS - _place_in_rows(slow):.2f}")
    return (
        f'<svg class="heat" role="img" aria-label="{markup(title)}" viewBox="0 0 {columns} {_ROWS}" '
        f'preserveAspectRatio="none">{_lines(columns, range(2, _ROWS, 3))}<g>{"".join(shapes)}</g>'
        f'<path d="{" ".join(line) or "M0 0"}" vector-effect="non-scaling-stroke"/></svg>'
    )


def columns_of_lag(worst: Sequence[float | None], *, columns: int, title: str) -> str:
    """How late the loop was at worst, from a millisecond below to ten seconds on top, by powers of ten."""
    first = columns - len(worst)
    shapes = [
        f'<rect class="{_lag_class(lag)}" x="{place + 0.1:.1f}" y="{4 - height:.2f}" width="0.8" height="{height:.2f}"/>'
        for place, lag in enumerate(worst, first)
        if lag is not None and (height := max(0.06, 4 * _height(lag, _SHORTEST_LAG, _LONGEST_LAG)))
    ]
    return (
        f'<svg class="lag" role="img" aria-label="{markup(title)}" viewBox="0 0 {columns} 4" '
        f'preserveAspectRatio="none">{_lines(columns, (1, 2, 3))}{"".join(shapes)}</svg>'
    )


def _lines(width: int, at: Sequence[int]) -> str:
    path = " ".join(f"M0 {y}H{width}" for y in at)
    return f'<path class="grid" d="{path}" vector-effect="non-scaling-stroke"/>'


def _height(seconds: float, shortest: float, longest: float) -> float:
    """Between 0 and 1, by powers."""
    if seconds <= shortest:
        return 0.0
    return min(1.0, math.log(seconds / shortest) / math.log(longest / shortest))


def _place_in_rows(seconds: float) -> float:
    """How high a duration stands among the rows of buckets."""
    low = 0.0
    for row, bound in enumerate(BOUNDS):
        if seconds <= bound:
            return row + (seconds - low) / (bound - low)
        low = bound
    return float(_ROWS)


def _lag_class(lag: float) -> str:
    return "bad" if lag >= 0.1 else "warn" if lag >= 0.02 else "good"
