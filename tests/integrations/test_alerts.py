"""What Slack, PagerDuty, webhooks and apprise are sent, by real HTTP, by servers that fail."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.alerts import (
    AlertNotSentError,
    AlertRules,
    Alerts,
    Incident,
    Notice,
    PagerDuty,
    Slack,
    Webhook,
)
from shockproof.alerts.target import Target, is_worth_repeating
from shockproof.integrations.apprise import Apprise

if TYPE_CHECKING:
    from tests.integrations.conftest import Misbehaving


pytestmark = pytest.mark.asyncio

INCIDENT = Incident(
    key="service:broker",
    rule="circuit_opened",
    service_name="broker",
    severity="error",
    summary="broker: circuit open: <!channel> & more",
    opened_at=1_767_225_600.0,
    began=0.0,
)


def notice(kind: Any = "opened", incident: Incident = INCIDENT, source: str = "bot") -> Notice:
    return Notice(kind=kind, incident=incident, source=source, at=1_767_225_630.0, lasted=30.0)


async def sent(target: Target, *notices: Notice) -> None:
    await asyncio.to_thread(target.send, notices)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The threads that apprise would keep until the process ends, ended with the test."""
    with ThreadPoolExecutor() as threads:
        monkeypatch.setattr("apprise.apprise._shared_executor", threads)
        yield


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - sockets and threads work at it
            await asyncio.sleep(0.01)


def bodies(server: Misbehaving) -> list[dict[str, Any]]:
    return [json.loads(body) for body in server.bodies]


async def test_slack_gets_one_message_in_which_no_text_can_mention_anybody(server: Misbehaving) -> None:
    """One line for each notice, with the three characters escaped that Slack asks for."""
    await sent(Slack(f"{server.url}/services/T/B/x"), notice(), notice("resolved"))
    assert bodies(server) == [
        {
            "text": ":red_circle: error: broker: circuit open: &lt;!channel&gt; &amp; more (bot)\n"
            ":white_check_mark: resolved after 30 s: broker: circuit open: &lt;!channel&gt; &amp; more (bot)"
        }
    ]
    assert server.requests == ["POST /services/T/B/x HTTP/1.1"]


async def test_pagerduty_is_triggered_and_resolved_under_one_key(server: Misbehaving) -> None:
    """As its Events API v2 has it."""
    server.answers(202)
    await sent(PagerDuty("R0UT1NG", url=server.url), notice(), notice("resolved"))
    trigger, resolve = bodies(server)
    assert trigger == {
        "routing_key": "R0UT1NG",
        "event_action": "trigger",
        "dedup_key": "shockproof:bot:service:broker",
        "payload": {
            "summary": "broker: circuit open: <!channel> & more",
            "source": "bot",
            "severity": "error",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "component": "broker",
            "class": "circuit_opened",
        },
    }
    assert resolve == {
        "routing_key": "R0UT1NG",
        "event_action": "resolve",
        "dedup_key": "shockproof:bot:service:broker",
    }


async def test_a_long_key_is_cut_to_what_pagerduty_takes_and_stays_its_own() -> None:
    """255 characters, and two that differ only at their end stay different."""
    keys = {notice(source="x" * 300 + end).dedup_key for end in "ab"}
    assert [len(key) for key in keys] == [255, 255]


async def test_a_webhook_gets_json_and_its_headers(server: Misbehaving) -> None:
    """Everything that a notice says."""
    await sent(Webhook(server.url, headers={"Authorization": "Bearer abcdef"}), notice())
    assert bodies(server) == [
        {
            "source": "bot",
            "notices": [
                {
                    "kind": "opened",
                    "rule": "circuit_opened",
                    "service_name": "broker",
                    "severity": "error",
                    "summary": "broker: circuit open: <!channel> & more",
                    "dedup_key": "shockproof:bot:service:broker",
                    "opened_at": "2026-01-01T00:00:00+00:00",
                    "at": "2026-01-01T00:00:30+00:00",
                    "lasted": 30.0,
                    "waiting": 0,
                }
            ],
        }
    ]


