"""Who sent a request, and when: Binance's HMAC-SHA256 signatures and time window."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from shockproof.demo.venue.rejections import RejectedError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEMO_KEY", "DEMO_SECRET", "check_key", "check_signature", "check_time", "sign"]

DEMO_KEY = "shockproof-demo-key"
DEMO_SECRET = "shockproof-demo-secret"  # noqa: S105  opens nothing but the venue on this machine
_LONGEST_WINDOW = 60_000
_DEFAULT_WINDOW = 5_000
_CLIENT_MAY_BE_AHEAD = 1_000


def sign(payload: str, secret: str = DEMO_SECRET) -> str:
    """The signature of a query string, in lower-case hexadecimal."""
    return hmac.new(secret.encode(), payload.encode(), hashlib.sha256).hexdigest()


def check_key(key: str | None) -> None:
    """Raises ``RejectedError`` unless the API key is the demo's."""
    if not key:
        raise RejectedError(-2014, "API-key format invalid.", 401)
    if not hmac.compare_digest(key.encode(), DEMO_KEY.encode()):
        raise RejectedError(-2015, "Invalid API-key, IP, or permissions for action.", 401)


def check_signature(raw_query: str, raw_body: str) -> None:
    """Raises ``RejectedError`` unless query and body, as sent, carry the right signature as their last parameter."""
    payload = raw_query + raw_body
    signed, separator, given = payload.rpartition("signature=")
    if not separator:
        raise RejectedError.missing("signature")
    if not hmac.compare_digest(sign(signed.removesuffix("&")).encode(), given.lower().encode()):
        raise RejectedError(-1022, "Signature for this request is not valid.")


def check_time(parameters: Mapping[str, str], now: float) -> None:
    """
    Raises ``RejectedError`` when the request is older than its ``recvWindow`` or from the future.

    Parameter times are milliseconds, as on the exchange; *now* is wall time in seconds.
    """
    if "timestamp" not in parameters:
        raise RejectedError.missing("timestamp")
    try:
        timestamp = int(parameters["timestamp"])
    except ValueError:
        raise RejectedError.illegal("timestamp", "^[0-9]{1,20}$") from None
    try:
        window = int(float(parameters.get("recvWindow", _DEFAULT_WINDOW)))
    except (ValueError, OverflowError):
        raise RejectedError.illegal("recvWindow", "^[0-9]{1,20}$") from None
    if window > _LONGEST_WINDOW:
        raise RejectedError(-1131, "recvWindow must be less than 60000.")
    age = int(now * 1000) - timestamp
    if age < -_CLIENT_MAY_BE_AHEAD:
        raise RejectedError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if age > window:
        raise RejectedError(-1021, "Timestamp for this request is outside of the recvWindow.")
