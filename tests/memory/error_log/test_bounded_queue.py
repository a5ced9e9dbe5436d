"""The bounded queue: nobody waits, bounds hold, and every record is accounted for."""

from __future__ import annotations

import gc
import threading
from collections import deque
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.error_log.bounded_queue import BoundedQueue, Gap, WhenFull

POLICIES = get_args(WhenFull)


def items_of(batch: list[str | Gap]) -> list[object]:
    return ["gap" if isinstance(entry, Gap) else entry for entry in batch]


def filled(when_full: WhenFull, *records: tuple[str, int], room: int = 3) -> BoundedQueue[str]:
    queue: BoundedQueue[str] = BoundedQueue(max_records=room, when_full=when_full)
    for at, (item, rank) in enumerate(records):
        queue.put(item, rank=rank, size=1, at=float(at))
    return queue


def take_all(queue: BoundedQueue[str]) -> list[str | Gap]:
    return queue.take(max_records=10_000, max_bytes=2**40)


def test_records_of_all_ranks_leave_in_the_order_they_came() -> None:
    """The rank decides who goes when it is full, not who is written first."""
    queue = filled("drop_lowest", ("a", 3), ("b", 0), ("c", 1), room=10)

    assert items_of(take_all(queue)) == ["a", "b", "c"]


def test_a_full_queue_drops_the_oldest_of_the_lowest_rank() -> None:
    """Two low ones make room for what is worse, and the gap stands where the first one stood."""
    queue = filled("drop_lowest", ("high", 2), ("low1", 0), ("low2", 0), ("worst", 3), ("medium", 1))

    batch = take_all(queue)

    assert items_of(batch) == ["high", "gap", "worst", "medium"]
    gap = batch[1]
    assert isinstance(gap, Gap)
    assert (gap.sequence, gap.begins, gap.ends, gap.dropped) == (1, 1.0, 2.0, [2, 0, 0, 0])


def test_a_low_newcomer_goes_itself_when_all_others_are_worse() -> None:
    """A full queue of high records takes no low one."""
    queue = filled("drop_lowest", ("a", 2), ("b", 2), ("c", 2), ("low", 0))

    assert items_of(take_all(queue)) == ["a", "b", "c", "gap"]


def test_drop_oldest_loses_the_beginning_and_drop_new_the_end() -> None:
    """The other two policies look at age alone."""
    records = (("a", 3), ("b", 0), ("c", 0), ("d", 0), ("e", 0))

    assert items_of(take_all(filled("drop_oldest", *records))) == ["gap", "c", "d", "e"]
    assert items_of(take_all(filled("drop_new", *records))) == ["a", "b", "c", "gap"]


def test_a_gap_ends_when_space_returns() -> None:
    """Two times without room are two gaps, each at its place."""
    queue = filled("drop_new", ("a", 0), ("b", 0), ("c", 0), room=2)
    first = take_all(queue)
    queue.settle(len(first))
    for item in ("d", "e", "f", "g"):
        queue.put(item, rank=0, size=1, at=9.0)

    assert items_of(first) == ["a", "b", "gap"]
    assert items_of(take_all(queue)) == ["d", "e", "gap"]


def test_bytes_are_bounded_as_records_are() -> None:
    """A few large records fill it too, and one that is larger than everything is dropped alone."""
    queue: BoundedQueue[str] = BoundedQueue(max_bytes=100)
    for item, size in (("a", 60), ("b", 40), ("c", 30), ("huge", 101)):
        queue.put(item, rank=1, size=size, at=0.0)

    assert items_of(take_all(queue)) == ["gap"]
    queue.put("d", rank=1, size=100, at=0.0)
    assert items_of(take_all(queue)) == ["d"]


def test_what_is_taken_counts_as_queued_until_it_is_settled() -> None:
    """A batch at a hanging disk takes up room, and is never dropped."""
    queue = filled("drop_lowest", ("a", 0), ("b", 0), ("c", 0))
    take_all(queue)
    queue.put("d", rank=3, size=1, at=0.0)
    full = queue.counts()
    queue.settle(2)
    queue.put("e", rank=0, size=1, at=0.0)

    assert (full.queued, sum(full.dropped)) == (3, 1)
    assert queue.counts() == (5, 2, 2, (0, 0, 0, 1), 2)


