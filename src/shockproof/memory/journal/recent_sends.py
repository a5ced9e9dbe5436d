"""
What was sent under rate limits and still counts there, which each new segment of the journal carries along.

The records of an order go with it: of one that is certainly not placed nothing is left, and of one that is sent again only
the last time. The venue has counted each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from shockproof.memory.journal.earlier_sends import EarlierSend
from shockproof.memory.journal.record import encode_value

__all__ = ["MOST_SENDS", "RecentSends"]

MOST_SENDS: Final = 10_000
"""So many moments are kept, the latest."""

_KEPT_MOMENTS: Final = 500
"""About so many moments of its longest window are kept apart for each service, as where the state is saved."""

_BELIEVED_FOR: Final = 86_400.0
"""Seconds that one counts for of which an older shockproof did not say."""

_THINNED_OUT_FROM: Final = 1024
_RECORD_BYTES: Final = 1 << 16
"""A record ends with what comes beyond that."""


class RecentSends:
    """
    The attempts of the last window, those of each service in the order in which they were made.

    It is only as old as what was sent last tells: no clock is asked. What falls together counts as sent at the last.
    """

    def __init__(self) -> None:
        self._sends: list[EarlierSend] = []
        self._thin_out_at = _THINNED_OUT_FROM

    def __iter__(self) -> Iterator[EarlierSend]:
        return iter(self._sends)

    def __len__(self) -> int:
        return len(self._sends)

    def add(self, send: EarlierSend) -> Callable[[], None]:
        """One more; what is returned takes it back, as long as it is kept apart from others: else too much counts."""
        self._sends.append(send)
        if len(self._sends) >= self._thin_out_at:
            self._thin_out()
        return lambda: self._take_back(send)

    def _take_back(self, send: EarlierSend) -> None:
        for index in range(len(self._sends) - 1, -1, -1):
            if self._sends[index] is send:
                del self._sends[index]
                return

    def clear(self) -> None:
        """Forget them all."""
        self._sends = []

    def _thin_out(self) -> None:
        now = self._sends[-1].at
        kept: list[EarlierSend] = []
        latest: dict[object, int] = {}
        for send in self._sends:
            name, at, weight, counts_for, times = send
            if now - at >= (_BELIEVED_FOR if counts_for is None else counts_for):
                continue
            weighs = tuple(sorted(weight.items())) if isinstance(weight, dict) else weight
            of_its_kind = name, counts_for, weighs
            index = latest.get(of_its_kind)
            # Slices of the time itself, so that one that is thinned out again stays as it is.
            if index is not None and counts_for is not None:
                slice_seconds = counts_for / _KEPT_MOMENTS
                before = kept[index]
                if before.at // slice_seconds == at // slice_seconds:
                    kept[index] = before._replace(at=max(before.at, at), times=before.times + times)
                    continue
            latest[of_its_kind] = len(kept)
            kept.append(send)
        self._sends = kept[-MOST_SENDS:]
        self._thin_out_at = max(_THINNED_OUT_FROM, 2 * len(self._sends))

    def snapshot(self) -> Iterator[bytes]:
        """What still counts, as the bodies of SENT records; none where there is nothing."""
        if not self._sends:
            return
        self._thin_out()
        services: dict[tuple[str, float | None], list[EarlierSend]] = {}
        for send in self._sends:
            of_service = send.service_name, send.counts_for
            ones = services.pop(of_service, [])
            ones.append(send)
            services[of_service] = ones  # the one that sent last comes last: by it the others' age is told
        for (name, counts_for), ones in services.items():
            head = b'{"service":%b,"counts_for":%b,"sent":[' % (encode_value(name), encode_value(counts_for))
            pieces: list[bytes] = []
            size = 0
            for one in ones:
                pieces.append(encode_value([one.at, one.weight, one.times]))
                size += len(pieces[-1])
                if size >= _RECORD_BYTES:
                    yield head + b",".join(pieces) + b"]}"
                    pieces, size = [], 0
            if pieces:
                yield head + b",".join(pieces) + b"]}"
