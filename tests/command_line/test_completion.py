"""Completion in a shell: commands, options, and the names that are in the directories."""

from __future__ import annotations

import importlib.util
import io
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shockproof.command_line.program import main

Run = Callable[..., Any]  # the fixture's result
Offered = Callable[[str], set[str]]  # as above
DATA = Path(__file__).parents[1] / "data"

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


@pytest.fixture
def completions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Offered:
    """What bash would offer at the end of a line, asked as its script asks, in `tmp_path`."""
    import argcomplete

    monkeypatch.chdir(tmp_path)
    # It would take over a descriptor of this process.
    monkeypatch.setattr("argcomplete.finders.CompletionFinder._init_debug_stream", lambda finder: None)
    monkeypatch.setattr("argcomplete.io.debug_stream", io.StringIO())
    ask = argcomplete.autocomplete

    def offered(line: str) -> set[str]:
        said = io.StringIO()
        with monkeypatch.context() as asked:
            asked.setattr(argcomplete, "autocomplete", partial(ask, exit_method=sys.exit, output_stream=said))
            for name, value in (
                ("_ARGCOMPLETE", "1"),
                ("_ARGCOMPLETE_IFS", "\n"),
                ("COMP_LINE", line),
                ("COMP_POINT", str(len(line))),
            ):
                asked.setenv(name, value)
            with pytest.raises(SystemExit):
                main([])
        return {word.strip() for word in said.getvalue().split("\n")}

    return offered


