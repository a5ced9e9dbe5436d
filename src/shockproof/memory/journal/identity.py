"""
Which journal it is: ``identity.json`` in its directory, a random text that was made with it.

Where several processes could write for an account, the store keeps it for the one that owns the account. Whoever owns it next
compares: where another journal's stands there, that one knows of orders that its own does not. With it stand the accounts
that this journal was ever told of: of those, a store that knows of no owner has lost its data.

A copy of it, and one that is damaged, is no identity: what stands in the original by now is not known there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from shockproof.memory.disk.directory import make_durable
from shockproof.memory.disk.file_layer import FileLayer
from shockproof.memory.journal.own_file import read_own_file, write_own_file

__all__ = ["IDENTITY_NAME", "Identity", "identity_with", "read_identity"]

IDENTITY_NAME: Final = "identity.json"

_FORMAT_VERSION: Final = 1
_RACES: Final = 5


class Identity(NamedTuple):
    """What tells a journal from others."""

    text: str | None = None
    """None: it has none yet, or none that is its own."""
    accounts: frozenset[str] = frozenset()
    """Of which it was told, as owner or while another one was."""
    is_there: bool = False
    """Whether there is a file, whatever stands in it."""

    def follows(self, former: str | None, account: str) -> bool:
        """
        Whether this journal knows of all that was sent for *account*, as far as who owned it can tell.

        *former* is what the store holds of the owner before: an identity, ``""`` if it cannot be told whose, None if there was none.
        """
        if former is None:
            return account not in self.accounts
        return bool(former) and former == self.text


def read_identity(layer: FileLayer, directory: Path) -> Identity:
    """
    That of the journal in *directory*; needs no lock.

    Raises:
        OSError: it cannot be read.
    """
    try:
        read = read_own_file(layer, directory / IDENTITY_NAME, _FORMAT_VERSION)
    except (FileNotFoundError, NotADirectoryError):
        return Identity()
    if read is None:
        return Identity(is_there=True)
    text, accounts = read.content.get("identity"), read.content.get("accounts")
    known = frozenset(one for one in accounts if isinstance(one, str)) if isinstance(accounts, list) else ()
    is_own = isinstance(text, str) and bool(text) and not read.is_copied
    return Identity(text if is_own else None, frozenset(known), is_there=True)


def identity_with(layer: FileLayer, directory: Path, account: str) -> str:
    """
    That of the journal in *directory*, made if it has none, durably, and with *account* among those that it was told of.

    Needs no lock: of several processes that make it at the same time, all get the same.

    Raises:
        OSError: the disk refuses.
    """
    for _ in range(_RACES):
        known = read_identity(layer, directory)
        if known.text is not None and account in known.accounts:
            return known.text
        make_durable(layer, directory)
        text = os.urandom(16).hex() if known.text is None else known.text
        content = {
            "format_version": _FORMAT_VERSION,
            "identity": text,
            "accounts": sorted({*known.accounts, account}),
        }
        temporary = f".{IDENTITY_NAME}.{os.getpid()}.tmp"
        try:
            write_own_file(
                layer, directory / IDENTITY_NAME, content, temporary=temporary, instead=known.is_there
            )
        except FileExistsError:  # another process was faster
            continue
    return _settled(layer, directory)


def _settled(layer: FileLayer, directory: Path) -> str:
    text = read_identity(layer, directory).text
    if text is None:
        raise OSError(f"{directory / IDENTITY_NAME} is written, and is another file each time it is read")
    return text
