"""The requests that are read, and those that are refused because two programs might read them differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.endpoints.http1 import BadRequestError, head_of


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: bot\r\n\r\n", "/livez", b""),
        (b"GET /readyz?verbose&a=%20 HTTP/1.1\r\nhost:bot:80 \r\n\r\n", "/readyz", b"verbose&a=%20"),
        (b"GET /services/EUR%2FUSD/reset HTTP/1.1\r\nHost: b\r\n\r\n", "/services/EUR/USD/reset", b""),
        (b"GET /a%zz%ff HTTP/1.1\r\nHost: b\r\n\r\n", "/a%zz\ufffd", b""),
        (b"GET http://bot:80/livez HTTP/1.1\r\nHost: bot\r\n\r\n", "/livez", b""),
        (b"GET /livez HTTP/1.0\r\n\r\n", "/livez", b""),
    ],
)
def test_a_request_is_read(raw: bytes, path: str, query: bytes) -> None:
    """By its path, decoded, and its query, as it came."""
    head = head_of(raw)
    assert (head.method, head.path, head.query, head.length) == ("GET", path, query, 0)


@pytest.mark.parametrize(
    ("version", "connection", "keeps_open"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", False),
    ],
)
def test_a_connection_stays_open_by_what_both_know(
    version: bytes, connection: bytes, keeps_open: bool
) -> None:
    """The older version is answered once."""
    assert head_of(b"GET / HTTP/%s\r\nHost: b\r\n%s\r\n" % (version, connection)).keeps_open is keeps_open


REFUSED = {
    "no version": (b"GET /\r\nHost: b", 400),
    "a later version": (b"GET / HTTP/2.0\r\nHost: b", 505),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0", 400),
    "an empty line in front": (b"\r\nGET / HTTP/1.1\r\nHost: b", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: b", 400),
    "a path without slash": (b"GET livez HTTP/1.1\r\nHost: b", 400),
    "a space in the path": (b"GET /a b HTTP/1.1\r\nHost: b", 400),
    "a bare line feed": (b"GET / HTTP/1.1\nHost: b", 400),
    "a bare line feed in a header": (b"GET / HTTP/1.1\r\nHost: b\nContent-Length: 1", 400),
    "a zero byte": (b"GET / HTTP/1.1\r\nHost: b\0", 400),
    "a folded header": (b"GET / HTTP/1.1\r\nHost: b\r\nA: 1\r\n 2", 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nHost: b\r\nContent-Length : 1", 400),
    "a header without colon": (b"GET / HTTP/1.1\r\nHost: b\r\nnonsense", 400),
    "no host": (b"GET / HTTP/1.1\r\nA: b", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: b\r\nHost: b", 400),
    "a transfer encoding": (b"POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked", 411),
    "both lengths": (b"POST / HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: x\r\nContent-Length: 1", 411),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 1", 400),
    "a list of lengths": (b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 1, 1", 400),
    "a signed length": (b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: +1", 400),
    "an endless length": (b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: " + b"9" * 5000, 400),
    "a long body": (b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 4097", 413),
    "another expectation": (b"POST / HTTP/1.1\r\nHost: b\r\nExpect: wonders", 417),
    "too many headers": (b"GET / HTTP/1.1\r\nHost: b" + b"\r\nA: b" * 64, 431),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_malformed_or_ambiguous_is_refused(what: str) -> None:
    """With the status that says what is wrong."""
    raw, status = REFUSED[what]
    with pytest.raises(BadRequestError) as refused:
        head_of(raw + b"\r\n\r\n")
    assert refused.value.status == status


PIECES = st.sampled_from(
    [
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"%",
        b"HTTP/1.1",
        b"\r\n",
        b"\n",
        b"Host: b",
        b":",
        b"Content-Length: ",
        b"7",
        b"\xff",
    ]
)


@given(st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=20))
def test_whatever_comes_is_read_or_refused(pieces: list[bytes]) -> None:
    """Nothing else happens, and what is read has a length that is bounded."""
    try:
        head = head_of(b"".join(pieces) + b"\r\n\r\n")
    except BadRequestError:
        return
    assert head.path.startswith("/")
    assert 0 <= head.length <= 4096
