"""
Secrets in what is saved: found by the name they stand under, encrypted with a key, left out without.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from shockproof.memory.disk import writer

if TYPE_CHECKING:
    from shockproof.integrations.cryptography import FernetKeys

__all__ = [
    "SECRET_NAMES",
    "Redacted",
    "SecretCipher",
    "SecretNames",
    "SecretNotSavedWarning",
]

SECRET_NAMES = (
    "api_key",
    "api_secret",
    "secret",
    "secret_key",
    "password",
    "passwd",
    "passphrase",
    "private_key",
)
"""What counts as the name of a secret, unless ``redact=`` says otherwise."""


_LONG_ENOUGH_FOR_AN_ENDING = 6


class SecretNotSavedWarning(UserWarning):
    """A secret was left out of what is saved, because there is no key to encrypt it with."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """
    Stands where a secret was, after a restore that could not bring it back.

    It is false and no string, so that it is never sent to a venue by accident, and
    ``configuration["api_key"] or os.environ["API_KEY"]`` does what it looks like. One that stands for an
    encrypted secret (the key was missing or another one) keeps it: saved again, nothing is lost.
    """

    path: str
    """Where in the state the secret stood, for example ``configuration.api_key``."""
    token: str | None = field(default=None, repr=False, compare=False)
    """The encrypted secret, if there was one."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Redacted({self.path!r})"


class SecretNames:
    """
    Tells the name of a secret from other names.

    A name matches when its words hold one of *names*, in any spelling: ``api_key`` is found in
    ``apiKey``, ``BINANCE_API_KEY`` and ``api-keys``, ``secret`` in ``client_secret`` but not in
    ``secretary``. Names of six letters and more are also found at the end of a word, as in
    ``clientsecret`` and ``dbpassword``; shorter ones are not, or ``pin`` would be found in ``spin``.
    """

    def __init__(self, names: Iterable[str] = SECRET_NAMES) -> None:
        if isinstance(names, str):
            raise TypeError(f"redact must be several names, got the string {names!r}: write ({names!r},)")
        self._names = tuple(dict.fromkeys(_joined(name) for name in names))
        self._endings = tuple(name for name in self._names if len(name) >= _LONG_ENOUGH_FOR_AN_ENDING)
        if not all(self._names):
            raise ValueError("redact holds a name without a letter or digit")
        # Asked once for all keys of a dict together; only a hit is looked at word by word. Lower case on both sides: a
        # pattern that ignores case takes ten times as long, to compile and to search with.
        letters = ("[^0-9a-z\0]*".join(map(re.escape, name)) for name in self._names)
        self._hint = re.compile("|".join(letters)) if self._names else None
        self._matches = lru_cache(maxsize=1024)(self._compare)

    def __bool__(self) -> bool:
        return bool(self._names)

    def may_be_in(self, text: str) -> bool:
        """Whether one of the names in *text*, separated by NUL characters, is worth asking for."""
        if self._hint is None:
            return False
        # Of other alphabets some capital letters become ASCII letters, which would not be separators any more.
        lowered = text.lower() if text.isascii() else text.translate(_LOWER)
        return self._hint.search(lowered) is not None

    def matches(self, name: str) -> bool:
        """Whether what stands under *name* is a secret."""
        return self._matches(name)

    def _compare(self, name: str) -> bool:
        words = _words(name)
        runs = {
            "".join(words[start : start + length]) for start in range(len(words)) for length in (1, 2, 3, 4)
        }
        runs |= {run.removesuffix("s") for run in runs}
        return not runs.isdisjoint(self._names) or any(run.endswith(self._endings) for run in runs)

    def lists(self, name: str) -> bool:
        """Whether this is one of the names, and nothing more."""
        return _joined(name) in self._names


class SecretCipher:
    """
    Encrypts and decrypts single values with Fernet keys (32 bytes, URL-safe base64).

    The first key encrypts, every key decrypts: to rotate, put the new key in front. cryptography is
    loaded at the first use, in the writer's thread.

    Raises:
        ImportError: cryptography is not installed.
        TypeError, ValueError: a key is none.
    """

    def __init__(self, keys: Sequence[str | bytes]) -> None:
        if isinstance(keys, str | bytes):
            keys = (keys,)
        if not keys:
            raise ValueError("encryption_key holds no key: give at least one, or None")
        self._keys = tuple(_checked_key(position, key) for position, key in enumerate(keys, 1))
        # What only some users install has one place, above this layer: an argument of the service switches it on.
        from shockproof.integrations.cryptography import check_installed

        check_installed()
        self._fernet: FernetKeys | None = None

    def __repr__(self) -> str:
        return f"SecretCipher(<{len(self._keys)} keys>)"

    def seal(self, secret: bytes) -> str:
        """*secret* as text that only the key opens."""
        return self._loaded().encrypt(secret).decode("ascii")

    def open(self, token: str) -> bytes | None:
        """What `seal` was given, or None when no key fits."""
        return self._loaded().decrypt(token.encode("ascii", "replace"))

    def _loaded(self) -> FernetKeys:
        if self._fernet is None:
            from shockproof.integrations.cryptography import FernetKeys

            with writer.imports:
                self._fernet = FernetKeys(self._keys)
        return self._fernet


def _checked_key(position: int, key: object) -> bytes:
    import base64
    import binascii

    if isinstance(key, str):
        key = key.encode("ascii", "replace")
    if not isinstance(key, bytes):
        raise TypeError(f"encryption_key: key {position} must be a str or bytes, got {type(key).__name__}")
    try:
        length = len(base64.urlsafe_b64decode(key))
    except (binascii.Error, ValueError):
        length = 0
    if length != 32:
        # Never the value: it may be a key with a typing error.
        raise ValueError(
            f"encryption_key: key {position} is no Fernet key (32 bytes in URL-safe base64): "
            "make one with cryptography.fernet.Fernet.generate_key()"
        )
    return key


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def _joined(name: str) -> str:
    return "".join(_words(name))
