"""The socket in the state directory: who may open it, what becomes of one that was left, and what it answers."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from shockproof import ErrorRecoveryService
from shockproof.endpoints import serve_socket
from shockproof.memory.disk.writer import writer_for

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def recovery(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ErrorRecoveryService]:
    place = tmp_path_factory.mktemp("p")  # a short one, as the path of a socket has to be
    async with ErrorRecoveryService(place / "state", place / "errors") as service:
        yield service


@asynccontextmanager
async def asking(path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(path), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://bot", timeout=60.0) as client:
        yield client


async def test_the_state_directory_has_a_socket_for_this_user_alone(recovery: ErrorRecoveryService) -> None:
    """It shows texts of errors, so that nobody else may read it; and it is gone when the block is."""
    recovery.service("venue")
    async with serve_socket(recovery) as path, asking(path) as client:
        assert path == recovery.state_dir / "shockproof.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        status = (await client.get("/status.json")).json()
        assert [service["name"] for service in status["services"]] == ["venue"]
        assert (await client.get("/readyz")).text == "ok\n"
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/services/venue/reset")).status_code == 403  # no token is configured
        assert (await client.post("/status.json")).status_code in (404, 405)
    assert not path.exists()


async def test_with_the_status_page_what_it_draws_is_there_too(recovery: ErrorRecoveryService) -> None:
    """For `shockproof top`, which then knows how long calls take."""
    recovery.service("venue")
    async with serve_socket(recovery, status_page=True) as path, asking(path) as client:
        assert (await client.get("/status")).headers["content-type"].startswith("text/html")
        status = (await client.get("/status.json")).json()
        assert status["history"] is not None
        assert "p95" in status["services"][0]["calls"]


async def test_a_socket_that_a_killed_program_left_is_replaced(recovery: ErrorRecoveryService) -> None:
    """Its lock ended with it: a restart needs no hand."""
    recovery.state_dir.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(recovery.state_dir / "shockproof.sock"))
    async with serve_socket(recovery) as path, asking(path) as client:
        assert (await client.get("/livez")).status_code == 200


async def test_a_full_executor_of_the_loop_holds_nobody_up(recovery: ErrorRecoveryService) -> None:
    """It is full of calls that hang just when somebody wants to look."""
    release, loop = threading.Event(), asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    hanging = loop.run_in_executor(None, release.wait, 60)
    try:
        async with asyncio.timeout(30), serve_socket(recovery) as path:
            assert path.is_socket()
        assert not hanging.done()
    finally:
        release.set()
        await hanging


async def test_one_that_is_served_is_left_alone(recovery: ErrorRecoveryService) -> None:
    """Two programs in one directory: the second is refused, and the first goes on."""
    async with serve_socket(recovery) as path, asking(path) as client:
        with pytest.raises(BlockingIOError, match="path= of its own"):
            async with serve_socket(recovery):
                pass
        assert (await client.get("/livez")).status_code == 200
        async with serve_socket(recovery, path=path.with_name("second.sock")) as second:
            assert second.exists()


async def test_the_target_of_a_link_in_the_place_of_its_lock_is_left_alone(
    recovery: ErrorRecoveryService,
) -> None:
    """Whoever put it there: what it points to is not written, and the error says what to remove."""
    recovery.state_dir.mkdir(parents=True, exist_ok=True)
    target = recovery.state_dir / "notes"
    target.write_text("of somebody")
    lock = recovery.state_dir / "shockproof.sock.lock"
    lock.symlink_to(target)
    with pytest.raises(OSError, match=r"symbolic link.*remove it.*shockproof\.sock\.lock"):
        async with serve_socket(recovery):
            pass
    assert target.read_text() == "of somebody"
    lock.unlink()
    async with serve_socket(recovery) as path, asking(path) as client:
        assert (await client.get("/livez")).status_code == 200


async def test_a_file_of_its_name_is_not_deleted(recovery: ErrorRecoveryService) -> None:
    """Whatever it is, it is not ours."""
    recovery.state_dir.mkdir(parents=True, exist_ok=True)
    (recovery.state_dir / "shockproof.sock").write_text("notes")
    for _ in range(2):  # nor is its lock kept
        with pytest.raises(FileExistsError, match="left alone"):
            async with serve_socket(recovery):
                pass
    assert (recovery.state_dir / "shockproof.sock").read_text() == "notes"


async def test_a_path_that_no_socket_can_have_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """The system would cut it, or say something about a file that is not there."""
    recovery = ErrorRecoveryService(tmp_path / ("long" * 30), tmp_path / "errors")
    with pytest.raises(ValueError, match=r"may have 103: serve it at a shorter one, path="):
        async with serve_socket(recovery):
            pass


async def test_a_cancellation_leaves_no_socket(recovery: ErrorRecoveryService) -> None:
    """Also while the thread makes it: what comes later is taken away, and the next one may have it."""
    entered = asyncio.Event()

    async def serving() -> None:
        async with serve_socket(recovery):
            entered.set()
            await asyncio.Event().wait()

    async def cancelled(task: asyncio.Task[None]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for turns in range(3):
        task = asyncio.create_task(serving())
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancelled(task)
        while True:  # a thread that was left behind has the lock until it ends
            try:
                async with serve_socket(recovery):
                    break
            except BlockingIOError:
                await asyncio.sleep(0)
    task = asyncio.create_task(serving())
    await entered.wait()
    await cancelled(task)
    assert not (recovery.state_dir / "shockproof.sock").exists()


async def test_a_cancellation_behind_the_back_of_the_thread_leaves_its_socket_to_the_thread(
    recovery: ErrorRecoveryService,
) -> None:
    """Made, and not yet heard of: the loop takes nothing away itself, for a disk may hang."""
    place = recovery.state_dir / "shockproof.sock"

    async def serving() -> None:
        async with serve_socket(recovery):
            pytest.fail("it was cancelled before")

    task = asyncio.create_task(serving())
    await asyncio.sleep(0)
    writer_for(place).submit(lambda: None).result(30)  # it does one thing after the other
    assert place.is_socket()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not place.exists()
