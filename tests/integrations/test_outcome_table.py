"""Rules in order, and what each meaning is for the policies."""

from __future__ import annotations

import pytest

from shockproof import CallInfo, Outcome, Verdict
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule

CALL = CallInfo("venue", "place", 1, "unsafe")


@pytest.mark.parametrize(
    ("meaning", "verdict"),
    [
        (Meaning.NOT_SENT, Verdict(Outcome.FAILURE, effect="none")),
        (Meaning.TURNED_AWAY, Verdict(Outcome.FAILURE, effect="none")),
        (Meaning.REFUSED, Verdict(Outcome.SUCCESS, effect="none")),
        (Meaning.UNKNOWN, Verdict(Outcome.FAILURE, effect="unknown")),
        (Meaning.DONE, Verdict(Outcome.UNKNOWN, effect="done")),
    ],
)
def test_each_meaning_is_a_verdict(meaning: Meaning, verdict: Verdict) -> None:
    """What the policies go by: only a proof that nothing happened says "none"."""
    assert meaning.verdict() == verdict
    assert meaning.verdict(2.5).retry_after == 2.5


def test_the_first_rule_that_fits_decides() -> None:
    """A child before its parent; a rule that answers None passes the question on."""
    table = OutcomeTable(
        Rule("child", (ConnectionRefusedError,), Meaning.NOT_SENT),
        Rule("depends", (OSError,), lambda error: Meaning.DONE if error.errno == 17 else None),
        Rule("parent", (OSError,), Meaning.UNKNOWN),
    )
    assert table.meaning_of(ConnectionRefusedError()) is Meaning.NOT_SENT
    assert table.meaning_of(OSError(17, "exists")) is Meaning.DONE
    assert table.meaning_of(OSError(5, "other")) is Meaning.UNKNOWN
    assert table.meaning_of(ValueError()) is None
    assert repr(table) == "<OutcomeTable: child; depends; parent>"


def test_what_no_rule_knows_is_left_to_shockproof() -> None:
    """A good answer, a foreign error, and one of a known class that no rule wants."""
    table = OutcomeTable(Rule("depends", (OSError,), lambda error: None))
    assert [table.classify(value, CALL) for value in ({"id": 1}, None, ValueError(), OSError())] == [None] * 4
