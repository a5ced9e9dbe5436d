"""
The saved state in the store that processes share: what the owner saves comes there, and the next owner goes on from it.

On disk and in the store the state tells which save it is, so that the next owner finds out which of both is the newer one.
What the journal of this machine has pending goes along, as it was when the state was put.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shockproof.memory.disk.writer import Writer
from shockproof.memory.fleet.ownership import Ownership
from shockproof.memory.fleet.shared_state import MOST_BYTES, SharedState
from shockproof.memory.journal.journal import Journal
from shockproof.memory.journal.journalled_values import JournalledValues
from shockproof.memory.journal.operation import pending_operation, with_pending
from shockproof.memory.state.schema import Schema
from shockproof.memory.state.state_capture import CapturedState, StateSecrets, capture_state
from shockproof.memory.state.state_files import StateFiles
from shockproof.memory.stores.state_store import StateStore
from shockproof.policies.backoff import Randomness
from shockproof.policies.state_publication import Lineage, Save, lineage_of
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.errors import ShockproofError, StoreUnavailableError

if TYPE_CHECKING:
    from shockproof.vocabulary.models import SystemState

__all__ = ["StateHandover"]

_SECTION: Final = "shared_state"
_LENGTH: Final = 4
"""Bytes in which it says how long the state is; behind it is what was pending."""

_log = logging.getLogger("shockproof")


class StateHandover:
    """
    Between the state files, the journal and the store.

    Args:
        store: where the state is kept for the next owner.
        ownership: who that is.
        secrets: what becomes of secrets: the same as on disk.
        schema: how states of older versions of the program are read.
        journal, values: what is pending here.
        writer: whose thread packs and unpacks.
        clock: by what this process counts.
        rng: what spreads attempts.
    """

    def __init__(
        self,
        store: StateStore,
        ownership: Ownership,
        *,
        secrets: StateSecrets,
        schema: Schema,
        journal: Journal,
        values: JournalledValues,
        writer: Writer,
        clock: Clock,
        rng: Randomness,
    ) -> None:
        self._form = StateFiles(Path("the store"), secrets=secrets, schema=schema)
        self._form_of_pending = StateFiles(Path("the store"), secrets=secrets)
        self._secrets = secrets
        self._journal = journal
        self._values = values
        self._writer = writer
        self._clock = clock
        self.shared = SharedState(store, ownership, complete=self._with_pending, clock=clock, rng=rng)

    # -- saving ------------------------------------------------------------------------------------------

    def sections(self) -> dict[str, Any]:  # Any: JSON
        """What a state that is saved now says about which save it is."""
        save = self.shared.next_save()
        return {_SECTION: {"name": self.shared.name, **save.lineage._asdict(), "after": list(save.after)}}

    def written(self, captured: CapturedState, at: float) -> None:
        """A state is durable here: it goes into the store. In the writer's thread."""
        try:
            section: Any = captured.fields[_SECTION]  # Any: as `sections` made it
            save = Save(Lineage(section["token"], section["save"]), Lineage(*section["after"]))
            self.shared.publish(save, at, self._form.pack(captured, MOST_BYTES))
        except Exception as error:  # noqa: BLE001 - it is on disk, and the writer goes on, whatever it is
            self.shared.failed(f"{type(error).__name__}: {error}")

    async def settle(self) -> None:
        """Return when what is durable here by now is on its way into the store."""
        await self._writer.run(_nothing)

    async def _with_pending(self, data: bytes) -> bytes:
        more = b""
        try:
            values = self._values
            pending = await self._journal.pending(lambda entry: pending_operation(entry, values))
        except (ShockproofError, OSError) as error:
            pending = []
            _log.warning("what is pending is not in the store: the journal cannot tell: %s", error)
        if pending:
            captured = await capture_state(
                {"active_operations": pending}, secrets=self._secrets, timestamp=self._clock.time()
            )

            def pack() -> bytes:
                if self._secrets.cipher is not None:
                    captured.seal(self._secrets.cipher)
                return self._form_of_pending.pack(captured, MOST_BYTES)

            more = await self._writer.run(pack)
        return len(data).to_bytes(_LENGTH) + data + more

    # -- restoring ---------------------------------------------------------------------------------------

    async def newer_than(self, local: SystemState | None) -> SystemState | None:
        """
        The state in the store, where it is newer than *local*; None: go on from that.

        Raises:
            StateVersionError: a newer program has put it.
        """
        name, own = self.shared.name, Lineage(0, 0)
        if local is not None:
            own = lineage_of((local.model_extra or {}).get(_SECTION), name)
            self.shared.goes_on_from(own)
        try:
            stored = await self.shared.read()
            if stored is None or stored.head.lineage <= own:
                self.shared.saw(stored)
                return None
            end = _LENGTH + int.from_bytes(stored.data[:_LENGTH])
            state = await self._writer.run(self._form.unpack, stored.data[_LENGTH:end], name)
            if stored.data[end:]:
                more = await self._writer.run(self._form_of_pending.unpack, stored.data[end:], name)
                state.active_operations = with_pending(state.active_operations, more.active_operations)
        except (StoreUnavailableError, ValueError) as error:
            _log.warning("the state of %r is restored from disk, and not from the store: %s", name, error)
            return None
        self.shared.goes_on_from(stored.head.lineage)
        self.shared.saw(stored)
        _log.info(
            "the state of %r is restored from the store; it was saved at %s",
            name,
            state.timestamp.isoformat(),
        )
        return state


def _nothing() -> None:
    """What the writer's thread does when it has done everything before."""
