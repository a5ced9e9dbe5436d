"""
requests: what its errors and responses say about the request.

```python
import shockproof.integrations.requests
from shockproof import ErrorRecoveryService

recovery = ErrorRecoveryService()
orders = recovery.service("orders", effect="unsafe", classify=shockproof.integrations.requests.classify)
```

A session with retries of its own (an adapter with ``max_retries``) sends a request several times, and its
last error says nothing about the earlier ones: leave them off, or `switch_off_retries`.
"""

from __future__ import annotations

import functools
import logging
import ssl
from typing import Final

from shockproof.integrations.http_status import meaning_of_status
from shockproof.integrations.optional import missing
from shockproof.integrations.outcome_table import Meaning, OutcomeTable, Rule
from shockproof.integrations.redirects import (
    meaning_of_last_status,
    not_sent_unless,
    of_a_returned_redirect,
    raised_within,
)
from shockproof.vocabulary.outcomes import CallInfo, Verdict

try:
    import requests
    import urllib3
except ImportError as error:
    raise missing("requests", "requests", error) from error

__all__ = ["TABLE", "classify", "meaning_of", "switch_off_retries"]

_log = logging.getLogger("shockproof")

_FOLLOWING: Final = (requests.sessions.SessionRedirectMixin.resolve_redirects.__code__,)
_NEVER_STOOD: Final = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)


def _reason_of(error: requests.ConnectionError) -> object:
    # requests has one class for a connection that never stood and one that was cut: urllib3's reason,
    # which it wraps, tells; so it does for ConnectTimeout, which is one of them.
    cause = error.args[0] if error.args else None
    return cause.reason if isinstance(cause, urllib3.exceptions.MaxRetryError) else None


def _of_proxy_error(error: requests.exceptions.ProxyError) -> Meaning:
    # With a proxy, urllib3 calls every cut so, after the request was sent, too.
    reason = _reason_of(error)
    cause = reason.original_error if isinstance(reason, urllib3.exceptions.ProxyError) else None
    never_sent = isinstance(cause, _NEVER_STOOD) or (
        type(cause) is OSError and str(cause).startswith("Tunnel connection failed: ")
    )
    return _unless_not_the_first(error) if never_sent else Meaning.UNKNOWN


def _of_connection_error(error: requests.ConnectionError) -> Meaning:
    # Other TLS errors than an unknown certificate may also come after the sending.
    reason = _reason_of(error)
    never_stood = isinstance(reason, _NEVER_STOOD) or (
        isinstance(reason, urllib3.exceptions.SSLError)
        and bool(reason.args)
        and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    )
    return _unless_not_the_first(error) if never_stood else Meaning.UNKNOWN


def _is_not_the_first(error: BaseException) -> bool:
    return raised_within(error, _FOLLOWING) or _was_sent_again(error)


_unless_not_the_first: Final = not_sent_unless(_is_not_the_first)

_SENDING: Final = urllib3.connectionpool.HTTPConnectionPool.urlopen.__code__


def _was_sent_again(error: BaseException) -> bool:
    # No error of urllib3 tells of the requests before it, and its traceback does.
    cause = error.args[0] if error.args else None
    return isinstance(cause, BaseException) and raised_within(
        cause, (_SENDING,), lambda frame: _has_sent_before(frame.f_locals.get("retries"))
    )


def _has_sent_before(retries: object) -> bool:
    """Whether urllib3 has sent the request before, as far as connections stood that it could be sent over."""
    if not isinstance(retries, urllib3.Retry) or all(
        isinstance(one.error, _NEVER_STOOD) for one in retries.history
    ):
        return False
    _warn_of_retries()
    return True


@functools.cache
def _warn_of_retries() -> None:
    _log.warning(
        "a session of requests has sent a request several times by itself: what became of the ones before the last nobody "
        "can tell. Switch it off: shockproof.integrations.requests.switch_off_retries(session)"
    )


def _of_response(answer: requests.Response) -> Meaning | None:
    if _has_sent_before(getattr(answer.raw, "retries", None)):
        return None if meaning_of_status(answer.status_code) is None else Meaning.UNKNOWN
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


def switch_off_retries(session: requests.Session) -> list[urllib3.Retry]:
    """
    Let *session* send each request once, and give what its adapters would have done instead.

    urllib3 repeats below requests where an adapter has ``max_retries``, and with ``allowed_methods=None`` an order, too.
    Adapters that are mounted later are not known here: call it again.

    Raises:
        TypeError: it is no session of requests.
    """
    if not isinstance(session, requests.Session):
        raise TypeError(f"session must be a requests.Session, got {session!r}")
    found: list[urllib3.Retry] = []
    for adapter in list(session.adapters.values()):
        retries = getattr(adapter, "max_retries", None)
        if isinstance(retries, urllib3.Retry) and _sends_again(retries):
            found.append(retries)
            adapter.max_retries = urllib3.Retry(0, read=False)  # type: ignore[attr-defined]  # an HTTPAdapter: as one without
    return found


def _sends_again(retries: urllib3.Retry) -> bool:
    # A total of None leaves it to the others, each of which may be None as well: for ever.
    if retries.total is not None:
        return bool(retries.total)
    return any(
        one is None or bool(one) for one in (retries.connect, retries.read, retries.status, retries.other)
    )


def meaning_of(value: object) -> Meaning | None:
    """What an error or a response of requests means; None for what is not its own, and for good answers."""
    return TABLE.meaning_of(value)


def classify(value: object, call: CallInfo) -> Verdict | None:
    """
    For ``recovery.service(..., classify=...)``. Retry-After is taken from the answer's headers.

    Of an unsafe call that was answered with a redirect nobody knows what became: it is returned, and an order is looked up.
    """
    if isinstance(value, requests.Response):
        redirected = of_a_returned_redirect(value.status_code, call)
        if redirected is not None:
            return redirected
    return TABLE.classify(value, call)
