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

from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.redirects import meaning_of_last_status, not_sent_unless, raised_within
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    import requests
    import urllib3.exceptions as urllib3
except ImportError as error:
    raise missing("requests", "requests", error) from error

__all__ = ["TABLE", "classify", "meaning_of"]


_FOLLOWING: Final = (requests.sessions.SessionRedirectMixin.resolve_redirects.__code__,)
_NEVER_STOOD: Final = (urllib3.NewConnectionError, urllib3.ConnectTimeoutError)


def _reason_of(error: requests.ConnectionError) -> object:
    # requests has one class for a connection that never stood and one that was cut: urllib3's reason,
    # which it wraps, tells; so it does for ConnectTimeout, which is one of them.
    cause = error.args[0] if error.args else None
    return cause.reason if isinstance(cause, urllib3.MaxRetryError) else None


def _of_proxy_error(error: requests.exceptions.ProxyError) -> Meaning:
    # With a proxy, urllib3 calls every cut so, after the request was sent, too.
    reason = _reason_of(error)
    cause = reason.original_error if isinstance(reason, urllib3.ProxyError) else None
    never_sent = isinstance(cause, _NEVER_STOOD) or (
        type(cause) is OSError and str(cause).startswith("Tunnel connection failed: ")
    )
    return _unless_redirected(error) if never_sent else Meaning.UNKNOWN


def _of_connection_error(error: requests.ConnectionError) -> Meaning:
    # Other TLS errors than an unknown certificate may also come after the sending.
    reason = _reason_of(error)
    never_stood = isinstance(reason, _NEVER_STOOD) or (
        isinstance(reason, urllib3.SSLError)
        and bool(reason.args)
        and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    )
    return _unless_redirected(error) if never_stood else Meaning.UNKNOWN


def _was_redirected(error: BaseException) -> bool:
    return raised_within(error, _FOLLOWING)


_unless_redirected: Final = not_sent_unless(_was_redirected)


def _of_response(answer: requests.Response) -> Meaning | None:
    first = answer.history[0].request.method if answer.history else None
    return meaning_of_last_status(answer.status_code, first)


def _of_http_error(error: requests.HTTPError) -> Meaning:
    return (None if error.response is None else _of_response(error.response)) or Meaning.UNKNOWN


TABLE: Final = OutcomeTable(
    Rule("no way to the proxy, or a cut behind it", (requests.exceptions.ProxyError,), _of_proxy_error),
    Rule("no connection, or one that was cut", (requests.ConnectionError,), _of_connection_error),
    Rule("a status, raised", (requests.HTTPError,), _of_http_error),
    Rule("a status, returned", (requests.Response,), _of_response),
    Rule("late or unreadable", (requests.RequestException,), Meaning.UNKNOWN),
)
"""The rules, in order."""


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of requests means; None for what is not its own, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers."""
    return TABLE.classify(value, call)
