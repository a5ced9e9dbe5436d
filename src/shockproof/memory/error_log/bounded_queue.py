"""
A queue that never makes a producer wait, never outgrows its bounds, and knows exactly what it lost.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import deque
from typing import Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

__all__ = ["BoundedQueue", "Gap", "QueueCounts", "WhenFull"]

T = TypeVar("T")

WhenFull = Literal["drop_lowest", "drop_oldest", "drop_new"]
"""Who goes when the queue is full: the oldest of the lowest rank, the oldest of all, the newcomer."""

_MOST_GAPS: Final = 64
_ENTRIES_PER_LOCK: Final = 128
_AT_ONCE: Final = 64
_MOST_BEHIND: Final = 32
_LONGEST_WAIT: Final = 0.001


# A plain tuple: one is built for every record on the producer's loop, and a named one costs four times that. Of plain
# values, because the garbage collector lets go of such a tuple at first sight: with the item in it, a hundred thousand of
# them hold a full collection, and everybody with it, for ten milliseconds.
_Ticket: TypeAlias = tuple[int, int, float]
"""What is known of one record: sequence, size, time."""
_GAP: Final = -1
"""In the place of a gap's size."""


class Gap:
    """What was dropped at one place of the order."""

    __slots__ = ("begins", "dropped", "ends", "sequence")

    def __init__(self, sequence: int, begins: float, ends: float, dropped: list[int]) -> None:
        self.sequence = sequence
        """That of the first record that was dropped: the gap's place."""
        self.begins = begins
        """Time of the earliest record that was dropped, in the producers' own seconds."""
        self.ends = ends
        """Time of the latest."""
        self.dropped = dropped
        """How many, by rank."""

    def __lt__(self, other: Gap) -> bool:
        return self.sequence < other.sequence


class QueueCounts(NamedTuple):
    """One moment of a queue: ``submitted == settled + queued + sum(dropped)``, always."""

    submitted: int
    settled: int
    """Taken and done with."""
    queued: int
    """Waiting, or taken and not yet settled."""
    dropped: tuple[int, ...]
    """By rank."""
    queued_bytes: int


