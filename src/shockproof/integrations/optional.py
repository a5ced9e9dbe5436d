"""The error for a client that is not installed."""

from __future__ import annotations

__all__ = ["missing"]


def missing(client: str, extra: str, error: ImportError) -> ImportError:
    """What to raise when importing *client* failed with *error*: it names the command that installs it."""
    return ImportError(
        f"shockproof.integrations.{extra} needs {client}: pip install 'shockproof[{extra}]' ({error})",
        name=error.name,
    )
