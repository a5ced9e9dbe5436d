"""The status page, asked as a framework asks it: what is on it, who may change what, and what a stream tells."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from shockproof import ErrorRecoveryService
from shockproof.endpoints import health_app
from shockproof.endpoints.asgi import AsgiApp
from shockproof.testing import VirtualClock
from shockproof.views.status import id_of

pytestmark = pytest.mark.asyncio

TOKEN = "correct-horse-battery-staple"
EVIL = '</b><script>alert("1")</script><img src=x onerror=alert(2)>\x1b[31m & "\''


class Answered(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]


class Reading:
    """A request whose answer is read piece by piece, as it comes."""

    def __init__(
        self, app: AsgiApp, method: str, path: str, headers: dict[str, str], body: bytes, *, room: int = 0
    ) -> None:
        plain, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": plain,
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
        self.sent: asyncio.Queue[Any] = asyncio.Queue(room)
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self.told.put_nowait({"type": "http.request", "body": body, "more_body": False})
        self.task = asyncio.ensure_future(app(self.scope, self.told.get, self.sent.put))

    async def start(self) -> tuple[int, dict[str, str]]:
        message = await self.sent.get()
        assert message["type"] == "http.response.start"
        return message["status"], {name.decode(): value.decode() for name, value in message["headers"]}

    async def piece(self) -> str | None:
        """The next piece; None: that was all."""
        message = await self.sent.get()
        return message["body"].decode() if message.get("more_body") else None

    async def event(self) -> tuple[str, Any]:
        """The next event: its id and its data."""
        piece = await self.piece()
        assert piece is not None
        found = re.fullmatch(r"id: (\S+)\nevent: patch\ndata: (.*)\n\n", piece)
        assert found is not None, piece
        return found[1], json.loads(found[2])

    async def leave(self) -> None:
        self.told.put_nowait({"type": "http.disconnect"})
        await self.task


async def ask(
    app: AsgiApp, method: str, path: str, *, form: dict[str, str] | None = None, **headers: str
) -> Answered:
    """One request, and its whole answer."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    body = b"" if form is None else urlencode(form).encode()
    reading = Reading(app, method, path, given, body)
    status, found = await reading.start()
    message = await reading.sent.get()
    await reading.task
    return Answered(status, message["body"].decode(), found)


@asynccontextmanager
async def stream(app: AsgiApp, path: str = "/status/events", **headers: str) -> AsyncIterator[Reading]:
    """A stream that has begun; its reader leaves in the end."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    reading = Reading(app, "GET", path, given, b"")
    status, found = await reading.start()
    assert (status, found["content-type"]) == (200, "text/event-stream")
    assert await reading.piece() == "retry: 500\n\n"
    yield reading
    await reading.leave()


class Page(HTMLParser):
    """What a browser would see: every tag closed, every id once, nothing that is run or loaded from elsewhere."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids)), sorted(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on") or name == "style"]
        assert tag not in ("img", "iframe", "object", "style")
        assert tag != "script" or given.keys() == {"src", "defer"}
        if given.get("id"):
            self.ids.append(str(given["id"]))
        self.links += [str(given[name]) for name in ("href", "src", "action") if name in given]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} ends, and {self.open} are open"

    def handle_data(self, data: str) -> None:
        self.words += data


async def trip(recovery: ErrorRecoveryService, name: str, text: str = "reset") -> None:
    """Open the circuit of a service."""

    async def fails() -> None:
        raise ConnectionError(text)

    with pytest.raises(ConnectionError):
        await recovery.service(name, circuit_threshold=1, max_retries=0).call(fails)


async def test_there_is_no_page_unless_it_is_asked_for(recovery: ErrorRecoveryService) -> None:
    """It tells more than the health does, and recording what it draws is not free."""
    app = health_app(recovery, token=TOKEN)
    for path in ("/status", "/status.json", "/status/events", "/status/change", "/status/style.css", "/"):
        assert (await ask(app, "GET", path)).status == 404
    assert recovery._listeners.active == ()


