"""
Secrets are kept out of what is written and shown.

A secret is recognised by the name it stands under (``api_key``, ``X-MBX-APIKEY``, ``signature=``),
by its place (a password in a URL, a bearer token, a header's value that a client refuses, a private key's
block), or because its value was
registered. What is recognised becomes ``***``.

By name means: the name contains one of the words, whatever its case and with or without ``-``, ``_``
or a space inside. In text the name has to be followed by ``=``, ``:``, ``=>`` or, quoted, by a comma
and a quoted value; prose such as "token bucket is empty" or "invalid signature" has no value after
the word and stays as it is. Left as they are, because they tell nothing and help to find an error:
``None``, ``null``, ``true``, ``false``, empty strings, and plain numbers under a name about *counts*
of tokens (``max_tokens=4096``, ``tokens: 5``). The price of looking at names only is that
"invalid token: expired" becomes "invalid token: ***".

Every pattern takes time in proportion to the text: what may repeat is either bounded or possessive,
and what is open at the end of the text (a message was cut) is a secret up to there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

__all__ = ["DEFAULT_NAMES", "REDACTED", "Redactor"]

REDACTED: Final = "***"

DEFAULT_NAMES: Final = (
    "api_key",
    "secret",
    "password",
    "passphrase",
    "private_key",
    "token",
    "signature",
    "authorization",
    "cookie",
)

# What brokers call the same things: Binance's user stream, Bybit, Gate, OKX, KuCoin, Kraken, AWS, Alpaca.
_ALSO: Final = ("passwd", "listen_key", "access_key", "access_sign", "api_sign")

_SHORTEST_VALUE: Final = 4
_SHORT: Final = 24
_MOST_NAMES: Final = 1_024
_MOST_OVERLAPS: Final = 8
"""Values that begin in each other."""

# Nothing that could be a secret, whatever the name.
_HARMLESS: Final = r"(?i:none|null|true|false|nil|undefined|\*{3,}|[\[({]\s*[\])}])\Z"
_NUMBER: Final = r"(?:[0-9][0-9_.,]{0,11}|[\[({][0-9_.,\s]*+[\])}])\Z"
_COUNTED: Final = r"(?i:tokens\Z|token[_\- ]?(?:count|limit|budget|usage))"

_ELSEWHERE: Final = r"""
    (?P<user>://[^/\s:@"']{0,256}:)(?P<password>[^/\s@"']{1,512})(?=@|(?<=\.\.\.)(?:\Z|\ \([0-9]+\ more\ characters\)))
    | (?P<scheme>\b(?:bearer|basic)\s{1,4}\\{0,4}["']?)(?P<credentials>[A-Za-z0-9._~+/=\-]{8,})
    | (?P<header>\bheader\ value:?\s{1,4}b?(?P<mark>\\{0,4}["']))(?:(?!(?P=mark))(?s:.))*+
    | (?P<begin>-----BEGIN\ [A-Z0-9 ]{0,40}PRIVATE\ KEY-----)(?s:.*?)(?P<end>-----END|\Z)
"""

_PLACES: Final = ("://", "bearer", "basic", "header value", "-----begin")

# After a word: the rest of the name, what separates name and value, the value.
_VALUE: Final = r"""
    (?P<rest>[\w\-.]{0,64}+)
    (?:
        (?P<list>\\{0,4}["']\s{0,4},\s{0,4}(?=b?\\{0,4}["']))
      | (?P<equal>\s?={2,3}\s{0,4}(?=b?\\{0,4}["']))
      | (?P<separator>\]?\\{0,4}["']?\]?\s{0,4}(?:=>|:=|[=:](?!=)|%3d|%3a)\s{0,4})
    )
    (?:
        (?P<open>[bfru]{0,2})(?P<quote>["'])(?P<plain>(?:[^\\"']|\\(?s:.)|(?!(?P=quote))["'])*+)(?:(?P=quote)|\\?\Z)
      | (?P<escaped>\\{1,4}["'])(?P<inner>(?s:.*?))(?:(?P=escaped)|\Z)
      | (?P<opening>[\[({])
      | (?P<bare>(?:[^\s&,;"'<>{}\\%]|%(?!26))++)
    )
"""
# Quoted and whole, as far as it stands on one line; where nothing closes it, all of that line.
_QUOTED: Final = r"""(?P<around>\\{0,4}["'])(?:(?!(?P=around))[^\r\n])*+(?P=around)?"""
# A header's value has blanks, commas and equal signs of its own: everything up to the line's end. A quote behind one of those
# opens a value in it, or one of what follows it; behind anything else it closes the text in which the header stands.
_HEADER: Final = rf"""(?:[^\r\n"'{{}}\\]|(?<=[=:,;(\[\s]){_QUOTED})++"""
# What stands between a name and its secret, and is none itself: "token: Bearer abc", "password: str = 'abc'".
_LEADING: Final = rf"""(?i:(?:bearer|basic)[ \t]{{1,4}}|(?:str|bytes)(?:[ ]\|[ ]None)?[ ]=[ ](?=["']))(?:{_QUOTED}|[^\s&,;"'<>{{}}\\]++)"""
_HEADER_WORDS: Final = ("authorization", "cookie")


_PART: Final = r"[A-Z]?[^\W_A-Z]+|[A-Z]+"


# Not while it is imported; and for good, where the cache of `re` forgets.
_compiled = functools.cache(re.compile)


def _parts(name: str) -> list[str]:
    # api_key, api-key and apiKey are "api" and "key".
    return [part.lower() for part in _compiled(_PART).findall(name)]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _hints_of(words: list[list[str]]) -> tuple[str, ...]:
    # A text that has none of these pieces is left alone, as most are: looking for a piece is cheap,
    # but ten searches are not, so one piece serves as many words as possible.
    hints = {"sign"}
    for parts in sorted(words, key=len):
        pieces = [part[:4] for part in parts]
        if hints.isdisjoint(pieces):
            hints.add(pieces[-1])
    return tuple(sorted(hints))


_PLAIN: Final = frozenset((str, int, float, bool, type(None)))


class _Name(NamedTuple):
    """What a key of a dict is."""

    shown: str
    is_secret: bool
    hides_numbers: bool


class Redactor:
    """
    Takes secrets out of texts and of JSON-like values.

    Args:
        names: the words that mark a name as secret. ``(*DEFAULT_NAMES, "pin")`` adds one, ``()``
            switches redaction off, registered values included.
        values: secrets that are taken out wherever they stand; see `register`.

    May be shared by threads.
    """

    def __init__(self, names: Iterable[str] = DEFAULT_NAMES, values: Iterable[str] = ()) -> None:
        self.names = tuple(names)
        """The words in force; empty when redaction is off."""
        self.memory: object = None
        """Room for whoever keeps texts that this one has redacted; emptied when the rules change."""
        self._values: tuple[str, ...] = ()
        # The same few names come again with each record, and so do short values, such as symbols.
        self._known_names: dict[str, _Name] = {}
        self._known_texts: dict[str, str] = {}
        words = [_parts(name) for name in self.names]
        if not all(words):
            raise ValueError(f"redact={self.names!r}: every name needs a letter or a digit")
        if set(DEFAULT_NAMES) <= set(self.names):
            words += [_parts(name) for name in _ALSO]
        self._words = tuple("".join(parts) for parts in words)
        self._hints = _hints_of(words)
        self._alternatives = "|".join(r"[_\-\s]?".join(map(re.escape, parts)) for parts in words)
        self._pattern: re.Pattern[str] | None = None
        for value in values:
            self.register(value)

    def __repr__(self) -> str:
        return f"Redactor({self.names!r}, {len(self._values)} registered values)"

    @property
    def is_off(self) -> bool:
        """Whether nothing is ever changed."""
        return not self.names

    def register(self, value: str) -> None:
        """
        Take this value out of everything from now on, wherever it stands.

        Also in the forms it has in URLs and in JSON.

        Raises:
            ValueError: fewer than four characters, which would be found everywhere.
        """
        if len(value) < _SHORTEST_VALUE:
            raise ValueError(
                f"a secret value of {len(value)} characters is too short: at least {_SHORTEST_VALUE}"
            )
        from urllib.parse import quote, quote_plus

        forms = {
            value,
            quote(value, safe=""),
            quote(value),
            quote_plus(value),
            value.replace("\\", "\\\\").replace('"', '\\"'),
        }
        # Longest first, so that a secret which contains another one goes as a whole.
        self._values = tuple(sorted(forms.union(self._values), key=lambda form: (-len(form), form)))
        self.memory = None
        self._known_names = {}
        self._known_texts = {}

    def is_secret(self, name: str) -> bool:
        """Whether a value under this name is a secret."""
        if not self.names:
            return False
        plain = _plain(name)
        return plain == "sign" or any(word in plain for word in self._words)

    def text(self, text: str) -> str:
        """The text with every recognised secret replaced by ``***``."""
        if not self.names:
            return text
        for value in self._values:
            if value in text:
                text = text.replace(value, REDACTED)
        if self._values and text.endswith("..."):
            text = self._without_beginning(text)
        lowered = text.lower()
        # Loops, and not any(): its generator takes longer than all the looking, and most texts have nothing.
        for hint in self._hints:
            if hint in lowered:
                text = self._by_name(text)
                break
        for place in _PLACES:
            if place in lowered:
                return re.sub(_ELSEWHERE, _hide_elsewhere, text, flags=re.IGNORECASE | re.VERBOSE)
        return text

    def cut_before(self, text: str, at: int) -> int:
        """Where *text* can be cut instead of *at* without cutting a registered value: where that begins, or *at*."""
        if self.names:
            for _ in range(_MOST_OVERLAPS):
                for value in self._values:
                    begin = text.find(value, max(0, at - len(value) + 1), at + len(value) - 1)
                    if begin >= 0:
                        at = begin
                        break
                else:
                    break
        return at

    def _without_beginning(self, text: str) -> str:
        # Of a value at whose place somebody has cut the text, before it came here.
        kept = text[:-3]
        for value in self._values:
            if value[:_SHORTEST_VALUE] in kept:
                for length in range(min(len(value) - 1, len(kept)), _SHORTEST_VALUE - 1, -1):
                    if kept.endswith(value[:length]):
                        return f"{kept[:-length]}{REDACTED}..."
        return text

    def value(self, value: object) -> object:
        """A JSON-like value with the secrets in it replaced; containers are copied, not changed."""
        if not self.names:
            return value
        return self._value(value, hide_texts=False, hide_numbers=False)

    def _value(self, value: object, *, hide_texts: bool, hide_numbers: bool) -> object:
        if isinstance(value, str):
            if not hide_texts:
                if len(value) > _SHORT:
                    return self.text(value)
                shown = self._known_texts.get(value)
                return self._know_text(value) if shown is None else shown
            return value if not value or _compiled(_HARMLESS).match(value) else REDACTED
        if isinstance(value, dict):
            copy: dict[str, object] = {}
            for key, item in value.items():
                shown, is_secret, hides_numbers = self._known_names.get(key) or self._know(str(key))
                kind = type(item)
                if is_secret or hide_texts or kind not in _PLAIN:
                    copy[shown] = self._value(
                        item, hide_texts=hide_texts or is_secret, hide_numbers=hide_numbers or hides_numbers
                    )
                elif kind is str:
                    # As in a call, which takes longer: a short text or a number is what most of a context is.
                    known = self._known_texts.get(item)
                    copy[shown] = known or self._value(item, hide_texts=False, hide_numbers=False)
                else:
                    copy[shown] = item
            return copy
        if isinstance(value, list | tuple):
            if len(value) == 2 and isinstance(value[0], str) and self.is_secret(value[0]):
                # A pair of name and value, as headers and parameters are written.
                hidden = self._value(
                    value[1], hide_texts=True, hide_numbers=not _compiled(_COUNTED).search(value[0])
                )
                return [self.text(value[0]), hidden]
            return [self._value(item, hide_texts=hide_texts, hide_numbers=hide_numbers) for item in value]
        if hide_numbers and isinstance(value, int | float) and not isinstance(value, bool):
            return REDACTED
        return value

    def _know_text(self, text: str) -> str:
        shown = self.text(text)
        if len(self._known_texts) >= _MOST_NAMES:
            self._known_texts.clear()
        self._known_texts[text] = shown
        return shown

    def _know(self, name: str) -> _Name:
        is_secret = self.is_secret(name)
        known = _Name(self.text(name), is_secret, is_secret and not _compiled(_COUNTED).search(name))
        if len(self._known_names) >= _MOST_NAMES:
            self._known_names.clear()
        self._known_names[name] = known
        return known

    def _by_name(self, text: str) -> str:
        pieces: list[str] = []
        done = 0
        position = 0
        pattern = self._pattern
        if pattern is None:
            # Not at import: it takes milliseconds, and most programs get their first error much later.
            word = rf"(?P<word>{self._alternatives}|(?<![a-z])sign(?![a-z]))"
            pattern = self._pattern = re.compile(word + _VALUE, re.IGNORECASE | re.VERBOSE)
        while (found := pattern.search(text, position)) is not None:
            start, end = self._secret_in(found, text)
            if end > start:
                pieces += (text[done:start], REDACTED)
                done = end
            position = max(end, found.end("rest"))
        if not pieces:
            return text
        pieces.append(text[done:])
        return "".join(pieces)

    def _secret_in(self, found: re.Match[str], text: str) -> tuple[int, int]:
        # Where the secret is; an empty range: there is none after all.
        group = next(name for name in ("plain", "inner", "opening", "bare") if found[name] is not None)
        start, end = found.span(group)
        if group == "opening":  # everything in the list or the dict
            end = _closing(text, start)
        elif group == "bare":
            opening = _compiled(_OPENING).search(text, start, end)
            end = start + len(text[start:end].rstrip(")]"))  # those of a call or a list around it
            if opening is not None:  # Secret('...'), Token(value="...")
                end = max(end, _closing(text, opening.start()))
            led = _compiled(_LEADING).match(text, start)
            if led is not None:
                end = max(end, led.end())
        value = text[start:end]
        nothing = found.end("rest"), found.end("rest")
        if not value or _compiled(_HARMLESS).match(value):
            return nothing
        name = found["word"] + found["rest"]
        if _compiled(_NUMBER).match(value) and _compiled(_COUNTED).search(name):
            return nothing
        if group == "bare" and found["separator"] is not None and name.lower().startswith(_HEADER_WORDS):
            header = _compiled(_HEADER).match(text, start)
            if header is not None:
                end = max(end, header.end())
        return start, end


_OPENING: Final = r"[\[({]"
_BRACKET_OR_TEXT: Final = r"""[\[({]|[\])}]|"(?:[^"\\]|\\(?s:.))*+"?|'(?:[^'\\]|\\(?s:.))*+'?"""


def _closing(text: str, start: int) -> int:
    """Where what opens at *start* is closed again, or the end of a text that was cut."""
    # Linear over all: what one search has looked at is taken out, and not looked at again.
    depth = 0
    for found in _compiled(_BRACKET_OR_TEXT).finditer(text, start):
        if found[0] in "[({":
            depth += 1
        elif found[0] in "])}":
            depth -= 1
            if depth == 0:
                return found.end()
    return len(text)


def _hide_elsewhere(found: re.Match[str]) -> str:
    if found["user"] is not None:
        return found["user"] + REDACTED
    if found["scheme"] is not None:
        return found["scheme"] + REDACTED
    if found["header"] is not None:
        return found["header"] + REDACTED
    return found["begin"] + REDACTED + found["end"]
