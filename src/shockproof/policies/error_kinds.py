"""
What kind of trouble an error tells of, as far as a retry has to know.

Told by what errors of HTTP clients have in common, so that no client has to be imported: a status on the
error or on its ``response`` (aiohttp, httpx, requests, urllib, python-binance, botocore), else a class
name on the way up to ``Exception`` (ccxt, httpx, requests, aiohttp and others), else the builtin classes.
"""

from __future__ import annotations

import socket
from typing import Final, Literal, get_args

from shockproof.policies.retry import leaves

__all__ = ["ERROR_KINDS", "ErrorKind", "kind_of", "says_too_much", "status_of"]

ErrorKind = Literal["throttled", "timeout", "server", "connection", "other"]
"""
``throttled``: asked to come back later (429, 418, a Retry-After). ``timeout``: no answer in time (also 408,
504). ``server``: another 5xx. ``connection``: refused, reset, not found. ``other``: everything else.
"""
ERROR_KINDS: Final[tuple[ErrorKind, ...]] = get_args(ErrorKind)

_THROTTLED: Final = (429, 418)  # 418: a ban at Binance, for those who went on after 429
_TIMED_OUT: Final = (408, 504)
_TOO_MUCH: Final = frozenset({418, 429, 503, 504, 529})

# The first name on the way up decides, so that a client's narrow class beats its wide one.
_BY_NAME: Final[dict[str, ErrorKind]] = {
    "RateLimitExceeded": "throttled",
    "DDoSProtection": "throttled",
    "RateLimitError": "throttled",
    "TooManyRequests": "throttled",
    "ThrottlingException": "throttled",
    "RequestTimeout": "timeout",
    "TimeoutException": "timeout",
    "ConnectTimeout": "timeout",
    "Timeout": "timeout",
    "TimeoutError": "timeout",  # not Python's own: redis has one
    "ExchangeNotAvailable": "server",
    "OnMaintenance": "server",
    "NetworkError": "connection",
    "ConnectionError": "connection",  # as above; requests has one, too
    "ClientConnectionError": "connection",
    "RemoteProtocolError": "connection",
    "SSLError": "connection",
}


def status_of(error: BaseException) -> int | None:
    """The HTTP status that *error* or its ``response`` carries, or None."""
    for holder in (error, _attribute(error, "response")):
        for name in ("status", "status_code", "code"):
            status = _attribute(holder, name)
            if type(status) is int and 100 <= status <= 599:
                return status
        if type(holder) is dict:  # botocore
            metadata: object = holder.get("ResponseMetadata")
            status = metadata.get("HTTPStatusCode") if type(metadata) is dict else None
            if type(status) is int:
                return status
    return None


def _attribute(holder: object, name: str) -> object:
    try:
        value: object = getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a foreign object's property may raise anything
        return None
    return value


def kind_of(error: BaseException | None, retry_after: float | None = None) -> ErrorKind:
    """
    The kind of *error*; of a group, the first of `ERROR_KINDS` that one of its leaves is.

    *retry_after* is what the other side, or the user's ``classify``, asked us to wait: then it is
    throttled, whatever it looks like. An *error* of None is a result that was judged a failure.
    """
    if retry_after is not None:
        return "throttled"
    if error is None:
        return "other"
    return min(map(_kind_of_leaf, leaves(error)), key=ERROR_KINDS.index)


def _kind_of_leaf(error: BaseException) -> ErrorKind:
    status = status_of(error)
    if status is not None:
        if status in _THROTTLED:
            return "throttled"
        if status in _TIMED_OUT:
            return "timeout"
        return "server" if status >= 500 else "other"
    if isinstance(error, TimeoutError):
        return "timeout"
    for kind in type(error).__mro__:
        named = _BY_NAME.get(kind.__name__)
        if named is not None:
            return named
    if isinstance(error, ConnectionError | EOFError | socket.gaierror):
        return "connection"
    return "other"


def says_too_much(answer: object, retry_after: float | None) -> bool:
    """
    Whether an error, or a result that was judged a failure, says that there was too much to do.

    A time limit that passed, whoever's; a wish to be left alone; an HTTP status of 418, 429, 503, 504, 529.
    """
    if retry_after is not None:
        return True
    if isinstance(answer, BaseException) and any(isinstance(leaf, TimeoutError) for leaf in leaves(answer)):
        return True
    try:
        for holder in (answer, getattr(answer, "response", None)):
            status = getattr(holder, "status", getattr(holder, "status_code", None))
            if isinstance(status, int):
                return status in _TOO_MUCH
    except Exception:  # noqa: BLE001 - a foreign object's property may raise anything
        return False
    return False
