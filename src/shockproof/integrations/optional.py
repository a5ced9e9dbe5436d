"""The error for a library that is not installed."""

from __future__ import annotations

__all__ = ["missing"]


def missing(library: str, extra: str, error: ImportError, *, module: str | None = None) -> ImportError:
    """
    What to raise when importing *library* failed with *error*: it names the command that installs it.

    *module*: the one that needs it, where that has not the name of its extra.
    """
    return ImportError(
        f"shockproof.integrations.{module or extra} needs {library}: pip install 'shockproof[{extra}]' ({error})",
        name=error.name,
    )
