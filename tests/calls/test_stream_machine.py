"""Feeds in any order of events against a model: nothing repeated, nothing lost without a gap, everything closed."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shockproof import ErrorRecoveryService, Stream
from shockproof.testing import VirtualClock, VirtualTimeLoop

FAIL, END = "fails", "ends"

TICK = 1 / 1024
"""Seconds that each event takes. All waits are whole eighths, so that no two things are ever due at once."""

STALE_AFTER, STABLE_AFTER = 4.0, 2.0
BASE, FACTOR, LONGEST = 0.5, 2.0, 4.0
CLOSING = 0.25
"""Seconds that a connection of the slow kind takes to close."""


class Venue:
    """Sends numbers. What it sends while nobody is connected, or has not read when the connection is gone, is lost."""

    def __init__(self, clock: VirtualClock, form: str, closing: float) -> None:
        self.clock, self.form, self.closing = clock, form, closing
        self.line: deque[int | str] | None = None
        self.woken = asyncio.Event()
        self.opened: list[float] = []
        self.refuses = self.open_now = 0

    def connect(self) -> Any:
        return {"generator": self.read_at_once, "manager": self.managed, "awaited": self.awaited}[self.form]()

    def knock(self) -> None:
        self.opened.append(self.clock.monotonic())
        if self.refuses:
            self.refuses -= 1
            raise OSError("refused")

    async def items(self) -> AsyncGenerator[int, None]:
        self.open_now += 1
        line = self.line = deque[int | str]()
        try:
            while True:
                while not line:
                    self.woken.clear()
                    await self.woken.wait()
                step = line.popleft()
                if step == FAIL:
                    raise OSError("cut")
                if step == END:
                    return
                assert isinstance(step, int)
                yield step
        finally:
            self.line = None
            self.open_now -= 1

    async def read_at_once(self) -> AsyncIterator[int]:
        self.knock()
        async with contextlib.aclosing(self.items()) as items:
            async for item in items:
                yield item

    async def awaited(self) -> AsyncIterator[int]:
        await asyncio.sleep(0)
        self.knock()
        return self.items()

    @contextlib.asynccontextmanager
    async def managed(self) -> AsyncGenerator[AsyncIterator[int], None]:
        self.knock()
        self.open_now += 1
        try:
            yield self.items()
        finally:
            try:
                if self.closing:
                    await asyncio.sleep(self.closing)
            finally:
                self.open_now -= 1


@dataclass(eq=False, repr=False)
class Feed:
    """One stream with its consumer: what really became of it, and what the model says."""

    venue: Venue
    ticks: Stream[int] | None
    stale_after: float | None
    may_end: bool
    most: int | None
    asking: asyncio.Task[str] | None = None
    sent: int = 0
    # The model's.
    phase: str = "connecting"
    is_begun: bool = False
    is_asked: bool = False
    over: str = ""
    over_at: float = 0.0
    line: list[int | str] | None = None
    """What came on the connection and was not read; None: there is no connection."""
    held_until: float = 0.0
    opens_at: float = 0.0
    asked_at: float = 0.0
    there_at: float | None = None
    last_item_at: float | None = None
    was_there: bool = False
    is_gap: bool = False
    in_a_row: int = 0
    refuses: int = 0
    opened: list[float] = field(default_factory=list[float])
    expected: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    received: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    gaps: int = 0

    @property
    def proves_itself_by_opening(self) -> bool:
        return self.stale_after is None and self.venue.form != "generator"


@dataclass(frozen=True)
class Kind:
    """What a feed is made with."""

    form: str
    closing: float
    stale_after: float | None
    grace: float | None
    most: int | None
    may_end: bool


kinds = st.builds(
    Kind,
    form=st.sampled_from(["generator", "manager", "awaited"]),
    closing=st.sampled_from([0.0, CLOSING]),
    stale_after=st.sampled_from([STALE_AFTER, STALE_AFTER, None]),
    grace=st.sampled_from([None, 1.0]),
    most=st.sampled_from([None, None, None, 0, 1]),
    may_end=st.sampled_from([False, False, True]),
)


class FeedsInAnyOrder(RuleBasedStateMachine):
    """
    Venues send, refuse, break, end and fall silent; consumers ask, wait, break off, close and are cancelled.

    The model knows of each feed when it is opened, which items come, before which one there is a gap, and
    how it ends; and of the service what it counts and how many places are taken.
    """

    @initialize(one=kinds, other=kinds)
    def start(self, one: Kind, other: Kind) -> None:
        self.clock = VirtualClock()
        self.loop = VirtualTimeLoop(self.clock)
        self.directory = tempfile.TemporaryDirectory()
        self.recovery = ErrorRecoveryService(self.directory.name, self.directory.name, clock=self.clock)
        self.handle = self.recovery.service(
            "feed", circuit_threshold=None, max_concurrent=9,
            base_delay=BASE, backoff_factor=FACTOR, max_delay=LONGEST,
        )  # fmt: skip
        self.feeds: list[Feed] = []
        self.successes = self.failures = 0
        self.a_feed(one)
        self.a_feed(other)

    # -- the real thing ------------------------------------------------------------------------------

    def turns(self, number: int) -> None:
        async def wait() -> None:
            for _ in range(number):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    def pass_time(self, seconds: float) -> None:
        self.turns(12)
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.turns(12)
        for one in self.feeds:
            self.advance(one)

    def now(self) -> float:
        return self.clock.monotonic()

    async def ask(self, one: Feed) -> str:
        ticks = one.ticks
        assert ticks is not None
        try:
            item = await anext(ticks)
        except StopAsyncIteration:
            return "over"
        except Exception as error:  # noqa: BLE001 - compared with the model's
            return type(error).__name__
        one.received.append((item, ticks.gap is not None))
        return "item"

    def counted(self) -> dict[str, Any]:
        found: dict[str, Any] = self.recovery.get_health_status()["services"]["feed"]
        return found

    # -- the model -----------------------------------------------------------------------------------

    def advance(self, one: Feed) -> None:
        """What happens by itself until now."""
        while one.is_asked and not one.over:
            if one.line is None:
                if one.opens_at > self.now():
                    return
                self.opens(one, one.opens_at)
            elif one.stale_after is None or one.asked_at + one.stale_after > self.now():
                return
            else:
                self.fails(one, one.asked_at + one.stale_after, "StreamSilentError")

    def opens(self, one: Feed, at: float) -> None:
        one.opened.append(at)
        one.asked_at = at
        if one.refuses:
            one.refuses -= 1
            self.fails(one, at, "OSError")
            return
        one.line = []
        if one.proves_itself_by_opening:
            self.is_there(one, at)

    def is_there(self, one: Feed, at: float) -> None:
        self.successes += 1
        one.there_at, one.phase = at, "live"
        if one.was_there and not one.is_gap:
            one.gaps += 1
            one.is_gap = True
        one.was_there = True

    def steps(self, one: Feed) -> None:
        """What is on the line comes to whoever asks, now."""
        if not (one.is_asked and one.line):
            return
        step = one.line.pop(0)
        if step == FAIL:
            self.fails(one, self.now(), "OSError")
        elif step == END and one.may_end:
            self.successes += one.there_at is None
            self.ends(one, self.now(), "over")
        elif step == END:
            self.fails(one, self.now(), "StreamEndedError")
        else:
            if one.there_at is None:
                self.is_there(one, self.now())
            one.last_item_at = self.now()
            one.expected.append((int(step), one.is_gap))
            one.is_asked = False

    def fails(self, one: Feed, at: float, kind: str) -> None:
        self.failures += 1
        one.phase = "lost"
        if one.there_at is not None:
            last = one.there_at if one.last_item_at is None else max(one.there_at, one.last_item_at)
            if (last if kind == "StreamSilentError" else at) - one.there_at >= STABLE_AFTER:
                one.in_a_row = 0
        if one.most is not None and one.in_a_row >= one.most:
            self.ends(one, at, kind)
            return
        self.closes(one, at)
        one.opens_at = one.held_until + min(LONGEST, BASE * FACTOR**one.in_a_row)
        one.in_a_row += 1

    def closes(self, one: Feed, at: float) -> None:
        one.held_until = at + (one.venue.closing if one.line is not None else 0.0)
        one.line = one.there_at = None

    def ends(self, one: Feed, at: float, how: str) -> None:
        self.closes(one, at)
        one.over, one.over_at = how, one.held_until

    # -- the consumers -------------------------------------------------------------------------------

    @property
    def living(self) -> list[Feed]:
        return [one for one in getattr(self, "feeds", []) if not one.over]

    def those(self, *, asked: bool) -> list[Feed]:
        return [one for one in self.living if one.is_asked == asked]

    def a_living(self, data: st.DataObject) -> Feed:
        return data.draw(st.sampled_from(self.living), "feed")

    @precondition(lambda self: len(self.living) < 3)
    @rule(kind=kinds)
    def a_feed(self, kind: Kind) -> None:
        venue = Venue(self.clock, kind.form, kind.closing if kind.form == "manager" else 0.0)
        handle = self.handle.using(grace=kind.grace)
        if kind.most is not None:
            handle = handle.using(max_retries=kind.most)
        ticks: Stream[int] = handle.stream(
            venue.connect, stale_after=kind.stale_after, stable_after=STABLE_AFTER, may_end=kind.may_end
        )
        self.feeds.append(Feed(venue, ticks, kind.stale_after, kind.may_end, kind.most))

    @precondition(lambda self: self.those(asked=False))
    @rule(data=st.data())
    def the_next_item_is_asked_for(self, data: st.DataObject) -> None:
        self.asks(data.draw(st.sampled_from(self.those(asked=False)), "feed"))

    def asks(self, one: Feed) -> None:
        one.asking = self.loop.create_task(self.ask(one))
        one.is_asked, one.is_gap = True, False
        if not one.is_begun:
            one.is_begun, one.opens_at = True, self.now()
            self.advance(one)
        else:
            one.asked_at = self.now()
            self.steps(one)
        self.pass_time(TICK)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), items=st.integers(1, 4))
    def a_consumer_reads_on(self, data: st.DataObject, items: int) -> None:
        one = self.a_living(data)
        for _ in range(items):
            if one.over:
                break
            if not one.is_asked:
                self.asks(one)
            self.sends(one)

    @precondition(lambda self: any(one.line is None for one in self.those(asked=True)))
    @rule(data=st.data())
    def a_feed_is_opened_again(self, data: st.DataObject) -> None:
        waiting = [one for one in self.those(asked=True) if one.line is None]
        one = data.draw(st.sampled_from(waiting), "feed")
        self.pass_time(one.opens_at - self.now() + TICK)

    @precondition(lambda self: self.living)
    @rule(
        data=st.data(), how=st.sampled_from([FAIL, END]), refuses=st.integers(0, 1), items=st.integers(0, 2)
    )
    def a_feed_is_lost_and_comes_back(self, data: st.DataObject, how: str, refuses: int, items: int) -> None:
        one = self.a_living(data)
        one.refuses = one.venue.refuses = refuses
        if not one.is_asked:
            self.asks(one)
        self.goes(one, how)
        while one.line is None and not one.over:
            self.sends(one)  # to nobody
            self.pass_time(one.opens_at - self.now() + TICK)
        for _ in range(items):
            if one.line is not None and not one.is_asked:
                self.asks(one)
            self.sends(one)

    @precondition(lambda self: self.those(asked=True))
    @rule(data=st.data())
    def a_stream_that_is_read_is_not_closed(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.those(asked=True)), "feed")
        assert one.ticks is not None
        closing = self.loop.create_task(one.ticks.aclose())
        self.turns(4)
        assert isinstance(closing.exception(), RuntimeError)
        self.pass_time(TICK)

    @precondition(lambda self: len(self.living) > 2 and self.those(asked=False))
    @rule(data=st.data(), how=st.sampled_from(["aclose", "break"]))
    def the_consumer_leaves(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from(self.those(asked=False)), "feed")
        if how == "aclose":
            assert one.ticks is not None
            closing = self.loop.create_task(one.ticks.aclose())
            closing.add_done_callback(lambda done: done.result())
        else:
            one.ticks = one.asking = None  # Python closes the generator that nobody has any more
        self.ends(one, self.now(), "left")
        self.pass_time(TICK)

    @precondition(lambda self: len(self.living) > 2 and self.those(asked=True))
    @rule(data=st.data())
    def the_consumer_is_cancelled(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.those(asked=True)), "feed")
        self.cancel(one)

    def cancel(self, one: Feed) -> None:
        assert one.asking is not None
        one.asking.cancel()
        is_closing = self.now() < one.held_until  # its closing is cancelled with it
        self.ends(one, self.now(), "cancelled")
        if is_closing:
            one.held_until = one.over_at = self.now()
        self.pass_time(TICK)

    @precondition(lambda self: len(self.living) > 1 and self.those(asked=True))
    @rule(
        data=st.data(),
        how=st.sampled_from(["sends", FAIL, END, "falls silent"]),
        turns=st.integers(0, 10),
    )
    def the_consumer_is_cancelled_while_something_happens(
        self, data: st.DataObject, how: str, turns: int
    ) -> None:
        one = data.draw(st.sampled_from(self.those(asked=True)), "feed")
        assert one.asking is not None
        if one.line is None:  # else it is opened at that very moment
            self.loop.run_until_complete(asyncio.sleep(one.opens_at - self.now()))
        elif how == "falls silent":
            if one.stale_after is not None:
                self.loop.run_until_complete(asyncio.sleep(one.asked_at + one.stale_after - self.now()))
        else:
            self.on_the_line(one, one.sent if how == "sends" else how)
            one.sent += how == "sends"
        self.turns(turns)
        if one.asking.done():  # the end, or an item; and then nothing is cancelled
            self.steps(one)
            self.pass_time(TICK)
            return
        one.asking.cancel()
        self.ends(one, self.now(), "cancelled")
        self.pass_time(TICK)
        # Whether the turns sufficed to count what happened is not the model's; it was one thing at the most.
        found = self.counted()
        assert found["successes"] - self.successes + found["failures"] - self.failures in {0, 1}
        self.successes, self.failures = found["successes"], found["failures"]
        one.opened = list(one.venue.opened)
        one.refuses = one.venue.refuses
        one.expected = list(one.received)  # the item came in the very turn of the cancellation, or not
        self.pass_time(CLOSING)
        one.held_until = one.over_at = self.now()

    @precondition(lambda self: hasattr(self, "feeds"))
    @rule()
    def the_service_is_closed(self) -> None:
        # What it remembers is flushed; a feed that somebody reads goes on.
        self.loop.run_until_complete(self.recovery.aclose())
        self.pass_time(TICK)

    # -- the venues ----------------------------------------------------------------------------------

    def on_the_line(self, one: Feed, step: int | str) -> None:
        assert (one.venue.line is None) == (one.line is None)
        if one.venue.line is not None and one.line is not None:
            one.venue.line.append(step)
            one.venue.woken.set()
            one.line.append(step)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), how_many=st.integers(1, 3))
    def a_venue_sends(self, data: st.DataObject, how_many: int) -> None:
        self.sends(self.a_living(data), how_many)

    def sends(self, one: Feed, how_many: int = 1) -> None:
        for _ in range(how_many):
            self.on_the_line(one, one.sent)
            one.sent += 1
        self.steps(one)
        self.pass_time(TICK)

    @precondition(lambda self: any(one.line is not None for one in self.living))
    @rule(data=st.data(), how=st.sampled_from([FAIL, FAIL, END]), loses_the_rest=st.booleans())
    def a_connection_is_gone(self, data: st.DataObject, how: str, loses_the_rest: bool) -> None:
        one = data.draw(st.sampled_from([one for one in self.living if one.line is not None]), "feed")
        if loses_the_rest and one.venue.line is not None and one.line:
            one.venue.line.clear()
            one.line.clear()
        self.goes(one, how)

    def goes(self, one: Feed, how: str) -> None:
        self.on_the_line(one, how)
        self.steps(one)
        self.pass_time(TICK)

    @property
    def watched(self) -> list[Feed]:
        """Those whose silence is a failure."""
        asked = self.those(asked=True)
        return [one for one in asked if one.line is not None and one.stale_after is not None]

    @precondition(lambda self: self.watched)
    @rule(data=st.data())
    def a_venue_falls_silent(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.watched), "feed")
        self.pass_time(one.asked_at + STALE_AFTER - self.now() + TICK)

    @precondition(lambda self: self.living)
    @rule(data=st.data(), times=st.integers(1, 2))
    def a_venue_refuses_the_next(self, data: st.DataObject, times: int) -> None:
        one = self.a_living(data)
        one.refuses = one.venue.refuses = times

    @precondition(lambda self: hasattr(self, "feeds"))
    @rule(eighths=st.sampled_from([1, 2, 5, 9, 17, 33]))
    def time_passes(self, eighths: int) -> None:
        self.pass_time(eighths / 8)

    # -- what holds after each -----------------------------------------------------------------------

    def really(self, one: Feed) -> str:
        if one.asking is None or not one.asking.done():
            return ""
        if one.asking.cancelled():
            return "cancelled"
        return one.asking.result()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "feeds"):
            return
        in_flight, rows = 0, []
        for one in self.feeds:
            is_closing = self.now() < one.held_until
            is_over = bool(one.over) and self.now() >= one.over_at
            assert one.received == one.expected
            assert one.venue.opened == one.opened
            assert (one.venue.open_now > 0) == (one.line is not None or is_closing)
            if one.ticks is not None and one.asking is not None and one.over != "left":
                still = "" if one.is_asked else "item"
                assert self.really(one) == (one.over if is_over else still)
            in_flight += one.line is not None or is_closing
            if one.is_begun and not is_over:
                age = None if one.last_item_at is None else round(self.now() - one.last_item_at, 3)
                rows.append((one.phase, age, len(one.expected), one.gaps))
        found = self.counted()
        real = [(row["phase"], row["last_item_age"], row["items"], row["gaps"]) for row in found["streams"]]
        assert sorted(map(str, real)) == sorted(map(str, rows))
        assert (found["in_flight"], found["queued"]) == (in_flight, 0)
        assert (found["successes"], found["failures"]) == (self.successes, self.failures)

    @invariant()
    def nothing_is_repeated_or_lost_without_a_gap(self) -> None:
        # Whatever the model thinks: by the numbers alone.
        for one in getattr(self, "feeds", []):
            last = None
            for item, is_after_gap in one.received:
                assert last is None or item > last
                assert last is None or item == last + 1 or is_after_gap
                last = item

    def teardown(self) -> None:
        if not hasattr(self, "feeds"):
            return
        try:
            for one in self.those(asked=True):
                self.cancel(one)
            for one in self.those(asked=False):
                assert one.ticks is not None
                self.loop.run_until_complete(one.ticks.aclose())
                self.ends(one, self.now(), "left")
            self.pass_time(1.0)
            for one in self.feeds:
                assert one.venue.open_now == 0
            found = self.counted()
            assert (found["in_flight"], found["streams"], found["abandoned_attempts"]) == (0, [], 0)
            self.loop.run_until_complete(self.recovery.aclose())
            assert asyncio.all_tasks(self.loop) == set()
        finally:
            self.loop.close()
            self.directory.cleanup()


TestFeedsInAnyOrder = FeedsInAnyOrder.TestCase
TestFeedsInAnyOrder.settings = settings(max_examples=100, stateful_step_count=40)
