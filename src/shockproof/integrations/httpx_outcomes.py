"""What errors and responses say about the request in httpx and httpx2, which share names and no classes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.redirects import meaning_of_last_status, not_sent_unless, raised_within

__all__ = ["table_of"]


def _meaning_of_response(answer: Any) -> Meaning | None:  # Any: a Response of the one or the other
    first: str | None = answer.history[0].request.method if answer.history else None
    return meaning_of_last_status(answer.status_code, first)


def table_of(client: ModuleType) -> OutcomeTable:
    """The rules for the classes of *client*."""
    following = tuple(kind._send_handling_redirects.__code__ for kind in (client.AsyncClient, client.Client))

    def was_redirected(error: BaseException) -> bool:
        # Its list of the answers so far; a version that has none by this name is not believed.
        return raised_within(error, following, lambda frame: bool(frame.f_locals.get("history", True)))

    never_stood = not_sent_unless(was_redirected)
    return OutcomeTable(
        # Refused, no such host, TLS.
        Rule("no connection", (client.ConnectError, client.ProxyError), never_stood),
        Rule("too late to connect", (client.ConnectTimeout, client.PoolTimeout), never_stood),
        Rule(
            "a status, raised",
            (client.HTTPStatusError,),
            # Below 400: raise_for_status complains about a redirect, too.
            lambda error: _meaning_of_response(error.response) or Meaning.UNKNOWN,
        ),
        Rule("a status, returned", (client.Response,), _meaning_of_response),
        Rule("cut, late or unreadable", (client.HTTPError,), Meaning.UNKNOWN),
    )
