"""
Whether a venue's no says that the order is there already: in words, for each venue has codes of its own.

A second copy that is refused because of the first proves the opposite of a refusal. So whatever sounds like it is no proof
that nothing happened, and what clearly speaks of the id of an order, or of a duplicate order, proves that it did.
"""

from __future__ import annotations

import re
from typing import Final

from shockproof.integrations.outcome_table import Meaning

__all__ = ["meaning_of_words", "words_of"]

# An id that the answer repeats is the caller's own text: an order called "repeat-7" is no repeated one.
_ECHOED: Final = re.compile(r'"\w*(?:id|Id|ID)"\s*:\s*"[^"]*"')
# clientOrderId, CLIENT_ORDER_ID and client-order-id are the same words.
_BETWEEN_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z0-9])[_-]+(?=[A-Za-z0-9])")

_ID: Final = (
    r"\b(?:(?:client|cl|custom|customi[sz]ed|order|ord|link|linked|external|idempotency)"
    r"(?: \w+){0,2} (?:id|ids|oid|key|index|hash)|client oid|cl?oid|cid|label)\b"
)
# A parameter that is given twice is another thing.
_TWICE: Final = r"(?:duplicat\w*|repeat(?:ed)?)\b(?! (?:values?|param\w*)\b)"
_USED: Final = r"(?:in use|used|taken|processed|submitted|placed|received|accepted)\b"
_IS_KNOWN: Final = re.compile(
    rf"{_TWICE}(?: \w+){{0,2}} (?:orders?|creation)\b(?! in batch)|{_TWICE}(?: \w+)? {_ID}"
    # "take profit order duplicated" and "a trailing order exists already" may be about an order of another id.
    rf"|(?<!profit )(?<!loss )(?<!trailing )\border (?:is |was )?{_TWICE}"
    r"|(?:\A|[^\w ] ?|\b(?:this|the|same|an) )order already exist"
    rf"|{_ID}(?: \w+){{0,3}} (?:{_TWICE}|already exist|exist\w* already|existed\b|already (?:been )?{_USED}"
    r"|has been used|not unique|(?:must|should) be unique|unique check|overlap)"
)
_MAY_BE_KNOWN: Final = re.compile(
    rf"{_TWICE}|already (?:\w+ )?exist|exist\w* already|\bexisted\b|existing (?:\w+ ){{0,3}}order\b"
    rf"|already (?:been )?(?:requested\b|consumed\b|{_USED})|\b(?:not|non) unique|must be unique|unique check"
    # What only an order that was there can be; "already filled" alone is what a cancel is told.
    r"|\bmatched order,|\bioc order is already filled|\border is fully filled|\bpartially filled\W*(?:\"|\Z)"
    r"|\bpreviously (?:cancelled|removed) and therefore cannot be placed|\bidempotency key\b.* mismatch"
)


def words_of(text: str) -> str:
    """The words of an answer in one way of writing, without the ids that it repeats."""
    return _BETWEEN_WORDS.sub(" ", _ECHOED.sub("", text)).lower()


def meaning_of_words(text: str) -> Meaning | None:
    """
    What the *text* of a refusal says of an order that was there before: `DONE` where it speaks of the order or of its id,
    `UNKNOWN` where it may, None where it does not.
    """
    words = words_of(text)
    if _IS_KNOWN.search(words):
        return Meaning.DONE
    return Meaning.UNKNOWN if _MAY_BE_KNOWN.search(words) else None
