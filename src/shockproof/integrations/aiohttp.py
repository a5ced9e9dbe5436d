"""
aiohttp: what its errors and responses say about the request.

```python
import shockproof.integrations.aiohttp
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()
orders = recovery.service("orders", effect="unsafe", classify=shockproof.integrations.aiohttp.classify)
```
"""

from __future__ import annotations

from typing import Final

from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.redirects import meaning_of_last_status, not_sent_unless, raised_within
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    import aiohttp
except ImportError as error:
    raise missing("aiohttp", "aiohttp", error) from error

__all__ = ["TABLE", "classify", "meaning_of", "was_redirected"]

_FOLLOWING: Final = (aiohttp.ClientSession._request.__code__,)


def was_redirected(error: BaseException) -> bool:
    """Whether a request that followed a redirect raised *error*, one of aiohttp or below it."""
    # Its list of the answers so far; a version that has none by this name is not believed.
    return raised_within(error, _FOLLOWING, lambda frame: bool(frame.f_locals.get("history", True)))


_never_stood: Final = not_sent_unless(was_redirected)


def _first_method(history: tuple[aiohttp.ClientResponse, ...]) -> str | None:
    return history[0].method if history else None


def _of_response_error(error: aiohttp.ClientResponseError) -> Meaning:
    # An answer that is no HTTP is reported with a status of 400 that nobody sent, and without headers.
    if error.headers is None:
        return Meaning.UNKNOWN
    # Below 400: an endless redirect, or a body of another kind than asked for.
    return meaning_of_last_status(error.status, _first_method(error.history)) or Meaning.UNKNOWN


TABLE: Final = OutcomeTable(
    # Before its parent ClientOSError, which is also a connection that was cut. Refused, no such host, TLS,
    # a proxy that is not there.
    Rule("no connection", (aiohttp.ClientConnectorError,), _never_stood),
    Rule("too late to connect", (aiohttp.ConnectionTimeoutError,), _never_stood),
    Rule("the proxy refused the tunnel", (aiohttp.ClientHttpProxyError,), _never_stood),
    Rule("a status, raised", (aiohttp.ClientResponseError,), _of_response_error),
    Rule(
        "a status, returned",
        (aiohttp.ClientResponse,),
        lambda answer: meaning_of_last_status(answer.status, _first_method(answer.history)),
    ),
    Rule("cut, late or unreadable", (aiohttp.ClientError, TimeoutError), Meaning.UNKNOWN),
)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of aiohttp means; None for what is not aiohttp's, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers."""
    return TABLE.classify(value, call)
