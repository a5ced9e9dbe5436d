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

from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    import aiohttp
except ImportError as error:
    raise missing("aiohttp", "aiohttp", error) from error

__all__ = ["TABLE", "classify", "meaning_of"]


def _of_response_error(error: aiohttp.ClientResponseError) -> Meaning:
    # An answer that is no HTTP is reported with a status of 400 that nobody sent, and without headers.
    if error.headers is None:
        return Meaning.UNKNOWN
    # Below 400: an endless redirect, or a body of another kind than asked for.
    return meaning_of_status(error.status) or Meaning.UNKNOWN


TABLE: Final = OutcomeTable(
    # Before its parent ClientOSError, which is also a connection that was cut. Refused, no such host, TLS,
    # a proxy that is not there.
    Rule("no connection", (aiohttp.ClientConnectorError,), Meaning.NOT_SENT),
    Rule("too late to connect", (aiohttp.ConnectionTimeoutError,), Meaning.NOT_SENT),
    Rule("the proxy refused the tunnel", (aiohttp.ClientHttpProxyError,), Meaning.NOT_SENT),
    Rule("a status, raised", (aiohttp.ClientResponseError,), _of_response_error),
    Rule("a status, returned", (aiohttp.ClientResponse,), lambda answer: meaning_of_status(answer.status)),
    Rule("cut, late or unreadable", (aiohttp.ClientError, TimeoutError), Meaning.UNKNOWN),
)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of aiohttp means; None for what is not aiohttp's, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers."""
    return TABLE.classify(value, call)