async def test_apprise_gets_one_message(server: Misbehaving, pool: None) -> None:
    """Through its own client for plain JSON."""
    await sent(Apprise(f"json://127.0.0.1:{server.port}/"), notice(), notice("resolved"))
    (body,) = bodies(server)
    assert body["title"] == "shockproof: bot"
    assert body["message"].splitlines()[1].startswith("resolved after 30 s: broker")
    assert body["type"] == "failure"


async def test_apprise_that_cannot_deliver_is_an_error_to_be_retried(server: Misbehaving, pool: None) -> None:
    """It answers False, which nobody would notice."""
    server.answers(500)
    with pytest.raises(AlertNotSentError, match="the logger 'apprise' says why") as caught:
        await sent(Apprise(f"json://127.0.0.1:{server.port}/"), notice())
    assert is_worth_repeating(caught.value)


async def test_a_url_that_apprise_does_not_know_is_refused_without_showing_it() -> None:
    """It may hold a token."""
    with pytest.raises(ValueError, match=r"does not understand URL no. 1, which begins with 'nonsense://'$"):
        Apprise("nonsense://t0ken")
    with pytest.raises(ValueError, match="urls must be at least one"):
        Apprise()


@pytest.mark.parametrize(
    ("status", "is_repeated"),
    [(301, False), (400, False), (404, False), (408, True), (429, True), (500, True), (503, True)],
)
async def test_the_status_decides_whether_another_attempt_is_worth_it(
    server: Misbehaving, status: int, is_repeated: bool
) -> None:
    """The error says what was answered, and Retry-After with it; a redirect is not followed."""
    server.answers(status, b"no_service", Retry_After="7", Location=f"{server.url}/elsewhere")
    with pytest.raises(AlertNotSentError, match=rf"^answered {status}: no_service$") as caught:
        await sent(Slack(server.url), notice())
    assert is_worth_repeating(caught.value) is is_repeated
    assert caught.value.headers["Retry-After"] == "7"
    assert len(server.requests) == 1


@pytest.mark.parametrize("manner", ["reset", "close", "garbage", "silent"])
async def test_a_server_that_gives_no_answer_is_worth_another_attempt(
    server: Misbehaving, manner: str
) -> None:
    """Cut, garbled, or silent for longer than the timeout."""
    server.manner = manner
    with pytest.raises((OSError, http.client.HTTPException)) as caught:
        await sent(Webhook(server.url, timeout=0.2), notice())
    assert is_worth_repeating(caught.value)


async def test_a_server_that_nobody_reaches_is_worth_another_attempt(nobody: str) -> None:
    """And nothing of the URL but what Python says is in the error."""
    with pytest.raises(OSError, match="refused") as caught:
        await sent(Webhook(f"{nobody}/t0ken"), notice())
    assert is_worth_repeating(caught.value)
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize("manner", ["status 500", "status 429", "reset", "close", "silent"])
async def test_an_alert_arrives_once_the_server_is_well_again(
    server: Misbehaving, recovery: ErrorRecoveryService, manner: str
) -> None:
    """From the failed call to the message, over real sockets; and none is about the sending itself."""
    server.manner = manner
    if manner.startswith("status"):
        server.answers(int(manner.split()[1]), Retry_After="0")
    target = PagerDuty("R0UT1NG", url=server.url, timeout=0.2 if manner == "silent" else 30.0)
    sending: Any = {"base_delay": 0.0, "circuit_threshold": 1000, "max_retries": 1}
    async with Alerts(recovery, [target], every=0.05, source="bot", sending=sending):
        recovery.service("broker")
        recovery.set_circuit_mode("broker", "forced-open", "maintenance")
        await until(lambda: len(server.requests) >= 3)
        server.answers(202)
        if manner == "silent":
            await server.end()
        taken = len(server.requests)
        await until(lambda: len(server.requests) > taken)
    assert {body["dedup_key"] for body in bodies(server)} == {"shockproof:bot:service:broker"}
    assert {body["event_action"] for body in bodies(server)} == {"trigger"}
    assert recovery.get_health_status()["services"]["alerts.pagerduty"]["failures"] >= 2


