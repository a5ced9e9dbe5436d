"""What a person reads of the circuits in a saved state."""

from __future__ import annotations

import pytest

from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.views.saved_circuits import circuits_in_words


@pytest.mark.parametrize(
    ("circuit", "words"),
    [
        (
            SavedCircuit(8.31, 24, last_error="TimeoutError: slow"),
            "open for 8.3 s after the save, opened 24 times in a row: TimeoutError: slow",
        ),
        (SavedCircuit(90.0, 1), "open for 1 min 30 s after the save"),
        (SavedCircuit(0.0, 1), "half-open"),
        (SavedCircuit(30.0, 1, is_paused=True), "paused for 30 s after the save, as the other side asked"),
        (SavedCircuit(is_forced_open=True, reason="maintenance"), "held open by hand: maintenance"),
        (SavedCircuit(is_forced_open=True), "held open by hand"),
    ],
    ids=["open", "once", "half-open", "paused", "by hand", "without a reason"],
)
def test_a_saved_circuit_is_told_in_words(circuit: SavedCircuit, words: str) -> None:
    """How it was, for how long it would still be so, and why."""
    assert circuits_in_words({"venue": circuit.to_dict()}) == {"venue": words}


def test_what_is_no_circuit_stays_as_it_is() -> None:
    """Somebody else wrote it, or a newer program."""
    assert circuits_in_words({"venue": ["?"], "news": {"remaining": -1}}) == {
        "venue": ["?"],
        "news": {"remaining": -1},
    }
    assert circuits_in_words(None) == circuits_in_words([1]) == {}
