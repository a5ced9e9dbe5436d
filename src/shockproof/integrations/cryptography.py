"""
cryptography: Fernet, for secrets in what is saved.

It is loaded at the first use, as that takes long: whoever makes a cipher is on an event loop, whoever uses it is not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from shockproof.integrations.optional import missing

__all__ = ["FernetKeys", "check_installed"]


def check_installed() -> None:
    """
    See that it is there, without loading it.

    Raises:
        ImportError: it is not; names the command that installs it.
    """
    if importlib.util.find_spec("cryptography") is None:
        error = ImportError("No module named 'cryptography'", name="cryptography")
        raise missing("cryptography", "crypto", error, module="cryptography")


class FernetKeys:
    """Several keys, each of 32 bytes in URL-safe base64: the first one encrypts, every one decrypts."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet

        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._no_key_fits = InvalidToken

    def encrypt(self, secret: bytes) -> bytes:
        """*secret* as a token of letters, digits, ``-``, ``_`` and ``=``."""
        return self._fernet.encrypt(secret)

    def decrypt(self, token: bytes) -> bytes | None:
        """What was encrypted, or None when no key fits."""
        try:
            return self._fernet.decrypt(token)
        except self._no_key_fits:
            return None
