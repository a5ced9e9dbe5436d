"""Signatures and time windows, as the exchange checks them."""

from __future__ import annotations

import pytest

from shockproof.demo.venue.rejections import RejectedError
from shockproof.demo.venue.signature import check_key, check_signature, check_time, sign


def test_a_signature_matches_the_exchanges_own_example() -> None:
    """The key pair, query and signature of Binance's API documentation."""
    secret = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
    query = (
        "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000"
        "&timestamp=1499827319559"
    )
    assert sign(query, secret) == "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"


@pytest.mark.parametrize(("query", "body"), [("a=1&b=2", ""), ("", "a=1&b=2"), ("a=1", "b=2")])
def test_a_signed_request_passes_wherever_its_parameters_stand(query: str, body: str) -> None:
    """Query, form or both: signed as sent, one behind the other."""
    signature = sign(query + body)
    if body:
        check_signature(query, f"{body}&signature={signature}")
    else:
        check_signature(f"{query}&signature={signature}", body)


def test_a_changed_parameter_breaks_the_signature() -> None:
    """-1022, as a client with the wrong secret sees it."""
    with pytest.raises(RejectedError, match="-1022 Signature for this request is not valid"):
        check_signature(f"a=2&signature={sign('a=1')}", "")
    with pytest.raises(RejectedError, match="-1022"):
        check_signature("a=2&signature=äö", "")


def test_an_unsigned_request_is_refused() -> None:
    """-1102 names the parameter that is missing."""
    with pytest.raises(RejectedError, match="-1102 Mandatory parameter 'signature'"):
        check_signature("a=1", "")


@pytest.mark.parametrize(("key", "code"), [(None, -2014), ("", -2014), ("someone else", -2015), ("ü", -2015)])
def test_a_wrong_key_is_refused_with_401(key: str | None, code: int) -> None:
    """No key and another key are two different complaints."""
    with pytest.raises(RejectedError) as refusal:
        check_key(key)
    assert (refusal.value.code, refusal.value.status) == (code, 401)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({}, "-1102 Mandatory parameter 'timestamp'"),
        ({"timestamp": "soon"}, "-1100 Illegal characters found in parameter 'timestamp'"),
        ({"timestamp": "94999"}, "-1021 Timestamp for this request is outside of the recvWindow"),
        ({"timestamp": "99000", "recvWindow": "500"}, "-1021 Timestamp for this request is outside"),
        ({"timestamp": "101001"}, "-1021 Timestamp for this request was 1000ms ahead"),
        ({"timestamp": "100000", "recvWindow": "60001"}, "-1131 recvWindow must be less than 60000"),
        (
            {"timestamp": "100000", "recvWindow": "wide"},
            "-1100 Illegal characters found in parameter 'recvWindow'",
        ),
        (
            {"timestamp": "100000", "recvWindow": "inf"},
            "-1100 Illegal characters found in parameter 'recvWindow'",
        ),
    ],
)
def test_a_request_out_of_its_time_is_refused(parameters: dict[str, str], complaint: str) -> None:
    """The window bounds how late an order can still be booked."""
    with pytest.raises(RejectedError, match=complaint):
        check_time(parameters, now=100.0)


@pytest.mark.parametrize("timestamp", ["95000", "100000", "101000"])
def test_a_request_in_its_time_passes(timestamp: str) -> None:
    """Five seconds old at most, one second ahead at most."""
    check_time({"timestamp": timestamp}, now=100.0)
