"""`calls.cut_off`: an async function of an order is cut off, and the thread or task that it has waited for goes on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio.to_thread
import pytest

from shockproof import (
    NOT_FOUND,
    UNKNOWN,
    CallInfo,
    ErrorRecoveryService,
    Found,
    LookUp,
    Outcome,
    OutcomeUnknownError,
    Verdict,
)
from shockproof.calls.cut_off import seen_when_cut_off
from shockproof.calls.frames import frames_of
from shockproof.calls.running_around import in_order
from shockproof.testing import VirtualClock


@pytest.fixture
def recovery(tmp_path: Path, clock: VirtualClock) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", base_delay=0.0, clock=clock)


class Client:
    """A synchronous one: whoever waits for it is cancelled when its thread is at it, and it sends when it is let go."""

    def __init__(self) -> None:
        self.gate, self.is_let_go, self.is_sent = threading.Event(), asyncio.Event(), asyncio.Event()
        self.booked: list[str] = []

    def send(self, key: str, cut_off: Callable[[], object], loop: asyncio.AbstractEventLoop) -> str:
        loop.call_soon_threadsafe(cut_off)
        assert self.gate.wait(60)
        self.booked.append(key)
        loop.call_soon_threadsafe(self.is_sent.set)
        return key

    async def send_in_a_task(self, key: str, cut_off: Callable[[], object]) -> str:
        asyncio.get_running_loop().call_soon(cut_off)
        await self.is_let_go.wait()
        self.booked.append(key)
        self.is_sent.set()
        return key

    def let_go(self) -> None:
        self.gate.set()
        self.is_let_go.set()

    async def find(self, key: str) -> LookUp[str]:
        return Found(key) if key in self.booked else NOT_FOUND


async def in_to_thread(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return await asyncio.to_thread(client.send, key, cut_off, asyncio.get_running_loop())


async def in_the_executor(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, client.send, key, cut_off, loop)


async def in_a_shield(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return await asyncio.shield(asyncio.create_task(client.send_in_a_task(key, cut_off)))


async def in_anyio(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return await anyio.to_thread.run_sync(client.send, key, cut_off, asyncio.get_running_loop())


async def in_anyio_abandoned(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    send = functools.partial(client.send, key, cut_off, asyncio.get_running_loop())
    return await anyio.to_thread.run_sync(send, abandon_on_cancel=True)


async def in_gather(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return (await asyncio.gather(in_to_thread(client, key, cut_off)))[0]


async def in_a_group(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(in_anyio(client, key, cut_off))
    return sending.result()


async def in_a_task(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return await asyncio.create_task(in_to_thread(client, key, cut_off))


async def in_wait_for(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return await asyncio.wait_for(in_to_thread(client, key, cut_off), 600.0)


async def gathered_from_the_executor(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    loop = asyncio.get_running_loop()
    return (await asyncio.gather(loop.run_in_executor(None, client.send, key, cut_off, loop)))[0]


async def in_wait_for_the_executor(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    loop = asyncio.get_running_loop()
    return await asyncio.wait_for(loop.run_in_executor(None, client.send, key, cut_off, loop), 600.0)


async def in_wait_for_the_executor_below(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    return await asyncio.wait_for(in_wait_for_the_executor(client, key, cut_off), 500.0)


async def in_wait(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    sending = asyncio.create_task(client.send_in_a_task(key, cut_off))
    await asyncio.wait({sending})
    return sending.result()


async def behind_an_event(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    sent = asyncio.Event()
    sending = asyncio.create_task(in_to_thread(client, key, cut_off))
    sending.add_done_callback(lambda _: sent.set())
    try:
        await sent.wait()
    finally:
        sending.cancel()
    return sending.result()


async def in_a_handle(client: Client, key: str, cut_off: Callable[[], object]) -> str:
    with TemporaryDirectory(ignore_cleanup_errors=True) as there:
        inside = ErrorRecoveryService(there, there).service("broker", max_retries=0)
        return await inside.call(client.send, key, cut_off, asyncio.get_running_loop())


class Awaited:
    """As the requests of some clients: nothing of Python's own."""

    def __init__(self, coroutine: Awaitable[str]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, str]:
        return self._coroutine.__await__()


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [TimeoutError, ConnectionRefusedError])
@pytest.mark.parametrize(
    ("wait_for", "form"),
    [
        (in_to_thread, "async"),
        (in_to_thread, "plain"),
        (in_to_thread, "in its own task"),
        (in_the_executor, "async"),
        (in_a_shield, "async"),
        (in_anyio, "async"),
        (in_anyio, "in its own task"),
        (in_anyio_abandoned, "async"),
        (in_gather, "async"),
        (in_a_group, "async"),
        (in_a_task, "async"),
        (in_wait_for, "async"),
        (gathered_from_the_executor, "async"),
        (in_wait_for_the_executor, "async"),
        (in_wait_for_the_executor_below, "async"),
        (in_wait, "async"),
        (behind_an_event, "async"),
        (in_a_handle, "async"),
        (in_to_thread, "an object to await"),
    ],
)
async def test_order_whose_thread_goes_on_is_not_sent_again_before_that_has_ended(
    recovery: ErrorRecoveryService,
    wait_for: Callable[..., Awaitable[str]],
    form: str,
    error: type[Exception],
) -> None:
    """Not found is no proof until then, nor is any error that the function ends with; then it is looked up."""
    client = Client()
    grace = 30.0 if form == "in its own task" else None
    once = recovery.service("orders", max_retries=2, grace=grace).once(
        "mine", confirm=client.find, settle=1.0
    )

    async def submit() -> str:
        task = asyncio.current_task()
        assert task is not None
        try:
            return await wait_for(client, once.key, task.cancel)
        except asyncio.CancelledError:
            task.uncancel()  # as a time limit of its own does
            raise error from None

    forms: dict[str, Callable[[], Awaitable[str]]] = {
        "plain": lambda: submit(),  # noqa: PLW0108  not known to be async
        "an object to await": lambda: Awaited(submit()),
    }
    try:
        with pytest.raises(OutcomeUnknownError):
            await once.call(forms.get(form, submit))
        assert [one.outcome for one in await recovery.reconcile()] == [UNKNOWN]
    finally:
        client.let_go()
    await client.is_sent.wait()
    while (settled := await recovery.reconcile())[0].outcome is UNKNOWN:  # noqa: ASYNC110  its last step sets no event
        await asyncio.sleep(0)
    assert [one.outcome for one in settled] == [Found("mine")]
    assert client.booked == ["mine"]