async def test_the_page_is_whole_without_a_script_and_nothing_on_it_comes_from_elsewhere(
    recovery: ErrorRecoveryService,
) -> None:
    """Everything that the issue asks for has its place, and the policy allows no more than these files."""
    app = health_app(recovery, token=TOKEN, status_page=True)
    await trip(recovery, "news", "the feed is down")
    async with recovery.operation("rebalance", key="today"):
        answer = await ask(app, "GET", "/status")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    page = Page(answer.text)
    for words in (
        "Unhealthy: 1 unavailable, 1 circuit open",
        "news",
        "the feed is down",
        "rebalance",
        "circuit opened",
    ):
        assert words in page.words
    assert [link for link in page.links if re.match(r"[a-z]+:|/", link)] == []  # it may be mounted anywhere
    assert 'http-equiv="refresh"' in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    for link in {link for link in page.links if link.startswith("status/") and "?" not in link}:
        file = await ask(app, "GET", f"/{link}")
        assert file.status == 200, link
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.text)


async def test_what_a_reader_hears_has_its_spaces_and_names(recovery: ErrorRecoveryService) -> None:
    """The words of a cell are not run together, one operation is not several, and the table has a name."""
    app = health_app(recovery, token=TOKEN, status_page=True)
    recovery.service("venue", critical=True)
    async with recovery.operation("rebalance", key="today"):
        text = (await ask(app, "GET", "/status")).text
    assert "operational: venue, critical" in Page(text).words
    assert "Pending1 operation" in Page(text).words
    assert "Pending1 operations" not in Page(text).words
    assert '<table role="table" aria-labelledby="services-h"' in text


async def test_what_others_wrote_is_text(recovery: ErrorRecoveryService) -> None:
    """Names, errors, reasons and keys may hold markup, and secrets are hidden."""
    app = health_app(recovery, token=TOKEN, status_page=True)
    await trip(recovery, EVIL, f"{EVIL} password=hunter2")
    recovery.set_circuit_mode(EVIL, "forced-open", EVIL)
    await recovery.halt(EVIL)
    async with recovery.operation(EVIL, key=EVIL) as operation:
        await operation.checkpoint(note=EVIL, token="hunter2")
        page = await ask(app, "GET", "/status?" + urlencode({"q": "</b>"}))
        form = await ask(app, "GET", f"/status/change?what=release&service={id_of(EVIL)}")
        async with stream(app) as reading:
            _, event = await reading.event()
    for text in (page.text, form.text, *event["parts"].values()):
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "hunter2" not in text
        assert "\x1b" not in text
    Page(page.text)
    Page(form.text)
    assert "alert(2)" in page.text  # it is there to be read


async def test_a_journal_of_which_something_is_missing_is_told(recovery: ErrorRecoveryService) -> None:
    """Until it is trusted again: orders that it does not know are looked up first."""
    journal = recovery.state_dir / "journal"
    journal.mkdir(parents=True)
    (journal / "incomplete.json").write_text('{"reason": "somebody removed it"}')
    async with recovery.operation("rebalance", key="today"):
        page = (await ask(health_app(recovery, status_page=True), "GET", "/status")).text
    assert "Something is missing from the journal: somebody removed it." in page


async def test_an_account_that_another_machine_may_have_traded_is_told_and_is_no_alarm(
    recovery: ErrorRecoveryService,
) -> None:
    """Orders are slower for it, and nothing is wrong; the words are a person's own."""
    journal = recovery.state_dir / "journal"
    journal.mkdir(parents=True)
    why = "'account <b>7</b>' was owned by a process with another journal"
    mark = {"reason": why, "lost": None, "owned_elsewhere": {"why": why, "since": None}}
    (journal / "incomplete.json").write_text(json.dumps(mark))
    async with recovery.operation("rebalance", key="today"):
        text = (await ask(health_app(recovery, status_page=True), "GET", "/status")).text
    assert f"1. Orders: {why}." in Page(text).words
    assert "<b>7</b>" not in text
    assert 'class="banner" role="alert"></div>' in text
    assert "Healthy" in Page(text).words


async def test_what_is_sent_and_not_kept_is_told(recovery: ErrorRecoveryService) -> None:
    """After a kill nobody would know of it."""
    recovery._kept_sends.is_on, recovery._kept_sends.last_error = True, "OSError: <b>full</b>"
    page = (await ask(health_app(recovery, status_page=True), "GET", "/status")).text
    assert "What is sent under rate limits is not kept: OSError: <b>full</b>." in Page(page).words
    assert "<b>full</b>" not in page