def test_a_mark_is_settled_when_everything_before_it_is() -> None:
    """What came later does not matter; a gap from before does."""
    queue = filled("drop_oldest", ("a", 0), ("b", 0), ("c", 0), ("d", 0))
    mark = queue.mark()
    batch = take_all(queue)
    queue.put("later", rank=0, size=1, at=0.0)
    queue.settle(len(batch) - 1)
    before = queue.is_settled(mark)
    queue.settle(1)

    assert not before
    assert queue.is_settled(mark)
    assert not queue.is_empty()


def test_a_batch_is_bounded_and_nothing_is_lost_between_batches() -> None:
    """Small bites give the same records."""
    queue: BoundedQueue[int] = BoundedQueue()
    for number in range(1_000):
        queue.put(number, rank=number % 4, size=10, at=0.0)
    seen: list[object] = []
    while batch := queue.take(max_records=300, max_bytes=500):
        assert len(batch) <= 51
        seen += [entry for entry in batch if not isinstance(entry, Gap)]
        queue.settle(len(batch))

    assert seen == list(range(1_000))


def test_a_put_in_the_middle_of_a_put_is_not_lost() -> None:
    """A finalizer or a signal handler may record an error while the same thread is recording one."""
    queue: BoundedQueue[object] = BoundedQueue()

    class Nosy(int):
        def __radd__(self, other: int) -> int:  # called while the queue's lock is held
            if queue.counts().submitted == 0:
                queue.put("inner", rank=0, size=1, at=0.0)
            return other + 1

    queue.put("outer", rank=0, size=Nosy(1), at=0.0)

    assert items_of(take_all(queue)) == ["outer", "inner"]  # type: ignore[arg-type]  # items of other types serve too
    assert queue.counts().submitted == 2


def test_a_put_at_the_last_moment_of_a_put_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inbox was looked at, and the lock is not yet released: it is looked at once more."""
    queue: BoundedQueue[str] = BoundedQueue(max_records=10)
    real = queue._publish

    def publish() -> None:
        real()
        if queue._submitted == 1 and not queue._inbox:
            queue.put("inner", rank=0, size=1, at=0.0)

    monkeypatch.setattr(queue, "_publish", publish)
    queue.put("outer", rank=0, size=1, at=0.0)

    assert not queue._inbox
    assert items_of(take_all(queue)) == ["outer", "inner"]


def test_a_thread_interrupted_in_the_queue_holds_nobody_up() -> None:
    """However long it holds the lock: records are taken in, counted, and there when it has gone on."""
    queue: BoundedQueue[int] = BoundedQueue(max_records=1_000)
    queue._lock.acquire()
    for number in range(100):
        queue.put(number, rank=0, size=1, at=0.0)
    meanwhile = queue.counts()
    queue._lock.release()
    after = queue.counts()

    assert (meanwhile.submitted, meanwhile.queued) == (100, 100)
    assert after == (100, 0, 100, (0, 0, 0, 0), 100)


def test_the_inbox_does_not_outgrow_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer lets the interrupted thread go on before it adds more and more."""
    queue: BoundedQueue[int] = BoundedQueue(max_records=10)
    lock = threading.Lock()
    longest = 0

    class Interrupted:
        """Taken by a thread that goes on as soon as somebody really waits."""

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            nonlocal longest
            longest = max(longest, len(queue._inbox))
            if timeout > 0:
                lock.release()
            return lock.acquire(blocking)

        def release(self) -> None:
            """Interrupted again at once."""

    lock.acquire()
    monkeypatch.setattr(queue, "_lock", Interrupted())
    for number in range(1_000):
        queue.put(number, rank=0, size=1, at=0.0)

    assert longest <= 32


