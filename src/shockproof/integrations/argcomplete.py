"""argcomplete: completion in the shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shockproof.integrations.optional import missing

try:
    import argcomplete
    from argcomplete.completers import ChoicesCompleter, DirectoriesCompleter, FilesCompleter
    from argcomplete.shell_integration import shellcode
except ImportError as error:
    raise missing("argcomplete", "cli", error, module="argcomplete") from error

__all__ = ["answer_shell", "script_for"]


def script_for(shell: str) -> str:
    """What makes *shell* ask `shockproof` for what could follow."""
    # Where nothing fits, bash would offer files.
    return shellcode(["shockproof"], shell=shell, use_defaults=False)


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Tell the shell that asks, by the variables of argcomplete, what could follow; does not return then."""
    for action in _actions(parser):
        which = _PATHS.get(str(action.metavar))
        if which is not None:
            action.completer = which  # type: ignore[attr-defined]  # argcomplete looks for it there
            action.type = Path  # the demo's makes the directory: a Tab changes nothing
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=ChoicesCompleter({}))


_PATHS: Final = {"DIR": DirectoriesCompleter(), "FILE": FilesCompleter(), "PATH": FilesCompleter()}
"""By what the help calls a value. No other is a path."""


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
