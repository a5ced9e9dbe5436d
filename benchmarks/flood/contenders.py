"""
Who logs the same errors as lines of JSON, each in the way its documentation shows for a program on an event loop.

A contender is opened with the path of its file, is told of one error after the other on the loop, and closed, after
which everything has to be in the file. What it is told is the nine fields as a dict, ready; ours gets a record that is
as ready, or the exception.
"""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from shockproof import ErrorRecoveryService, ErrorSeverity
from shockproof.integrations.logging import ErrorLogHandler
from shockproof.memory.error_log.capture import CapturedError, capture
from shockproof.memory.error_log.error_log import ErrorLog
from shockproof.memory.error_log.redaction import Redactor
from shockproof.settings import ErrorLogOptions

NOON = 1_795_608_000.0  # 2026-11-25 12:00 UTC
FILE = "errors_20261125.jsonl"


class Contender(Protocol):
    """One way to log."""

    def prepare(self, error: ConnectionError, number: int) -> Any:
        """What is not measured: the error as this one is told of it."""

    async def open(self, path: Path) -> None: ...

    async def log(self, prepared: Any) -> None: ...

    async def close(self) -> None: ...


def captured(error: ConnectionError, number: int, redactor: Redactor) -> CapturedError:
    return capture(
        error,
        severity=ErrorSeverity.MEDIUM,
        service_name="market_data",
        function_name="fetch_quote",
        retry_count=number % 3,
        timestamp=NOON + number / 1e6,
        context={"symbol": "AAPL", "number": number},
        redactor=redactor,
    )


class Ours:
    """The error log of a service: records that are ready; or exceptions, which it takes down while it is measured."""

    def __init__(self, *, exceptions: bool = False, bounded: bool = False) -> None:
        self._redactor = Redactor()
        self._exceptions = exceptions
        self._bounds: dict[str, int] = {} if bounded else {"max_records": 10**7, "max_bytes": 2**40}

    def prepare(self, error: ConnectionError, number: int) -> Any:
        if self._exceptions:
            return error, number
        record = captured(error, number, self._redactor)
        error.__traceback__ = None
        return record

    async def open(self, path: Path) -> None:
        self.errors = ErrorLog(path.parent, **self._bounds)

    async def log(self, prepared: Any) -> None:
        record = captured(*prepared, self._redactor) if self._exceptions else prepared
        self.errors.put(record)

    async def close(self) -> None:
        assert await self.errors.aclose(600.0)


class ThroughLogging:
    """The same behind a logger of `logging`: exceptions, with fields of their own."""

    def prepare(self, error: ConnectionError, number: int) -> Any:
        return error, number

    async def open(self, path: Path) -> None:
        bounds: ErrorLogOptions = {"max_records": 10**7, "max_bytes": 2**40}
        self.recovery = ErrorRecoveryService(path.parent.parent / "state", path.parent, error_log=bounds)
        self.logger = logging.Logger("flood")  # noqa: LOG001  in no tree: nobody else listens
        self.logger.addHandler(ErrorLogHandler(self.recovery))

    async def log(self, prepared: Any) -> None:
        error, number = prepared
        self.logger.error("failed", exc_info=error, extra={"symbol": "AAPL", "number": number})

    async def close(self) -> None:
        await self.recovery.aclose(600.0)


class _Fields:
    """The rivals': the nine fields, made by our own rendering, so that all lines are alike."""

    def prepare(self, error: ConnectionError, number: int) -> Any:
        record = captured(error, number, Redactor())
        record.render()
        error.__traceback__ = None
        return record.to_fields()


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(record.msg)


class PlainFile(_Fields):
    """`logging.FileHandler` on the loop."""

    async def open(self, path: Path) -> None:
        self.handler: logging.Handler = logging.FileHandler(path)
        self.handler.setFormatter(JsonFormatter())
        self.logger = logging.Logger("flood")  # noqa: LOG001  in no tree: nobody else listens
        self.logger.addHandler(self.handler)

    async def log(self, prepared: Any) -> None:
        self.logger.error(prepared)

    async def close(self) -> None:
        self.handler.close()


class QueueHandler(PlainFile):
    """`logging.handlers.QueueHandler`, and a `QueueListener` with a file: the encoding is the listener's."""

    async def open(self, path: Path) -> None:
        await super().open(path)
        self.logger.removeHandler(self.handler)
        waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        entrance = logging.handlers.QueueHandler(waiting)
        # Its own prepare() would format here, on the loop; a record without arguments and exception needs none.
        vars(entrance)["prepare"] = lambda record: record
        self.logger.addHandler(entrance)
        self.listener = logging.handlers.QueueListener(waiting, self.handler)
        self.listener.start()

    async def close(self) -> None:
        await asyncio.to_thread(self.listener.stop)
        self.handler.close()


class Loguru(_Fields):
    """loguru with ``enqueue=True``, which pickles into a pipe."""

    async def open(self, path: Path) -> None:
        from loguru import logger

        logger.remove()
        self.logger = logger
        self.sink = logger.add(path, format="{message}", enqueue=True)

    async def log(self, prepared: Any) -> None:
        self.logger.log("ERROR", "{}", json.dumps(prepared))

    async def close(self) -> None:
        await asyncio.to_thread(self.logger.remove, self.sink)


class NaiveAiofiles(_Fields):
    """aiofiles, with one `await f.write(...)` for each error, for which the caller waits."""

    async def open(self, path: Path) -> None:
        import aiofiles

        self.file = await aiofiles.open(path, "ab", buffering=0)

    async def log(self, prepared: Any) -> None:
        await self.file.write(by_json(prepared) + b"\n")

    async def close(self) -> None:
        await self.file.close()


class BatchedAiofiles(_Fields):
    """What somebody writes who has thought about it: a list, and a task that writes all that waits in one call."""

    def __init__(self, encode: Callable[[object], bytes]) -> None:
        self._encode = encode

    async def open(self, path: Path) -> None:
        import aiofiles

        self.file = await aiofiles.open(path, "ab", buffering=0)
        self.waiting: list[bytes] = []
        self.bell = asyncio.Event()
        self.is_over = False
        self.task = asyncio.create_task(self._write())

    async def log(self, prepared: Any) -> None:
        self.waiting.append(self._encode(prepared) + b"\n")
        self.bell.set()

    async def _write(self) -> None:
        while not self.is_over or self.waiting:
            await self.bell.wait()
            self.bell.clear()
            batch, self.waiting = self.waiting, []
            lines = memoryview(b"".join(batch))
            while lines:
                lines = lines[await self.file.write(lines) :]

    async def close(self) -> None:
        self.is_over = True
        self.bell.set()
        await self.task
        await self.file.close()


def by_json(fields: object) -> bytes:
    return json.dumps(fields).encode()


def by_orjson(fields: object) -> bytes:
    import orjson

    return orjson.dumps(fields)


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "shockproof": Ours,
    "shockproof, from exceptions": lambda: Ours(exceptions=True),
    "shockproof, through logging": ThroughLogging,
    "shockproof, bounded": lambda: Ours(bounded=True),
    "logging.FileHandler on the loop": PlainFile,
    "logging.QueueHandler": QueueHandler,
    "loguru, enqueue": Loguru,
    "aiofiles, one write each": NaiveAiofiles,
    "aiofiles in batches, json": lambda: BatchedAiofiles(by_json),
    "aiofiles in batches, orjson": lambda: BatchedAiofiles(by_orjson),
}
