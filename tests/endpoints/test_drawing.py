"""Pages that are made in a thread: the loop goes on, readers share, those who are too many are refused, and who leaves, leaves nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from shockproof import ErrorRecoveryService
from shockproof.endpoints.drawing import MOST_WAITING, Drawing
from shockproof.endpoints.exchange import Answer, Request
from shockproof.endpoints.routes import Routes

PATIENT = 60.0


class Gate:
    """A page that is made when the test says so, and how often it was."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self) -> str:
        self.threads.append(threading.current_thread())
        self.begun.set()
        assert self.may_end.wait(PATIENT)
        return "made"

    async def is_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, PATIENT)


def run(main: Callable[[], Any]) -> list[dict[str, Any]]:
    """Run it on a loop of its own; what the loop had to complain of."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        await main()

    with asyncio.Runner() as runner:
        runner.run(watched())
    return complaints


def test_readers_share_what_has_not_been_begun_and_one_page_is_made_at_a_time() -> None:
    """In a thread that is not the loop's, and that ends when there is nothing more to make."""
    drawing, first, second = Drawing(), Gate(), Gate()

    async def main() -> None:
        begun = asyncio.create_task(drawing.made("page", first))
        await first.is_begun()
        later = [asyncio.create_task(drawing.made("page", second)) for _ in range(10)]
        await asyncio.sleep(0)
        assert not second.begun.is_set()
        first.may_end.set()
        second.may_end.set()
        assert await asyncio.gather(begun, *later) == ["made"] * 11
        assert len(first.threads) == len(second.threads) == 1
        assert threading.main_thread() not in {*first.threads, *second.threads}
        for thread in (*first.threads, *second.threads):
            thread.join(PATIENT)
            assert not thread.is_alive()
        assert await drawing.made("page", second) == "made"  # by another thread

    assert run(main) == []


def test_an_error_reaches_everybody_who_waits_for_the_page() -> None:
    """And the next page is made."""
    drawing = Drawing()

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await drawing.made("page", lambda: 1 // 0)
        assert await drawing.made("page", lambda: 7) == 7

    assert run(main) == []


def test_who_is_cancelled_takes_the_page_from_nobody_else_and_is_not_waited_for() -> None:
    """A page that nobody wants any more is not made; one that is being made may outlive its loop in silence."""
    drawing, busy, shared, unwanted, late = Drawing(), Gate(), Gate(), Gate(), Gate()

    async def main() -> None:
        begun = asyncio.create_task(drawing.made("busy", busy))
        await busy.is_begun()
        both = [asyncio.create_task(drawing.made("shared", shared)) for _ in range(2)]
        alone = asyncio.create_task(drawing.made("unwanted", unwanted))
        await asyncio.sleep(0)
        for task in (begun, both[0], alone):
            task.cancel()
        await asyncio.wait([begun, both[0], alone])
        assert begun.cancelled()
        busy.may_end.set()
        shared.may_end.set()
        assert await both[1] == "made"
        assert await drawing.made("next", lambda: "made") == "made"
        assert not unwanted.begun.is_set()
        left = asyncio.create_task(drawing.made("late", late))
        await late.is_begun()
        assert not left.done()  # the end of the loop cancels it

    assert run(main) == []
    late.may_end.set()
    late.threads[0].join(PATIENT)
    assert not late.threads[0].is_alive()


class Slow(Collector):
    """Of somebody else."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def describe(self) -> Iterator[Any]:
        return iter(())

    def collect(self) -> Iterator[Any]:
        self.gate()
        return iter(())


def test_scrapes_that_take_long_hold_no_probe_and_are_bounded(recovery: ErrorRecoveryService) -> None:
    """While one is made, the loop and all other pages answer; of those that wait, one too many is told when to come again."""
    gate = Gate()
    registry = CollectorRegistry()
    registry.register(Slow(gate))

    async def main() -> None:
        routes = Routes(recovery, None, registry)

        async def get(path: str, accept: bytes = b"*/*") -> Answer:
            answer = await routes.answer(Request("GET", path, headers=((b"accept", accept),)))
            assert isinstance(answer, Answer)
            return answer

        begun = asyncio.create_task(get("/metrics"))
        await gate.is_begun()
        waiting = [asyncio.create_task(get("/metrics", b"text/%d" % one)) for one in range(MOST_WAITING)]
        await asyncio.sleep(0)
        for path in ("/livez", "/readyz", "/health"):
            assert (await get(path)).status == 200
        refused = await get("/metrics", b"text/html")
        assert (refused.status, dict(refused.headers)["retry-after"]) == (503, "1")
        same = asyncio.create_task(
            get("/metrics", b"text/0")
        )  # who wants the same as another one finds a place
        await asyncio.sleep(0)
        gate.may_end.set()
        assert [one.status for one in await asyncio.gather(begun, *waiting, same)] == [200] * (
            MOST_WAITING + 2
        )
        assert len(gate.threads) == MOST_WAITING + 1

    assert run(main) == []
