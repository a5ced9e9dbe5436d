"""
Values of state and journal as they are shown: without secrets, and without the user's classes.

On the disk a value that JSON lacks is an object with the key ``$``. Programs get these as they are; for
people they become short texts.
"""

from __future__ import annotations

import json

from shockproof.memory.error_log.redaction import REDACTED, Redactor
from shockproof.memory.state.codec import TAG, Frozen

__all__ = ["as_text", "for_people", "without_secrets"]

_SECRETS = frozenset({"secret", "redacted"})
_LISTS = frozenset({"tuple", "set", "frozenset", "deque"})
_DICTS = frozenset({"map", "ordereddict", "counter", "defaultdict"})
_LONGEST = 2_000


def without_secrets(frozen: Frozen) -> Frozen:
    """
    A copy in which secrets are ``***``: those that are encrypted or were left out, and what the error log
    would hide too, by its name or inside a text.
    """
    return Redactor().value(_marked(frozen))


def _marked(frozen: Frozen) -> Frozen:
    if isinstance(frozen, dict):
        if frozen.get(TAG) in _SECRETS:
            return REDACTED
        return {key: _marked(value) for key, value in frozen.items()}
    if isinstance(frozen, list):
        return [_marked(value) for value in frozen]
    return frozen


def for_people(frozen: Frozen) -> Frozen:
    """The same with what JSON lacks as short texts, lists and dicts."""
    if isinstance(frozen, list):
        return [for_people(value) for value in frozen]
    if not isinstance(frozen, dict):
        return frozen
    if TAG not in frozen:
        return {key: for_people(value) for key, value in frozen.items()}
    tag, value = frozen[TAG], frozen.get("v")
    if tag in _LISTS and isinstance(value, list):
        return [for_people(one) for one in value]
    if tag in _DICTS and isinstance(value, list):
        return {
            as_text(for_people(pair[0])): for_people(pair[1])
            for pair in value
            if isinstance(pair, list) and len(pair) == 2
        }
    if tag == "object":
        fields: dict[str, Frozen] = value if isinstance(value, dict) else {}
        return {"type": frozen.get("type"), **{name: for_people(one) for name, one in fields.items()}}
    if tag == "enum":
        return f"{frozen.get('type')}.{value}"
    if tag == "timedelta" and isinstance(value, list) and len(value) == 3:
        return f"{value[0]} days, {value[1]}.{value[2]:06} s" if value[0] else f"{value[1]}.{value[2]:06} s"
    if isinstance(value, str):
        zone = frozen.get("zone")
        return value if zone is None else f"{value} {zone}"
    return value


def as_text(value: Frozen) -> str:
    """A value on one line; long ones are cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
