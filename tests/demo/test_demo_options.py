"""The demo's command line: bad values end in one line that says what is allowed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from pathlib import Path

import pytest

from shockproof import __main__ as command_line
from shockproof.demo import options as demo_options
from shockproof.demo.options import Options, add_options, check_output, options_from

needs_demo = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("aiohttp", "ccxt", "rich")),
    reason="the demo extra is not installed",
)


@needs_demo
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seconds", "0"], "--seconds: must be a number from 5 to 3600, got '0'"),
        (["--seconds", "soon"], "--seconds: must be a number from 5 to 3600, got 'soon'"),
        (["--seconds", "nan"], "got 'nan'"),
        (["--seconds", "inf"], "got 'inf'"),
        (["--seed", "1.5"], "--seed: must be a whole number, got '1.5'"),
        (["--faults", "rain"], "got 'rain'"),
        (["--faults", "outage,rain"], "got 'rain'"),
        (["--status-page", "0"], "--status-page: must be a port from 1 to 65535, got '0'"),
        (["--status-page", "web"], "--status-page: must be a port from 1 to 65535, got 'web'"),
        (["--fleet", "1"], "--fleet: must be a number of traders from 2 to 8, got '1'"),
        (["--fleet", "many"], "--fleet: must be a number of traders from 2 to 8, got 'many'"),
        (["--colour"], "unrecognized arguments: --colour"),
        (["now"], "unrecognized arguments: now"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option, the value and what is allowed; exit code 2; nothing is started."""
    with pytest.raises(SystemExit) as ended:
        command_line.main(["demo", *words])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert said in err
    assert (err.count("\n"), out) == (1, "")


@needs_demo
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seconds", "30"], "--seconds must be 45 or more with --fleet, got 30"),
        (["--status-page"], "--status-page is for one trader: leave it or --fleet away"),
    ],
)
def test_what_does_not_go_with_several_traders_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A session that ends before another one could take over would show nothing."""
    assert command_line.main(["demo", "--fleet", "3", *words]) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (err.count("\n"), out) == (1, "")


@needs_demo
def test_a_session_with_several_traders_is_longer_unless_somebody_says_how_long() -> None:
    """Until another one has the account, some 15 s pass."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert options_from(parser.parse_args(["--fleet", "3"])) == Options(60.0, fleet=3)
    assert options_from(parser.parse_args(["--fleet", "2", "--seconds", "45"])) == Options(45.0, fleet=2)
    assert options_from(parser.parse_args([])) == Options()


@needs_demo
def test_an_output_directory_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sessions in one directory would be mixed up."""
    (tmp_path / "summary.json").touch()
    with pytest.raises(SystemExit):
        command_line.main(["demo", "--output", str(tmp_path)])
    assert f"{str(tmp_path)!r} is not empty" in capsys.readouterr().err


@needs_demo
def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, and so is the way out."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit):
        command_line.main(["demo", "--output", str(file)])
    assert "name a directory that can be written" in capsys.readouterr().err


def test_a_new_output_directory_is_made(tmp_path: Path) -> None:
    """With its parents, and empty."""
    made = check_output(tmp_path / "a" / "b")
    assert list(made.iterdir()) == []


def test_a_missing_extra_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the packages the demo says which, and how to get them."""
    monkeypatch.setattr("shockproof.command_line.demo._NEEDS", ("asyncio", "no_such_package"))
    assert command_line.main(["demo", "--seconds", "9"]) == 2
    assert capsys.readouterr().err == (
        'shockproof demo: no_such_package not installed: pip install "shockproof[demo]"\n'
    )


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """And the exit code says that nothing was done."""
    assert command_line.main([]) == 2
    assert "demo" in capsys.readouterr().err


@needs_demo
def test_every_level_of_faults_and_any_list_of_kinds_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the options allow reaches the demo as it was meant."""
    seen: list[demo_options.Options] = []
    run = importlib.import_module("shockproof.demo.run")
    monkeypatch.setattr(run, "run", lambda options: seen.append(options) or 0)
    for faults in ("none", "light", "NORMAL", "heavy", "all", "outage,kill"):
        assert command_line.main(["demo", "--faults", faults, "--seed", "-3", "--seconds", "5"]) == 0
    assert [options.faults for options in seen] == ["none", "light", "normal", "heavy", "all", "outage,kill"]
    assert {(options.seed, options.seconds, options.output) for options in seen} == {(-3, 5.0, None)}