@pytest.mark.parametrize(
    ("kind", "path"),
    [(Slack, "/services/T0/B0/s3cret-of-a-channel"), (Webhook, "/in?room=7&key=s3cret-of-a-channel")],
)
async def test_the_url_of_a_webhook_is_in_no_log(
    server: Misbehaving,
    recovery: ErrorRecoveryService,
    caplog: pytest.LogCaptureFixture,
    kind: type[Slack | Webhook],
    path: str,
) -> None:
    """Even where the other side sends it back, or the token of it alone."""
    server.answers(404, f"nothing at {server.url}{path}: no s3cret-of-a-channel".encode())
    async with Alerts(recovery, [kind(f"{server.url}{path}")], every=0.05):
        recovery.service("broker")
        recovery.set_circuit_mode("broker", "forced-open")
        await until(lambda: bool(server.requests))
    await recovery.aclose()
    logged = "".join(path.read_text("utf-8") for path in recovery.error_log_dir.rglob("*.jsonl"))
    assert "answered 404: nothing at ***: no ***" in logged
    assert "s3cret" not in logged + caplog.text + str(recovery.get_error_summary())


@pytest.mark.parametrize(
    "url", ["ftp://host/s3cret", "s3cret", "https:///s3cret", "https://host:x/s3cret", "http://host/a s3cret",
            "http://me:s3cret@host/", "http://host/\u00e4s3cret"],
)  # fmt: skip
async def test_a_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    """It may be a secret."""
    with pytest.raises(ValueError, match="url must") as caught:
        Slack(url)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValueError, match="routing_key must be"):
        PagerDuty("")
    with pytest.raises(TypeError, match="url must be a URL, got a value of type int"):
        Webhook(5)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("rule", "service", "severity", "said"),
    [
        ("circuit_opened", "news", "error", "news: circuit open: ConnectionError: reset"),
        ("service_unavailable", "quotes", "error", "quotes: unavailable: ConnectionError: reset"),
        ("critical_error", "risk", "critical", "risk: a call to a critical service failed for good"),
        ("outcome_unknown", "orders", "critical", "orders: nobody knows what a call did"),
        ("records_dropped", "", "warning", "the error log lost"),
        ("disk_failing", "", "critical", "the error log is not written (degraded)"),
    ],
)
@pytest.mark.plays_the_disk
async def test_each_rule_is_told_from_the_trouble_itself_to_the_server(
    server: Misbehaving, tmp_path: Path, rule: str, service: str, severity: str, said: str
) -> None:
    """Nothing in between is played: calls fail, the disk refuses, and a server that fails first is told in the end."""
    off: dict[str, Any] = {field.name: None for field in dataclasses.fields(AlertRules)}
    rules = AlertRules(**{**off, "resolve_after": 60.0, rule: 0.0})

    async def fails() -> None:
        raise ConnectionError("reset")

    def told() -> set[tuple[str, ...]]:
        notices = [one for body in bodies(server) for one in body["notices"]]
        return {(one["kind"], one["rule"], one["service_name"], one["severity"]) for one in notices}

    server.answers(503, Retry_After="0")
    async with ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", max_retries=0, error_log={"max_records": 10}
    ) as recovery:
        services = [
            recovery.service("news", circuit_threshold=1),
            recovery.service("quotes", circuit_threshold=None),
            recovery.service("risk", circuit_threshold=None, critical=True),
            recovery.service("orders", circuit_threshold=None, effect="unsafe"),
        ]
        shutil.rmtree(tmp_path / "errors")
        (tmp_path / "errors").write_text("no directory any more")
        sending: Any = {"base_delay": 0.0, "circuit_threshold": 1000, "max_retries": 3}
        async with Alerts(recovery, [Webhook(server.url)], rules=rules, every=0.02, sending=sending):
            for one in services:
                with pytest.raises(ConnectionError):
                    await one.call(fails)
            for _ in range(50):
                with pytest.raises(ConnectionError):
                    await services[1].call(fails)
            await until(lambda: len(server.requests) >= 2)
            server.answers(200)
            await until(lambda: ("opened", rule, service, severity) in told())
            await until(lambda: recovery.get_health_status()["services"]["alerts.webhook"]["successes"] > 0)
            shutil.move(
                tmp_path / "errors", tmp_path / "moved"
            )  # what waits is written, and nothing is left behind
    assert {one[1] for one in told()} == {rule}
    assert any(one["summary"].startswith(said) for body in bodies(server) for one in body["notices"])
