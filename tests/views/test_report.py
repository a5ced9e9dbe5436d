"""The report: whole, safe to open, and true."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from shockproof.views.error_counts import ErrorCounts
from shockproof.views.report import OnDisk, look_at, report, write_whole
from shockproof.vocabulary.models import ErrorRecord
from shockproof.vocabulary.statuses import ErrorSeverity

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
MARKUP = '<script>alert("1")</script>\x1b[31m & <b>'
EVIL = f"{MARKUP} password=hunter2"


class Reader(HTMLParser):
    """What a browser would see: every tag closed, its texts, what it would load."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.events: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}
        ]
        self.events += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def records(number: int) -> list[ErrorRecord]:
    return [
        ErrorRecord(
            timestamp=NOW - timedelta(minutes=number - place),
            error_type=f"Error<{place % 3}>",
            error_message=f"{place} {EVIL}",
            severity=list(ErrorSeverity)[place % 4],
            service_name=f"service <{place % 5}>",
            function_name="fetch",
            stack_trace=f"Traceback (most recent call last):\n  {EVIL}",
            context={"api_key": "hunter2", EVIL: EVIL},
        )
        for place in range(number)
    ]


def page_of(number: int, on_disk: OnDisk | None = None, **more: Any) -> str:
    counts = ErrorCounts()
    for record in records(number):
        counts.add(record)
    return report(counts, on_disk or OnDisk(), title=f"Night {MARKUP}", now=NOW, **more)


@pytest.mark.parametrize("number", [0, 1, 200])
def test_the_page_is_whole_and_loads_nothing(number: int) -> None:
    """No script, no link, no picture from elsewhere; what others wrote is text; and the browser is told so too."""
    page = page_of(number, words=[MARKUP], summary=[(MARKUP, MARKUP)])
    reader = Reader(page)
    assert "script" not in reader.tags
    assert (reader.loads, reader.events) == ([], [])
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.search(r"url\(|@import|//\w", page)
    assert "\x1b" not in page
    assert "hunter2" not in page


def test_pictures_are_drawn_to_scale_and_say_what_they_show() -> None:
    """The bars add up to the errors; each picture has a name for who does not see it."""
    page = page_of(100)
    pictures = [ET.fromstring(text) for text in re.findall(r"<svg .*?</svg>", page, re.DOTALL)]
    (bars,) = [picture for picture in pictures if picture.get("class") == "bars"]
    assert "100 errors over time" in (bars.get("aria-label") or "")
    said = [title.text or "" for title in bars.iter("title")]
    assert (
        sum(
            int(number) for text in said for number in re.findall(r"(\d+) (?:low|medium|high|critical)", text)
        )
        == 100
    )
    assert max(
        100 - float(shape.get("y") or 0) for shape in bars.iter("rect") if shape.get("class") != "nothing"
    ) == pytest.approx(100)
    for picture in pictures:
        assert picture.get("aria-hidden") == "true" or picture.get("aria-label")


def test_a_screen_reader_finds_headings_and_table_heads() -> None:
    """Every section has its heading, every column its head, every table a name, and every row what it is about."""
    page = page_of(10)
    assert page.count("<section>") == page.count("<h2>")
    assert "<table>" not in page
    assert page.count("<table aria-label=") == page.count("<thead>")
    assert page.count("<tr>") == page.count("<thead><tr>") + page.count('<tr><th scope="row"') + page.count(
        '<tr><td class="number">'  # of what was said most often: which one it is comes third
    )
    assert page.count('<th scope="row" class="text">') == page.count('<tr><td class="number">')
    assert 'lang="en"' in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_words_in_colour_can_be_read_in_light_and_in_dark() -> None:
    """Four and a half to one on the page and on its cards, as WCAG's level AA asks of text of that size."""
    light, dark = re.findall(r":root \{([^}]*)\}", page_of(1))
    for colours in (light, light + dark):
        of = dict(re.findall(r"--(\w+): #(\w+);", colours))
        for name in ("text", "dim", "good", "middling", "bad"):
            assert contrast(of[name], of["page"]) >= 4.5, name
            assert contrast(of[name], of["card"]) >= 4.5, name


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    """A page without a word about a lost state would look like all was well."""
    (tmp_path / "system_state.json").write_bytes(b"{")
    (tmp_path / "halted.json").write_text('{"reason": "fat finger", "since": "2026-11-25T10:00:00+00:00"}')
    page = page_of(0, look_at(tmp_path, now=NOW.timestamp()))
    assert "system_state.json is damaged: it is no valid JSON" in page
    assert "fat finger" in page
    assert page.count('role="alert"') == 2


def test_a_page_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no half of a new one beside it."""
    path = tmp_path / "report.html"
    write_whole(path, "first")

    def refuse(self: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "second")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"report.html": "first"}


def test_only_messages_and_values_are_broken_where_there_is_no_space() -> None:
    """A service's name in pieces, "binanc e.orde rs", is hard to read and cannot be searched for."""
    page = page_of(3)
    style = page[: page.index("</style>")]
    breaking = [rule.split("{")[0].split("\n")[-1].strip() for rule in style.split("}") if "anywhere" in rule]
    assert breaking == [".text", "summary"]
    said = page[page.index("Said most often") :].split("</section>")[0]
    assert re.findall(r'<t[dh](?: scope="row")? class="(\w+)"|<td()>', said)[4:8] == [
        ("number", ""),
        ("", ""),
        ("text", ""),
        ("", ""),
    ]
