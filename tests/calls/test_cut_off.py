"""`calls.cut_off`: an async function of an order is cut off, and the thread or task that it has waited for goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shockproof import NOT_FOUND, UNKNOWN, ErrorRecoveryService, Found, LookUp, OutcomeUnknownError
from shockproof.calls.cut_off import seen_when_cut_off
from shockproof.calls.who_waits import frames_of
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

    def gives_it() -> Awaitable[str]:
        return submit()

    try:
        with pytest.raises(OutcomeUnknownError):
            await once.call(gives_it if form == "plain" else submit)
        assert [one.outcome for one in await recovery.reconcile()] == [UNKNOWN]
    finally:
        client.let_go()
    await client.is_sent.wait()
    while (settled := await recovery.reconcile())[0].outcome is UNKNOWN:  # noqa: ASYNC110  its last step sets no event
        await asyncio.sleep(0)
    assert [one.outcome for one in settled] == [Found("mine")]
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

    for what in (connect, connect_in_a_shielded_task):
        asked.clear()
        task = loop.create_task(awaited(what))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.set()
    assert told == [0, 0]
