"""What is told to `logging` and to structlog stands in the error log, and nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import queue
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import structlog

from shockproof import ErrorRecord, ErrorRecoveryService, ErrorSeverity
from shockproof.integrations.logging import ErrorLogHandler
from shockproof.integrations.structlog import ErrorLogProcessor

SECRET = "s3cr3t-9f8e7d6c5b4a"
PATIENCE = 30.0

LOW, MEDIUM, HIGH, CRITICAL = ErrorSeverity


@pytest.fixture
def recovery(tmp_path: Path) -> ErrorRecoveryService:
    return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")


@pytest.fixture
def logger(recovery: ErrorRecoveryService) -> logging.Logger:
    """A logger with the handler and nothing else: it stands in no tree, so that pytest does not listen."""
    logger = logging.Logger("desk.strategy", logging.DEBUG)  # noqa: LOG001  in no tree on purpose
    logger.addHandler(ErrorLogHandler(recovery))
    return logger


def processor_chain(recovery: ErrorRecoveryService, *before: Any, **options: Any) -> tuple[Any, list[Any]]:
    """A structlog logger that ends in a list, and the list."""
    passed_on: list[Any] = []

    def end(_logger: object, _method: str, event_dict: dict[str, Any]) -> str:
        passed_on.append(dict(event_dict))
        raise structlog.DropEvent

    chain = [*before, ErrorLogProcessor(recovery, **options), end]
    return structlog.wrap_logger(structlog.PrintLogger(), processors=chain), passed_on


async def records(recovery: ErrorRecoveryService) -> list[ErrorRecord]:
    """All that is in the log, after all that was queued is written."""
    await recovery.aclose()
    return [record async for record in recovery.read_errors()]


def refuse() -> None:
    raise ConnectionError(f"refused with signature={SECRET}")


class Loud:
    """Logs whenever it is shown, and so on for ever."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.shown = 0

    def __str__(self) -> str:
        self.shown += 1
        self.logger.error("shown: %s", self)
        return "loud"

    __repr__ = __str__


class Hostile:
    """Cannot be shown at all."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


# logging


@pytest.mark.asyncio
async def test_a_logged_exception_is_a_record_with_its_type_traceback_and_extra_fields(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """Who reads the log finds what the strategy said about an error, what the error was, and where."""
    with recovery.context(strategy="momentum", qty=1):
        try:
            refuse()
        except ConnectionError:
            logger.exception("could not fetch %s", "AAPL", extra={"qty": 7, "api_key": SECRET})

    (record,) = await records(recovery)

    assert (record.error_type, record.severity, record.retry_count) == ("ConnectionError", HIGH, 0)
    assert record.error_message == "could not fetch AAPL: refused with signature=***"
    assert record.service_name == "desk.strategy"
    assert record.function_name == (
        "test_a_logged_exception_is_a_record_with_its_type_traceback_and_extra_fields"
    )
    assert record.stack_trace is not None
    assert record.stack_trace.startswith("Traceback (most recent call last):\n")
    assert "in refuse" in record.stack_trace
    assert record.context is not None
    line = record.context.pop("line")
    assert line.startswith("test_log_messages.py:")
    assert record.context == {
        "strategy": "momentum",
        "qty": 7,
        "logger": "desk.strategy",
        "level": "ERROR",
        "api_key": "***",
    }
    assert SECRET not in "".join(path.read_text() for path in recovery.error_log_dir.iterdir())


@pytest.mark.asyncio
async def test_levels_become_severities_and_those_below_the_handlers_are_left_out(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """The severity that a filter asks for is the level that was logged at."""
    for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(level, "at %d", level)

    found = await records(recovery)

    assert [(record.error_message, record.severity) for record in found] == [
        ("at 30", MEDIUM),
        ("at 40", HIGH),
        ("at 50", CRITICAL),
    ]
    assert {record.error_type for record in found} == {"LogMessage"}
    assert {record.stack_trace for record in found} == {None}


@pytest.mark.asyncio
async def test_a_message_may_name_its_service_and_bring_a_stack(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """Then `errors --service` finds it beside the service's own records."""
    logger.warning("slow", extra={"service_name": "market_data"}, stack_info=True)

    (record,) = await records(recovery)

    assert record.service_name == "market_data"
    assert record.context is not None
    assert "service_name" not in record.context
    assert str(record.context["stack_info"]).startswith("Stack (most recent call last):")


