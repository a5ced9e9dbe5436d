"""The report of what a killed program left."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shockproof import ErrorRecoveryService
from shockproof.testing import VirtualClock

if TYPE_CHECKING:
    import pytest

Run = Callable[..., Any]  # the fixture's result

ORIGINAL = Path(__file__).parents[1] / "data"


def test_state_and_pending_operations_are_in_it(shockproof: Run, killed: Path) -> None:
    """And no secret, and no change of any file but the page."""
    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*")}
    output = killed.parent / "report.html"
    place = ("--state-dir", killed / "state", "--error-log-dir", killed / "errors")
    made = shockproof("report", "--output", output, "--title", "After the crash", *place)
    assert (made.code, made.out) == (0, f"The report is {output}\n")
    page = output.read_text()
    assert "<h1>After the crash</h1>" in page
    assert "bot-5" in page
    assert "not in the journal" not in page
    assert "150.25" in page
    assert "hunter2" not in page
    assert {path: path.stat().st_mtime_ns for path in killed.rglob("*")} == before


def test_what_the_original_program_wrote_is_in_it(shockproof: Run, tmp_path: Path) -> None:
    """Its errors and its state."""
    shutil.copytree(ORIGINAL / "original-errors", tmp_path / "errors")
    shutil.copytree(ORIGINAL / "original-state", tmp_path / "state")
    output = tmp_path / "report.html"
    place = ("--state-dir", tmp_path / "state", "--error-log-dir", tmp_path / "errors")
    assert shockproof("report", "--output", output, *place).code == 0
    page = output.read_text()
    assert "Always fails" in page
    assert "market_data" in page
    assert "by the original program" in page
    assert "<dt>pending operations</dt><dd>1</dd>" in page
    assert "in the saved state, and not in the journal" in page


def test_only_the_asked_time_is_in_it(shockproof: Run, tmp_path: Path) -> None:
    """Errors of another day are not counted."""
    shutil.copytree(ORIGINAL / "original-errors", tmp_path / "errors")
    output = tmp_path / "report.html"
    place = ("--state-dir", tmp_path, "--error-log-dir", tmp_path / "errors", "--output", output)
    assert shockproof("report", "--since", "2026-02-14", "--until", "2026-02-15", *place).code == 0
    assert "Always fails" not in output.read_text()
    refused = shockproof("report", "--since", "2026-02-15", "--until", "2026-02-14", *place)
    assert (refused.code, "nothing is between them" in refused.err) == (2, True)


def test_a_day_has_its_errors_and_the_state_of_its_backup(shockproof: Run, tmp_path: Path) -> None:
    """A state that was saved later is no state of that day, and said not to be; that of a backup is."""
    shutil.copytree(ORIGINAL / "original-errors", tmp_path / "errors")
    shutil.copytree(ORIGINAL / "original-state", tmp_path / "backup")  # saved on 2026-02-12
    place = ("--state-dir", tmp_path / "backup", "--error-log-dir", tmp_path / "errors", "--output", "-")
    of_the_day = shockproof("report", "--day", "2026-02-12", *place)
    assert of_the_day.code == 0
    assert "Always fails" in of_the_day.out
    assert "saved after the time that this report is about" not in of_the_day.out
    before = shockproof("report", "--day", "2026-02-10", *place)
    assert "Always fails" not in before.out
    assert "saved after the time that this report is about" in before.out
    for words in (("--day", "2026-02-12", "--since", "2h"), ("--day", "9999-12-31"), ("--day", "soon")):
        refused = shockproof("report", *words, *place)
        assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_a_day_has_the_state_that_was_kept_of_it_in_report_and_show(shockproof: Run, tmp_path: Path) -> None:
    """The last one before the day ended, also of a day without a save; a day before all of them has none of its own."""
    state_dir = tmp_path / "state"
    for day, number in ((20, 1), (20, 2), (23, 3), (25, 4)):
        clock = VirtualClock(wall=datetime(2026, 11, day, 12, number).astimezone().timestamp())
        recovery = ErrorRecoveryService(state_dir, tmp_path / "errors", clock=clock, keep_daily_states=5)

        async def save(recovery: ErrorRecoveryService = recovery, number: int = number) -> None:
            async with recovery:
                await recovery.save_state(configuration={"mode": f"mode number {number}"}, force=True)

        clock.run(save())
    place = ("--state-dir", state_dir, "--error-log-dir", tmp_path / "errors", "--output", "-")
    for day, number in ((20, 2), (21, 2), (23, 3), (24, 3), (25, 4), (26, 4)):
        page = shockproof("report", "--day", f"2026-11-{day}", *place).out
        assert f"mode number {number}" in page, day
        assert "saved after the time that this report is about" not in page
        shown = shockproof("state", "show", "configuration.mode", "--day", f"2026-11-{day}", *place[:2])
        assert (shown.code, shown.out) == (0, f'"mode number {number}"\n')
    refused = shockproof("state", "show", "--day", "2026-11-19", *place[:2])
    assert (refused.code, refused.out) == (3, "")
    assert "no state of 2026-11-19 is kept in" in refused.err
    assert "saved after the time" in shockproof("report", "--day", "2026-11-19", *place).out
    assert "mode number 4" in shockproof("report", *place).out


def test_a_dash_is_stdout(shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every other program: the page and nothing else, in a form that any encoding of stdout can hold."""
    monkeypatch.chdir(tmp_path)
    made = shockproof("report", "--state-dir", tmp_path, "--title", "Zürich", "--output", "-")
    assert (made.code, made.err) == (0, "shockproof: there is no error log in data/errors\n")
    assert made.out.startswith("<!DOCTYPE html>")
    assert made.out.endswith("</html>\n")
    assert "<h1>Z&#252;rich</h1>" in made.out
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_one_line(shockproof: Run, tmp_path: Path) -> None:
    """With the file's name."""
    refused = shockproof("report", "--state-dir", tmp_path, "--output", tmp_path / "no" / "report.html")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "No such file or directory" in refused.err