def refuses(answer: object, call: CallInfo) -> Verdict | None:
    """As the presets read answers that nobody raises for."""
    if answer in (400, 429):
        return Verdict(Outcome.SUCCESS if answer == 400 else Outcome.FAILURE, effect="none")
    return None


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [400, 429])
@pytest.mark.parametrize(
    ("wait_for", "form"),
    [
        (in_to_thread, "async"),
        (in_to_thread, "plain"),
        (in_to_thread, "in its own task"),
        (in_the_executor, "async"),
        (in_a_shield, "async"),
    ],
)
async def test_answer_that_refuses_beside_a_thread_that_goes_on_is_no_proof_before_that_has_ended(
    recovery: ErrorRecoveryService, wait_for: Callable[..., Awaitable[str]], form: str, answer: int
) -> None:
    """It is the answer to another request: the key was free, and the thread placed its order beside the next one."""
    client = Client()
    grace = 30.0 if form == "in its own task" else None
    once = recovery.service("orders", max_retries=2, grace=grace, classify=refuses).once(
        "mine", confirm=client.find, settle=1.0
    )

    async def submit() -> object:
        task = asyncio.current_task()
        assert task is not None
        try:
            return await wait_for(client, once.key, task.cancel)
        except asyncio.CancelledError:
            task.uncancel()  # as a time limit of its own does
            return answer

    def plain() -> Awaitable[object]:
        return submit()

    attempt: Callable[[], Awaitable[object]] = plain if form == "plain" else submit
    try:
        with pytest.raises(OutcomeUnknownError):
            await once.call(attempt)
        assert [one.outcome for one in await recovery.reconcile()] == [UNKNOWN]
    finally:
        client.let_go()
    await client.is_sent.wait()
    while (settled := await recovery.reconcile())[0].outcome is UNKNOWN:  # noqa: ASYNC110  its last step sets no event
        await asyncio.sleep(0)
    assert [one.outcome for one in settled] == [Found("mine")]
    assert client.booked == ["mine"]


@pytest.mark.asyncio
async def test_call_in_a_thread_without_a_context_is_not_repeated_when_its_order_was_cut_off(
    recovery: ErrorRecoveryService,
) -> None:
    """The thread is known as one that the attempt has waited for."""
    loop, has_ended = asyncio.get_running_loop(), asyncio.Event()
    client, http = Client(), recovery.service("http", max_retries=3)
    once = recovery.service("orders", max_retries=0).once("mine", confirm=client.find, settle=1.0)

    def loses_its_answer(cut_off: Callable[[], object]) -> None:
        client.send(once.key, cut_off, loop)
        raise ConnectionResetError

    def in_a_loop_of_its_own(cut_off: Callable[[], object]) -> None:
        try:
            asyncio.run(http.call(loses_its_answer, cut_off))
        finally:
            loop.call_soon_threadsafe(has_ended.set)

    async def submit() -> str:
        task = asyncio.current_task()
        assert task is not None
        try:
            await loop.run_in_executor(None, in_a_loop_of_its_own, task.cancel)
            return once.key
        except asyncio.CancelledError:
            task.uncancel()
            raise TimeoutError from None

    try:
        with pytest.raises(OutcomeUnknownError):
            await once.call(submit)
    finally:
        client.let_go()
    await has_ended.wait()
    assert client.booked == ["mine"]


