"""Completion in a shell: commands, options, and the keys of what is pending."""

from __future__ import annotations

import importlib.util
import os
import pty
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


def with_shockproof(home: Path) -> dict[str, str]:
    """The environment of a shell that finds the command, and nothing of anybody's own."""
    where = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        "PATH": where,
        "HOME": str(home),
        "ZDOTDIR": str(home),
        "XDG_CONFIG_HOME": str(home),
        "TERM": "dumb",
    }


def asked(shell: list[str], program: str, home: Path) -> str:
    """What a shell says that runs *program*, and complains of nothing."""
    done = subprocess.run(
        [*shell, program], env=with_shockproof(home), capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(shockproof: Run, tmp_path: Path) -> None:
    """The real shell, asked as its Tab asks."""
    script = shockproof("completion", "bash").out
    tab = "COMP_LINE='shockproof op' COMP_POINT=13 COMP_TYPE=9; _python_argcomplete shockproof; echo ${COMPREPLY[@]}"
    assert asked(["bash", "--norc", "-c"], f"{script}\n{tab}", tmp_path).strip() == "operations"


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_and_says_what_each_command_does(shockproof: Run, tmp_path: Path) -> None:
    """The real shell, from the place that the how-to names."""
    (tmp_path / "fish" / "completions").mkdir(parents=True)
    script = tmp_path / "fish" / "completions" / "shockproof.fish"
    script.write_text(shockproof("completion", "fish").out)
    said = asked(["fish", "-c"], 'complete -C "shockproof op"; complete -C "shockproof state v"', tmp_path)
    names = [line.partition("\t")[0] for line in said.splitlines()]
    assert names == ["operations", "verify"]
    assert "settle what began" in said


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(shockproof: Run, tmp_path: Path) -> None:
    """The real shell at a terminal, with a real Tab: it completes nowhere else."""
    (tmp_path / "_shockproof").write_text(shockproof("completion", "zsh").out)
    (tmp_path / ".zshrc").write_text(
        f"fpath=({tmp_path} $fpath)\nautoload -Uz compinit\ncompinit -u -D\nPROMPT='ready: '\n"
    )
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            ["zsh", "-d", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=with_shockproof(tmp_path),
            start_new_session=True,
        ) as shell:
            os.close(theirs)
            try:
                said = b""
                for wanted, typed in ((b"ready: ", b"shockproof op\t"), (b"erations", b"\x15exit\n")):
                    while wanted not in said:
                        said += os.read(ours, 65536)
                    os.write(ours, typed)
                assert shell.wait(100) == 0
            finally:
                shell.kill()
    finally:
        os.close(ours)


def test_without_the_package_the_way_to_install_it_is_said(
    shockproof: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line works without it; only this command needs it."""
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.delitem(sys.modules, "shockproof.integrations.argcomplete", raising=False)
    refused = shockproof("completion", "bash")
    assert refused.code == 2
    assert "needs argcomplete: pip install 'shockproof[cli]'" in refused.err
    assert refused.err.count("\n") == 1