class BoundedQueue(Generic[T]):
    """
    Many producers, in any thread, signal handler or finalizer; one consumer.

    ``max_records`` and ``max_bytes`` bound what waits together with what was taken and is not yet
    settled. Sizes are the producers' estimates.

    A producer appends to an inbox, which is atomic. When some dozens have arrived, or somebody asks for
    anything, the inbox is moved into the queue by whoever that is, if nobody else is at it just now; if
    somebody is, that one looks at the inbox again after unlocking. So nobody needs the lock, and coming
    back in while holding it (a signal, a finalizer) is harmless. Only when some dozens more
    have arrived behind a thread that was interrupted there, a producer gives it a millisecond at most to
    go on, so that the bounds hold but for those dozens.
    """

    def __init__(
        self,
        *,
        max_records: int = 10_000,
        max_bytes: int = 8 * 2**20,
        when_full: WhenFull = "drop_lowest",
        ranks: int = 4,
    ) -> None:
        self.max_records = max_records
        self.max_bytes = max_bytes
        self.when_full: WhenFull = when_full
        self._ranks = ranks
        # Putting them in order one by one would take twice as long; in a small queue each counts.
        self._at_once = min(_AT_ONCE, max_records // 100)
        self._most_arriving = self._at_once + _MOST_BEHIND
        self.clear()

    def clear(self) -> None:
        """Forget everything, counts included: for a forked child, whose parent keeps the records."""
        self._lock = threading.Lock()
        self._inbox: deque[tuple[int, int, float, T]] = deque()
        # By rank. A ticket, its item, the next ticket, ...: both are added in one call, so that no interruption parts them.
        # Any: a deque cannot say that its elements take turns.
        self._lanes: tuple[deque[Any], ...] = tuple(deque() for _ in range(self._ranks))
        self._taken: deque[_Ticket] = deque()
        self._taken_bytes = 0
        self._gaps: list[Gap] = []
        self._open_gap: Gap | None = None
        self._records = 0
        self._bytes = 0
        self._submitted = 0
        self._settled = 0
        self._dropped = [0] * self._ranks
        self.is_crowded = False
        """Whether more than half of the room is taken."""
        self._publish()

    def __repr__(self) -> str:
        return f"<BoundedQueue {self.counts()}>"

    def put(self, item: T, rank: int, size: int, at: float) -> None:
        """
        Add a record; what has to go for it is counted.

        Waits for no disk: only, when many have arrived that nobody could put in order, a millisecond for that.
        """
        inbox = self._inbox
        inbox.append((rank, size, at, item))
        if len(inbox) >= self._at_once:
            self._combine()

    def counts(self) -> QueueCounts:
        """Exact counts of this moment, without waiting for anybody."""
        self._combine()
        submitted, settled, queued, dropped, size = self._counts
        arriving = len(self._inbox)  # only if another thread is moving them just now
        return QueueCounts(submitted + arriving, settled, queued + arriving, dropped, size)

    def mark(self) -> int:
        """A mark behind everything that was put so far, for `is_settled`."""
        self._combine()
        return self._submitted + len(self._inbox)

    @property
    def waiting_bytes(self) -> int:
        """About how much memory those take who were not taken yet: for the consumer, which alone knows that for longer than a moment."""
        self._combine()
        return self._bytes - self._taken_bytes

    def is_empty(self) -> bool:
        """Whether nothing waits, neither a record nor a gap."""
        self._combine()
        return not (self._inbox or self._counts[2] or self._gaps or self._open_gap or self._taken)

    def is_settled(self, mark: int) -> bool:
        """Whether nothing from before the mark waits any more, gaps included."""
        self._combine()
        with self._lock:
            if self._inbox:
                return False
            waiting = [lane[0][0] for lane in self._lanes if lane]
            if self._taken:
                waiting.append(self._taken[0][0])
            if self._gaps:
                waiting.append(self._gaps[0].sequence)
            if self._open_gap is not None:
                waiting.append(self._open_gap.sequence)
            return min(waiting, default=mark) >= mark

    def take(self, *, max_records: int, max_bytes: int) -> list[T | Gap]:
        """
        The next records and gaps in their order, for the consumer, which has to `settle` them.

        At least one record when there is one, however large. Asking means that there is room
        again: a gap ends here, and what is dropped from now on makes another.
        """
        self._combine()
        batch: list[T | Gap] = []
        size = 0
        while len(batch) < max_records and size < max_bytes:
            with self._lock:
                if self._open_gap is not None:
                    insort(self._gaps, self._open_gap)
                    self._open_gap = None
                    self._merge_gaps()
                more = self._move(batch, min(_ENTRIES_PER_LOCK, max_records - len(batch)), max_bytes - size)
            self._combine()
            if not more:
                break
            size += more
        return batch

    def settle(self, count: int) -> None:
        """The first ``count`` of what was taken, gaps included, are done with."""
        with self._lock:
            for _ in range(count):
                _, size, _ = self._taken.popleft()
                if size != _GAP:
                    self._records -= 1
                    self._bytes -= size
                    self._taken_bytes -= size
                    self._settled += 1
            self._publish()
        self._combine()

    def _combine(self) -> None:
        inbox = self._inbox
        lock = self._lock
        while inbox:
            if not lock.acquire(False) and (  # the keyword costs as much as the lock
                # Interrupted with the lock in its hands, the other thread lets the inbox grow past all
                # bounds: let it run for the moment that it needs.
                len(inbox) < self._most_arriving or not lock.acquire(timeout=_LONGEST_WAIT)
            ):
                return
            try:
                self._admit()
            finally:
                lock.release()

    def _admit(self) -> None:
        # In local names, for counting was the greater part of the work; and each record is counted before it is there, since
        # a signal's handler may raise right after that.
        inbox, lanes, max_bytes = self._inbox, self._lanes, self.max_bytes
        while inbox:
            submitted, waiting_bytes = self._submitted, self._bytes
            last_with_room = submitted + self.max_records - self._records
            try:
                while True:
                    rank, size, at, item = inbox.popleft()
                    ticket = (submitted, size, at)
                    submitted += 1
                    waiting_bytes += size
                    lanes[rank].extend((ticket, item))
                    if not inbox or submitted > last_with_room or waiting_bytes > max_bytes:
                        break
            finally:
                self._records += submitted - self._submitted
                self._submitted, self._bytes = submitted, waiting_bytes
            while self._records > self.max_records or self._bytes > max_bytes:
                self._drop(rank)
        self._publish()

    def _drop(self, newest: int) -> None:
        if self.when_full == "drop_new":
            rank = newest
        elif self.when_full == "drop_oldest":
            rank = min((rank for rank, lane in enumerate(self._lanes) if lane), key=self._head_of)
        else:
            rank = 0
            while not self._lanes[rank]:
                rank += 1
        sequence, size, at = self._removed(self._lanes[rank])
        self._records -= 1
        self._bytes -= size
        gap = self._open_gap
        if gap is None:
            gap = self._open_gap = Gap(sequence, at, at, [0 for _ in range(self._ranks)])
        else:  # in a flood that is every record
            if sequence < gap.sequence:  # noqa: PLR1730 - min() and max() would take as long as all the rest
                gap.sequence = sequence
            if at < gap.begins:
                gap.begins = at
            elif at > gap.ends:
                gap.ends = at
        gap.dropped[rank] += 1
        self._dropped[rank] += 1

    def _removed(self, lane: deque[Any]) -> _Ticket:  # Any: tickets and items in turn
        ticket: _Ticket
        is_newest = self.when_full == "drop_new"
        try:
            if is_newest:
                lane.pop()
                ticket = lane.pop()
            else:
                ticket = lane.popleft()
                lane.popleft()
        except BaseException:  # of a signal's handler: what is half removed goes now
            if len(lane) % 2:
                _ = lane.pop() if is_newest else lane.popleft()
            raise
        return ticket

    def _head_of(self, rank: int) -> int:
        ticket: _Ticket = self._lanes[rank][0]
        return ticket[0]

    def _merge_gaps(self) -> None:
        # A disk that takes a few records between long hangs must not fill memory with gaps.
        while len(self._gaps) > _MOST_GAPS:
            last = self._gaps.pop()
            kept = self._gaps[-1]
            kept.begins = min(kept.begins, last.begins)
            kept.ends = max(kept.ends, last.ends)
            kept.dropped = [one + two for one, two in zip(kept.dropped, last.dropped, strict=True)]

    def _move(self, batch: list[T | Gap], count: int, max_bytes: int) -> int:
        # Moves at most count records, so that the lock is held for a moment only. Gives the bytes moved,
        # 0 when nothing is left.
        moved = 0
        taken = self._taken
        lanes = self._lanes
        while count > 0 and (moved < max_bytes or not batch):
            waiting = sorted([rank for rank, lane in enumerate(lanes) if lane], key=self._head_of)
            while self._gaps and (not waiting or self._gaps[0].sequence < self._head_of(waiting[0])):
                gap = self._gaps.pop(0)
                batch.append(gap)
                taken.append((gap.sequence, _GAP, 0.0))
            if not waiting:
                break
            lane = lanes[waiting[0]]
            # As far as the next gap or the head of another lane, one after the other.
            until = min(
                [self._head_of(rank) for rank in waiting[1:]] + [gap.sequence for gap in self._gaps[:1]],
                default=self._submitted + 1,
            )
            while lane and count > 0 and lane[0][0] < until and (moved < max_bytes or not batch):
                ticket: _Ticket = lane.popleft()
                batch.append(lane.popleft())
                taken.append(ticket)
                self._taken_bytes += ticket[1]
                moved += max(ticket[1], 1)
                count -= 1
        return moved

    def _publish(self) -> None:
        self.is_crowded = self._records * 2 > self.max_records or self._bytes * 2 > self.max_bytes
        # One reference to one tuple: who reads it sees one moment, without a lock.
        self._counts = (self._submitted, self._settled, self._records, tuple(self._dropped), self._bytes)
