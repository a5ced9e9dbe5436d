"""The ASGI app, asked as a framework asks it: what is alive, ready and healthy, and who may change it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry, Counter

from shockproof import ErrorRecoveryService, RetryBudget, ServiceStatus
from shockproof.endpoints import health_app
from shockproof.endpoints.asgi import AsgiApp
from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.testing import VirtualClock, cancel_at_each_await

pytestmark = pytest.mark.asyncio

TOKEN = "correct-horse-battery-staple"


class Answered(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]


async def ask(
    app: AsgiApp,
    method: str,
    path: str,
    *,
    body: bytes | list[bytes] = b"",
    token: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    **scope: Any,
) -> Answered:
    """One request by the ASGI protocol; what breaks it fails the test."""
    pieces = body if isinstance(body, list) else [body]
    given = [*headers] if token is None else [*headers, ("authorization", f"Bearer {token}")]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    plain, _, query = path.partition("?")
    whole = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": plain,
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
        **scope,
    }
    await app(whole, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert [one["type"] for one in rest] == ["http.response.body"]
    text = rest[0]["body"].decode()
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    if method != "HEAD":
        assert int(found["content-length"]) == len(rest[0]["body"])
    return Answered(start["status"], text, found)


async def break_down(recovery: ErrorRecoveryService, name: str, *, critical: bool = False) -> None:
    """Open the circuit of a service."""

    async def fails() -> None:
        raise ConnectionError("reset")

    broken = recovery.service(
        name, critical=critical, circuit_threshold=1, circuit_timeout=60.0, max_retries=0
    )
    with pytest.raises(ConnectionError):
        await broken.call(fails)
    assert recovery.is_circuit_open(name)


async def test_everything_is_fine_at_the_start(recovery: ErrorRecoveryService) -> None:
    """Short answers for probes, one line a check for people."""
    recovery.service("broker")
    app = health_app(recovery)
    assert (await ask(app, "GET", "/livez"))[:2] == (200, "ok\n")
    assert (await ask(app, "GET", "/readyz"))[:2] == (200, "ok\n")
    assert (await ask(app, "GET", "/livez?verbose"))[:2] == (200, "[+]event_loop ok\nlivez check passed\n")
    verbose = await ask(app, "GET", "/readyz?verbose")
    assert verbose.text.splitlines() == [
        "[+]services/broker ok",
        "[+]error_log ok",
        "[+]journal ok",
        "[+]halt ok",
        "readyz check passed",
    ]
    assert verbose.headers["content-type"] == "text/plain; charset=utf-8"
    assert verbose.headers["cache-control"] == "no-store"


async def test_an_open_circuit_warns_and_leaves_the_pod_alone(recovery: ErrorRecoveryService) -> None:
    """Restarting the program would not bring the news back."""
    app = health_app(recovery)
    await break_down(recovery, "news")
    assert (await ask(app, "GET", "/livez")).status == 200
    assert (await ask(app, "GET", "/readyz"))[:2] == (200, "ok\n")
    verbose = await ask(app, "GET", "/readyz?verbose=1")
    assert verbose.status == 200
    assert "[!]services/news warns: unavailable, circuit open\n" in verbose.text
    health = await ask(app, "GET", "/health")
    assert health.status == 200
    assert json.loads(health.text)["status"] == "warn"


async def test_the_open_circuit_of_a_critical_service_is_not_ready_until_it_may_be_probed(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It fails by name, kills nobody, and lets calls come again when the circuit is half-open."""
    app = health_app(recovery)
    await break_down(recovery, "venue", critical=True)
    assert (await ask(app, "GET", "/livez")).status == 200
    not_ready = await ask(app, "GET", "/readyz")
    assert not_ready.status == 503
    assert not_ready.text.splitlines()[0] == "[-]services/venue failed: critical, unavailable, circuit open"
    assert not_ready.text.splitlines()[-1] == "readyz check failed"
    assert (await ask(app, "GET", "/health")).status == 503
    assert (await ask(app, "GET", "/readyz/services/venue")).status == 503
    assert (await ask(app, "GET", "/readyz/journal"))[:2] == (200, "ok\n")
    clock.advance(61.0)
    assert (await ask(app, "GET", "/readyz")).status == 200
    assert (
        "[!]services/venue warns: degraded, circuit half-open"
        in (await ask(app, "GET", "/readyz?verbose")).text
    )


