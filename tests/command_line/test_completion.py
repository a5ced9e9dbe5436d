"""Completion in a shell: commands, options, and the keys of what is pending."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]  # the fixture's result

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("argcomplete") is None, reason="the cli extra is not installed"
)


@pytest.mark.parametrize(
    ("shell", "said"), [("bash", "complete "), ("zsh", "#compdef shockproof"), ("fish", "complete ")]
)
def test_each_shell_gets_its_script(shockproof: Run, shell: str, said: str) -> None:
    """What is printed names the command, and nothing else is printed with it."""
    script = shockproof("completion", shell)
    assert (script.code, script.err) == (0, "")
    assert said in script.out
    assert "shockproof" in script.out


def completions(line: str, folder: Path) -> set[str]:
    """What bash would offer at the end of *line*, asked as its script asks."""
    answer = folder / "answer"
    subprocess.run(
        [sys.executable, "-m", "shockproof"],
        env={
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
        capture_output=True,
        check=False,
        timeout=100,
    )
    return {word.strip() for word in answer.read_text().split("\n")}


def test_commands_options_and_pending_keys_are_offered(killed: Path) -> None:
    """Who settles an order at night types three letters of its key."""
    assert completions("shockproof op", killed) == {"operations"}
    assert {"list", "show", "resolve"} <= completions("shockproof operations ", killed)
    assert completions("shockproof operations resolve --out", killed) == {"--outcome"}
    assert completions("shockproof operations resolve x --outcome ", killed) == {"found", "absent", "manual"}
    place = killed / "state"
    assert completions(f"shockproof operations show --state-dir {place} b", killed) == {"bot-5", "bars"}


def test_a_directory_that_is_not_there_completes_to_nothing(tmp_path: Path) -> None:
    """A Tab never prints an error."""
    offered = completions(f"shockproof operations show --state-dir {tmp_path / 'typo'} b", tmp_path)
    assert offered <= {""}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_accepts_its_script(shockproof: Run) -> None:
    """It is read without an error, and registers the command."""
    script = shockproof("completion", "bash").out
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\ncomplete -p shockproof"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "shockproof" in done.stdout


def test_without_the_package_the_way_to_install_it_is_said(
    shockproof: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line works without it; only this command needs it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "argcomplete" else find_spec(name)
    )
    refused = shockproof("completion", "bash")
    assert (refused.code, refused.err) == (
        2,
        'shockproof completion: argcomplete is not installed: pip install "shockproof[cli]"\n',
    )
