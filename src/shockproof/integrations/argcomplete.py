"""argcomplete: completion in the shell."""

from __future__ import annotations

import argparse

from shockproof.integrations.optional import missing

try:
    import argcomplete
    from argcomplete.shell_integration import shellcode
except ImportError as error:
    raise missing("argcomplete", "cli", error, module="argcomplete") from error

__all__ = ["answer_shell", "script_for"]


def script_for(shell: str) -> str:
    """What makes *shell* ask `shockproof` for what could follow."""
    return shellcode(["shockproof"], shell=shell)


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """Tell the shell that asks, by the variables of argcomplete, what could follow; does not return then."""
    argcomplete.autocomplete(parser, always_complete_options=False)
