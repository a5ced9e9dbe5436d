"""
The state as it is at the moment of a save: a frozen copy that a thread can write at leisure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NamedTuple

from shockproof.memory.state.codec import TAG, Frozen, freeze_steps, sealed_form
from shockproof.memory.state.secrets import SecretCipher, SecretNames

__all__ = ["CapturedState", "SecretCollector", "StateSecrets", "capture_state"]

ENVELOPE = frozenset({"format_version", "sequence", "schema_version", "checksum"})
"""Names of the files' own, which no section of a state may have."""


class StateSecrets(NamedTuple):
    """How secrets are found and what becomes of them: no cipher, and they are left out."""

    names: SecretNames
    cipher: SecretCipher | None = None

    def open(self, token: str) -> bytes | None:
        """The secret in *token*, or None without the key."""
        return None if self.cipher is None else self.cipher.open(token)


class CapturedState(NamedTuple):
    """A frozen copy of the state. Only the writer's thread may look inside."""

    fields: dict[str, Frozen]
    left_out: tuple[str, ...] = ()
    """Where secrets stood that are not in it, because there is no key."""
    unsealed: list[tuple[dict[str, Frozen], bytes]] | None = None
    """Secrets that are still to be encrypted, each with the place for its token."""

    def seal(self, cipher: SecretCipher) -> None:
        """Encrypt the secrets. Takes 50 microseconds for each, and belongs in the writer's thread."""
        while self.unsealed:
            place, secret = self.unsealed[-1]
            place["v"] = cipher.seal(secret)
            self.unsealed.pop()


class SecretCollector:
    """Puts a place where a secret was; the token comes into it later, in the writer's thread."""

    def __init__(self, secrets: StateSecrets) -> None:
        self.names = secrets.names
        self._encrypts = secrets.cipher is not None
        self.left_out: list[str] = []
        self.unsealed: list[tuple[dict[str, Frozen], bytes]] = []

    def take(self, secret: str | bytes, path: str) -> Frozen:
        if not self._encrypts:
            self.left_out.append(path)
            return {TAG: "redacted", "path": path}
        place: dict[str, Frozen] = {TAG: "secret", "path": path, "v": None}
        self.unsealed.append((place, sealed_form(secret)))
        return place


async def capture_state(
    sections: Mapping[str, object], *, secrets: StateSecrets, timestamp: float
) -> CapturedState:
    """
    The frozen copy of *sections* (``service_statuses``, ``active_operations``, ...), stamped with
    *timestamp* (seconds since 1970 UTC).

    A state of up to 2,000 values is copied before anything else can run. For a larger one the event loop
    gets its turn about every millisecond: which entries there are is fixed when the call is made, each
    entry (``cached_data["AAPL"]``) is copied whole, and an entry that is changed in the meantime may be
    copied before the change or after it. Copying all in one go would stop the loop for half a second at
    50 MB, and handing the live dicts to a thread would write half-changed ones.

    Raises:
        TypeError: a section is not what its name says.
        UnsavableValueError: see `freeze`.
    """
    sink = SecretCollector(secrets)
    checked = {name: _checked_section(name, value) for name, value in sections.items()}
    fields: dict[str, Frozen] = {}
    for _ in freeze_steps(checked, into=fields, secrets=sink):
        await asyncio.sleep(0)
    stamp = datetime.fromtimestamp(timestamp, UTC).astimezone().isoformat(timespec="microseconds")
    return CapturedState({"timestamp": stamp, **fields}, tuple(sink.left_out), sink.unsealed)


def _checked_section(name: str, value: Any) -> object:  # Any: what the user handed in
    if name in ENVELOPE or name == "timestamp":
        raise TypeError(f"the state may not have a section {name!r}: the files need that name")
    if name == "service_statuses":
        return {
            service: status.value if isinstance(status, Enum) else status for service, status in value.items()
        }
    if name == "active_operations":
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise TypeError(f"active_operations must be a list of dicts, got {type(value).__name__}")
        operations = list(value)
        for index, operation in enumerate(operations):
            if not isinstance(operation, Mapping):
                raise TypeError(f"active_operations[{index}] must be a dict, got {type(operation).__name__}")
        return operations
    if name in ("cached_data", "configuration") and not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, got {type(value).__name__}")
    # Entries that are added or replaced later belong to the next save.
    return value.copy() if type(value) is dict or type(value) is list else value