def test_where_nothing_is_there_is_no_report(shockproof: Run, tmp_path: Path) -> None:
    """A wrong directory must not look like a day without errors."""
    place = (
        "--state-dir",
        tmp_path / "a",
        "--error-log-dir",
        tmp_path / "b",
        "--output",
        tmp_path / "r.html",
    )
    assert shockproof("report", *place).code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_that_is_not_there_has_nothing_pending_nowhere(
    shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was named is mistyped, and refused; without a name the page and stderr say what is not known."""
    monkeypatch.chdir(tmp_path)
    errors = ("--error-log-dir", ORIGINAL / "original-errors", "--output", "-")
    refused = shockproof("report", *errors, "--state-dir", "nowhere")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err == "shockproof report: nowhere is not there: name the program's with --state-dir DIR\n"
    made = shockproof("report", *errors)
    said = "there is no state directory data/state: nothing is known of what is saved and pending"
    assert (made.code, made.err) == (0, f"shockproof: {said}\n")
    assert f'<p class="notice" role="alert">{said}</p>' in made.out
    assert "<dt>pending operations</dt><dd>unknown</dd>" in made.out


def test_a_day_that_cannot_be_read_is_no_day_without_errors(shockproof: Run, tmp_path: Path) -> None:
    """The page, stderr and the exit code say which file is missing in it."""
    (original,) = (ORIGINAL / "original-errors").glob("*.jsonl")
    packed = gzip.compress(original.read_bytes())
    (tmp_path / f"{original.name}.gz").write_bytes(packed[:30])
    made = shockproof("report", "--state-dir", tmp_path, "--error-log-dir", tmp_path, "--output", "-")
    said = f"could not be read to the end, damaged or forbidden: {original.name}.gz"
    assert (made.code, made.err) == (1, f"shockproof: {said}\n")
    assert f'<p class="notice" role="alert">{said}</p>' in made.out
    assert "<p>no errors that could be read; made" in made.out
    assert "<p>None that could be read.</p>" in made.out


def test_torn_lines_and_a_damaged_state_are_told_beside_the_page(shockproof: Run, tmp_path: Path) -> None:
    """A crash tears a line, which is nothing wrong; a state file that is damaged is."""
    (tmp_path / "errors_20261125.jsonl").write_text('{"timestamp": "2026-')
    words = (
        "report",
        "--state-dir",
        tmp_path,
        "--error-log-dir",
        tmp_path,
        "--output",
        tmp_path / "page.html",
    )
    torn = shockproof(*words)
    assert (torn.code, torn.err) == (
        0,
        "shockproof: 1 lines are no records: torn by a crash, or somebody else's\n",
    )
    assert "1 lines are no records" in (tmp_path / "page.html").read_text()
    (tmp_path / "system_state.json").write_bytes(b"{")
    damaged = shockproof(*words)
    assert (damaged.code, "system_state.json is damaged" in damaged.err) == (1, True)


def test_a_mistyped_service_is_told_on_the_page_too(shockproof: Run, tmp_path: Path) -> None:
    """With those that there are, and the exit code of what is not there."""
    shutil.copytree(ORIGINAL / "original-errors", tmp_path, dirs_exist_ok=True)
    words = ("report", "--state-dir", tmp_path, "--error-log-dir", tmp_path, "--output", "-", "--service")
    mistyped = shockproof(*words, "trdaing")
    assert mistyped.code == 3
    assert "is of service 'trdaing'; there are: " in mistyped.err
    assert "is of service &#x27;trdaing&#x27;; there are: " in mistyped.out
