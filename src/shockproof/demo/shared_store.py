"""The store of a fleet: a Redis of its own if there is one on this machine, else a file."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import socket
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from shockproof import FileStore, StateStore

__all__ = ["SharedStore", "open_store", "start_store"]

_START_TIMEOUT: Final = 10.0
_FILE: Final = "file:"
_REDIS: Final = "unix://"
_UNTIL_NOBODY_LISTENS: Final = """
redis-server "$@" </dev/null >/dev/null 2>&1 & server=$!
cat >/dev/null
kill $server
wait $server
"""
"""It ends with whoever started it, however that ends: then its standard input does, too."""


class SharedStore(NamedTuple):
    """What the traders are told."""

    url: str
    what: str
    """For people."""


def open_store(url: str) -> StateStore:
    """The store that `start_store` has started."""
    if url.startswith(_FILE):
        return FileStore(url.removeprefix(_FILE))
    from shockproof.integrations.redis import RedisStore

    return RedisStore(url)


@asynccontextmanager
async def start_store(directory: Path) -> AsyncGenerator[SharedStore]:
    """Start one, and end it when the block is left; a file lies in *directory*."""
    file = SharedStore(f"{_FILE}{directory / 'shared.db'}", "a file: there is no redis-server to be started")
    if shutil.which("redis-server") is None:
        yield file
        return
    if importlib.util.find_spec("redis") is None:
        yield file._replace(what="a file: the client for a Redis is not installed (pip install redis)")
        return
    place = Path(tempfile.mkdtemp(prefix="shockproof-demo-redis-"))  # the path of a socket has to be short
    door = place / "redis.sock"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", _UNTIL_NOBODY_LISTENS, "sh"),
        *("--port", "0", "--unixsocket", str(door), "--dir", str(place), "--save", "", "--appendonly", "no"),
        stdin=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        if await _answers(door):
            yield SharedStore(f"{_REDIS}{door}", "a Redis of its own")
        else:
            yield file._replace(what=f"a file: Redis did not start within {_START_TIMEOUT:g} s")
    finally:
        assert process.stdin is not None  # a pipe was asked for
        process.stdin.close()
        await process.wait()
        shutil.rmtree(place, ignore_errors=True)


async def _answers(door: Path) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_TIMEOUT):
            while not _is_open(door):  # noqa: ASYNC110 - a server that starts tells nobody
                await asyncio.sleep(0.02)
            return True
    return False


def _is_open(door: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(door))
        except OSError:
            return False
    return True
