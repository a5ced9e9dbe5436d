"""
The command line: ``python -m shockproof``, or ``shockproof``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the program's own) and return the exit code."""
    from shockproof.command_line.program import main

    return main(argv)


if __name__ == "__main__":
    sys.exit(main())
