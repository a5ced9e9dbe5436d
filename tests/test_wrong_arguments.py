"""What is built on a service refuses at once what it cannot be built on, and says how it is written."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, MemoryStore
from shockproof.alerts import Alerts, Slack
from shockproof.endpoints import health_app, serve, serve_socket
from shockproof.integrations.aiohttp import ServicePerHost
from shockproof.integrations.logging import ErrorLogHandler
from shockproof.integrations.starlette import lifespan_of
from shockproof.integrations.structlog import ErrorLogProcessor

Wrong = Callable[..., Any]  # Any, here and below: what no type checker would let through
_URL = "https://hooks.slack.com/services/T/B/s3cret"


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (
            lambda make, _: make(store="redis://:s3cret@localhost:6399"),
            'RedisStore("redis://localhost:6379")',
        ),
        (lambda make, _: make(circuit_treshold=3), "did you mean circuit_threshold"),
        (
            lambda make, _: make(error_log="x"),
            "error_log must be a dict such as {\"keep_days\": 30}, got 'x'",
        ),
        (lambda make, _: make(error_log={"keep_day": 1}), "did you mean keep_days"),
        (lambda make, _: make(loop_monitor={"stal_after": 1}), "did you mean stall_after"),
        (lambda _, recovery: recovery.configure(base_dela=1), "did you mean base_delay"),
        (lambda _, recovery: ServicePerHost("x"), "recovery must be an ErrorRecoveryService, got 'x'"),
        (lambda _, recovery: ServicePerHost(recovery, timout=1), "did you mean timeout"),
        (lambda _, recovery: health_app("x"), "recovery must be an ErrorRecoveryService, got 'x'"),
        (lambda _, recovery: lifespan_of(object()), "recovery must be an ErrorRecoveryService, got <object"),
        (
            lambda _, recovery: serve(recovery, statuspage=True),
            "serve knows no 'statuspage'; did you mean status_page",
        ),
        (lambda _, recovery: ErrorLogHandler("x"), "recovery must be an ErrorRecoveryService, got 'x'"),
        (lambda _, recovery: ErrorLogProcessor("x"), "recovery must be an ErrorRecoveryService, got 'x'"),
        (lambda _, recovery: Alerts("x", [Slack(_URL)]), "recovery must be an ErrorRecoveryService, got 'x'"),
        (lambda _, recovery: Alerts(recovery, Slack(_URL)), "targets must be several, such as [Slack(url)]"),
        (lambda _, recovery: Alerts(recovery, _URL), "targets must be several, such as [Slack(url)]"),
        (lambda _, recovery: Alerts(recovery, [_URL]), "targets must be Slack(url), PagerDuty(routing_key)"),
        (lambda _, recovery: recovery.service("market")(), "@market; with options for this function alone"),
        (lambda _, recovery: recovery.service("market")(timeout=3.0), "@market.using(timeout=3.0)"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once_and_the_way_out_is_named(
    write: Wrong, told: str, tmp_path: Path
) -> None:
    """Nobody finds out at the first request, at the first error, or in the night of the first alert."""

    def make(**options: Any) -> ErrorRecoveryService:
        return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", **options)

    recovery = make(store=MemoryStore())
    handlers = logging.getLogger().handlers[:]
    with pytest.raises(TypeError, match=re.escape(told)) as refused:
        write(make, recovery)
    assert "s3cret" not in str(refused.value)
    assert logging.getLogger().handlers == handlers


@pytest.mark.asyncio
async def test_servers_refuse_it_when_they_are_entered(tmp_path: Path) -> None:
    """Both of them, before anything listens."""
    wrong: Any = "x"
    for server in (serve, serve_socket):
        with pytest.raises(TypeError, match="recovery must be an ErrorRecoveryService, got 'x'"):
            async with server(wrong):
                raise AssertionError


@pytest.mark.asyncio
async def test_the_reason_of_a_halt_is_kept_as_one_line(tmp_path: Path) -> None:
    """Trading stops whatever the text of an error holds, and no log or page gets a line that it did not write."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await recovery.halt("lost the feed:\nread\x1b[31m  timeout\r\n")
    assert recovery.get_health_status()["halt"]["reason"] == "lost the feed: read [31m timeout"
    await recovery.halt("\n")
    assert recovery.get_health_status()["halt"]["reason"] == "'\\n'"
    await recovery.aclose()
