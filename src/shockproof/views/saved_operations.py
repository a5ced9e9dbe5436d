"""Operations that a state file has as pending: the original program, and a program's own ``active_operations``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shockproof.memory.journal.operation import saved_but_ended, with_pending
from shockproof.views.shown_values import without_secrets

if TYPE_CHECKING:
    from shockproof.memory.journal.operation_table import OperationTable
    from shockproof.memory.state.state_survey import SurveyedFile

__all__ = ["saved_as_pending"]


def saved_as_pending(
    files: Sequence[SurveyedFile], table: OperationTable | None
) -> list[dict[str, Any]]:  # Any: frozen values
    """Those of the state that would be restored which the journal, with this *table*, does not know; without secrets."""
    content = next((file.content for file in files if file.content is not None), None) or {}
    saved: Any = content.get("active_operations")  # Any: as above
    said = (
        [one for one in saved if isinstance(one, dict) and one.get("status") == "pending"]
        if isinstance(saved, list)
        else []
    )
    pending = () if table is None else table.pending()
    known = [{"operation": entry.name.operation, "key": entry.name.key} for entry in pending]
    ended = () if table is None else saved_but_ended(said, table)
    unknown: list[dict[str, Any]] = without_secrets(  # Any: plain values
        with_pending(said, known, ended)[: -len(known) or None]
    )
    return unknown
