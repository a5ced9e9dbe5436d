"""
What happened, as a test can ask for it: every event of a recovery service, in order, at once.

A listener is told off the call's path, and so some time later; what is recorded here is there when the
call is back.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar, overload

from shockproof.calls.handle import Handle
from shockproof.service import ErrorRecoveryService
from shockproof.vocabulary.arguments import Seconds, seconds
from shockproof.vocabulary.events import Event

__all__ = ["RecordedEvents", "record_events"]

E = TypeVar("E", bound=Event)

_MOST_SHOWN: Final = 30


def record_events(recovery: ErrorRecoveryService | Handle) -> RecordedEvents:
    """
    Record every event of *recovery* from now on.

    A context manager that stops at the end of its block; without one it records until `stop`. A
    `Handle` is for a policy that stands alone.

    Raises:
        TypeError: *recovery* is neither.
    """
    if isinstance(recovery, ErrorRecoveryService):
        listeners = recovery._listeners
    elif isinstance(recovery, Handle):
        listeners = recovery.plan.runtime.listeners
    else:
        raise TypeError(f"recovery must be an ErrorRecoveryService or a Handle, got {recovery!r}")
    events = RecordedEvents()
    events._stop = listeners.add(_AtOnce(events._record))
    return events


class _AtOnce:
    """A subscription that is told right where an event happens."""

    dropped = 0

    def __init__(self, record: Callable[[Event], None]) -> None:
        self._record = record

    def tell(self, event: Event) -> None:
        self._record(event)

    def is_busy(self) -> bool:
        return False


class RecordedEvents(Sequence[Event]):
    """
    The events of one recovery service so far, oldest first; `record_events` makes it.

    A sequence, to be counted, indexed and looped over. Its text is a table with a line for each event,
    which is also what a failed wait or assertion shows.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._seen = 0
        self._lock = threading.Lock()
        self._waiters: list[asyncio.Future[None]] = []
        self._stop: Callable[[], None] | None = None

    def _record(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            try:
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)
            except RuntimeError:
                pass  # that loop has ended, and who waited there with it

    def stop(self) -> None:
        """Record nothing more; what was recorded stays."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def clear(self) -> None:
        """Forget what was recorded so far."""
        with self._lock:
            self._events.clear()
            self._seen = 0

    def of(self, kind: type[E], **fields: object) -> list[E]:
        """
        The events of type *kind* whose *fields* have these values, oldest first.

        ``events.of(AttemptFailed, service_name="orders", attempt=1)``.

        Raises:
            TypeError: *kind* is no type of event, or has no such field.
        """
        _check(kind, fields)
        with self._lock:
            recorded = list(self._events)
        return [event for event in recorded if isinstance(event, kind) and _matches(event, fields)]

    def only(self, kind: type[E], **fields: object) -> E:
        """
        The one event of this type with these values.

        Raises:
            AssertionError: there are none or several; it shows all events.
            TypeError: as `of`.
        """
        found = self.of(kind, **fields)
        if len(found) != 1:
            raise AssertionError(f"expected one {_described(kind, fields)}, there are {len(found)} of {self}")
        return found[0]

    def assert_none(self, kind: type[Event], **fields: object) -> None:
        """
        Assert that no event of this type has these values.

        Raises:
            AssertionError: there are some; it shows all events.
            TypeError: as `of`.
        """
        found = self.of(kind, **fields)
        if found:
            raise AssertionError(f"expected no {_described(kind, fields)}, there are {len(found)} of {self}")

    def assert_order(self, *kinds: type[Event]) -> None:
        """
        Assert that events of these types happened one after the other, whatever came between.

        Raises:
            AssertionError: they did not; it names the first that is missing and shows all events.
            TypeError: as `of`.
        """
        for kind in kinds:
            _check(kind, {})
        with self._lock:
            recorded = iter(list(self._events))
        for number, kind in enumerate(kinds):
            if not any(isinstance(event, kind) for event in recorded):
                after = f" after {' and '.join(one.__name__ for one in kinds[:number])}" if number else ""
                raise AssertionError(f"expected a {kind.__name__}{after}, there is none among {self}")

    async def wait_for(self, kind: type[E], *, timeout: Seconds = 3600.0, **fields: object) -> E:
        """
        The next event of this type with these values; it waits if there is none yet.

        It begins to look where the last `wait_for` has found its own, at first at the beginning, so
        that several in a row follow what happens, and what has happened already is found too.

        Args:
            kind: the type of event.
            timeout: seconds of the loop's time to wait for it, at least 0. Default: an hour, which is
                nothing on virtual time.
            **fields: the values it has to have.

        Raises:
            AssertionError: it did not come in time; it shows all events.
            TypeError, ValueError: as `of`; *timeout* out of range.

        A cancellation ends it at once, and nothing is taken for found.
        """
        _check(kind, fields)
        limit = seconds("timeout", timeout)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit):
                while True:
                    woken = loop.create_future()
                    with self._lock:
                        for index in range(self._seen, len(self._events)):
                            event = self._events[index]
                            if isinstance(event, kind) and _matches(event, fields):
                                self._seen = index + 1
                                return event
                        self._waiters.append(woken)
                    await woken
        except TimeoutError:
            raise AssertionError(
                f"no {_described(kind, fields)} within {limit:g} s; there are {self}"
            ) from None

    @overload
    def __getitem__(self, index: int, /) -> Event: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice, /) -> Event | Sequence[Event]:
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        with self._lock:
            return iter(list(self._events))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        events = list(self)
        if not events:
            return "no events"
        began = events[0].at
        lines = [
            f"  {event.at - began:9.3f} s  {event.service_name}  {type(event).__name__}"
            f"{''.join(f' {name}={value!r}' for name, value in _own_fields(event))}"
            for event in events[-_MOST_SHOWN:]
        ]
        left_out = len(events) - len(lines)
        if left_out:
            lines.insert(0, f"  ... {left_out} earlier")
        return f"{len(events)} events:\n" + "\n".join(lines)

    def __repr__(self) -> str:
        return f"<RecordedEvents: {len(self)}>"


def _own_fields(event: Event) -> Iterator[tuple[str, object]]:
    for field in dataclasses.fields(event):
        if field.name not in {"at", "service_name"}:
            yield field.name, getattr(event, field.name)


def _matches(event: Event, fields: dict[str, object]) -> bool:
    return all(getattr(event, name) == value for name, value in fields.items())


def _described(kind: type[Event], fields: dict[str, object]) -> str:
    values = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    return f"{kind.__name__}({values})" if values else kind.__name__


def _check(kind: object, fields: dict[str, object]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Event)):
        raise TypeError(f"kind must be a type of event such as CircuitOpened, got {kind!r}")
    names = [field.name for field in dataclasses.fields(kind)]
    for name in fields:
        if name not in names:
            raise TypeError(f"{kind.__name__} has no field {name!r}; there are {', '.join(names)}")


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