def test_commands_options_and_pending_keys_are_offered(completions: Offered, killed: Path) -> None:
    """Who settles an order at night types three letters of its key."""
    assert completions("shockproof op") == {"operations"}
    assert {"list", "show", "resolve"} <= completions("shockproof operations ")
    assert completions("shockproof operations resolve --out") == {"--outcome"}
    assert completions("shockproof operations resolve x --outcome ") == {"found", "absent", "manual"}
    place = killed / "state"
    assert completions(f"shockproof operations show --state-dir {place} b") == {"bot-5", "bars"}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What the original program wrote, a state of a day, and the error of a service with an inconvenient name."""
    shutil.copytree(DATA / "original-state", tmp_path / "data" / "state")
    shutil.copytree(DATA / "original-errors", tmp_path / "data" / "errors")
    days = tmp_path / "data" / "state" / "days"
    days.mkdir()
    shutil.copy(DATA / "original-state" / "system_state.json", days / "2026-02-12.system_state.json")
    of_today = tmp_path / "data" / "errors" / "errors_20260213.jsonl"
    of_today.write_text('torn\n{"service_name": "two words:443"}\n{"service_name": 1}\n', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("errors --service ", {"test_service", "two\\ words:443"}),
        ("report --service te", {"test_service"}),
        ("errors --since 2026", {"2026-02-12", "2026-02-13"}),
        ("report --day y", {"yesterday"}),
        ("state show --day 2", {"2026-02-12"}),
        ("state show c", {"cached_data", "configuration"}),
        ("state show cached_data", {"cached_data", "cached_data.AAPL"}),
        ("state show cached_data.AAPL.", {"cached_data.AAPL.price"}),
        ("state show active_operations.0.s", {"active_operations.0.symbol", "active_operations.0.status"}),
        ("state show nothing.", {""}),
        (
            "state dump --file ",
            {"system_state.json", "system_state.pkl", "days/2026-02-12.system_state.json"},
        ),
        ("doctor --state-dir da", {"data/"}),
        ("report --title da", {""}),
        ("report --output da", {"data/"}),
        ("journal dump --key ", {""}),
    ],
)
@pytest.mark.usefixtures("written")
def test_names_that_are_in_the_directories_are_offered(
    completions: Offered, line: str, offered: set[str]
) -> None:
    """Services, days, sections of a state and its files; paths only where a path is meant."""
    assert completions(f"shockproof {line}") == offered


def test_operations_of_the_journal_are_offered(completions: Offered, killed: Path) -> None:
    """By their names, and with the keys of those that have ended."""
    place = f"--state-dir {killed / 'state'}"
    assert completions(f"shockproof operations show {place} --operation re") == {"rebalance"}
    assert completions(f"shockproof journal dump {place} --key bot") == {"bot-5"}


def test_a_state_that_is_too_large_to_read_between_two_keys_offers_what_every_state_has(
    completions: Offered, written: Path
) -> None:
    """Who presses Tab waits for no hundreds of megabytes."""
    with (written / "data" / "state" / "system_state.json").open("ab") as file:
        file.truncate(17 << 20)
    assert completions("shockproof state show ca") == {"cached_data"}


def test_a_tab_makes_no_directory(completions: Offered, tmp_path: Path) -> None:
    """The demo makes the directory of --output as soon as it is named, and a Tab is no start."""
    assert completions("shockproof demo --output new --see") == {"--seed"}
    assert not (tmp_path / "new").exists()


def test_a_directory_that_is_not_there_completes_to_nothing(completions: Offered, tmp_path: Path) -> None:
    """A Tab never prints an error."""
    typo = tmp_path / "typo"
    for command in (
        f"operations show --state-dir {typo} b",
        f"errors --error-log-dir {typo} --service b",
        f"state dump --state-dir {typo} --file b",
        f"state show --state-dir {typo} --day 2",
    ):
        offered = completions(f"shockproof {command}")
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
        [*shell, program],
        cwd=home,
        env=with_shockproof(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(shockproof: Run, written: Path) -> None:
    """The real shell, asked as its Tab asks; where nothing fits, it does not fall back to the names of files."""
    script = shockproof("completion", "bash").out
    lines = ("shockproof op", "shockproof errors --service te", "shockproof state show cached_data.")
    tabs = "\n".join(
        f"COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9; _python_argcomplete shockproof; echo ${{COMPREPLY[@]}}"
        for line in lines
    )
    said = asked(["bash", "--norc", "-c"], f"{script}\n{tabs}\ncomplete -p shockproof", written).split("\n")
    assert [line.strip() for line in said[:3]] == ["operations", "test_service", "cached_data.AAPL"]
    assert "-o default" not in said[3]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_and_says_what_each_command_does(shockproof: Run, written: Path) -> None:
    """The real shell, from the place that the how-to names."""
    (written / "fish" / "completions").mkdir(parents=True)
    script = written / "fish" / "completions" / "shockproof.fish"
    script.write_text(shockproof("completion", "fish").out)
    lines = ("op", "state v", "errors --service te", "state show --day 2", "state show cached_data.")
    said = asked(["fish", "-c"], "; ".join(f'complete -C "shockproof {line}"' for line in lines), written)
    names = [line.partition("\t")[0] for line in said.splitlines()]
    assert names == ["operations", "verify", "test_service", "2026-02-12", "cached_data.AAPL"]
    assert "settle what began" in said


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(shockproof: Run, written: Path) -> None:
    """The real shell at a terminal, with a real Tab: it completes nowhere else."""
    (written / "_shockproof").write_text(shockproof("completion", "zsh").out)
    (written / ".zshrc").write_text(
        f"fpath=({written} $fpath)\nautoload -Uz compinit\ncompinit -u -D\nPROMPT='ready: '\n"
    )
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            ["zsh", "-d", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=written,
            env=with_shockproof(written),
            start_new_session=True,
        ) as shell:
            os.close(theirs)
            try:
                said = b""
                for wanted, typed in (
                    (b"ready: ", b"shockproof op\t"),
                    (b"erations", b"\x15shockproof errors --service te\t"),
                    (b"test_service", b"\x15shockproof state show cached_data.\t"),
                    (b"cached_data.AAPL", b"\x15exit\n"),
                ):
                    while wanted not in said:
                        said += os.read(ours, 65536)
                    said = b""
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