@pytest.mark.asyncio
async def test_thread_that_had_not_begun_is_not_waited_for(recovery: ErrorRecoveryService) -> None:
    """It is cancelled with whoever waits for it, and an error that proves that nothing was sent proves it."""
    loop, gate, begun = asyncio.get_running_loop(), threading.Event(), asyncio.Event()
    sent = list[str]()
    with ThreadPoolExecutor(1) as only:

        def holds() -> None:
            loop.call_soon_threadsafe(begun.set)
            assert gate.wait(60)

        only.submit(holds)
        await begun.wait()
        client = Client()
        once = recovery.service("orders", max_retries=1).once("mine", confirm=client.find, settle=1.0)
        is_first = True

        async def submit() -> str:
            nonlocal is_first
            task = asyncio.current_task()
            assert task is not None
            if not is_first:
                sent.append(once.key)
                return once.key
            is_first = False
            loop.call_soon(task.cancel)
            try:
                await loop.run_in_executor(only, sent.append, "too late")
            except asyncio.CancelledError:
                task.uncancel()
            raise ConnectionRefusedError

        try:
            assert await once.call(submit) == "mine"
        finally:
            gate.set()
    assert sent == ["mine"]


@pytest.mark.asyncio
async def test_what_wait_looked_at_goes_on_but_for_what_was_there_before() -> None:
    """Such as the task that ends with a connection, which an order does not wait for."""
    loop, gate, told = asyncio.get_running_loop(), threading.Event(), list[int]()
    connected = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)

    async def attempt(waits: Callable[[], list[asyncio.Future[Any]]]) -> None:
        with in_order("an order", loop.time):
            await seen_when_cut_off(asyncio.wait(waits()), lambda going_on: told.append(len(going_on)))

    ways: list[Callable[[], list[asyncio.Future[Any]]]] = [
        lambda: [connected],
        lambda: [connected, asyncio.create_task(asyncio.Event().wait())],
        lambda: [connected, loop.run_in_executor(None, gate.wait, 60)],
    ]
    try:
        for way in ways:
            task = asyncio.create_task(attempt(way))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        gate.set()
        connected.cancel()
    assert told == [0, 1, 1]


def test_what_wait_for_gave_up_goes_on() -> None:
    """Its own time limit is no cancellation of the attempt, whatever the function makes of it."""
    gate, told = threading.Event(), list[int]()

    async def gives_up() -> None:
        loop, has_begun = asyncio.get_running_loop(), asyncio.Event()

        def works() -> None:
            loop.call_soon_threadsafe(has_begun.set)
            assert gate.wait(60)

        working = loop.run_in_executor(None, works)
        await has_begun.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(working, 0.001)
        raise ConnectionRefusedError

    async def attempt() -> None:
        try:
            await seen_when_cut_off(gives_up(), lambda going_on: told.append(len(going_on)))
        finally:
            gate.set()

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(attempt())
    assert told == [1]


@pytest.mark.asyncio
async def test_frames_of_what_is_seen_are_found() -> None:
    """Limits around a call inside of an order are looked for there."""
    gate = asyncio.Event()

    async def innermost() -> int:
        await gate.wait()
        return 7

    async def around() -> int:
        result: int = await seen_when_cut_off(innermost(), lambda _: None)
        return result

    task = asyncio.create_task(around())
    await asyncio.sleep(0)
    assert [frame.f_code.co_name for frame in frames_of(task)] == ["around", "innermost", "wait"]
    gate.set()
    assert await task == 7


@pytest.mark.asyncio
async def test_asking_for_the_address_of_a_name_is_nothing_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each connection begins with that, in a thread; a client's own time limit for it still proves that nothing was sent."""
    asked, gate, told = asyncio.Event(), threading.Event(), list[int]()
    loop = asyncio.get_running_loop()

    def never(*_: object, **__: object) -> list[object]:
        loop.call_soon_threadsafe(asked.set)
        assert gate.wait(60)
        return []

    monkeypatch.setattr("socket.getaddrinfo", never)

    async def connect() -> None:
        await loop.getaddrinfo("venue", 443)

    async def connect_in_a_shielded_task() -> None:
        await asyncio.shield(loop.create_task(connect()))

    async def awaited(what: Callable[[], Awaitable[None]]) -> None:
        await seen_when_cut_off(what(), lambda going_on: told.append(len(going_on)))

    async def connect_in_time() -> None:
        await asyncio.wait_for(connect(), 600.0)

    for what in (connect, connect_in_a_shielded_task, connect_in_time):
        asked.clear()
        task = loop.create_task(awaited(what))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.set()
    assert told == [0, 0, 0]
