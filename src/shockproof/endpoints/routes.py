"""Which path gives which answer, for the ASGI app and for the server alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl

from shockproof.endpoints.access import check_token, refusal
from shockproof.endpoints.changes import Changes
from shockproof.endpoints.checks import Check, readiness, told
from shockproof.endpoints.drawing import Drawing
from shockproof.endpoints.exchange import Answer, Request, Stream, plain
from shockproof.endpoints.health_json import health_json
from shockproof.endpoints.status_page import PAGE, StatusPage
from shockproof.service import check_recovery

if TYPE_CHECKING:
    from shockproof.integrations.prometheus import CollectorRegistry
    from shockproof.service import ErrorRecoveryService

__all__ = ["Routes"]

T = TypeVar("T")

_LIVE: Final = Check("event_loop", "ok")  # who can say so runs on it
_READS: Final = ("/livez", "/readyz", "/health", "/metrics")


class Routes:
    """The endpoints of one recovery service. The token is a secret of that service from now on."""

    def __init__(
        self,
        recovery: ErrorRecoveryService,
        token: str | None,
        registry: CollectorRegistry | None,
        *,
        status_page: bool = False,
        for_this_machine: bool = False,
    ) -> None:
        self._recovery = check_recovery(recovery)
        self._token = check_token(token)
        if token is not None:
            recovery.register_secret(token)
        self._changes = Changes(recovery)
        self._metrics = _metrics(recovery, registry)
        # Two: a collector of somebody else that takes long holds up no probe.
        self._scrapes, self._probes = Drawing(), Drawing()
        self._status = (
            StatusPage(recovery, self._token, self._changes, for_this_machine=for_this_machine)
            if status_page
            else None
        )

    def close(self) -> None:
        """Record nothing any more for pages."""
        if self._status is not None:
            self._status.close()

    async def answer(self, request: Request) -> Answer | Stream:
        """
        What is answered. A HEAD gets the answer of its GET: who sends it leaves the body out.

        Cancelled, what was asked for is done or not begun; a halt or resume is written all the same.
        """
        path = request.path.rstrip("/") or "/"
        if self._status is not None:
            if request.path in (
                "/",
                f"{PAGE}/",
            ):  # by a relative way, as only the outside knows the rest of it
                return plain(
                    302, "see status", ("location", ".." + PAGE if request.path != "/" else PAGE[1:])
                )
            if self._status.knows(path):
                return await self._status.answer(request._replace(path=path))
        if Changes.knows(path):
            if request.method != "POST":
                return plain(405, "only POST changes something", ("allow", "POST"))
            return refusal(request, self._token) or await self._changes.make(path, request.body)
        if path not in _READS and not path.startswith(("/livez/", "/readyz/")):
            known = _READS if self._status is None else (*_READS, PAGE)
            return plain(404, f"there is no such page; there are {', '.join(known)}")
        if request.method not in ("GET", "HEAD"):
            return plain(405, "this can only be read", ("allow", "GET, HEAD"))
        is_verbose = _is_verbose(request.query)
        if path == "/health":
            page = f"{path}?verbose" if is_verbose else path
            return await self._drawn(page, lambda: health_json(self._asked(), verbose=is_verbose))
        if path == "/metrics":
            accept = b", ".join(request.header(b"accept")).decode("latin-1")
            answer = await self._scrapes.made(accept, lambda: self._metrics(accept))
            return answer or plain(503, "too many scrapes wait already", ("retry-after", "1"))
        endpoint, _, name = path[1:].partition("/")
        checks = [_LIVE] if endpoint == "livez" else await self._drawn("/readyz", self._readiness)
        if name:
            checks = [check for check in checks if check.name == name]
            if not checks:
                return plain(404, f"there is no such check; /{endpoint}?verbose lists them")
        return told(endpoint, checks, verbose=is_verbose)

    async def _drawn(self, page: str, make: Callable[[], T]) -> T:
        made = await self._probes.made(page, make)
        assert made is not None  # there are but three of these pages
        return made

    def _readiness(self) -> list[Check]:
        # Asked every few seconds: only what is told is looked at for secrets.
        hide = self._hiding()
        checks = readiness(self._recovery.get_health_status())
        return [Check(hide(name), verdict, hide(why)) for name, verdict, why in checks]

    def _asked(self) -> dict[str, Any]:  # Any: JSON
        """The health without secrets: reasons and names are the program's own texts."""
        health: dict[str, Any] = _redacted(self._recovery.get_health_status(), self._hiding())  # Any: JSON
        return health

    def _hiding(self) -> Callable[[str], str]:
        # Once each: of a thousand services almost all texts are the same.
        return lru_cache(None)(self._recovery._redactor.text)


def _redacted(value: Any, hide: Callable[[str], str]) -> Any:  # Any: JSON
    # Text by text, and not by the names of keys: a service may be named after a secret and be none.
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {hide(key): _redacted(one, hide) for key, one in value.items()}
    return [_redacted(one, hide) for one in value] if isinstance(value, list | tuple) else value


def _is_verbose(query: bytes) -> bool:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return any(name == "verbose" and value not in ("0", "false") for name, value in pairs)


def _metrics(recovery: ErrorRecoveryService, registry: CollectorRegistry | None) -> Callable[[str], Answer]:
    """What answers a scrape. Importing takes a while: here, and not while a first scrape holds the loop."""
    try:
        from shockproof.integrations.prometheus import page_for
    except ImportError as error:
        absent = plain(501, str(error))
        return lambda accept: absent
    page = page_for(recovery, registry)

    def scraped(accept: str) -> Answer:
        content_type, body = page(accept)
        return Answer(200, body, content_type)

    return scraped
