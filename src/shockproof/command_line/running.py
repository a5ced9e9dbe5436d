"""A program that runs, asked how it is: over HTTP, or by the socket in its state directory."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from shockproof.command_line.options import add_state_dir
from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.endpoints.unix_socket import SOCKET_NAME, STATUS

__all__ = ["Running", "add_running"]

_MOST: Final = 16 << 20
"""Bytes of an answer."""
_WHOSE: Final = re.compile(r"//[^/?#]*@")
_ASKED: Final = re.compile(r"[?#].*", re.DOTALL)
_HEALTH: Final = "/health?verbose"
_PAGES: Final = (STATUS, "/health", "/status", "/readyz", "/livez", "/metrics")


def add_running(parser: argparse.ArgumentParser) -> None:
    """``--url``, ``--socket``, ``--state-dir`` and ``--timeout``."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--url", metavar="URL", help="where it serves its health, such as http://127.0.0.1:9090"
    )
    where.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help=f"the socket of serve_socket() (default: {SOCKET_NAME} in the state directory)",
    )
    add_state_dir(parser)
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long it may take in all (default: 5)",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, more than 0, got {text!r}")
    return seconds


class Running:
    """
    Where a program is asked.

    Raises:
        CommandError: the URL is none.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self._timeout: float = given.timeout
        self._path = ""
        self._page = STATUS
        if given.url is None:
            self._socket: Path | None = given.socket or given.state_dir / SOCKET_NAME
            self.name = str(self._socket)
            return
        self._socket = None
        # Either may hold a secret, and neither is asked for: what is printed ends up in logs.
        self.name = _ASKED.sub("", _WHOSE.sub("//***@", given.url))
        try:
            parts = urlsplit(given.url)
            self._host, self._port = parts.hostname or "", parts.port
            if parts.scheme not in ("http", "https") or not self._host or parts.username is not None:
                raise ValueError
        except ValueError:  # also for a port that is no number, and half an IPv6 address
            message = f"--url must be one such as http://127.0.0.1:9090, without user and password, got {self.name!r}"
            raise CommandError(message) from None
        self._is_secure = parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        for page in _PAGES:
            self._path = self._path.removesuffix(page)

    def status(self) -> dict[str, Any]:  # Any: JSON
        """
        What `shockproof.views.status` tells of it, or less: the health alone, where that is all it serves.

        Raises:
            CommandError: nobody is there, it does not answer, or it answers something else.
        """
        until = time.monotonic() + self._timeout
        code, body = self._get(self._page, until)
        if code != 200 and self._page == STATUS:  # not served, or not to everybody
            self._page = _HEALTH
            code, body = self._get(self._page, until)
        try:
            if code not in (200, 503):  # 503: not ready, and why
                raise ValueError
            answer: Any = json.loads(body)  # Any: JSON
            if self._page == _HEALTH:
                answer = answer["health"]
            services = answer["services"]
            if isinstance(services, dict):  # as the health has them
                answer["services"] = [{"name": name, **service} for name, service in services.items()]
            if not all(isinstance(one["name"], str) for one in answer["services"]):
                raise TypeError
            return {"overall_health": str(answer["overall_health"]), **answer}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CommandError(f"{self.name} answers {code}, and no health of shockproof") from None

    def _get(self, page: str, until: float) -> tuple[int, bytes]:
        asking = _Asking(self._connection(), self._path + page)
        asking.start()
        try:
            asking.join(max(0.0, until - time.monotonic()))
            code, body = asking.answer()
        except TimeoutError:
            what, why = "has not answered", "its event loop may stand still"
            if asking.is_unsecured:
                what, why = (
                    "has not answered with TLS",
                    "it may speak plain HTTP, or its event loop stand still",
                )
            raise CommandError(f"{self.name} {what} within {self._timeout:g} s: {why}") from None
        except FileNotFoundError:
            raise CommandError(
                f"there is no {self.name}: a program that runs has it with `async with serve_socket(recovery):`; name "
                "another one with --state-dir, --socket or --url, or see what was saved last with shockproof state show",
                ExitCode.NOT_THERE,
            ) from None
        except ConnectionRefusedError:
            if self._socket is not None and not self._socket.is_socket():
                raise CommandError(f"{self.name} is no socket: name that of serve_socket()") from None
            left = ", which a program has left that does not run any more" if self._socket else ""
            raise CommandError(f"nobody listens at {self.name}{left}", ExitCode.NOT_THERE) from None
        except socket.gaierror as error:
            raise CommandError(f"{self.name}: {error.strerror}", ExitCode.NOT_THERE) from None
        except PermissionError:
            # Which of both it is cannot be seen without the permission to look.
            raise CommandError(
                f"no permission to reach {self.name}: it, or a directory on the way to it, is another user's; run this as "
                "that one"
            ) from None
        except OSError as error:
            raise CommandError(f"{self.name}: {error.strerror or str(error)}") from None
        except http.client.HTTPException as error:
            raise CommandError(f"{self.name} does not speak HTTP: {type(error).__name__}") from None
        finally:
            asking.leave()
        if len(body) > _MOST:
            raise CommandError(f"{self.name} answers with more than {_MOST >> 20} MiB")
        return code, body

    def _connection(self) -> http.client.HTTPConnection:
        if self._socket is not None:
            return _UnixConnection(self._socket, self._timeout)
        kind = _SecureConnection if self._is_secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout)


class _Asking(threading.Thread):
    """
    One question, in a thread of its own: a socket's timeout is that of each step, and looking a name up has none, so that
    a server that sends a byte now and then would hold up whoever waits for the whole.
    """

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._path = path
        self._socket: socket.socket | None = None
        self._error: Exception = TimeoutError()
        self._answer: tuple[int, bytes] | None = None

    def run(self) -> None:
        """Ask, and keep the answer or the error."""
        try:
            self._connection.request("GET", self._path, headers={"Accept": "application/json"})
            self._socket = self._connection.sock  # the connection forgets it when the answer has no length
            with self._connection.getresponse() as answer:  # one without a length has the socket to itself
                self._answer = answer.status, answer.read(_MOST + 1)
        except Exception as error:  # noqa: BLE001  answer() raises it in the thread that asked
            self._error = error
        finally:
            self._connection.close()

    @property
    def is_unsecured(self) -> bool:
        """Whether TLS was asked for, and nobody has agreed to it."""
        return isinstance(self._connection, _SecureConnection) and not self._connection.is_agreed

    def answer(self) -> tuple[int, bytes]:
        """
        Status and body.

        Raises:
            TimeoutError: there is none yet.
            Exception: what went wrong.
        """
        if self._answer is None:
            raise self._error
        return self._answer

    def leave(self) -> None:
        """Wait for nothing any more: the thread ends."""
        if self.is_alive() and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _SecureConnection(http.client.HTTPSConnection):
    is_agreed = False
    """Whether the other side has agreed to TLS."""

    def connect(self) -> None:
        super().connect()
        self.is_agreed = True


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
