"""
The state as it is at the moment of a save: a frozen copy that a thread can write at leisure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from shockproof.memory.state.codec import TAG, Frozen, freeze_steps, sealed_form
from shockproof.memory.state.collector import rare_young_collections
from shockproof.memory.state.packed import NotPackedError, Packed, Packer
from shockproof.memory.state.secrets import SecretCipher, SecretNames

__all__ = ["CapturedState", "SecretCollector", "StateSecrets", "capture_state"]

ENVELOPE = frozenset({"format_version", "sequence", "schema_version", "series", "since", "checksum"})
"""Names of the files' own, which no section of a state may have."""


LARGE = 500
"""Entries from which on a dict is packed."""

NOTHING_KNOWN: Mapping[tuple[str, ...], Packed] = MappingProxyType({})


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
    packed: Mapping[tuple[str, ...], Packed] = NOTHING_KNOWN
    """The large dicts in it, by their paths: for the next copy to compare with."""

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

    def forget(self, section: str) -> None:
        """What was found in that section will be found again."""
        self.left_out = [path for path in self.left_out if not _is_in(path, section)]
        self.unsealed = [one for one in self.unsealed if not _is_in(one[0]["path"], section)]


def _is_in(path: str, section: str) -> bool:
    return path.startswith((f"{section}.", f"{section}["))


async def capture_state(
    sections: Mapping[str, object],
    *,
    secrets: StateSecrets,
    timestamp: float,
    known: Mapping[tuple[str, ...], Packed] = NOTHING_KNOWN,
) -> CapturedState:
    """
    The frozen copy of *sections* (``service_statuses``, ``active_operations``, ...), stamped with
    *timestamp* (seconds since 1970 UTC).

    A state of up to 2,000 values is copied before anything else can run. For a larger one the event loop
    gets its turn about every millisecond: which entries there are is fixed when the call is made, each
    entry (``cached_data["AAPL"]``) is copied whole, and an entry that is changed in the meantime may be
    copied before the change or after it. Copying all in one go would stop the loop for half a second at
    50 MB, and handing the live dicts to a thread would write half-changed ones.

    Sections of 500 entries and more, and such dicts in a section, are packed; what is in *known* from the copy before
    and has not changed is shared with it.

    Raises:
        TypeError: a section is not what its name says.
        UnsavableValueError: see `freeze`.
    """
    sink = SecretCollector(secrets)
    packer = Packer(sink, known)
    fields: dict[str, Frozen] = {}
    packed: dict[tuple[str, ...], Packed] = {}
    with rare_young_collections():
        checked = {name: _checked_section(name, value) for name, value in sections.items()}
        while checked:
            name = next(iter(checked))
            value = checked.pop(name)
            if type(value) is dict:
                steps = _section_steps(name, value, fields, packed, packer, sink)
            else:
                steps = freeze_steps({name: value}, into=fields, secrets=sink)
            for _ in steps:
                await asyncio.sleep(0)
            del value, steps  # the copy of which entries there are, before anybody walks through it
    stamp = datetime.fromtimestamp(timestamp, UTC).astimezone().isoformat(timespec="microseconds")
    return CapturedState({"timestamp": stamp, **fields}, tuple(sink.left_out), sink.unsealed, packed)


def _section_steps(
    name: str,
    section: dict[Any, Any],  # Any: the user's own keys and values
    fields: dict[str, Frozen],
    packed: dict[tuple[str, ...], Packed],
    packer: Packer,
    sink: SecretCollector,
) -> Iterator[None]:
    try:
        if len(section) >= LARGE:
            whole = Packed()
            yield from packer.steps((name,), section, whole)
            fields[name] = packed[name,] = whole
            return
        large = [key for key, child in section.items() if type(child) is dict and len(child) >= LARGE]
        if large and set(map(type, section)) == {str} and not any(map(sink.names.matches, large)):
            rest = {key: None if key in large else child for key, child in section.items()}
            yield from freeze_steps({name: rest}, into=fields, secrets=sink)
            if fields[name].keys() == rest.keys():  # else its keys need another form
                for key in large:
                    part = Packed()
                    yield from packer.steps((name, key), section[key].copy(), part)
                    fields[name][key] = packed[name, key] = part
                return
    except NotPackedError:
        sink.forget(name)
        for path in [path for path in packed if path[0] == name]:
            del packed[path]
    yield from freeze_steps({name: section}, into=fields, secrets=sink)


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
