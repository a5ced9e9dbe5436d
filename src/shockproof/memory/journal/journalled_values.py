"""
The user's values on their way into the journal and back: as in the state, with the same care for secrets.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from shockproof.memory.journal.fingerprint import Fingerprint, fingerprint
from shockproof.memory.state.codec import TAG, Frozen, freeze, thaw
from shockproof.memory.state.secrets import SecretNames, SecretNotSavedWarning
from shockproof.memory.state.state_capture import CapturedState, SecretCollector, StateSecrets

__all__ = ["FrozenValues", "JournalledValues", "KeptDetails"]


class FrozenValues(NamedTuple):
    """Values that nobody can change any more. Only the journal's thread may look inside."""

    captured: CapturedState
    seal: Callable[[CapturedState], None] | None

    def values(self) -> Frozen:
        """The values, their secrets encrypted; takes 50 microseconds for each of these."""
        if self.seal is not None:
            self.seal(self.captured)
        return self.captured.fields["values"]


class KeptDetails(NamedTuple):
    """What an order is journalled with, to look it up by."""

    values: Mapping[str, Any]  # Any: the user's own
    frozen: FrozenValues


class JournalledValues:
    """
    Freezes and thaws with one service's names and keys of secrets.

    Details are for people, and get the care of the error log: *names_in_details* are secrets there, and so is a text
    that *redact* would change, such as a URL with a signature. What a program goes on from, its progress and its
    results, is kept like the state: a ``page_token`` must come back.
    """

    def __init__(
        self,
        secrets: StateSecrets,
        *,
        names_in_details: SecretNames | None = None,
        redact: Callable[[str], str] = lambda text: text,
    ) -> None:
        self._secrets = secrets
        self._in_details = secrets if names_in_details is None else secrets._replace(names=names_in_details)
        self._redact = redact

    def freeze(self, what: str, value: object) -> FrozenValues:
        """
        A frozen copy of *value*; *what* names it in messages and paths.

        Secrets for which there is no key are left out, with a warning.

        Raises:
            UnsavableValueError: it holds a value that could not come back.
        """
        collector = SecretCollector(self._secrets)
        return self._frozen(_freeze(what, value, collector), collector)

    def keep(self, details: Mapping[str, object]) -> KeptDetails:
        """
        *details* of an order, with the same care for secrets as for what a program goes on from.

        Raises:
            UnsavableValueError: one of them could not come back.
        """
        values = dict(details)
        return KeptDetails(values, self.freeze("details", values))

    def freeze_details(self, details: Mapping[str, object]) -> FrozenValues:
        """
        As `freeze`, for what an operation is begun with. A text that holds a secret is encrypted whole, or cleaned; the
        key of a dict is always cleaned.
        """
        collector = SecretCollector(self._in_details)
        frozen = _freeze("details", details, collector)
        hidden = self._hide_in_texts(frozen, "details", collector)
        collector.left_out = [self._redact(path) for path in collector.left_out]
        return self._frozen(hidden, collector)

    def fingerprint(self, arguments: Mapping[str, object], *, salt: str) -> Fingerprint:
        """See `fingerprint`: what counts as a secret in details does so here."""
        return fingerprint(
            arguments, salt=salt, is_secret=self._in_details.names.matches, redact=self._redact
        )

    def _frozen(self, frozen: Frozen, collector: SecretCollector) -> FrozenValues:
        if collector.left_out:
            warnings.warn(
                f"secrets were left out of the journal, for there is no key to encrypt them with: "
                f"{', '.join(collector.left_out)}; configure a key, or redact=() to save them as they are",
                SecretNotSavedWarning,
                stacklevel=5,
            )
        cipher = self._secrets.cipher
        captured = CapturedState({"values": frozen}, unsealed=collector.unsealed)
        return FrozenValues(captured, None if cipher is None else lambda captured: captured.seal(cipher))

    def _hide_in_texts(self, frozen: Frozen, path: str, collector: SecretCollector) -> Frozen:
        if isinstance(frozen, str):
            cleaned = self._redact(frozen)
            if cleaned == frozen:
                return frozen
            taken = collector.take(frozen, path)
            return cleaned if self._secrets.cipher is None else taken
        if isinstance(frozen, list):
            return [
                self._hide_in_texts(value, f"{path}[{index}]", collector)
                for index, value in enumerate(frozen)
            ]
        if not isinstance(frozen, dict):
            return frozen
        if frozen.get(TAG) in _SECRET:
            frozen["path"] = self._redact(frozen["path"])  # in place: what is encrypted later comes into it
            return frozen
        if TAG in frozen:  # its path is that of what it stands for
            return {name: self._hide_in_texts(value, path, collector) for name, value in frozen.items()}
        hidden: dict[str, Frozen] = {}
        for name, value in frozen.items():
            cleaned = unique = self._redact(name)
            while unique in hidden:
                unique += "*"
            hidden[unique] = self._hide_in_texts(value, f"{path}.{cleaned}", collector)
        return hidden

    def thaw(self, frozen: Frozen) -> Any:  # Any: what was journalled
        """
        What `freeze` was given; *frozen* stays as it is. For the journal's thread: it may import.

        Raises:
            MalformedValueError, UnknownTypeError: see `shockproof.memory.state.codec.thaw`.
        """
        return thaw(_copy(frozen), open_secret=self._secrets.open)


_SECRET: Final = ("secret", "redacted")


def _freeze(what: str, value: object, collector: SecretCollector) -> Frozen:
    return freeze(value, name=what, secrets=collector, refusal="nothing was written to the journal")


def _copy(frozen: Frozen) -> Frozen:
    if isinstance(frozen, Mapping):
        return {key: _copy(value) for key, value in frozen.items()}
    if isinstance(frozen, list):
        return [_copy(value) for value in frozen]
    return frozen
