"""The open circuits of a saved state, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.views.words import duration_text

__all__ = ["circuits_in_words"]


def circuits_in_words(saved: object) -> dict[str, Any]:  # Any: what was saved
    """Each circuit of the section as a text; what is none of ours stays as it is, and a section that is none is empty."""
    return {name: _in_words(one) for name, one in saved.items()} if isinstance(saved, Mapping) else {}


def _in_words(one: Any) -> Any:  # Any: as above
    try:
        circuit = SavedCircuit.from_dict(one)
    except ValueError:
        return one
    if circuit.is_forced_open:
        return f"held open by hand: {circuit.reason}" if circuit.reason else "held open by hand"
    if circuit.is_paused:
        words = f"paused for {duration_text(circuit.remaining)} after the save, as the other side asked"
    elif circuit.remaining:
        words = f"open for {duration_text(circuit.remaining)} after the save"
    else:
        words = "half-open"
    if circuit.openings > 1:
        words += f", opened {circuit.openings:,} times in a row"
    return f"{words}: {circuit.last_error}" if circuit.last_error else words