def test_what_waits_is_nothing_to_the_garbage_collector() -> None:
    """It looks at every object that it has not let go of, and a hundred thousand of them take ten milliseconds."""
    queue: BoundedQueue[object] = BoundedQueue()
    item = ["one that it has to look at"]
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(5_000):
        queue.put(item, rank=1, size=1, at=0.0)
    gc.collect()

    assert len(gc.get_objects()) - before < 500
    assert len(queue.take(max_records=10_000, max_bytes=10_000)) == 5_000


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_new"])
def test_an_interrupted_drop_leaves_the_others_whole(when_full: WhenFull) -> None:
    """A signal's handler may raise at any place, also between a record and what is known of it."""

    class Interrupted(deque[Any]):
        is_due = False

        def popleft(self) -> object:
            return self._interrupted(super().popleft())

        def pop(self) -> object:  # type: ignore[override]  # of a deque it takes no index
            return self._interrupted(super().pop())

        def _interrupted(self, one: object) -> object:
            if self.is_due:
                self.is_due = False
                raise KeyboardInterrupt
            return one

    queue: BoundedQueue[str] = BoundedQueue(max_records=3, when_full=when_full)
    lane = Interrupted()
    queue._lanes = (lane, *queue._lanes[1:])
    for item in "abc":
        queue.put(item, rank=0, size=1, at=0.0)
    lane.is_due = True
    with pytest.raises(KeyboardInterrupt):
        queue.put("d", rank=0, size=1, at=0.0)

    assert (
        items_of(take_all(queue)) == {"drop_oldest": ["b", "c", "d"], "drop_new": ["a", "b", "c"]}[when_full]
    )


@given(
    when_full=st.sampled_from(POLICIES),
    room=st.integers(1, 8),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 3), st.integers(1, 40)),
            st.tuples(st.just("take"), st.integers(1, 5), st.integers(1, 60)),
            st.tuples(st.just("settle"), st.integers(1, 5), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_every_record_is_settled_queued_or_dropped_at_every_moment(
    when_full: WhenFull, room: int, steps: list[tuple[str, int, int]]
) -> None:
    """Whatever happens in whatever order: the sum is right, bounds hold, order holds, gaps tell the loss."""
    queue: BoundedQueue[int] = BoundedQueue(max_records=room, max_bytes=100, when_full=when_full)
    put = in_flight = 0
    order: list[int] = []
    told = 0
    for step, first, second in [*steps, ("take", 1_000, 10**6)]:
        if step == "put":
            queue.put(put, rank=first, size=second, at=float(put))
            put += 1
        elif step == "take":
            batch = queue.take(max_records=first, max_bytes=second)
            in_flight += len(batch)
            order += [entry.sequence if isinstance(entry, Gap) else entry for entry in batch]
            told += sum(sum(entry.dropped) for entry in batch if isinstance(entry, Gap))
        else:
            count = min(first, in_flight)
            queue.settle(count)
            in_flight -= count
        counts = queue.counts()
        assert counts.submitted == put == counts.settled + counts.queued + sum(counts.dropped)
        assert counts.queued <= room
        assert counts.queued_bytes <= 100
    assert order == sorted(order)
    assert told == sum(queue.counts().dropped)


@pytest.mark.parametrize("when_full", POLICIES)
def test_many_threads_at_once_lose_no_count(when_full: WhenFull) -> None:
    """Eight producers, one consumer, and somebody who keeps asking: every answer adds up."""
    queue: BoundedQueue[int] = BoundedQueue(max_records=50, when_full=when_full)
    each = 2_000
    sums_are_right: list[bool] = []
    over = threading.Event()

    def produce(rank: int) -> None:
        for number in range(each):
            queue.put(number, rank=rank % 4, size=1, at=0.0)

    def consume() -> None:
        while not (over.is_set() and queue.is_empty()):
            queue.settle(len(queue.take(max_records=20, max_bytes=20)))

    def ask() -> None:
        while not over.is_set():
            counts = queue.counts()
            sums_are_right.append(counts.submitted == counts.settled + counts.queued + sum(counts.dropped))

    producers = [threading.Thread(target=produce, args=(rank,)) for rank in range(8)]
    others = [threading.Thread(target=consume), threading.Thread(target=ask)]
    for thread in producers + others:
        thread.start()
    for thread in producers:
        thread.join()
    over.set()
    for thread in others:
        thread.join()

    counts = queue.counts()
    assert all(sums_are_right)
    assert counts.submitted == 8 * each == counts.settled + sum(counts.dropped)
    assert counts.queued == 0
