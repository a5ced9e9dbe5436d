"""Who may change something: whoever has the token, and nobody where there is none."""

from __future__ import annotations

import hmac
import ipaddress
import re
from typing import Final

from shockproof.endpoints.exchange import Answer, Request, plain

__all__ = [
    "check_token",
    "comes_from_elsewhere",
    "is_named_by_others",
    "is_this_machine",
    "is_token",
    "refusal",
]

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
_PORT: Final = re.compile(r":[0-9]*\Z")
_BEARER: Final = re.compile(rb"bearer +(\S+)", re.IGNORECASE)


def check_token(token: object) -> bytes | None:
    """
    The token as it is compared.

    Raises:
        TypeError, ValueError: it is none that a header can carry and nobody can guess. The message does
            not hold it.
    """
    if token is None:
        return None
    if not isinstance(token, str):
        raise TypeError(f"token must be a string or None, got a {type(token).__name__}")
    if _TOKEN.fullmatch(token) is None:
        raise ValueError(
            "token must be at least 16 characters of A-Z a-z 0-9 . _ ~ + / = -, got "
            f'{len(token)} characters; python -c "import secrets; print(secrets.token_urlsafe())" makes one'
        )
    return token.encode("ascii")


def is_token(given: bytes, token: bytes) -> bool:
    """Whether it is; takes as long for one that is nearly right."""
    return hmac.compare_digest(given, token)


def refusal(request: Request, token: bytes | None) -> Answer | None:
    """Why *request* may change nothing; None if it may."""
    if token is None:
        return plain(403, "no token is configured, so nothing can be changed here: pass token=")
    given = [_BEARER.fullmatch(value) for value in request.header(b"authorization")]
    if len(given) == 1 and given[0] is not None and is_token(given[0][1], token):
        return None
    return plain(401, "Authorization: Bearer <token> is needed", ("www-authenticate", "Bearer"))


def comes_from_elsewhere(request: Request) -> bool:
    """
    Whether a page of somebody else made a browser send this.

    Such a page does not know the token, so this is the second lock. Browsers say so themselves in ``Sec-Fetch-Site``; older
    ones send an ``Origin``, which is then compared with ``Host``.
    """
    sites = request.header(b"sec-fetch-site")
    if sites:
        return sites not in ([b"same-origin"], [b"none"])
    hosts = request.header(b"host")
    origins = [origin.partition(b"://")[2] for origin in request.header(b"origin")]
    return bool(origins) and origins != hosts


def is_this_machine(host: str) -> bool:
    """Whether whoever listens on *host* is reached from this machine only."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_named_by_others(request: Request) -> bool:
    """
    Whether it was sent to a name that somebody else may have given to this machine.

    A page of theirs may ask their own name server to say that their name is 127.0.0.1, and reads the answer then as one
    of its own site. An address, or ``localhost``, nobody can give away.
    """
    hosts = [_PORT.sub("", host.decode("latin-1")).strip("[]").lower() for host in request.header(b"host")]
    return any(host != "localhost" and _address(host) is None for host in hosts)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
