"""
requests: what its errors and responses say about the request.

```python
import shockproof.integrations.requests
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()
orders = recovery.service("orders", effect="unsafe", classify=shockproof.integrations.requests.classify)
```

A session with retries of its own (an adapter with ``max_retries``) sends a request several times, and its
last error says nothing about the earlier ones: leave them off.
"""

from __future__ import annotations

import ssl
from typing import Final

from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    import requests
    import urllib3.exceptions as urllib3
except ImportError as error:
    raise missing("requests", "requests", error) from error

__all__ = ["TABLE", "classify", "meaning_of"]


def _of_connection_error(error: requests.ConnectionError) -> Meaning:
    # requests has one class for a connection that never stood and one that was cut: urllib3's reason,
    # which it wraps, tells; so it does for ConnectTimeout, which is one of them. Other TLS errors than an unknown certificate may also come after the sending.
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, urllib3.MaxRetryError) else None
    never_stood = isinstance(reason, (urllib3.NewConnectionError, urllib3.ConnectTimeoutError)) or (
        isinstance(reason, urllib3.SSLError)
        and bool(reason.args)
        and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    )
    return Meaning.NOT_SENT if never_stood else Meaning.UNKNOWN


def _of_http_error(error: requests.HTTPError) -> Meaning:
    status = None if error.response is None else error.response.status_code
    return Meaning.UNKNOWN if status is None else meaning_of_status(status) or Meaning.UNKNOWN


TABLE: Final = OutcomeTable(
    Rule("no way to the proxy", (requests.exceptions.ProxyError,), Meaning.NOT_SENT),
    Rule("no connection, or one that was cut", (requests.ConnectionError,), _of_connection_error),
    Rule("a status, raised", (requests.HTTPError,), _of_http_error),
    Rule("a status, returned", (requests.Response,), lambda answer: meaning_of_status(answer.status_code)),
    Rule("late or unreadable", (requests.RequestException,), Meaning.UNKNOWN),
)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of requests means; None for what is not its own, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers."""
    return TABLE.classify(value, call)
