"""What benchmarks write into the docs: each section has its place, its command, its machine and its pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
# The first line of a section: by which command, when, on what.
FIRST_LINE = re.compile(
    r"`(?P<command>\./run bench \w+)`, \d{1,2} \w+ 20\d\d\. CPython 3\.\d+\.\d+, Linux .*\d+ CPUs.*shockproof \d"
)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("published")


def test_each_section_is_on_its_page_once_with_its_command_and_its_machine(published: Any) -> None:
    """A figure without these is hearsay, and a page without the markers is not written."""
    for section in published.SECTIONS.values():
        page = section.file.read_text(encoding="utf-8")
        assert (page.count(section.begin), page.count(section.end)) == (1, 1), section
        told = FIRST_LINE.match(section.text())
        assert told is not None, section.text()[:200]
        assert told["command"] == section.command
        assert "\n| --- |" in section.text(), f"{section.name} has no table"


def test_no_page_has_markers_that_nobody_writes_between(published: Any) -> None:
    """A section that was renamed would stand still for ever."""
    known = {section.begin for section in published.SECTIONS.values()}
    found = {
        marker
        for page in (ROOT / "docs").rglob("*.md")
        for marker in re.findall(r"<!-- [\w-]+: begin -->", page.read_text(encoding="utf-8"))
    }
    assert found == known


def test_each_script_is_there_and_says_how_it_is_published(published: Any) -> None:
    """Whoever reads the script finds the command, and the other way round."""
    for section in published.SECTIONS.values():
        script = (BENCHMARKS / section.script).read_text(encoding="utf-8")
        assert section.command in script, section.script
        assert "--write" in script, section.script


def test_each_picture_is_shown_beside_its_section_and_is_one(published: Any) -> None:
    """Readable on a light and on a dark page, and by those who cannot see it."""
    drawn = {picture for section in published.SECTIONS.values() for picture in section.pictures}
    assert {path.name for path in published.PICTURES.iterdir()} == drawn
    for section in published.SECTIONS.values():
        for name in section.pictures:
            shown = re.search(
                rf"!\[([^]]{{20,}})\]\([./]*pictures/{re.escape(name)}\)", section.file.read_text("utf-8")
            )
            assert shown is not None, f"{section.page} does not show {name} with words for it"
            text = (published.PICTURES / name).read_text(encoding="utf-8")
            assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
            assert "prefers-color-scheme: dark" in text
            assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), "it loads something"


def test_bars_are_as_long_as_their_values_and_say_whose_they_are(published: Any) -> None:
    """On a logarithmic scale: ten times as much is as far again."""
    bar = published.Bar
    text = published.bars(
        "What it <costs>",
        "times",
        {"a call": [bar("ours", 1.0, True), bar("a rival", 10.0), bar("b", 100.0)]},
    )
    widths = [float(width) for width in re.findall(r'class="(?:ours|other)" .*?width="([\d.]+)"', text)]
    assert widths[1] * 2 == pytest.approx(widths[2])
    assert text.count('class="ours"') == 1
    assert "What it &lt;costs&gt;" in text


def test_a_section_is_written_between_its_markers_and_nowhere_else(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What people wrote around it stays, however often it is written."""
    monkeypatch.setattr(published, "DOCS", tmp_path)
    monkeypatch.setattr(published, "PICTURES", tmp_path / "pictures")
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- x: begin -->\nold\n<!-- x: end -->\n\nafter\n")
    section = published.Section("x", "page.md", "x.py", pictures=("x.svg",))
    for _ in range(2):
        section.write(
            published.table(["case", "ms"], [("a", 1)]),
            method="1 round.",
            cannot_tell="much.",
            versions=["pytest"],
            pictures={"x.svg": "<svg/>"},
        )
    text = page.read_text()
    assert text.startswith("before\n\n<!-- x: begin -->\n\n`./run bench x`, ")
    assert text.endswith(
        "1 round.\n\n| case | ms |\n| --- | ---: |\n| a | 1 |\n\nWhat it cannot tell: much.\n\n<!-- x: end -->\n\nafter\n"
    )
    assert f"pytest {pytest.__version__}" in text
    assert (tmp_path / "pictures" / "x.svg").read_text() == "<svg/>"
    with pytest.raises(ValueError, match="x draws"):
        section.write("", method="")


def test_the_command_lists_what_there_is_and_refuses_what_there_is_not(published: Any) -> None:
    """As `./run bench --list` and `./run bench nonsense`."""

    def bench(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(BENCHMARKS), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    listed = bench("--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(published.SECTIONS)
    refused = bench("nonsense")
    assert refused.returncode == 2
    assert "no such benchmark: 'nonsense'; there are cost" in refused.stderr


def test_what_this_machine_cannot_measure_is_left_out_and_said(published: Any) -> None:
    """Its page stays as it was, and that is no failure: others are written without it."""
    section = published.SECTIONS["power_cut"]
    before = section.file.read_text("utf-8")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS), section.name],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, "PATH": "/nowhere"},  # without mkfs.ext4, should everything else be there
    )

    assert done.returncode == 0
    assert f"LEFT OUT, it needs {section.needs}" in done.stdout
    assert "bench: 1 left out: power_cut;" in done.stdout
    assert section.file.read_text("utf-8") == before