async def test_a_halt_warns_with_its_reason(recovery: ErrorRecoveryService) -> None:
    """A program that is halted still reads and winds down: it is no reason to end it."""
    await recovery.halt("lost the risk feed")
    verbose = await ask(health_app(recovery), "GET", "/readyz?verbose")
    assert verbose.status == 200
    assert "[!]halt warns: halted: lost the risk feed\n" in verbose.text


async def test_what_is_sent_and_not_kept_warns(recovery: ErrorRecoveryService) -> None:
    """It goes out all the same. A program that keeps nothing is asked nothing."""
    app, kept = health_app(recovery), recovery._kept_sends
    assert "kept_sends" not in (await ask(app, "GET", "/readyz?verbose")).text
    kept.is_on = True
    assert "[+]kept_sends ok\n" in (await ask(app, "GET", "/readyz?verbose")).text
    kept.last_error = "OSError: no space"
    assert "[!]kept_sends warns: degraded\n" in (await ask(app, "GET", "/readyz?verbose")).text
    (check,) = json.loads((await ask(app, "GET", "/health")).text)["checks"]["kept_sends:state"]
    assert (check["observedValue"], check["status"]) == ("degraded", "warn")


async def test_health_has_the_form_that_monitoring_knows(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A check for each circuit and each status, pass, warn or fail as /readyz has it, and the word for all of them."""
    app = health_app(recovery)
    recovery.service("quotes")

    async def health() -> tuple[int, Any]:
        answer = await ask(app, "GET", "/health")
        assert answer.headers["content-type"] == "application/health+json"
        assert answer.headers["cache-control"] == "no-store"
        return answer.status, json.loads(answer.text)

    def seen(told: Any, check: str) -> tuple[str, str]:
        (one,) = told["checks"][check]
        assert datetime.fromisoformat(one["time"]).tzinfo is not None
        return one["observedValue"], one["status"]

    status, told = await health()
    assert (status, told["status"], "output" in told) == (200, "pass", False)
    assert sorted(told["checks"]) == [
        "error_log:state",
        "halt:state",
        "journal:state",
        "quotes:breaker",
        "quotes:status",
    ]
    await break_down(recovery, "news")
    status, told = await health()
    assert (status, told["status"]) == (200, "warn")
    assert told["output"] == "services/news: unavailable, circuit open"
    assert seen(told, "news:breaker") == ("open", "warn")
    assert seen(told, "news:status") == ("unavailable", "warn")
    assert seen(told, "quotes:breaker") == ("closed", "pass")
    await break_down(recovery, "venue", critical=True)
    status, told = await health()
    assert (status, told["status"]) == (503, "fail")
    assert told["output"] == "services/venue: critical, unavailable, circuit open, and 1 more"
    assert seen(told, "venue:breaker") == ("open", "fail")
    clock.advance(61.0)
    await recovery.halt("lost the risk feed")
    status, told = await health()
    assert (status, told["status"]) == (200, "warn")
    assert seen(told, "venue:breaker") == ("half-open", "warn")
    assert seen(told, "halt:state") == ("halted", "warn")
    assert told["checks"]["halt:state"][0]["output"] == "halted: lost the risk feed"


async def test_a_loop_that_is_watched_is_a_check_of_its_own(tmp_path: Path, clock: VirtualClock) -> None:
    """It answers again, and was too late for what was due."""
    async with ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", clock=clock, loop_monitor=True
    ) as recovery:
        app = health_app(recovery)
        assert "[+]event_loop ok" in (await ask(app, "GET", "/readyz?verbose")).text
        await clock.sleep(1.0)
        clock.advance(2.0)
        await clock.sleep(0.1)
        assert "[!]event_loop warns: degraded" in (await ask(app, "GET", "/readyz?verbose")).text
        told = json.loads((await ask(app, "GET", "/health")).text)
        assert (told["status"], told["checks"]["event_loop:state"][0]["status"]) == ("warn", "warn")


async def test_verbose_health_has_all_that_the_service_says(recovery: ErrorRecoveryService) -> None:
    """Key for key, names that sound like secrets included."""
    recovery.service("token_service", rate_limit="5/s", retry_budget=RetryBudget(), max_concurrent=3)
    await break_down(recovery, "api_key=store")
    answered = await ask(health_app(recovery), "GET", "/health?verbose")
    said = json.loads(answered.text)["health"]
    assert said["services"]["token_service"] == recovery.get_health_status()["services"]["token_service"]
    assert said.keys() == recovery.get_health_status().keys()
    assert (await ask(health_app(recovery), "GET", "/health/?verbose")).text == answered.text
    assert "health" not in json.loads((await ask(health_app(recovery), "GET", "/health?verbose=0")).text)


async def test_no_secret_is_in_any_answer(recovery: ErrorRecoveryService) -> None:
    """Neither a registered one, nor the token, in reasons, names and errors of the disk."""
    recovery.register_secret("hunter2-hunter2")
    app = health_app(recovery, token=TOKEN)
    recovery.service("account of hunter2-hunter2")
    recovery.service("venue")
    said = await ask(
        app, "POST", "/halt", body=f"key {TOKEN} leaked, and hunter2-hunter2".encode(), token=TOKEN
    )
    assert said.status == 200
    assert recovery.get_health_status()["halt"]["reason"] == "key *** leaked, and ***"
    await ask(app, "POST", "/services/venue/force-open", body=f"as {TOKEN}".encode(), token=TOKEN)
    assert recovery.get_health_status()["services"]["venue"]["circuit_mode_reason"] == "as ***"
    recovery.set_circuit_mode("venue", "forced-open", "asked by hunter2-hunter2")
    texts = [
        (await ask(app, "GET", path, token=TOKEN)).text
        for path in (
            "/health",
            "/health?verbose",
            "/readyz?verbose",
            "/readyz/nonsense",
            "/livez",
            "/nonsense",
        )
    ]
    texts.append((await ask(app, "POST", f"/services/{TOKEN}/reset", token=TOKEN)).text)
    texts.append((await ask(app, "POST", "/resume", token=f"{TOKEN}x")).text)
    assert [text for text in texts if "hunter2" in text or TOKEN in text] == []


async def test_a_name_cannot_forge_a_line(recovery: ErrorRecoveryService) -> None:
    """A service is named by data of the venue, perhaps: each check stays one line."""
    recovery.service("news\n[-]services/venue failed: critical")
    recovery.service("half \ud800 a pair")
    verbose = await ask(health_app(recovery), "GET", "/readyz?verbose")
    assert len(verbose.text.splitlines()) == 6


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/healthy", 404, None),
        ("GET", "/readyz/services/nobody", 404, None),
        ("GET", "/livez/nonsense", 404, None),
        ("POST", "/services//reset", 404, None),
        ("POST", "/services/venue/explode", 404, None),
        ("POST", "/reset", 404, None),
        ("POST", "/health", 405, "GET, HEAD"),
        ("DELETE", "/livez", 405, "GET, HEAD"),
        ("GET", "/services/venue/reset", 405, "POST"),
        ("GET", "/halt", 405, "POST"),
        ("PUT", "/resume", 405, "POST"),
    ],
)
async def test_what_is_not_there_is_refused(
    recovery: ErrorRecoveryService, method: str, path: str, status: int, allow: str | None
) -> None:
    """With what is allowed instead."""
    answered = await ask(health_app(recovery, token=TOKEN), method, path, token=TOKEN)
    assert answered.status == status
    assert answered.headers.get("allow") == allow


async def test_head_is_the_get_without_its_body(recovery: ErrorRecoveryService) -> None:
    """The length included."""
    app = health_app(recovery)
    got, head = await ask(app, "GET", "/livez"), await ask(app, "HEAD", "/livez")
    assert head == (got.status, "", got.headers)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("authorization", f"Bearer {TOKEN}x"),),
        (("authorization", f"Bearer {TOKEN[:-1]}"),),
        (("authorization", "Bearer "),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", TOKEN),),
        (("authorization", "Bearer \xff\xff"),),
        (("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")),
        (("x-token", TOKEN),),
    ],
)
@pytest.mark.parametrize("path", ["/services/venue/reset", "/services/venue/force-open", "/halt", "/resume"])
async def test_whoever_has_not_the_token_changes_nothing(
    recovery: ErrorRecoveryService, path: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """Nor one that is nearly right, nor one that is given twice."""
    await break_down(recovery, "venue")
    before = recovery.get_health_status()
    answered = await ask(health_app(recovery, token=TOKEN), "POST", path, headers=headers, body=b"why")
    assert answered.status == 401
    assert answered.headers["www-authenticate"] == "Bearer"
    assert recovery.get_health_status() == before


@pytest.mark.parametrize("path", ["/services/venue/reset", "/services/venue/force-open", "/halt", "/resume"])
async def test_without_a_configured_token_nobody_changes_anything(
    recovery: ErrorRecoveryService, path: str
) -> None:
    """Whatever is sent as one."""
    await break_down(recovery, "venue")
    before = recovery.get_health_status()
    for given in (None, "", "None", TOKEN):
        answered = await ask(health_app(recovery), "POST", path, token=given, body=b"why")
        assert answered.status == 403
        assert "token=" in answered.text
    assert recovery.get_health_status() == before


async def test_a_circuit_is_reset_held_open_and_let_go(recovery: ErrorRecoveryService) -> None:
    """With the reason where health shows it; the name of a service may hold a slash."""
    app = health_app(recovery, token=TOKEN)
    await break_down(recovery, "EUR/USD")

    async def post(what: str, body: bytes = b"") -> tuple[int, str]:
        return (await ask(app, "POST", f"/services/EUR/USD/{what}", body=body, token=TOKEN))[:2]

    assert await post("reset") == (200, "reset\n")
    assert not recovery.is_circuit_open("EUR/USD")
    assert await post("force-open", b"maintenance at the venue\n") == (200, "forced open\n")
    health = recovery.get_health_status()["services"]["EUR/USD"]
    assert (health["circuit_mode"], health["circuit_mode_reason"]) == (
        "forced-open",
        "maintenance at the venue",
    )
    assert await post("reset") == (200, "reset; it is held open until /release\n")
    assert recovery.is_circuit_open("EUR/USD")
    assert await post("release") == (200, "released\n")
    assert not recovery.is_circuit_open("EUR/USD")
    assert recovery.get_service_status("EUR/USD") is ServiceStatus.OPERATIONAL
    for what in ("reset", "force-open", "release"):
        assert (await ask(app, "POST", f"/services/nobody/{what}", token=TOKEN)).status == 404
    assert list(recovery.get_all_service_statuses()) == ["EUR/USD"]


async def test_trading_is_halted_and_resumed_durably(recovery: ErrorRecoveryService) -> None:
    """A halt says why, or is none."""
    app = health_app(recovery, token=TOKEN)
    assert (await ask(app, "POST", "/halt", token=TOKEN)).status == 400
    assert not recovery.get_health_status()["halted"]
    assert (await ask(app, "POST", "/halt", body=[b"lost the ", b"risk feed"], token=TOKEN))[:2] == (
        200,
        "halted\n",
    )
    halt = recovery.get_health_status()["halt"]
    assert (halt["reason"], halt["is_durable"]) == ("lost the risk feed", True)
    assert (recovery.state_dir / "halted.json").exists()
    assert (await ask(app, "POST", "/resume", token=TOKEN))[:2] == (200, "resumed\n")
    assert not (recovery.state_dir / "halted.json").exists()


async def test_a_halt_that_the_disk_refuses_is_in_force_and_says_so(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who halts has to know that the next life would trade."""

    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SystemFiles, "replace", refuse)
        answered = await ask(health_app(recovery, token=TOKEN), "POST", "/halt", body=b"no feed", token=TOKEN)
        assert answered.status == 500
        assert answered.text.startswith("halted in memory, and not on the disk: ")
        assert recovery.get_health_status()["halted"]
    await recovery.resume()


