"""
What commands print: to people in lines and tables, to programs as JSON.

Colours only on a terminal. What others wrote (a venue's error text) is printed without its control
characters, which could do anything to a terminal.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final, TextIO

from shockproof.command_line.outcome import CommandError
from shockproof.views.words import printable

__all__ = ["Screen"]

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Screen:
    """
    The terminal, file or pipe that a command prints to.

    With *into*, what would be printed to it is written there instead: a picture of a whole screen, say.
    """

    def __init__(self, into: TextIO | None = None) -> None:
        self._out: TextIO = sys.stdout if into is None else into
        self._has_colours = (
            self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    @property
    def is_terminal(self) -> bool:
        """Whether a person is looking."""
        return sys.stdout.isatty()

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None: nobody looks, and a line may have any length."""
        return shutil.get_terminal_size().columns if self.is_terminal else None

    def paint(self, text: str, style: str) -> str:
        """*text* in that style, where there are colours."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._has_colours else text

    def line(self, text: str = "", style: str | None = None) -> None:
        """One line for people."""
        text = printable(text)
        print(text if style is None else self.paint(text, style), file=self._out)

    def warn(self, text: str) -> None:
        """A line beside the result: on stderr, so that scripts do not read it as one."""
        print(f"shockproof: {printable(text)}", file=sys.stderr)

    def json(self, value: object, *, indent: int | None = 2) -> None:
        """One JSON document; with ``indent=None`` on one line."""
        print(json.dumps(value, indent=indent, ensure_ascii=True, default=str), file=self._out)

    def raw(self, text: str) -> None:
        """A text as it is."""
        self._out.write(text)

    def flush(self) -> None:
        """Let a reader have what was printed so far."""
        self._out.flush()

    def rest(self, seconds: float) -> None:
        """
        Let time pass while there is nothing to print.

        Raises:
            BrokenPipeError: at once where nobody reads any more, which only who writes is told else.
        """
        try:
            reader = select.poll()
            reader.register(self._out.fileno(), 0)  # errors and hang-ups are always told
        except (AttributeError, ValueError, OSError):  # this system has none, or it is no file
            time.sleep(seconds)
            return
        if reader.poll(seconds * 1000):
            raise BrokenPipeError

    def fields(self, rows: Iterable[tuple[str, str]]) -> None:
        """Names and values, one below the other."""
        shown = [(name, value) for name, value in rows if value]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            print(f"{self.paint(name.ljust(width), 'dim')}  {printable(value)}", file=self._out)

    def table(
        self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str | None] = ()
    ) -> None:
        """
        Columns below their heads, if there is a row; on a terminal the last one is cut at its edge.

        *styles* are those of the rows.
        """
        if not rows:
            return
        shown = [[printable(cell) for cell in row] for row in rows]
        widths = [max(len(row[column]) for row in [heads, *shown]) for column in range(len(heads))]
        for number, row in enumerate([heads, *shown]):
            text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            text = self.cut(text)
            style = "dim" if number == 0 else (styles[number - 1] if number <= len(styles) else None)
            print(text if style is None else self.paint(text, style), file=self._out)

    def cut(self, text: str) -> str:
        """*text* as far as it fits on a line of the terminal."""
        return text if self.width is None or len(text) <= self.width else f"{text[: self.width - 1]}…"

    def confirm(self, question: str, *, is_yes: bool) -> bool:
        """
        Whether the person at the terminal agrees; *is_yes*: it was said on the command line.

        Raises:
            CommandError: nobody is there who could be asked.
        """
        if is_yes:
            return True
        if sys.stdin is None or not sys.stdin.isatty():  # None: it was closed by who started the program
            raise CommandError("there is no terminal to ask at: add --yes to do it")
        print(f"{printable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