@pytest.mark.asyncio
async def test_a_message_that_cannot_be_formatted_is_kept_as_it_is(
    recovery: ErrorRecoveryService, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip in an error branch, which nobody tests, must not lose the error, nor write to stderr on the loop."""
    logger.error("%d shares", "seven", extra={"odd": Hostile()})

    (record,) = await records(recovery)

    assert record.error_message == "%d shares"
    assert record.context is not None
    assert record.context["arguments"] == ["seven"]
    assert str(record.context["not_formatted"]).startswith("TypeError: ")
    assert record.context["odd"] == "<Hostile whose repr raised RuntimeError>"
    assert capsys.readouterr().err == ""


@pytest.mark.asyncio
async def test_a_message_that_no_code_can_read_leaves_a_word_about_it(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """Even then there is a line, and who logs gets no exception."""
    broken = logging.makeLogRecord({"name": "x", "msg": "m", "levelno": logging.ERROR})
    del broken.funcName

    logger.handle(broken)

    (record,) = await records(recovery)
    assert record.error_message.startswith("<a log message that could not be taken down: AttributeError")


@pytest.mark.asyncio
async def test_a_value_that_logs_while_it_is_logged_does_not_go_on_for_ever(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """What a message causes is taken down once, and what that causes is not."""
    loud = Loud(logger)

    logger.error("first %s", loud)

    assert loud.shown <= 3
    found = {record.error_message for record in await records(recovery)}
    assert found == {"first loud", "shown: loud"}


@pytest.mark.asyncio
async def test_what_the_writer_itself_says_is_not_written(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """An error of the writer that became a record would become another error of the writer."""
    writer = recovery._error_log._writer
    said = threading.Event()
    writer.call_soon(lambda: (logger.error("about the writing itself"), said.set()))
    assert await asyncio.to_thread(said.wait, PATIENCE)
    logger.error("about something else")

    assert [record.error_message for record in await records(recovery)] == ["about something else"]


@pytest.mark.asyncio
async def test_threads_log_through_one_handler_without_losing_or_mixing_anything(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """Four threads at once lose no record and no field."""

    def log(number: int) -> None:
        for count in range(100):
            logger.error("from %d", number, extra={"count": count})

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(asyncio.to_thread(log, number))

    seen: dict[str, list[object]] = {}
    for record in await records(recovery):
        assert record.context is not None
        seen.setdefault(record.error_message, []).append(record.context["count"])
    assert seen == {f"from {number}": list(range(100)) for number in range(4)}


@pytest.mark.asyncio
async def test_a_thread_that_holds_the_handlers_lock_holds_nobody_up(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """A loop that waits for a lock waits for a thread that may have been interrupted anywhere."""
    logger.handlers[0].acquire()
    try:
        thread = threading.Thread(target=logger.error, args=("from elsewhere",), daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, PATIENCE)
        assert not thread.is_alive()
    finally:
        logger.handlers[0].release()

    assert [record.error_message for record in await records(recovery)] == ["from elsewhere"]


@pytest.mark.asyncio
async def test_filters_decide_before_anything_is_taken_down(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """As with any handler."""
    logger.handlers[0].addFilter(lambda record: "secret plan" not in record.getMessage())

    logger.error("the secret plan")
    logger.error("something else")

    assert [record.error_message for record in await records(recovery)] == ["something else"]


@pytest.mark.asyncio
async def test_a_record_that_came_through_a_queue_keeps_its_traceback(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """Behind a QueueListener the exception is a text already."""
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logger.addHandler(between := logging.handlers.QueueHandler(waiting))
    try:
        refuse()
    except ConnectionError:
        logger.exception("through a queue")
    logger.removeHandler(between)
    record = waiting.get_nowait()
    record.exc_text = "Traceback (most recent call last):\n  elsewhere\nConnectionError: token=" + SECRET

    logger.handlers[0].handle(record)

    found = await records(recovery)
    assert found[1].error_type == "LogMessage"
    assert found[1].stack_trace is not None
    assert found[1].stack_trace.endswith("ConnectionError: token=***")


@pytest.mark.asyncio
async def test_an_exception_that_was_logged_is_not_kept_alive(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """An exception holds its frames, and they hold everything: the queue holds neither it nor what came as extra."""

    class Order:
        pass

    def fail() -> weakref.ref[Order]:
        order = Order()
        try:
            raise ValueError(order)
        except ValueError:
            logger.exception("failed", extra={"order": order})
        return weakref.ref(order)

    assert fail()() is None
    await records(recovery)


# structlog


@pytest.mark.asyncio
async def test_an_event_is_a_record_with_its_keys_and_is_passed_on_unchanged(
    recovery: ErrorRecoveryService,
) -> None:
    """What the next processors render is what it was, secrets included: that is theirs."""
    log, passed_on = processor_chain(recovery, structlog.processors.add_log_level)
    with recovery.context(strategy="momentum"):
        try:
            refuse()
        except ConnectionError:
            log.bind(symbol="AAPL").exception("could not fetch", api_key=SECRET, exc_info=True)

    (record,) = await records(recovery)

    assert (record.error_type, record.severity) == ("ConnectionError", HIGH)
    assert record.error_message == "could not fetch: refused with signature=***"
    assert record.service_name == "structlog"
    assert record.stack_trace is not None
    assert "in refuse" in record.stack_trace
    assert record.context == {
        "strategy": "momentum",
        "symbol": "AAPL",
        "api_key": "***",
        "level": "error",
    }
    assert passed_on == [
        {
            "symbol": "AAPL",
            "api_key": SECRET,
            "level": "error",
            "event": "could not fetch",
            "exc_info": True,
        }
    ]


@pytest.mark.asyncio
async def test_events_below_the_level_pass_by(recovery: ErrorRecoveryService) -> None:
    """The level is that of the method, of ``level``, or of ``level_number``."""
    log, passed_on = processor_chain(recovery, level="error")

    log.info("no")
    log.warning("no")
    log.error("yes", logger="desk", func_name="trade", service_name="market_data")
    log.info("yes, by its number", level_number=50)
    log.info("yes, by its name", level="critical")

    found = await records(recovery)
    assert [(record.error_message, record.severity) for record in found] == [
        ("yes", HIGH),
        ("yes, by its number", CRITICAL),
        ("yes, by its name", CRITICAL),
    ]
    assert (found[0].service_name, found[0].function_name) == ("market_data", "trade")
    assert found[0].context == {"logger": "desk", "func_name": "trade"}
    assert len(passed_on) == 5


@pytest.mark.asyncio
async def test_an_exception_counts_however_it_is_given(recovery: ErrorRecoveryService) -> None:
    """As itself, as a tuple, as True with nothing to see, and as the text of an earlier processor."""
    log, _ = processor_chain(recovery)
    error = ConnectionError("as itself")
    log.error("one", exc_info=error)
    log.error("two", exc_info=(ConnectionError, error, None))
    log.error("three", exc_info=True)  # noqa: LOG014  on purpose
    early, _ = processor_chain(recovery, structlog.processors.format_exc_info)
    early.error("four", exc_info=error)

    found = await records(recovery)

    assert [record.error_type for record in found] == [
        "ConnectionError",
        "ConnectionError",
        "LogMessage",
        "LogMessage",
    ]
    assert found[3].stack_trace is None
    assert found[3].context == {"exception": "ConnectionError: as itself"}


@pytest.mark.asyncio
async def test_a_value_that_cannot_be_shown_ends_no_logging(recovery: ErrorRecoveryService) -> None:
    """The processors behind get their event whatever ours made of it."""
    log, passed_on = processor_chain(recovery)

    log.error(Hostile(), odd=Hostile())

    (record,) = await records(recovery)
    assert record.error_message.startswith("<a log message that could not be taken down: RuntimeError")
    assert len(passed_on) == 1


def test_a_level_that_there_is_not_is_refused_with_those_there_are(recovery: ErrorRecoveryService) -> None:
    """Else a slip would switch the log off."""
    with pytest.raises(ValueError, match=r"level must be one of critical, .*, or a number, got 'eror'"):
        ErrorLogProcessor(recovery, level="eror")


@pytest.mark.asyncio
async def test_messages_are_in_the_files_and_not_in_the_summary_of_calls(
    recovery: ErrorRecoveryService, logger: logging.Logger
) -> None:
    """A chatty library must not push the errors of calls out of the last thousand, nor raise an alert."""
    logger.error("chatty")

    assert recovery.get_error_summary()["total_errors"] == 0
    assert recovery.get_health_status()["recent_error_count"] == 0
    await recovery.aclose()
    (path,) = recovery.error_log_dir.iterdir()
    assert json.loads(path.read_text())["error_message"] == "chatty"