@pytest.mark.parametrize("body", [b"two\nlines", b"\x1b[31mred", b"\xff\xfe"])
async def test_a_reason_that_would_spoil_a_log_is_refused(
    recovery: ErrorRecoveryService, body: bytes
) -> None:
    """It stands in errors and on terminals later."""
    answered = await ask(health_app(recovery, token=TOKEN), "POST", "/halt", body=body, token=TOKEN)
    assert answered.status == 400
    assert not recovery.get_health_status()["halted"]


async def test_a_body_without_end_is_not_collected(recovery: ErrorRecoveryService) -> None:
    """It is left when it is too long, whoever sends it."""
    pieces = [b"x" * 4096, b"x", b"never asked for"]
    answered = await ask(health_app(recovery, token=TOKEN), "POST", "/halt", body=pieces, token=TOKEN)
    assert answered.status == 413
    assert pieces == [b"never asked for"]
    assert not recovery.get_health_status()["halted"]


async def test_a_client_that_goes_away_while_it_sends_changes_nothing(recovery: ErrorRecoveryService) -> None:
    """Half a reason is none, and nobody is there to be answered."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"lost", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/halt", "query_string": b"", "headers": headers}
    await health_app(recovery, token=TOKEN)(scope, receive, send)
    assert not recovery.get_health_status()["halted"]


@pytest.mark.parametrize(
    ("root", "path"),
    [
        ("/shockproof", "/shockproof/readyz"),  # Starlette and FastAPI: the whole path
        ("/shockproof", "/readyz"),  # frameworks that cut it
        ("/behind/proxy/", "/behind/proxy/readyz"),
        ("/ready", "/readyz"),  # no border of a path
        ("", "/readyz/"),  # Litestar ends a path with a slash
    ],
)
async def test_it_is_found_wherever_it_is_mounted(
    recovery: ErrorRecoveryService, root: str, path: str
) -> None:
    """Each framework tells a mounted app its path in its own way."""
    assert (await ask(health_app(recovery), "GET", path, root_path=root))[:2] == (200, "ok\n")


async def test_it_is_found_behind_a_proxy_that_cuts_off_what_the_framework_believes_in(
    recovery: ErrorRecoveryService,
) -> None:
    """FastAPI(root_path="/api") and a mount: `root_path` is both, the path holds the mount only."""
    roots = {"root_path": "/api/shockproof", "app_root_path": "/api"}
    for path in ("/shockproof/readyz", "/api/shockproof/readyz"):
        assert (await ask(health_app(recovery), "GET", path, **roots))[:2] == (200, "ok\n")


async def as_litestar_asks(app: AsgiApp, path: str, root: str = "") -> Answered:
    """As Litestar 2.25 calls what is mounted at /shockproof: without the mount, and with a slash at the end."""
    raw = f"{root}/shockproof{path}".encode()
    return await ask(app, "GET", f"{path.rstrip('/')}/", root_path=root, raw_path=raw)


@pytest.mark.parametrize("root", ["", "/api"])
async def test_everything_is_found_below_a_mount_of_litestar(
    recovery: ErrorRecoveryService, root: str
) -> None:
    """The status page with its files, too; a slash that the browser sent is told from one that the framework added."""
    app = health_app(recovery, status_page=True)
    pages = (
        "/livez",
        "/readyz",
        "/health",
        "/status",
        "/status.json",
        "/status/style.css",
        "/status/live.js",
    )
    assert [(await as_litestar_asks(app, path, root)).status for path in pages] == [200] * len(pages)
    assert "<html" in (await as_litestar_asks(app, "/status", root)).text
    asked_for_with_a_slash = await as_litestar_asks(app, "/status/", root)
    assert (asked_for_with_a_slash.status, asked_for_with_a_slash.headers["location"]) == (302, "../status")
    assert (await as_litestar_asks(app, "/", root)).headers["location"] == "status"
    assert (await as_litestar_asks(app, "", root)).status == 404  # "status" would be another place from here


async def test_it_takes_part_in_the_lifespan_of_a_server_and_speaks_nothing_else(
    recovery: ErrorRecoveryService,
) -> None:
    """A server that runs it alone starts and ends it; a WebSocket is closed."""
    app = health_app(recovery)
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    def receive(*kinds: str) -> Any:
        left = [{"type": kind} for kind in kinds]

        async def one() -> dict[str, Any]:
            return left.pop(0)

        return one

    await app({"type": "lifespan"}, receive("lifespan.startup", "lifespan.shutdown"), send)
    await app({"type": "websocket"}, receive("websocket.connect"), send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
    with pytest.raises(ValueError, match="speaks http"):
        await app({"type": "smoke"}, receive(), send)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=nonsense", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_metrics_are_those_of_the_collector(
    recovery: ErrorRecoveryService, accept: str, content_type: str
) -> None:
    """In the form that Prometheus asks for."""
    await break_down(recovery, "venue")
    answered = await ask(health_app(recovery), "GET", "/metrics", headers=(("accept", accept),))
    assert answered.status == 200
    assert answered.headers["content-type"].startswith(content_type)
    assert 'shockproof_calls_total{outcome="failure",service="venue"} 1.0\n' in answered.text


async def test_metrics_of_a_registry_of_ones_own_are_those_that_are_shown(
    recovery: ErrorRecoveryService,
) -> None:
    """A program has numbers of its own, and one page for all."""
    registry = CollectorRegistry()
    Counter("orders", "Sent.", registry=registry).inc(3)
    answered = await ask(health_app(recovery, registry=registry), "GET", "/metrics")
    assert "orders_total 3.0\n" in answered.text
    assert "shockproof" not in answered.text


@pytest.mark.parametrize(
    ("token", "error"),
    [
        (b"sixteen-bytes-or-so", TypeError),
        (True, TypeError),
        ("", ValueError),
        ("fifteen-letters", ValueError),
        ("sixteen letters and spaces", ValueError),
        ("sixteen-letters-\u00e4", ValueError),
    ],
)
async def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(
    recovery: ErrorRecoveryService, token: Any, error: type[Exception]
) -> None:
    """With the way to make one, and without what was given."""
    with pytest.raises(error, match="token must be") as raised:
        health_app(recovery, token=token)
    if token:
        assert str(token) not in str(raised.value)


async def test_a_halt_whose_request_is_cancelled_is_in_force(recovery: ErrorRecoveryService) -> None:
    """At whichever wait for the disk it is cut off."""
    app = health_app(recovery, token=TOKEN)
    waits = 0
    async for run in cancel_at_each_await(lambda: ask(app, "POST", "/halt", body=b"enough", token=TOKEN)):
        waits += run.was_cancelled
        assert recovery.get_health_status()["halt"]["reason"] == "enough"
        await recovery.resume()
    assert waits
