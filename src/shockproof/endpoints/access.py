"""Who may change something: whoever has the token, and nobody where there is none."""

from __future__ import annotations

import hmac
import re
from typing import Final

from shockproof.endpoints.exchange import Answer, Request, plain

__all__ = ["check_token", "refusal"]

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
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


def refusal(request: Request, token: bytes | None) -> Answer | None:
    """Why *request* may change nothing; None if it may."""
    if token is None:
        return plain(403, "no token is configured, so nothing can be changed here: pass token=")
    given = [_BEARER.fullmatch(value) for value in request.header(b"authorization")]
    # compare_digest takes as long for a token that is nearly right.
    if len(given) == 1 and given[0] is not None and hmac.compare_digest(given[0][1], token):
        return None
    return plain(401, "Authorization: Bearer <token> is needed", ("www-authenticate", "Bearer"))
