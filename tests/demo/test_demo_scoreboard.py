"""What the supervisor knows, over all lives of the trader; and how it is shown."""

from __future__ import annotations

import io
from typing import Any

import pytest

from shockproof.demo.book import Book
from shockproof.demo.plain_view import PlainView, status_line
from shockproof.demo.scoreboard import COUNTS, Scoreboard
from shockproof.demo.summary import Summary
from shockproof.demo.verdict import ErrorLines, LedgerVerdict, Verdict


def a_snapshot(life: int = 1, *, count: int = 0, written: int = 0, **changes: Any) -> dict[str, Any]:
    service = {
        "status": "operational",
        "circuit": "closed",
        "retry_after": 0.0,
        **dict.fromkeys(COUNTS, count),
    }
    snapshot: dict[str, Any] = {
        "kind": "snapshot",
        "life": life,
        "services": {"trading": service},
        "error_log": {"written": written, "queued": 0, "dropped": count},
        "lag": 0.001,
        "worst_lag": 0.002,
        "worst_lag_while_disk_slow": 0.0,
        "orders": {"filled": count},
        "priced_by": {"venue": count},
        "ticks": count,
        "disk_delays": count,
        "recent_errors": [],
    }
    return snapshot | changes


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(30.0)


def test_counts_of_a_life_that_was_killed_are_kept(board: Scoreboard) -> None:
    """The next life begins at zero, and the sum goes on."""
    board.report(a_snapshot(1, count=5, written=7))
    board.life_ended(was_killed=True)
    assert board.sum_of("retries") == 5
    board.report(a_snapshot(2, count=2, written=3))
    assert (board.sum_of("retries"), board.total("ticks"), board.dropped) == (7, 7, 7)
    assert board.priced_by() == {"venue": 7}
    assert board.written == 10
    assert {life.number: (life.written, life.was_killed) for life in board.lives.values()} == {1: (7, True)}


def test_a_life_that_ends_in_order_says_itself_what_it_wrote(board: Scoreboard) -> None:
    """Its last word counts, not the snapshot before."""
    board.report(a_snapshot(1, written=7))
    board.report({"kind": "end", "life": 1, "error_log": {"written": 9}})
    board.life_ended(was_killed=False)
    assert board.lives[1].written == board.written == 9


def test_a_death_after_the_last_word_is_still_a_death(board: Scoreboard) -> None:
    """A trader killed at its very end may have written more than it said."""
    board.report(a_snapshot(1, written=7))
    board.report({"kind": "end", "life": 1, "error_log": {"written": 7}})
    board.life_ended(was_killed=True)
    assert board.lives[1].was_killed


def test_a_death_before_the_first_snapshot_leaves_nothing(board: Scoreboard) -> None:
    """There is nothing to add up."""
    board.life_ended(was_killed=True)
    assert board.lives == {}
    assert board.services() == {}


def test_the_same_error_is_listed_once(board: Scoreboard) -> None:
    """Each snapshot repeats the last errors; only newer ones are added."""
    errors = [{"timestamp": f"2026-11-25T12:00:0{second}+00:00"} for second in range(4)]
    board.report(a_snapshot(recent_errors=errors[:3]))
    board.report(a_snapshot(recent_errors=errors[1:]))
    assert list(board.errors) == errors


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"kind": "up", "restored": False, "orders": 0, "pending": 0}, "nothing to restore"),
        ({"kind": "up", "restored": True, "orders": 9, "pending": 2}, "9 orders, 2 of them pending"),
        (
            {"kind": "circuit", "service": "a", "state": "open", "why": "E", "seconds": 1.5},
            "a opened for 1.5 s (E)",
        ),
        (
            {"kind": "circuit", "service": "a", "state": "open", "why": "E", "seconds": 0.0},
            "a is open, and the next call may try (E)",
        ),
        ({"kind": "circuit", "service": "a", "state": "half-open"}, "a half-open"),
        ({"kind": "circuit", "service": "a", "state": "closed"}, "a closed again"),
        ({"kind": "note", "text": "hello"}, "hello"),
    ],
)
def test_reports_become_lines_for_people(board: Scoreboard, line: dict[str, Any], text: str) -> None:
    """What happened, in words."""
    happening = board.report(line)
    assert happening is not None
    assert text in happening.text
    assert happening in board.happenings


def test_an_unknown_report_is_passed_over(board: Scoreboard) -> None:
    """A line that means nothing changes nothing."""
    assert board.report({"kind": "whatever"}) is None


def a_summary(board: Scoreboard, by_ledger: LedgerVerdict | None = None) -> Summary:
    by_ledger = LedgerVerdict("fine") if by_ledger is None else by_ledger
    return Summary.make(board, Book(), ErrorLines({1: 3}), {"outage": 4}, 1, by_ledger, Verdict("compared"))