async def test_what_happened_several_times_at_one_moment_is_there_as_often(
    recovery: ErrorRecoveryService,
) -> None:
    """Each has an id of its own, which it keeps when more come: nothing on the page moves that has not changed."""
    app = health_app(recovery, status_page=True)
    venue = recovery.service("venue", max_retries=0, circuit_threshold=None)

    async def fails() -> None:
        raise ConnectionError("reset")

    async def ids() -> list[str]:
        async with stream(app) as reading:
            return list((await reading.event())[1]["lists"]["errors"])

    for _ in range(3):
        with pytest.raises(ConnectionError):
            await venue.call(fails)
    before = await ids()
    assert len(set(before)) == 3
    Page((await ask(app, "GET", "/status")).text)
    await recovery._clock.sleep(2.0)
    with pytest.raises(ConnectionError):
        await venue.call(fails)
    assert (await ids())[1:] == before


async def test_the_pictures_of_a_young_program_begin_with_a_minute(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """And grow with it."""
    app = health_app(recovery, status_page=True)
    recovery.service("venue")
    for seconds, words in ((30.0, "Last 1 min"), (200.0, "Last 5 min"), (200.0, "Last 15 min")):
        await clock.sleep(seconds)
        assert words in (await ask(app, "GET", "/status")).text


async def test_an_error_is_shown_whole_with_its_trace(recovery: ErrorRecoveryService) -> None:
    """What the line of the stream leads to; the secrets are hidden there, too, and what has left the memory is said to have."""
    app = health_app(recovery, status_page=True)
    with recovery.context(order=EVIL, token="hunter2"):
        await trip(recovery, EVIL, f"first line\n{EVIL} password=hunter2")
    page = await ask(app, "GET", "/status")
    (link,) = re.findall(r'href="(status/error\?id=\w+)"', page.text)
    error = await ask(app, "GET", f"/{link}")
    assert error.status == 200
    shown = Page(error.text)
    for words in ("ConnectionError", "first line", "in fails", "Traceback (most recent call last)", "order"):
        assert words in shown.words
    assert "hunter2" not in error.text
    assert "<script>" not in error.text
    recovery.clear_error_history()
    assert (await ask(app, "GET", f"/{link}")).status == 404


async def test_many_services_are_bounded_and_found_by_a_filter(recovery: ErrorRecoveryService) -> None:
    """A thousand rows would be read by nobody, and cost the program too much."""
    for number in range(300):
        recovery.service(f"feed-{number}")
    app = health_app(recovery, status_page=True)
    page = (await ask(app, "GET", "/status")).text
    assert page.count('<tr role="row" id=') == 50
    assert (await ask(app, "GET", "/status?most=9999")).text.count('<tr role="row" id=') == 200
    assert (await ask(app, "GET", "/status?q=FEED-29")).text.count('<tr role="row" id=') == 11
    found = json.loads((await ask(app, "GET", "/status.json?q=feed-299&most=5")).text)
    assert [one["name"] for one in found["services"]] == ["feed-299"]
    assert found["counts"]["services"] == 300


async def test_it_can_be_mounted_below_any_path(recovery: ErrorRecoveryService) -> None:
    """All ways inside of it are relative, also the one from its root."""
    app = health_app(recovery, status_page=True)
    web = FastAPI()
    web.mount("/bot", app)
    for mounted in (Starlette(routes=[Mount("/bot", app=app)]), web):
        assert "shockproof" in (await ask(mounted, "GET", "/bot/status")).text
        assert (
            (await ask(mounted, "GET", "/bot/status/live.js")).headers["content-type"].startswith("text/java")
        )
        root = await ask(mounted, "GET", "/bot/")
        assert (root.status, root.headers["location"]) == (302, "status")
        slash = await ask(mounted, "GET", "/bot/status/")
        assert (slash.status, slash.headers["location"]) == (302, "../status")
        async with stream(mounted, "/bot/status/events") as reading:
            assert (await reading.event())[1]["whole"]


async def test_nothing_can_be_changed_without_a_token_that_is_configured(
    recovery: ErrorRecoveryService,
) -> None:
    """And no link leads to where it could not."""
    recovery.service("venue")
    app = health_app(recovery, status_page=True)
    page = (await ask(app, "GET", "/status")).text
    assert "status/change" not in page
    assert "no token is configured" in page
    where = f"/status/change?what=force-open&service={id_of('venue')}"
    assert (await ask(app, "GET", where)).status == 403
    form = {"what": "force-open", "service": id_of("venue"), "token": ""}
    assert (await ask(app, "POST", "/status/change", form=form)).status == 403
    assert not recovery.is_circuit_open("venue")


async def test_each_change_is_asked_for_and_made_with_the_token(recovery: ErrorRecoveryService) -> None:
    """Ask, confirm, done; the service may be called anything."""
    name = "a/b c?&<x>"
    app = health_app(recovery, token=TOKEN, status_page=True)
    await trip(recovery, name)
    service = id_of(name)

    async def change(what: str, **more: str) -> Answered:
        where = {"what": what, **({} if what in ("halt", "resume") else {"service": service})}
        question = await ask(app, "GET", f"/status/change?{urlencode(where)}")
        assert question.status == 200
        assert 'method="post"' in question.text
        Page(question.text)
        form = {**where, "token": TOKEN, **more}
        answer = await ask(app, "POST", "/status/change", form=form, origin="http://bot", host="bot")
        Page(answer.text)
        return answer

    assert "reset" in (await change("reset")).text
    assert not recovery.is_circuit_open(name)
    assert "held open" not in (await ask(app, "GET", "/status")).text
    assert "forced open" in (await change("force-open", reason="maintenance")).text
    assert "held open" in (await ask(app, "GET", "/status")).text  # at once, and not a second later
    assert recovery.is_circuit_open(name)
    assert recovery.get_health_status()["services"][name]["circuit_mode_reason"] == "maintenance"
    assert "released" in (await change("release")).text
    assert not recovery.is_circuit_open(name)
    assert "halted" in (await change("halt", reason="lost the feed")).text
    assert recovery.get_health_status()["halt"]["reason"] == "lost the feed"
    assert "resumed" in (await change("resume")).text
    assert not recovery.get_health_status()["halted"]


@pytest.mark.parametrize(
    ("form", "headers", "status", "words"),
    [
        ({"token": "wrong-wrong-wrong-wrong"}, {}, 403, "not the token"),
        ({"token": ""}, {}, 403, "not the token"),
        ({"token": "ü" * 20}, {}, 403, "not the token"),
        ({}, {"sec_fetch_site": "cross-site"}, 403, "not this one"),
        ({}, {"sec_fetch_site": "same-site"}, 403, "not this one"),
        ({}, {"origin": "https://evil.example", "host": "127.0.0.1:9090"}, 403, "not this one"),
        ({}, {"origin": "null", "host": "127.0.0.1:9090"}, 403, "not this one"),
        ({"service": "0" * 12}, {}, 404, "no such"),
        ({"what": "delete"}, {}, 404, "no such"),
        ({"reason": "two\nlines"}, {}, 400, "one line"),
        ({"what": "halt", "service": ""}, {}, 400, "reason is needed"),
        ({"what": "halt"}, {}, 404, "no such"),
    ],
)
async def test_a_change_that_is_not_meant_is_not_made(
    recovery: ErrorRecoveryService, form: dict[str, str], headers: dict[str, str], status: int, words: str
) -> None:
    """A wrong token, a page of somebody else, or nonsense; what was typed is still there, but for the token."""
    recovery.service("venue")
    app = health_app(recovery, token=TOKEN, status_page=True)
    whole = {"what": "force-open", "service": id_of("venue"), "token": TOKEN, **form}
    answer = await ask(app, "POST", "/status/change", form=whole, **headers)
    assert (answer.status, words in answer.text) == (status, True), answer.text
    assert TOKEN not in answer.text
    assert not recovery.is_circuit_open("venue")
    assert not recovery.get_health_status()["halted"]


async def test_a_stream_tells_everything_once_and_then_what_changes(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A calm program sends little; what is gone is taken off."""
    recovery.service("calm")
    recovery.service("venue")
    app = health_app(recovery, token=TOKEN, status_page=True)
    await clock.sleep(1_000.0)
    async with stream(app) as reading:
        _, everything = await reading.event()
        assert everything["whole"]
        rows = [f"s-{id_of('calm')}", f"s-{id_of('venue')}"]
        assert everything["lists"]["rows"] == rows
        assert {*rows, "verdict", "tiles", "clock"} <= everything["parts"].keys()
        seen = clock.monotonic()
        _, tick = await reading.event()
        assert clock.monotonic() - seen == 1.0
        assert "clock" in tick["parts"]
        assert not tick["whole"]
        recovery.set_circuit_mode("venue", "forced-open", "tests")
        _, news = await reading.event()
        assert news["lists"]["rows"] == rows[::-1]  # in trouble first
        assert "held open" in news["parts"][rows[1]]
        assert rows[0] not in news["parts"]
        assert news["lists"]["happenings"]
        recovery.retire_service("calm")
        _, less = await reading.event()
        assert less["lists"]["rows"] == [rows[1]]


async def test_who_comes_back_is_told_what_was_missed(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """By the id of the last event, or by what the page is marked with; an id of another life means everything."""
    recovery.service("venue")
    app = health_app(recovery, status_page=True)
    await clock.sleep(1_000.0)
    marked = re.search(r'data-version="(\S+)"', (await ask(app, "GET", "/status")).text)
    assert marked is not None
    await clock.sleep(1.0)
    async with stream(app, f"/status/events?after={marked[1]}") as reading:
        version, news = await reading.event()
        assert not news["whole"]
        assert f"s-{id_of('venue')}" not in news["parts"]
    recovery.set_circuit_mode("venue", "forced-open")
    await clock.sleep(7.0)
    async with stream(app, f"/status/events?after={marked[1]}", last_event_id=version) as reading:
        _, missed = await reading.event()
        assert not missed["whole"]
        assert f"s-{id_of('venue')}" in missed["parts"]
    life = version.partition("-")[0]
    for nonsense in ("", "0-1", f"{life}-999", f"{life}-x", f"{life}-²", "-" * 50):
        async with stream(app, last_event_id=nonsense) as reading:
            assert (await reading.event())[1]["whole"]


async def test_a_stream_ends_by_itself_and_goes_on_in_the_next(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """A server that waits for its connections when it ends does not wait for ever."""
    app = health_app(recovery, status_page=True)
    began = clock.monotonic()
    async with stream(app) as reading:
        while await reading.piece() is not None:
            pass
        assert clock.monotonic() - began == 10.0
    assert reading.task.done()


async def test_readers_are_bounded_and_those_who_leave_make_room(recovery: ErrorRecoveryService) -> None:
    """Also those who leave while they wait for the next event."""
    app = health_app(recovery, status_page=True)
    readings = [Reading(app, "GET", "/status/events", {}, b"") for _ in range(16)]
    for reading in readings:
        await reading.start()
        await reading.piece()
    refused = await ask(app, "GET", "/status/events")
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    await readings[3].leave()
    async with stream(app) as reading:
        assert (await reading.event())[1]["whole"]
    readings[4].task.cancel()
    await asyncio.wait([readings[4].task])
    assert readings[4].task.cancelled()
    for reading in readings:
        if not reading.task.done():
            await reading.leave()
    assert (await ask(app, "HEAD", "/status/events")).status == 200


async def test_a_reader_that_does_not_read_loses_its_place(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Its server takes no more of it; sixteen such would keep everybody else out."""
    app = health_app(recovery, status_page=True)
    reading = Reading(app, "GET", "/status/events", {}, b"", room=1)
    await reading.start()
    began = clock.monotonic()
    await reading.task
    assert 10.0 <= clock.monotonic() - began < 20.0
    assert not reading.sent.empty()


async def test_readers_of_the_same_share_one_picture(
    recovery: ErrorRecoveryService, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many watch, the program is asked once a second; and nobody is asked when nobody watches."""
    from shockproof.endpoints import status_view

    asked: list[str] = []
    before = status_view.status_on_loop

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(options["matching"])
        return before(*args, **options)

    monkeypatch.setattr(status_view, "status_on_loop", counted)
    app = health_app(recovery, status_page=True)
    await clock.sleep(100.0)
    assert asked == []
    async with stream(app) as one, stream(app) as other, stream(app, "/status/events?q=x") as third:
        for _ in range(5):
            for reading in (one, other, third):
                await reading.event()
    assert 5 <= asked.count("") <= 7
    assert 5 <= asked.count("x") <= 7


async def test_a_stream_makes_room_for_others_while_it_draws(recovery: ErrorRecoveryService) -> None:
    """A few rows at a time: a program with many services is not held up by who watches it."""
    for number in range(200):
        recovery.service(f"feed-{number}")
    app = health_app(recovery, status_page=True)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with stream(app, "/status/events?most=200") as reading:
        counting = asyncio.ensure_future(count())
        _, everything = await reading.event()
        counting.cancel()
        await asyncio.wait([counting])
        assert len(everything["lists"]["rows"]) == 200
    assert turns >= 20
