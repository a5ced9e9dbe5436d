"""
One POST of JSON over HTTP, in the thread of the caller.

By the standard library: alerts must leave when everything else is broken, they are few, so that no
connection is worth keeping, and whoever has another HTTP client than ours needs no second one. Proxies
are those of the environment. Redirects are not followed: the address is a secret, and stays with its host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPMessage
from typing import IO, Final
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from shockproof.alerts.target import AlertNotSentError

__all__ = ["check_url", "post", "secrets_in"]

_MOST_OF_AN_ANSWER: Final = 300
_SHORTEST_TOKEN: Final = 16
"""Characters; what is shorter may be a word, and would be hidden wherever it stands."""


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Nowhere: the answer is the status of the redirect."""


def check_url(argument: str, url: object) -> str:
    """
    *url* as one that can be posted to.

    Raises:
        TypeError, ValueError: it is none. Only its host is named: the rest may be a secret.
    """
    if not isinstance(url, str):
        raise TypeError(f"{argument} must be a URL, got a value of type {type(url).__name__}")
    parts = urlsplit("")
    try:
        parts = urlsplit(url)
        is_known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_known = False
    if not is_known:
        raise ValueError(f"{argument} must be a URL that begins with https://, or http://, and names a host")
    if parts.username is not None:
        raise ValueError(
            f"{argument} must hold no user name: a header such as Authorization does what is meant"
        )
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise ValueError(
            f"{argument} must hold no blanks and only ASCII; that of the host {parts.hostname!r} does not"
        )
    return url


def secrets_in(url: str) -> tuple[str, ...]:
    """The URL of a hook, and what in it lets its reader in: its path, the end of that, and the values of its query."""
    parts = urlsplit(url)
    ends = (parts.path.rpartition("/")[2], *(value for _, value in parse_qsl(parts.query)))
    path = (parts.path,) if len(parts.path) >= _SHORTEST_TOKEN else ()
    return (url, *path, *(end for end in ends if len(end) >= _SHORTEST_TOKEN))


def post(url: str, body: object, *, timeout: float, headers: Mapping[str, str]) -> None:
    """
    Send *body* as JSON; each step of it may take *timeout* seconds.

    Raises:
        AlertNotSentError: it was answered with another status than 2xx.
        OSError, http.client.HTTPException: there was no answer, or none that can be read.
    """
    data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    told = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "shockproof", **headers}
    request = Request(url, data, told, method="POST")  # noqa: S310 - checked to be http
    try:
        with build_opener(_NoRedirect).open(request, timeout=timeout):
            return
    except HTTPError as error:
        with error:
            text = _beginning_of(error)
        raise AlertNotSentError(
            f"answered {error.code}{text and ': '}{text}", status=error.code, headers=dict(error.headers)
        ) from None


def _beginning_of(error: HTTPError) -> str:
    try:
        return " ".join(error.read(_MOST_OF_AN_ANSWER).decode("utf-8", "replace").split())
    except (OSError, ValueError):  # it was cut; the status is enough
        return ""
