"""What errors and responses say about the request in httpx and httpx2, which share names and no classes."""

from __future__ import annotations

from types import ModuleType

from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule

__all__ = ["table_of"]


def table_of(client: ModuleType) -> OutcomeTable:
    """The rules for the classes of *client*."""
    return OutcomeTable(
        # Refused, no such host, TLS.
        Rule("no connection", (client.ConnectError, client.ProxyError), Meaning.NOT_SENT),
        Rule("too late to connect", (client.ConnectTimeout, client.PoolTimeout), Meaning.NOT_SENT),
        Rule(
            "a status, raised",
            (client.HTTPStatusError,),
            # Below 400: raise_for_status complains about a redirect, too.
            lambda error: meaning_of_status(error.response.status_code) or Meaning.UNKNOWN,
        ),
        Rule("a status, returned", (client.Response,), lambda answer: meaning_of_status(answer.status_code)),
        Rule("cut, late or unreadable", (client.HTTPError,), Meaning.UNKNOWN),
    )
