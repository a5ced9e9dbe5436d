"""
Whether a venue's no is none: a time limit of its own, an error inside it, a request that is under way.

Each venue has codes of its own for that, and clients give them the classes of a refusal. But who ran into a time limit does not know
what became of the order, whichever word stands beside it.
"""

from __future__ import annotations

import re
from typing import Final

from shockproof.integrations.known_there import words_of

__all__ = ["is_unclear"]

_PART: Final = r"(?:system|server|service|network|gateway|backend|engine|internal)"
_TROUBLE: Final = (
    r"(?:busy|errors?|exceptions?|abnormal\w*|fail(?:ed|ure)?|fault|unavailable|unstable|disconnected)\b"
)
_IS_UNCLEAR: Final = re.compile(
    # Not the "time out of range" of a parameter, nor the setTimeout of a page.
    r"(?<!set )\btimed? ?out\b(?! of\b)|\bdeadline (?:elapsed|exceeded)|\babnormal disconnection"
    rf"|\b{_PART} (?:(?:is|are|was|currently|temporarily|too|system|server|service) )*{_TROUBLE}"
    r"|\b(?:unknown|unexpected) (?:errors?|exceptions?|response)\b|\bstatus (?:is )?unknown\b"
    r"|\bbeing processed\b|\b(?:is|are|in|operation) processing\b|\bsubmitted (?:\w+ ){0,3}for processing\b"
    # For no reason. "Order placement failed due to ..." is a no, and so is "Operation failed." around the reason of OKX.
    r'|\b(?:create order|order (?:creation|placement|submission)) failed\b(?=\W*(?:\Z|"|please (?:re)?try))'
    r"|\boperation failed\W+please (?:re)?try"
)


def is_unclear(text: str) -> bool:
    """Whether the *text* of a refusal leaves open what became of the request."""
    return _IS_UNCLEAR.search(words_of(text)) is not None
