"""
What errors of a client mean, as one table: rules in order, the first that fits decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from shockproof.policies.retry_after import asked_to_wait
from shockproof.vocabulary.clock import Clock
from shockproof.vocabulary.outcomes import CallInfo, Effect, Outcome, Verdict

__all__ = ["Advice", "Meaning", "OutcomeTable", "Rule"]

Advice = Literal["retry", "wait", "do not retry"]
"""What to do with the same request. For a write, "retry" holds only where the effect is "none"."""


class Meaning(Enum):
    """What an error says about the request: its effect at the other side, and what to do next."""

    NOT_SENT = ("none", "retry")
    """It never left: no connection stood."""
    TURNED_AWAY = ("none", "wait")
    """Refused at the door before anything was looked at: too many requests, a clock that is off."""
    REFUSED = ("none", "do not retry")
    """Looked at, and answered with a clear no. The other side is well: its circuit counts a success."""
    UNKNOWN = ("unknown", "retry")
    """Nobody knows. Reads are repeated; a write is not, and has to be looked up."""
    DONE = ("done", "do not retry")
    """It happened before: the id is known there already. Look up what became of the first one."""

    def __init__(self, effect: Effect, advice: Advice) -> None:
        self.effect: Effect = effect
        self.advice: Advice = advice

    def verdict(self, retry_after: float | None = None) -> Verdict:
        """The same for shockproof's policies; *retry_after* is what the other side asked for, in seconds."""
        if self is Meaning.REFUSED:
            outcome = Outcome.SUCCESS
        elif self is Meaning.DONE:
            outcome = Outcome.UNKNOWN
        else:
            outcome = Outcome.FAILURE  # for an unsafe call with effect "unknown" the policies make it UNKNOWN
        return Verdict(outcome, retry_after, self.effect)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what it is about in words, the classes it is for, what they mean."""

    name: str
    kinds: tuple[type, ...]
    meaning: Meaning | Callable[[Any], Meaning | None]  # Any: an instance of one of the kinds
    """A function may answer None: the rule does not fit after all."""

    def meaning_of(self, value: object) -> Meaning | None:
        """What *value* means by this rule alone; None where it does not fit."""
        if not isinstance(value, self.kinds):
            return None
        return self.meaning if isinstance(self.meaning, Meaning) else self.meaning(value)


class OutcomeTable:
    """
    The rules of one client. Stateless.

    What no rule fits gets no verdict: then shockproof's own rules decide, and for an unsafe call they
    say *unknown*.
    """

    __slots__ = ("_asked_to_wait", "_kinds", "rules")

    def __init__(
        self, *rules: Rule, asked_to_wait: Callable[[object, Clock], float | None] = asked_to_wait
    ) -> None:
        self.rules = rules
        self._kinds = tuple(kind for rule in rules for kind in rule.kinds)
        self._asked_to_wait = asked_to_wait

    def __repr__(self) -> str:
        return f"<OutcomeTable: {'; '.join(rule.name for rule in self.rules)}>"

    def rule_for(self, value: object) -> tuple[Rule, Meaning] | None:
        """The first rule that fits, and what it says."""
        for rule in self.rules:
            meaning = rule.meaning_of(value)
            if meaning is not None:
                return rule, meaning
        return None

    def meaning_of(self, value: object) -> Meaning | None:
        """What an error (or a response) means; None for what this table does not know."""
        found = self.rule_for(value)
        return None if found is None else found[1]

    def classify(self, value: object, call: CallInfo) -> Verdict | None:
        """For ``recovery.service(..., classify=...)``."""
        if not isinstance(value, self._kinds):  # most results: one look, not one for each rule
            return None
        meaning = self.meaning_of(value)
        return None if meaning is None else meaning.verdict(self._asked_to_wait(value, call.clock))
