"""
Ways to the store that can be cut in the middle: a network namespace for each process where the machine permits it, else a
proxy on loopback for each. Cut means silence: nothing comes through, and nobody is told. A venue that processes call over TCP has
a way of its own to each, which stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

IN_A_NAMESPACE = "SHOCKPROOF_FLEET_NAMESPACE"
LOOPBACK = "127.0.0.1"
NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of Linux."""
PATIENCE = 60.0
"""Seconds: a process is connected within milliseconds."""

T = TypeVar("T")


class Network(Protocol):
    """Between the processes and one server."""

    name: str
    host: str
    """Where the server listens."""
    before: list[str]
    """What a process's command begins with."""

    async def connect(self, number: int, pid: int, port: int) -> str:
        """Give that process its way to the server; host and port as it sees them."""
        ...

    def cut(self, number: int) -> None: ...
    def mend(self, number: int) -> None: ...
    async def aclose(self) -> None: ...


def _unshare() -> list[str]:
    return ["unshare", "-n" if os.geteuid() == 0 else "-rn"]


def enter_a_namespace() -> None:
    """Begin this program anew in a network namespace of its own, if the machine permits; else do nothing."""
    if os.environ.get(IN_A_NAMESPACE) or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return
    trial = [*_unshare(), "unshare", "-n", "true"]
    pair = [*_unshare(), "ip", "link", "add", "hub0", "type", "veth", "peer", "name", "bot0"]
    for words in (trial, pair):
        if subprocess.run(words, capture_output=True, check=False).returncode:  # noqa: S603 - our words
            return
    os.environ[IN_A_NAMESPACE] = "1"
    words = [*_unshare(), sys.executable, *sys.argv]
    os.execvp(words[0], words)  # noqa: S606 - no shell is wanted


def network() -> Network:
    return Namespaces() if os.environ.get(IN_A_NAMESPACE) else Proxies()


def enter_one_of_its_own() -> None:
    """Called by a process that was forked here, before it has threads: leave our network, if `Namespaces` are used."""
    if os.environ.get(IN_A_NAMESPACE) and ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "no network namespace for this process")


class Namespaces:
    """A virtual cable from each process's namespace to ours; cut, its packets are lost."""

    name = "network namespaces"
    _numbers = itertools.count()
    """Those of one network may still be there when the next one begins: they go some time after their processes."""

    def __init__(self) -> None:
        number = next(self._numbers)
        self._net = f"10.{77 + number}"
        self._ends = f"hub{number}-", f"bot{number}-"
        self.host = f"{self._net}.0.1"
        self.before = ["unshare", "-n"]
        _ip("link", "set", "lo", "up")
        with contextlib.suppress(subprocess.CalledProcessError):  # it is there already
            _ip("addr", "add", f"{self.host}/32", "dev", "lo")

    async def connect(self, number: int, pid: int, port: int) -> str:
        # Until its command has run, the process is still where we are.
        while Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            await asyncio.sleep(0.005)
        here, there = (f"{end}{number}" for end in self._ends)
        _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", str(pid))
        _ip("addr", "add", f"{self._net}.{number + 1}.1/30", "dev", here)
        _ip("link", "set", here, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("addr", "add", f"{self._net}.{number + 1}.2/30", "dev", there),
            ("link", "set", there, "up"),
            ("route", "add", f"{self.host}/32", "via", f"{self._net}.{number + 1}.1"),
        ):
            _run("nsenter", "-t", str(pid), "-n", "ip", *words)
        return f"{self.host}:{port}"

    def cut(self, number: int) -> None:
        _ip("link", "set", f"{self._ends[0]}{number}", "down")

    def mend(self, number: int) -> None:
        _ip("link", "set", f"{self._ends[0]}{number}", "up")

    async def aclose(self) -> None:
        pass  # the cables go with the processes, and the rest with this one


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - our words


class Proxies:
    """A proxy for each process; cut, it holds everything back that is on its way."""

    name = "proxies on loopback"

    def __init__(self) -> None:
        self.host = LOOPBACK
        self.before: list[str] = []
        self._open: dict[int, asyncio.Event] = {}
        self._servers: list[asyncio.Server] = []
        self._pumps: set[asyncio.Task[None]] = set()

    async def connect(self, number: int, pid: int, port: int) -> str:
        del pid
        is_open = self._open[number] = asyncio.Event()
        is_open.set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await is_open.wait()
            try:
                there, back = await asyncio.open_connection(self.host, port)
            except OSError:
                writer.close()
                return
            for one, other in ((reader, back), (there, writer)):
                pump = asyncio.create_task(_pump(one, other, is_open))
                self._pumps.add(pump)
                pump.add_done_callback(self._pumps.discard)

        server = await asyncio.start_server(accept, self.host, 0)
        self._servers.append(server)
        return f"{self.host}:{server.sockets[0].getsockname()[1]}"

    def cut(self, number: int) -> None:
        self._open[number].clear()

    def mend(self, number: int) -> None:
        self._open[number].set()

    async def aclose(self) -> None:
        for server in self._servers:
            server.close()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event) -> None:
    try:
        while data := await reader.read(65_536):
            await is_open.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class OnAThread:
    """A loop for networks, for a program that has none itself."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(PATIENCE)

    def do(self, what: Callable[[int], None], number: int) -> None:
        """Cut or mend the way of a process."""

        async def done() -> None:
            what(number)

        self.run(done())

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