def test_one_difference_is_enough_to_disagree(board: Scoreboard) -> None:
    """And it stands in the summary, in full."""
    summary = a_summary(board, LedgerVerdict("compared", ("sp-1: booked twice",), doubled=1))
    assert not summary.agrees
    assert any("sp-1: booked twice" in text for text, _ in summary.lines())
    assert "does not add up" in summary.conclusion()
    assert summary.to_dict()["agrees"] is False
    assert dict(summary.rows())["orders"] == "none; 1 doubled, 0 lost"


def test_the_summary_tells_how_unknown_outcomes_were_settled(board: Scoreboard) -> None:
    """Each order once, by what settled it last, over all lives; and those that nobody knows."""
    for order, how in [
        ("sp-1", "unknown"),
        ("sp-1", "look-up"),
        ("sp-2", "unknown"),
        ("sp-3", "unknown"),
        ("sp-3", "unknown"),
        ("sp-3", "reconcile"),
    ]:
        board.report({"kind": "outcome", "order": order, "how": how})
    row = dict(a_summary(board).rows())["unknown outcomes"]
    assert row == "3: 1 settled by look-up, 1 by reconcile, 1 still unknown"


def test_the_summary_adds_what_the_traders_side_did_to_itself(board: Scoreboard) -> None:
    """The venue knows nothing of the slow disk and the deaths."""
    board.report(a_snapshot(count=2))
    assert a_summary(board).faults_injected == {"outage": 4, "slow_disk": 2, "kill": 1}


def test_every_figure_of_the_summary_is_shown(board: Scoreboard) -> None:
    """Calls, failures, retries, fallbacks, trips, errors, drops, state, lag, orders, faults."""
    names = [name for name, _ in a_summary(board).rows()]
    assert names == [
        "calls",
        "failures survived",
        "retries",
        "fallbacks",
        "circuit trips",
        "orders",
        "unknown outcomes",
        "errors logged",
        "state restored",
        "worst loop lag",
        "faults injected",
    ]


def test_the_status_line_names_only_what_is_in_trouble(board: Scoreboard) -> None:
    """Healthy services are not worth a word each."""
    board.report(a_snapshot(count=1))
    assert status_line(board).endswith("all services operational")
    snapshot = a_snapshot()
    snapshot["services"]["trading"] |= {"status": "unavailable", "circuit": "open"}
    board.report(snapshot)
    assert status_line(board).endswith("trading unavailable/open")


def test_plain_lines_give_one_status_a_second(board: Scoreboard) -> None:
    """However often the view is refreshed."""
    out = io.StringIO()
    view = PlainView(out)
    board.report(a_snapshot())
    for tenth in range(35):
        board.elapsed = tenth / 10
        view.refresh(board)
    assert [line[:8].strip() for line in out.getvalue().splitlines()] == ["1.0 s", "2.0 s", "3.0 s"]


def test_a_reader_that_goes_away_is_reported_once() -> None:
    """The session ends in order instead of failing at each line."""

    class Broken(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    calls: list[int] = []
    view = PlainView(Broken())
    view.on_broken = lambda: calls.append(1)
    view.line("one")
    view.line("two")
    assert calls == [1]


@pytest.mark.parametrize(
    "size", [(140, 45), (100, 30), (80, 24), (60, 15), (40, 10), (20, 5), (1, 1)], ids=repr
)
@pytest.mark.parametrize("is_new", [True, False], ids=["empty", "busy"])
def test_the_picture_fits_any_terminal(board: Scoreboard, size: tuple[int, int], *, is_new: bool) -> None:
    """No size of terminal and no state of the session breaks the live view."""
    pytest.importorskip("rich", reason="the demo extra is not installed: no rich")
    from rich.console import Console

    from shockproof.demo.live_view import picture
    from shockproof.demo.venue.fault_plan import FaultPlan

    plan = FaultPlan.make("all", seconds=30.0, seed=1, client_timeout=1.5)
    if not is_new:
        board.elapsed, board.weather = 12.0, ("outage", "slow_disk")
        error = {"timestamp": "2026-11-25T12:00:00", "service_name": "trading"}
        error |= {"error_type": "X", "error_message": "two\nlines [red]"}
        snapshot = a_snapshot(count=3, latency_ms={"trading": 1.0}, equity=90_000.0, recent_errors=[error])
        snapshot["services"]["trading"] |= {"status": "unavailable", "circuit": "open"}
        board.report(snapshot)
        board.happened("something with [brackets]", "bad")
    width, height = size
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True)
    with console.capture() as captured:
        console.print(picture(board, "shockproof demo", plan, width, height))
    lines = captured.get().splitlines()
    assert len(lines) <= height
    if not is_new and width >= 80:
        assert "trading" in captured.get()
        assert "two lines" in captured.get()
