"""
The user's values on their way into the journal and back: as in the state, with the same care for secrets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shockproof.memory.state.codec import Frozen, freeze, thaw
from shockproof.memory.state.secrets import SecretNotSavedWarning
from shockproof.memory.state.state_capture import CapturedState, SecretCollector, StateSecrets

__all__ = ["FrozenValues", "JournalledValues"]


class FrozenValues(NamedTuple):
    """Values that nobody can change any more. Only the journal's thread may look inside."""

    captured: CapturedState
    seal: Callable[[CapturedState], None] | None

    def values(self) -> Frozen:
        """The values, their secrets encrypted; takes 50 microseconds for each of these."""
        if self.seal is not None:
            self.seal(self.captured)
        return self.captured.fields["values"]


class JournalledValues:
    """Freezes and thaws with one service's names and keys of secrets."""

    def __init__(self, secrets: StateSecrets) -> None:
        self._secrets = secrets

    def freeze(self, what: str, value: object) -> FrozenValues:
        """
        A frozen copy of *value*; *what* names it in messages and paths.

        Secrets for which there is no key are left out, with a warning.

        Raises:
            UnsavableValueError: it holds a value that could not come back.
        """
        collector = SecretCollector(self._secrets)
        frozen = freeze(value, name=what, secrets=collector, refusal="nothing was written to the journal")
        if collector.left_out:
            warnings.warn(
                f"secrets were left out of the journal, for there is no key to encrypt them with: "
                f"{', '.join(collector.left_out)}; configure a key, or redact=() to save them as they are",
                SecretNotSavedWarning,
                stacklevel=4,
            )
        cipher = self._secrets.cipher
        captured = CapturedState({"values": frozen}, unsealed=collector.unsealed)
        return FrozenValues(captured, None if cipher is None else lambda captured: captured.seal(cipher))

    def thaw(self, frozen: Frozen) -> Any:  # Any: what was journalled
        """
        What `freeze` was given; *frozen* stays as it is. For the journal's thread: it may import.

        Raises:
            MalformedValueError, UnknownTypeError: see `shockproof.memory.state.codec.thaw`.
        """
        return thaw(_copy(frozen), open_secret=self._secrets.open)


def _copy(frozen: Frozen) -> Frozen:
    if isinstance(frozen, Mapping):
        return {key: _copy(value) for key, value in frozen.items()}
    if isinstance(frozen, list):
        return [_copy(value) for value in frozen]
    return frozen
