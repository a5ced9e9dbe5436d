"""
The endpoints on a socket in the state directory, for ``shockproof health`` and ``shockproof top`` on the same machine.

Who may open it is decided by the file's mode: this user, and nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from shockproof.endpoints.exchange import Answer, Request, Stream
from shockproof.endpoints.routes import Routes
from shockproof.endpoints.server import Server
from shockproof.memory.disk.directory import make_writable
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.disk.writer import wait_on_this_loop, writer_for
from shockproof.service import check_recovery
from shockproof.views.status import status_on_loop

if TYPE_CHECKING:
    from shockproof.integrations.prometheus import CollectorRegistry
    from shockproof.service import ErrorRecoveryService

__all__ = ["LONGEST_PATH", "SOCKET_NAME", "STATUS", "serve_socket"]

SOCKET_NAME: Final = "shockproof.sock"
"""In the state directory."""
STATUS: Final = "/status.json"
LONGEST_PATH: Final = 103
"""Bytes of a socket's path: 107 on Linux, 103 on macOS and the BSDs. A path that works on the one works on the other."""


@asynccontextmanager
async def serve_socket(
    recovery: ErrorRecoveryService,
    *,
    path: str | os.PathLike[str] | None = None,
    token: str | None = None,
    registry: CollectorRegistry | None = None,
    status_page: bool = False,
) -> AsyncGenerator[Path]:
    """
    The endpoints of `health_app`, and ``/status.json``, on a Unix socket, as long as the block lasts.

    ``async with serve_socket(recovery):`` is what ``shockproof top`` looks for in the state directory. Only this user (and
    root) may open it: mode 0600 from its first moment on. What a program that was killed left there is replaced, what
    another one serves is not. The limits are those of `serve`.

    Args:
        recovery: whose health.
        path: where, at most 103 bytes. Default: ``shockproof.sock`` in the state directory, which is made if need be.
        token: as in `health_app`. Default: None, and then nothing can be changed.
        registry: as in `health_app`.
        status_page: also ``/status``; and what it draws is recorded as long as the block lasts, so that ``shockproof top``
            knows how long calls take. Default: False.

    Raises:
        TypeError, ValueError: a token that is none, or a path that is too long for a socket.
        OSError: it cannot be made there. A `BlockingIOError`: another process, or another block of this one, serves there.

    At the end of the block, also by a cancellation, the socket is gone, and connections that are open are ended.
    """
    place = check_recovery(recovery).state_dir / SOCKET_NAME if path is None else Path(os.path.abspath(path))  # noqa: ASYNC240 - no disk is asked
    length = len(os.fsencode(place))
    if length > LONGEST_PATH:
        raise ValueError(
            f"{place} is {length} bytes long, and the path of a socket may have {LONGEST_PATH}: "
            "serve it at a shorter one, path=..., and name that to shockproof top --socket"
        )
    routes = _LocalRoutes(recovery, token, registry, status_page=status_page)
    try:
        held = await _Binding(place).done()
        server = Server(routes)
        try:
            await server.listen_on(held.socket)
            yield place
        finally:
            try:
                await server.close()
            finally:
                await _given_up(held)
    finally:
        routes.close()


class _LocalRoutes(Routes):
    """What the others have, and the status: who may open the socket may read the error log, too."""

    async def answer(self, request: Request) -> Answer | Stream:
        if self._status is None and request.path == STATUS and request.method in ("GET", "HEAD"):
            body = json.dumps(await status_on_loop(self._recovery)).encode("ascii")
            return Answer(200, body, "application/json")
        return await super().answer(request)


class _Held(NamedTuple):
    """A socket with its name, and the lock that says whose it is."""

    path: Path
    socket: socket.socket
    lock: int

    def give_up(self) -> None:
        """Take its name away, and let others have it."""
        self.socket.close()
        with suppress(OSError):
            self.path.unlink()
        os.close(self.lock)


async def _given_up(held: _Held) -> None:
    # Handed to the thread here and now: it is done, whatever becomes of this task and its loop.
    await asyncio.shield(wait_on_this_loop(writer_for(held.path).submit(held.give_up)))


class _Binding:
    """`_bind` in a thread, for somebody who may be cancelled meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._is_wanted = True
        self._held: _Held | None = None

    async def done(self) -> _Held:
        """What it gave; one that is cancelled leaves nothing behind."""
        try:
            return await writer_for(self._path).run(self._run)
        except asyncio.CancelledError:
            with self._lock:
                self._is_wanted, held = False, self._held
            if held is not None:
                await _given_up(held)
            raise

    def _run(self) -> _Held:
        held = _bind(self._path)
        with self._lock:
            if self._is_wanted:
                self._held = held
                return held
        held.give_up()
        return held


def _bind(path: Path) -> _Held:
    make_writable(path.parent, "state_dir")
    # The lock ends with its process, however that ends: who has it may take away what was left.
    try:
        lock = SystemFiles().own(path.with_name(f"{path.name}.lock"), str(os.getpid()).encode())
    except BlockingIOError as error:
        raise BlockingIOError(
            error.errno,
            "another process, or another block, serves there: give this one a path= of its own",
            str(path),
        ) from None
    try:
        if path.is_socket():
            path.unlink()
        elif path.exists():
            raise FileExistsError(errno.EEXIST, "it is no socket, and is left alone: move it away", str(path))
        made = socket.socket(socket.AF_UNIX)
        try:
            made.bind(os.fspath(path))
            path.chmod(0o600)  # nobody can connect before it listens
            made.setblocking(False)
        except BaseException:
            made.close()
            raise
    except BaseException:
        os.close(lock)
        raise
    return _Held(path, made, lock)
