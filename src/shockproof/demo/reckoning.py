"""What came of a session, whatever took part in it: the form in which it is told."""

from __future__ import annotations

import textwrap
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shockproof.demo.verdict import Verdict

__all__ = ["Reckoning", "counts_in_words", "number_in_words"]

_WIDTH = 96


@dataclass(frozen=True, slots=True)
class Reckoning:
    """The figures of a whole session; what is counted is the business of each kind of session."""

    seconds: float
    verdicts: tuple[Verdict, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing differs anywhere."""
        return all(verdict.agrees for verdict in self.verdicts)

    def to_dict(self) -> dict[str, Any]:  # Any: JSON
        return {"agrees": self.agrees, **asdict(self)}

    @abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """Name and text, one row per fact."""

    @abstractmethod
    def conclusion(self) -> str:
        """One sentence."""

    def lines(self) -> list[tuple[str, str]]:
        """The whole summary as lines of text, each with its tone: plain, good or bad."""
        width = max(len(name) for name, _ in self.rows())
        lines: list[tuple[str, str]] = []
        for name, text in self.rows():
            wrapped = textwrap.wrap(text, _WIDTH - width, break_long_words=False)
            lines += [
                (f"  {first:<{width}}  {part}", "plain")
                for first, part in zip([name, *[""] * len(wrapped)], wrapped, strict=False)
            ]
        lines.append(("", "plain"))
        for verdict in self.verdicts:
            if verdict.agrees:
                lines.append((f"  ok      {verdict.compared}", "good"))
            else:
                lines.append((f"  DIFFERS {verdict.compared}", "bad"))
                lines += [(f"          {difference}", "bad") for difference in verdict.differences]
        return lines


def counts_in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def number_in_words(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
