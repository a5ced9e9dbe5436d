"""Real Redis and etcd servers on free ports of this machine, each with nothing in it, and gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import shutil
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shockproof import StateStore, StoreUnavailableError
from shockproof.integrations.etcd import EtcdStore
from shockproof.integrations.redis import RedisStore
from tests.free_port import free_port

T = TypeVar("T")

HOST = "127.0.0.1"
PATIENCE = 60.0
"""Seconds: none of them is ever waited for on a machine that works."""

needs_servers = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("etcd")),
    reason="Redis or etcd is not installed (Debian: apt-get install redis-server etcd-server)",
)


class Server:
    """A server's process; `start` after `kill` begins anew at the same address, with nothing in it."""

    def __init__(self, command: Callable[[int], list[str]], ready: str, folder: Path, kind: str = "") -> None:
        self._command = command
        self._ready = ready
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self._rest: threading.Thread | None = None
        self.port = 0
        self.kind = kind

    def start(self) -> None:
        for _ in range(20):  # somebody else may take the port between asking for it and using it
            port = self.port or free_port()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._process = subprocess.Popen(
                self._command(port),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert self._process.stdout is not None
            said = ""
            for line in self._process.stdout:
                said += line
                if self._ready in line:
                    self.port = port
                    # Somebody has to go on reading, or the pipe fills up.
                    self._rest = threading.Thread(target=self._process.stdout.read, daemon=True)
                    self._rest.start()
                    return
            self._process.wait(PATIENCE)
            self._process.stdout.close()
            assert "in use" in said, said
        pytest.fail("no free port")

    def kill(self) -> None:
        if self._process is not None and self._rest is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._rest.join(PATIENCE)
            assert self._process.stdout is not None
            self._process.stdout.close()
        self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It is there, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


def store_at(server: Server, **options: Any) -> StateStore:
    """A store at a server of one of the two kinds."""
    options.setdefault("timeout", 1.0)
    if server.kind == "redis":
        return RedisStore(f"redis://{server.address}", **options)
    return EtcdStore(f"http://{server.address}", **options)


async def until(holds: Callable[[], bool]) -> None:
    """Return as soon as it holds: what is waited for happens on a server."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


async def answered(step: Callable[[], Awaitable[T]]) -> T:
    """What a store says that has little time for each step: on a machine that stands still perhaps the second time only."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return await step()


def redis_server(folder: Path, *options: str) -> Server:
    def command(port: int) -> list[str]:
        where = [word.replace("PORT", str(port)) for word in options]
        if "--tls-port" not in options:
            where += ["--port", str(port)]
        if "--cluster-enabled" in options:  # else it is 10,000 higher, and there is perhaps none
            where += ["--cluster-port", str(free_port())]
        return ["redis-server", "--bind", HOST, "--save", "", *where]

    return Server(command, "Ready to accept connections", folder, "redis")


def sentinel_server(folder: Path, master: Server, *settings: str) -> Server:
    def command(port: int) -> list[str]:
        lines = [
            f"port {port}",
            f"bind {HOST}",
            f"sentinel monitor desk {HOST} {master.port} 1",
            *settings,
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        return ["redis-server", "sentinel.conf", "--sentinel"]

    return Server(command, "+monitor master desk", folder)


def etcd_server(folder: Path, *options: str, scheme: str = "http") -> Server:
    def command(port: int) -> list[str]:
        peers = f"http://{HOST}:{free_port()}"
        here = f"{scheme}://{HOST}:{port}"
        return [
            "etcd", "--name", "one", "--data-dir", "data", "--listen-client-urls", here,
            "--advertise-client-urls", here, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", f"one={peers}", "--unsafe-no-fsync", *options,
        ]  # fmt: skip

    return Server(command, "ready to serve client requests", folder, "etcd")


def trusted_certificate(folder: Path) -> tuple[str, str]:
    """A certificate for this machine that is its own authority, and its key: two files."""
    key = ec.generate_private_key(ec.SECP256R1())
    # No common name: etcd's gateway refuses clients that have one, once there are users.
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(certificate), str(secret)
