"""
How much of a rate limit may be used before what is on the disk has to tell more: blocks, taken ahead of need.

What the disk tells is an upper bound. It knows what was sent when it was written, and that a block more may be sent: who finds
it after a kill counts all of the block, for nobody knows how much of it was used. When half of a block is used, the next one is
due. Nobody waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from shockproof.policies.rate_limit import WEIGHT, Rate, Weight

__all__ = ["Ahead", "ReservedSends", "block_of"]

_LASTS: Final = 2.0
"""Seconds that a block lasts if as much is sent as the limit allows on average: a disk is asked once in half of that."""

_SMALLEST: Final = 2
"""So that one is left while the next block is being written."""

_ALL_OF_IT_UP_TO: Final = 10.0
"""Seconds: a block may be all of a limit whose window is no longer, which a kill then closes for so long at most."""

_OF_A_LONGER_ONE: Final = 4
"""Else it is no more than this part of the limit: a kill must not stop a program for a day."""


def block_of(rates: Iterable[Rate], name: str, heaviest: int) -> int:
    """
    What of *name* is reserved at a time, where the heaviest call so far counted so much; 0: only what was sent is told.

    Before the first call, *heaviest* 0, it is what lasts in the slowest of its rates: a program that dies again and again before it
    sends must not use up a day's limit by the bursts that it could have sent.
    """
    if not heaviest:
        of_it = [rate for rate in rates if rate.name == name]
        first = min([math.ceil(rate.limit * _LASTS / rate.seconds) for rate in of_it], default=0)
        return min(first, block_of(of_it, name, 1))
    wanted, most = max(_SMALLEST, 2 * heaviest), math.inf
    for rate in rates:
        if rate.name == name:
            wanted = max(wanted, math.ceil(rate.limit * _LASTS / rate.seconds))
            is_short = rate.seconds <= _ALL_OF_IT_UP_TO
            most = min(most, rate.limit if is_short else rate.limit // _OF_A_LONGER_ONE)
    return int(min(wanted, most))


class Ahead(NamedTuple):
    """What the disk is about to tell."""

    reserved: dict[str, int]
    """What may be sent of each name, beyond what was sent."""
    covers: dict[str, int]
    """Up to what of each name this life may have sent then."""
    others: dict[Rate, int]
    """What it tells of others."""
    news: int
    """How much else it tells of."""
    of: ReservedSends
    """Whose it is: others, since the limits were changed, have counted from another beginning."""


class ReservedSends:
    """The blocks of one service. Its caller sees to it that one thread at a time is in here."""

    __slots__ = (
        "_heaviest",
        "_low_from",
        "_news",
        "_others",
        "_rates",
        "_sent",
        "_told_of_others",
        "is_low",
    )

    def __init__(self, rates: Iterable[Rate]) -> None:
        self._rates = tuple(rates)
        self._sent = {rate.name: 0 for rate in self._rates}
        self._low_from = dict(self._sent)
        self._heaviest = dict(self._sent)
        self._others: dict[Rate, int] = {}
        self._told_of_others: dict[Rate, int] = {}
        self._news = 0
        self.is_low = True
        """Whether the disk has to be told of another block."""

    def sent(self, weight: Weight) -> None:
        """So much was sent."""
        for name, before in self._sent.items():
            part = _part(weight, name)
            if part:
                self._sent[name] = sent = before + part
                if part > self._heaviest[name]:  # noqa: PLR1730 - max() would be a call for each call
                    self._heaviest[name] = part
                if sent >= self._low_from[name]:
                    self.is_low = True

    def given_back(self, weight: Weight) -> None:
        """It was not sent after all."""
        for name in self._sent:
            self._sent[name] -= _part(weight, name)

    def heard(self, rate: Rate, others: int) -> None:
        """The other side counts so much of others in the window of *rate*."""
        told = self._told_of_others.get(rate, 0)
        if others < told:  # what was told is over by now
            told = self._told_of_others[rate] = 0
        self._others[rate] = others
        if others - told >= max(1, self._block(rate.name) // 2):
            self.has_news()

    def has_news(self) -> None:
        """There is something else that the disk has to tell."""
        self._news += 1
        self.is_low = True

    def ahead(self, *, is_last: bool = False) -> Ahead:
        """What the disk has to tell now; *is_last*: of nothing that is still to be sent."""
        reserved = {} if is_last else {name: self._block(name) for name in self._sent}
        covers = {name: sent + reserved.get(name, 0) for name, sent in self._sent.items()}
        return Ahead(reserved, covers, dict(self._others), self._news, self)

    def durable(self, ahead: Ahead) -> None:
        """The disk tells it; what it tells of another one says nothing of this."""
        if ahead.of is not self:
            return
        for name, covered in ahead.covers.items():
            block = ahead.reserved.get(name, 0)
            self._low_from[name] = covered - block // 2 if block else covered + 1
        self._told_of_others = dict(ahead.others)
        is_used = any(sent >= self._low_from[name] for name, sent in self._sent.items())
        self.is_low = is_used or self._news != ahead.news

    def _block(self, name: str) -> int:
        return block_of(self._rates, name, self._heaviest[name])


def _part(weight: Weight, name: str) -> int:
    if isinstance(weight, int):
        return weight if name == WEIGHT else 1
    return weight.get(name, 0)
