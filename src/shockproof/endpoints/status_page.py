"""The status page over HTTP: as a page, as JSON, as a stream of what changes, and with what asks before a change."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from shockproof.endpoints.access import comes_from_elsewhere, is_named_by_others, is_token
from shockproof.endpoints.changes import Changes
from shockproof.endpoints.exchange import Answer, Request, Stream, plain
from shockproof.endpoints.status_view import EVERY, StatusView
from shockproof.views.status import MOST_SERVICES, error_by_id, named_by_id, status_on_loop
from shockproof.views.status_error import error_page
from shockproof.views.status_forms import CHANGES, asked, done
from shockproof.views.status_history import StatusHistory

if TYPE_CHECKING:
    from shockproof.service import ErrorRecoveryService

__all__ = ["PAGE", "StatusPage"]

PAGE: Final = "/status"

_PATHS: Final = (PAGE, "/status.json", "/status/events", "/status/change", "/status/error")
_CONTENT: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_POLICY: Final = (
    ("content-security-policy", _CONTENT),
    ("x-frame-options", "DENY"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "same-origin"),  # without any, browsers hide the origin of a form, too
)
# Read as the code is, when this is imported: a page may be made on a loop.
_FILES: Final = {
    f"/status/{name}": Answer(
        200, (files("shockproof.views.status_files") / name).read_bytes(), kind, _POLICY
    )
    for name, kind in (
        ("style.css", "text/css; charset=utf-8"),
        ("live.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    )
}

_LIFE: Final = 10.0
"""
Seconds that a stream lasts before the browser opens the next one, and misses nothing: a server that lets its connections end
before it does waits no longer than that.
"""
_READERS: Final = 16
"""Streams at a time."""
_VIEWS: Final = 16
_MOST_SHOWN: Final = 200
_LONGEST_FILTER: Final = 100


class StatusPage:
    """
    What is answered below ``/status``. It records as long as it is not closed.

    *for_this_machine*: it is for nobody else, who might read it by a name of their own.
    """

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        token: bytes | None,
        changes: Changes,
        *,
        for_this_machine: bool,
    ) -> None:
        self._recovery = recovery
        self._token = token
        self._changes = changes
        self._for_this_machine = for_this_machine
        self._views: dict[tuple[str, int], StatusView] = {}
        self._readers = 0
        self._history = StatusHistory.of(recovery)

    def close(self) -> None:
        """Record no more."""
        self._history.close()

    @staticmethod
    def knows(path: str) -> bool:
        """Whether *path* is one of these."""
        return path in _PATHS or path in _FILES

    async def answer(self, request: Request) -> Answer | Stream:
        """What is answered to a request for a path that it `knows`."""
        path = request.path
        if self._for_this_machine and is_named_by_others(request):
            return plain(421, "this page is for this machine: ask for it by 127.0.0.1 or localhost")
        if path == "/status/change" and request.method == "POST":
            return await self._change(request)
        if request.method not in ("GET", "HEAD"):
            return plain(405, "this can only be read", ("allow", "GET, HEAD"))
        if path in _FILES:
            return _FILES[path]
        query = _fields(request.query)
        if path == "/status/change":
            return self._ask(query)
        if path == "/status/error":
            error = error_by_id(self._recovery, query.get("id", ""))
            if error is None:
                return _refused(404, "This error is not in memory any more. The error log has it.")
            return _html(200, error_page(error, self._recovery._redactor))
        matching = query.get("q", "").strip()[:_LONGEST_FILTER]
        most = _most(query.get("most", ""))
        if path == "/status.json":
            status = await status_on_loop(self._recovery, self._history, matching=matching, most=most)
            return Answer(200, json.dumps(status).encode("ascii"), "application/json", _POLICY)
        view = self._view(matching, most)
        if path == PAGE:
            return _html(200, await view.page())
        if self._readers >= _READERS:
            return plain(503, f"{_READERS} read along already", ("retry-after", "5"))
        if request.method == "HEAD":
            return Answer(200, b"", "text/event-stream", _POLICY)
        seen = b"".join(request.header(b"last-event-id")).decode("latin-1") or query.get("after", "")
        return Stream(self._events(view, seen), more=(*_POLICY, ("x-accel-buffering", "no")))

    # ---- reading

    def _view(self, matching: str, most: int) -> StatusView:
        key = (matching, most)
        view = self._views.pop(key, None)
        if view is None:
            view = StatusView(
                self._recovery,
                self._history,
                matching=matching,
                most=most,
                can_change=self._token is not None,
            )
        self._views[key] = view  # the one that was asked for last is the last to be forgotten
        if len(self._views) > _VIEWS:
            del self._views[next(iter(self._views))]
        return view

    async def _events(self, view: StatusView, seen: str) -> AsyncGenerator[bytes]:
        """What changes, at most every second; the clock of the page changes always, so that silence means trouble."""
        clock = self._recovery._clock
        ends_at = clock.monotonic() + _LIFE
        self._readers += 1
        try:
            yield b"retry: 500\n\n"
            while clock.monotonic() < ends_at:
                await view.refresh()
                message = view.message(seen)
                if message is not None:
                    seen = view.version
                    yield message
                await clock.sleep(EVERY)
        finally:
            self._readers -= 1

    # ---- changing

    def _ask(self, query: dict[str, str]) -> Answer:
        what, service_id = query.get("what", ""), query.get("service", "")
        if self._token is None:
            return _refused(403, "No token is configured, so nothing can be changed here.")
        name = self._name_of(what, service_id)
        if name is None:
            return _refused(404, "There is no such change, or no such service any more.")
        return _html(200, asked(what, service_id=service_id, name=self._shown(name)))

    async def _change(self, request: Request) -> Answer:
        if self._token is None:
            return _refused(403, "No token is configured, so nothing can be changed here.")
        if comes_from_elsewhere(request):
            return _refused(403, "This was sent by a page that is not this one.")
        given = _fields(request.body)
        what, service_id = given.get("what", ""), given.get("service", "")
        name = self._name_of(what, service_id)
        if name is None:
            return _refused(404, "There is no such change, or no such service any more.")
        reason = given.get("reason", "").strip()
        if not is_token(given.get("token", "").encode(), self._token):
            problem = "This is not the token that the program was started with."
        elif CHANGES[what].is_reason_needed and not reason:
            problem = "A reason is needed."
        elif not reason.isprintable():
            problem = "The reason must be one line of text."
        else:
            path = f"/services/{name}/{what}" if service_id else f"/{what}"
            answer = await self._changes.make(path, reason.encode())
            self._views.clear()  # whoever goes back sees it
            said = f"{self._shown(name)}: " if service_id else ""
            is_done = answer.status == 200
            title = "Done" if is_done else "Not done"
            return _html(answer.status, done(title, f"{said}{answer.body.decode().strip()}", is_done=is_done))
        form = asked(what, service_id=service_id, name=self._shown(name), reason=reason, problem=problem)
        return _html(403 if "token" in problem else 400, form)

    def _name_of(self, what: str, service_id: str) -> str | None:
        """The service that is meant, "" for a change of all of them; None: there is no such thing."""
        if what in ("halt", "resume"):
            return "" if not service_id else None
        return named_by_id(self._recovery, service_id) if what in CHANGES else None

    def _shown(self, name: str) -> str:
        return self._recovery._redactor.text(name)


def _fields(query: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=10))
    except ValueError:  # more than that nobody needs
        return {}


def _most(text: str) -> int:
    return (
        min(int(text), _MOST_SHOWN) if text.isascii() and text.isdigit() and len(text) < 10 else MOST_SERVICES
    )


def _html(status: int, page: str) -> Answer:
    # A name may hold half a surrogate pair; a page has to hold together all the same.
    return Answer(status, page.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8", _POLICY)


def _refused(status: int, why: str) -> Answer:
    return _html(status, done("Not done" if status != 404 else "Not there", why, is_done=False))
