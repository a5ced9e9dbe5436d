"""The page about the command line: what a reader copies is understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from shockproof.command_line.outcome import ExitCode
from shockproof.command_line.program import parsers

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = sorted(
    {
        line.strip()
        for page in DOCS.rglob("*.md")
        for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("shockproof ")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_is_understood(command: str) -> None:
    """Every command and option that a page shows exists."""
    parser, _ = parsers()
    words = re.split(r" +#| \| | > ", command)[0]
    _, rest = parser.parse_known_args(shlex.split(words)[1:])
    assert rest == []


def test_every_command_and_every_exit_code_is_documented() -> None:
    """The page names them all."""
    page = (DOCS / "how-to" / "command-line.md").read_text("utf-8")
    _, commands = parsers()
    assert [name for name in commands if f"shockproof {name}" not in page and name != "demo"] == []
    table = page.partition("| exit code |")[2]
    assert [code for code in ExitCode if not re.search(rf"^\| .*\b{code.value}\b", table, re.MULTILINE)] == []
