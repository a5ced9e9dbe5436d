"""
The verdicts as text for a terminal, and as the table of the documentation.
"""

from __future__ import annotations

import re

from published import SECTIONS

from correctness.judge import DIFFERS, ERROR, FAIL, NOT_OFFERED, PASS, VARIES
from correctness.libraries import load
from correctness.running import Board
from correctness.scenarios import GROUPS, Scenario

MARKS = {PASS: "✓", FAIL: "✗", DIFFERS: "≠", NOT_OFFERED: "·", ERROR: "!", VARIES: "?"}
NAMES = {
    "retry": "Retry",
    "circuit_breaker": "Circuit breaker",
    "timeout": "Timeout",
    "fallback": "Fallback",
    "bulkhead": "Bulkhead",
    "rate_limit": "Rate limit",
    "composition": "Together",
}


def printed(board: Board, scenarios: list[Scenario], *, why: bool) -> str:
    lines = [f"{'':42}" + " ".join(f"{name[:7]:7}" for name in board)]
    for index, scenario in enumerate(scenarios):
        row = [board[name][index] for name in board]
        shown = f"{scenario.group[:7]}: {scenario.name}"
        lines.append(f"{shown[:41]:42}" + " ".join(f"{verdict.kind:7}" for verdict in row))
        if why:
            lines += [
                f"      {name}: {verdict.kind}: {verdict.reason}"
                for name, verdict in zip(board, row, strict=True)
                if verdict.reason
            ]
    lines.append("")
    for kind in MARKS:
        counts = [sum(verdict.kind == kind for verdict in verdicts) for verdicts in board.values()]
        lines.append(f"{kind:42}" + " ".join(f"{count:<7}" for count in counts))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


_LINKS = (
    # GitHub leads from an issue's address to the pull request of that number.
    (re.compile(r"\b([\w.-]+/[\w.-]+)#(\d+)"), r"[\g<0>](https://github.com/\1/issues/\2)"),
    (re.compile(r"(?<![\w./])([\w.-]+/[\w.-]+)(?= \S+\.\w)"), r"[\1](https://github.com/\1)"),
    (re.compile(r"\bRFC (\d+)"), r"[\g<0>](https://www.rfc-editor.org/rfc/rfc\1)"),
    (re.compile(r"\bPEP (\d{3})\b"), r"[\g<0>](https://peps.python.org/pep-0\1/)"),
    (re.compile(r"\bPEP (\d{4})\b"), r"[\g<0>](https://peps.python.org/pep-\1/)"),
)


def cited(text: str) -> str:
    """A citation with links to what it names."""
    for form, link in _LINKS:
        text = form.sub(link, text)
    return text


def _body(board: Board, scenarios: list[Scenario]) -> str:
    names = list(board)
    lines = [
        _row(["", *names]),
        _row(["---", *[":---:"] * len(names)]),
    ]
    for kind, mark in MARKS.items():
        counts = [sum(verdict.kind == kind for verdict in board[name]) for name in names]
        if any(counts):
            lines.append(_row([f"{mark} {kind}", *map(str, counts)]))
    for group in GROUPS:
        of_group = [index for index, scenario in enumerate(scenarios) if scenario.group == group]
        if not of_group:
            continue
        lines += [
            "",
            f"### {NAMES[group]}",
            "",
            _row(["scenario", *names]),
            _row(["---", *[":---:"] * len(names)]),
        ]
        lines += [
            _row([f"{scenarios[index].title}.", *[MARKS[board[name][index].kind] for name in names]])
            for index in of_group
        ]
    lines += ["", "### What was seen, and where it comes from", ""]
    for index, scenario in enumerate(scenarios):
        if not index or scenarios[index - 1].group != scenario.group:
            lines += ["", f"#### {NAMES[scenario.group]}: seen", ""]
        lines.append(f"* **{scenario.title}.** {cited(_cell(scenario.cites))}.")
        seen: dict[tuple[str, str], list[str]] = {}
        for name in names:
            verdict = board[name][index]
            if verdict.kind not in {PASS, NOT_OFFERED}:
                seen.setdefault((verdict.kind, _cell(verdict.reason)), []).append(name)
        lines += [
            f"    * {MARKS[kind]} {', '.join(found)}: {reason}" for (kind, reason), found in seen.items()
        ]
    return "\n".join(lines)


def write(board: Board, scenarios: list[Scenario], took: float) -> None:
    SECTIONS["scoreboard"].write(
        _body(board, scenarios),
        method=f"{len(scenarios)} scenarios, each run three times, in {took:.0f} s.",
        versions=[load(name).distribution for name in board if name != "shockproof"],
    )
