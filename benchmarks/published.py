"""
What benchmarks write into the docs: a section between two markers of a page, and pictures beside it.

Each section says by which command it was made, when, on what machine, with which versions, and what it cannot tell.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import shockproof

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PICTURES = DOCS / "pictures"
LEFT_OUT = 3
"""Exit status of a script that cannot run on this machine."""


@dataclass(frozen=True)
class Section:
    """A part of a page that one benchmark writes."""

    name: str
    page: str
    """Below ``docs/``."""
    script: str
    """Below ``benchmarks/``."""
    words: tuple[str, ...] = ()
    """What the script is called with, for all that is published."""
    pictures: tuple[str, ...] = ()
    """Files below ``docs/pictures/`` that it draws."""
    needs: str = ""
    """What not every machine has; a script that lacks it ends with `LEFT_OUT`, and its page stays as it was."""

    @property
    def begin(self) -> str:
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.name}: end -->"

    @property
    def command(self) -> str:
        return f"./run bench {self.name}"

    @property
    def file(self) -> Path:
        return DOCS / self.page

    def text(self) -> str:
        """What stands there now."""
        return self.file.read_text(encoding="utf-8").split(self.begin)[1].split(self.end)[0].strip()

    def write(
        self,
        body: str,
        *,
        method: str,
        cannot_tell: str = "",
        versions: Iterable[str] = (),
        pictures: Mapping[str, str] | None = None,
    ) -> None:
        """
        Put *body* there, below the command, the machine and the *versions* of these distributions.

        *method* is the number of rounds and the like; *pictures* are SVG texts by file name.
        """
        drawn = dict(pictures or {})
        if set(drawn) != set(self.pictures):
            raise ValueError(
                f"{self.name} draws {sorted(drawn)}, and says that it draws {sorted(self.pictures)}"
            )
        PICTURES.mkdir(exist_ok=True)
        for name, picture in drawn.items():
            (PICTURES / name).write_text(picture, encoding="utf-8")
        parts = [f"`{self.command}`, {today()}. {setting(versions)}. {method}", body.strip()]
        if cannot_tell:
            parts.append(f"What it cannot tell: {cannot_tell}")
        page = self.file.read_text(encoding="utf-8")
        before, rest = page.split(self.begin)
        _, after = rest.split(self.end)
        whole = "\n\n".join([self.begin, *parts, self.end])
        self.file.write_text(f"{before}{whole}{after}", encoding="utf-8")


SECTIONS = {
    section.name: section
    for section in (
        Section("cost", "explanation/cost-of-a-call.md", "calls.py", ("--write",), ("cost-of-a-call.svg",)),
        Section("streams", "policies/stream.md", "streams.py", ("--write",)),
        Section("errors", "explanation/cost-of-an-error.md", "errors.py", ("--write",)),
        Section("loop", "explanation/the-loop.md", "loop.py", ("--write",), ("the-loop.svg",)),
        Section("state", "explanation/large-states.md", "state.py", ("--write",), ("large-states.svg",)),
        Section("journal", "explanation/journal.md", "journal.py", ("--write",)),
        Section(
            "orders",
            "explanation/orders.md",
            "orders.py",
            ("--write", "--intents", "10000", "--kills", "1100", "--traders", "10"),
        ),
        Section(
            "power_cut",
            "explanation/crash-safety.md",
            "power_cut.py",
            ("--write",),
            needs="root, loop devices and e2fsprogs",
        ),
        Section("fleet", "explanation/fleet.md", "fleet.py", ("--write",)),
        Section("scoreboard", "explanation/scoreboard.md", "correctness.py", ("--write",)),
    )
}
"""In the order in which they are made: the long ones at the end."""


def today() -> str:
    now = time.localtime()
    return f"{now.tm_mday} {time.strftime('%B %Y', now)}"


def setting(versions: Iterable[str] = ()) -> str:
    """The interpreter, the machine and the versions, in one line."""
    load = os.getloadavg()[0]
    told = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        f"{os.cpu_count()} CPUs ({processor()}), load {load:.1f}",
        f"shockproof {shockproof.__version__}",
        *(f"{name} {importlib.metadata.version(name)}" for name in versions),
    ]
    return ", ".join(told)


def processor() -> str:
    """What the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown: the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---', *['---:'] * (len(head) - 1)])} |"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


# -- pictures ---------------------------------------------------------------------------------------------------------

_STYLE = """\
<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.paper { fill: #ffffff; stroke: #d0d7de }
.title { font-weight: 600; font-size: 14px }
.line { stroke: #d0d7de }
.ours { fill: #0b7285 }
.other { fill: #adb5bd }
.limit { stroke: #c92a2a; stroke-dasharray: 4 3 }
.small { font-size: 11px; fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .paper { fill: #161b22; stroke: #30363d }
  .line { stroke: #30363d }
  .ours { fill: #3bc9db }
  .other { fill: #6e7681 }
  .limit { stroke: #ff8787 }
  .small { fill: #8b949e }
}
</style>"""


@dataclass(frozen=True)
class Bar:
    """One bar of a picture."""

    name: str
    value: float
    is_ours: bool = False
    shown: str = ""
    """What stands behind it; empty: the value."""


def bars(title: str, unit: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    """
    Horizontal bars in groups, on a logarithmic scale, as one SVG text with a ground of its own.

    A logarithmic scale, because what is compared differs by orders of magnitude; each bar has its number.
    """
    left, width, row, gap = 320, 330, 20, 30
    values = [bar.value for group in groups.values() for bar in group if bar.value > 0]
    low = 10.0 ** math.floor(math.log10(min(values)))
    high = 10.0 ** math.ceil(math.log10(max(values) * 1.0001))
    if low == high:
        high = low * 10
    height = 78 + sum(gap + row * len(group) for group in groups.values())
    full = left + width + 110

    def x(value: float) -> float:
        at = (math.log10(max(value, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return left + width * at

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {height}" width="{full}" height="{height}" role="img">',
        f"<title>{escape(title)}</title>",
        _STYLE,
        f'<rect class="paper" x="0.5" y="0.5" width="{full - 1}" height="{height - 1}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    mark = low
    while mark <= high * 1.0001:
        parts += [
            f'<line class="line" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="40" y2="{height - 34}"/>',
            f'<text class="small" x="{x(mark):.1f}" y="{height - 18}" text-anchor="middle">{mark:g}</text>',
        ]
        mark *= 10
    parts.append(
        f'<text class="small" x="{full - 16}" y="{height - 18}" text-anchor="end">{escape(unit)}</text>'
    )
    y = 44
    for name, group in groups.items():
        parts.append(f'<text x="16" y="{y + 14}">{escape(name.replace("`", ""))}</text>')
        y += gap - 8
        for bar in group:
            kind = "ours" if bar.is_ours else "other"
            parts += [
                f'<text class="small" x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(shortened(bar.name))}</text>',
                f'<rect class="{kind}" x="{left}" y="{y + 3}" width="{max(2.0, x(bar.value) - left):.1f}" height="14" rx="2"/>',
                f'<text class="small" x="{x(bar.value) + 6:.1f}" y="{y + 14}">{escape(bar.shown or f"{bar.value:g}")}</text>',
            ]
            y += row
        y += 8
    return "\n".join([*parts, "</svg>", ""])


def shortened(name: str) -> str:
    """What has room beside a bar."""
    return name if len(name) <= 52 else f"{name[:51].rstrip()}…"
