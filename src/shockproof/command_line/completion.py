"""``shockproof completion``: the script that makes a shell complete commands, options and names in the directories."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.screen import Screen

__all__ = ["add_options", "answer"]

_SHELLS: Final = ("bash", "zsh", "fish")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Prints a script for your shell. bash: shockproof completion bash > "
        "~/.local/share/bash-completion/completions/shockproof; zsh: the same into a file _shockproof in a directory of "
        "$fpath; fish: into ~/.config/fish/completions/shockproof.fish."
    )
    parser.add_argument("shell", choices=_SHELLS)
    parser.set_defaults(run=_run)


def _run(given: argparse.Namespace, screen: Screen) -> int:
    try:
        from shockproof.integrations.argcomplete import script_for
    except ImportError as error:
        raise CommandError(str(error)) from None
    screen.raw(script_for(given.shell))
    return ExitCode.FINE


def answer(parsers: Callable[[], argparse.ArgumentParser]) -> None:
    """Tell the shell that asks, by the variables of argcomplete, what could follow; does not return then."""
    try:
        from shockproof.integrations.argcomplete import answer_shell
    except ImportError:
        return
    answer_shell(parsers())
