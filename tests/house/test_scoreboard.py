"""The scoreboard of behaviour: its page is about the scenarios that there are, and says of what they are about."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "scoreboard.md"
WRITE = "run: python benchmarks/correctness.py --write"

# An issue or a change, a file of a repository, a standard, the language's documentation, or authors and their title.
CITATION = re.compile(
    r"[\w.-]+/[\w.-]+#\d+(, .+)?"
    r"|[\w.-]+/[\w.-]+ [\w./-]+\.\w+(, .+)?"
    r"|(RFC|PEP) \d+(, .+)?"
    r"|Python documentation, .+"
    r"|(gRPC|interlock) guide, .+"
    r"|([A-Z]\. )+[A-Z]\w+[^,]*, .+"
)


@pytest.fixture
def scenarios(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    found: list[Any] = import_module("correctness.scenarios").all_scenarios()
    return found


@pytest.fixture
def rows() -> list[tuple[str, str]]:
    """Each scenario of the tables, and our own mark."""
    table = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return [
        (cells[0].removesuffix("."), cells[1]) for cells in table if cells[0].endswith(".") and len(cells) > 5
    ]


def test_each_scenario_cites_something_in_a_form_that_can_be_looked_up(scenarios: list[Any]) -> None:
    """A number without its repository finds nothing, and hearsay even less."""
    for scenario in scenarios:
        for source in scenario.cites.split("; "):
            assert CITATION.fullmatch(source), (scenario.name, source)


def test_the_page_shows_the_scenarios_that_there_are_with_what_they_cite(
    scenarios: list[Any], rows: list[tuple[str, str]]
) -> None:
    """A scenario that was added, dropped or mended later would have no verdict, or one about something else."""
    cited = import_module("correctness.table").cited
    told = PAGE.read_text(encoding="utf-8")
    assert [title for title, _ in rows] == [scenario.title for scenario in scenarios], WRITE
    for scenario in scenarios:
        assert f"* **{scenario.title}.** {cited(scenario.cites)}.\n" in told, WRITE


def test_there_are_at_least_sixty_and_we_pass_each(rows: list[tuple[str, str]]) -> None:
    """A row that we do not pass is a bug of ours, or does not belong there."""
    assert len(rows) >= 60
    assert [title for title, mark in rows if mark != "✓"] == []
