"""Whether a silence was ours."""

from __future__ import annotations

import pytest

from shockproof.policies.stall import was_stalled


@pytest.mark.parametrize(
    ("late", "limit", "ours"),
    [
        (1.0, 4.0, False),
        (1.01, 4.0, True),
        (25.0, 100.0, False),
        (25.1, 100.0, True),
        (0.02, 0.04, False),
        (0.021, 0.04, True),
        (0.0, 4.0, False),
        (-1.0, 4.0, False),
    ],
)
def test_a_loop_that_is_late_by_more_than_a_quarter_of_the_limit_stood_still(
    late: float, limit: float, ours: bool
) -> None:
    """But not for less than 20 ms: such gaps are everyday life."""
    assert was_stalled(late, limit) is ours
