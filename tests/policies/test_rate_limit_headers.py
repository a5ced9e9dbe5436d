"""What the other side says in its headers about its rate limit."""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import Mock

import pytest

from shockproof.policies.rate_limit import WEIGHT
from shockproof.policies.rate_limit_headers import Left, Said, Used, answer_of, read_headers

NOW = 1_767_225_600.0


def said(**headers: str) -> Said:
    return read_headers([(name.replace("_", "-"), value) for name, value in headers.items()], NOW)


@pytest.mark.parametrize(
    ("headers", "usage"),
    [
        ({"X_MBX_USED_WEIGHT_1M": "80"}, Used(60.0, 80, (WEIGHT,))),
        ({"x_mbx_used_weight_10s": " 7 "}, Used(10.0, 7, (WEIGHT,))),
        ({"X_SAPI_USED_IP_WEIGHT_1M": "12"}, Used(60.0, 12, (WEIGHT,))),
        ({"X_SAPI_USED_UID_WEIGHT_1M": "0"}, Used(60.0, 0, (WEIGHT,))),
        ({"X_MBX_ORDER_COUNT_1D": "9"}, Used(86_400.0, 9, ("orders", WEIGHT))),
        ({"Order_Count_2h": "9"}, Used(7_200.0, 9, ("orders", WEIGHT))),
    ],
)
def test_what_is_used_is_read_with_its_window(headers: dict[str, str], usage: Used) -> None:
    """In whatever case; orders count in the rate of orders, or where there is none in that of the weight."""
    assert said(**headers) == Said([usage], None)


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"RateLimit_Limit": "100", "RateLimit_Remaining": "5", "RateLimit_Reset": "2"}, Left(5, 100, 2.0)),
        ({"RateLimit_Limit": "100, 100;w=60", "RateLimit_Remaining": " 5"}, Left(5, 100, None)),
        ({"RateLimit_Remaining": "5", "RateLimit_Reset": "2.5"}, Left(5, None, 2.5)),
        (
            {"X_RateLimit_Limit": "100", "X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "30"},
            Left(0, 100, 30.0),
        ),
        (
            {"X_Bapi_Limit": "100", "X_Bapi_Limit_Status": "99", "X_Bapi_Limit_Reset_Timestamp": "30"},
            Left(99, 100, 30.0),
        ),
        ({"RateLimit": "limit=100, remaining=5, reset=2"}, Left(5, 100, 2.0)),
        ({"RateLimit": "remaining=5"}, Left(5, None, None)),
        ({"RateLimit": '"default";r=5;t=2'}, Left(5, None, 2.0)),
        ({"RateLimit": '"default";r=5'}, Left(5, None, None)),
        ({"RateLimit": f"remaining=5, reset={NOW + 7:.0f}"}, Left(5, None, 7.0)),
    ],
)
def test_what_is_left_is_read_in_each_of_its_forms(headers: dict[str, str], left: Left) -> None:
    """The limit and the reset may be missing."""
    assert said(**headers) == Said([left], None)


@pytest.mark.parametrize(
    ("reset", "resets_in"),
    [
        (100_000_000, 100_000_000.0),
        (int(NOW) + 9, 9.0),
        (int(NOW) - 9, 0.0),
        (int(NOW) * 1000 + 9_500, 9.5),
        (100_000_000_000, 100_000_000_000 - NOW),
        (100_000_000_001, 0.0),
    ],
)
def test_large_reset_is_a_moment_in_seconds_or_milliseconds(reset: int, resets_in: float) -> None:
    """It is counted from now, and never below zero; up to 1e8 it is seconds, up to 1e11 a moment in seconds."""
    [left] = said(X_RateLimit_Remaining="1", X_RateLimit_Reset=str(reset)).usage

    assert isinstance(left, Left)
    assert left.resets_in == pytest.approx(resets_in)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_MBX_USED_WEIGHT_1M": "many"},
        {"X_MBX_USED_WEIGHT_1M": "-1"},
        {"X_MBX_USED_WEIGHT": "5"},
        {"X_MBX_USED_WEIGHT_1Y": "5"},
        {"RateLimit_Limit": "100", "RateLimit_Reset": "2"},
        {"RateLimit_Remaining": "some"},
        {"RateLimit": "limit=100, reset=2"},
        {"RateLimit": "later"},
        {"Retry_After": "soon"},
        {"Retry_After": "-1"},
        {"Content_Type": "text/html"},
    ],
)
def test_what_is_not_understood_is_passed_over(headers: dict[str, str]) -> None:
    """A wrong header is the other side's mistake, and no reason to fail."""
    assert said(**headers) == Said([], None)


@pytest.mark.parametrize(
    "date",
    ["Thu, 01 Jan 2026 00:00:30 GMT", "Thu, 01 Jan 2026 02:00:30 +0200", "Thu, 01 Jan 2026 00:00:30 -0000"],
)
def test_date_is_understood_in_every_zone(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    """One without a zone is in UTC, whatever the zone of the machine."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert said(Retry_After=date) == Said([], 30.0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry_After": "2"}, 2.0),
        ({"Retry_After": "0"}, 0.0),
        ({"Retry_After": "Wed, 31 Dec 2025 23:59:30 GMT"}, 0.0),
        ({"Retry_After_Ms": "250"}, 0.25),
        ({"X_Ms_Retry_After_Ms": "1500"}, 1.5),
        ({"Retry_After": "2", "Retry_After_Ms": "1900", "X_Ms_Retry_After_Ms": "2500"}, 2.5),
        ({"Retry_After": "soon", "Retry_After_Ms": "1900"}, 1.9),
        ({"Retry_After": "inf"}, None),
    ],
)
def test_wait_is_the_longest_that_is_asked_for(headers: dict[str, str], wait: float | None) -> None:
    """A number of seconds, a date, or milliseconds; no wait is for ever."""
    assert said(**headers).wait == wait


def test_a_header_that_cannot_be_read_hides_none_behind_it() -> None:
    """A window of no length says nothing; the next header does."""
    headers = [("X-MBX-USED-WEIGHT-0M", "5"), ("X-MBX-USED-WEIGHT-1M", "7")]
    assert [use.used for use in read_headers(headers, 0.0).usage if isinstance(use, Used)] == [7]


def test_everything_that_is_said_is_read() -> None:
    """One answer may speak of several windows, and of a wait."""
    assert said(
        X_MBX_USED_WEIGHT_1M="80",
        X_MBX_ORDER_COUNT_10S="many",
        X_MBX_ORDER_COUNT_1D="4",
        RateLimit_Remaining="5",
        X_RateLimit_Remaining="6",
        RateLimit="remaining=7",
        Retry_After="12",
    ) == Said(
        [
            Used(60.0, 80, (WEIGHT,)),
            Used(86_400.0, 4, ("orders", WEIGHT)),
            Left(5, None, None),
            Left(6, None, None),
            Left(7, None, None),
        ],
        12.0,
    )


def test_values_that_are_no_text_are_read_as_text() -> None:
    """Some clients hand out numbers."""
    headers: Any = [("X-MBX-USED-WEIGHT-1M", 80), ("Retry-After", 3)]

    assert read_headers(headers, NOW) == Said([Used(60.0, 80, (WEIGHT,))], 3.0)


class Response:
    """What an HTTP client gives, in one of its spellings."""

    def __init__(self, headers: Any, **status: Any) -> None:
        self.headers = headers
        self.__dict__.update(status)


class HttpError(Exception):
    def __init__(self, **attributes: Any) -> None:
        super().__init__("no")
        self.__dict__.update(attributes)


HEADERS = {"Limit": 5}
READ = [("Limit", "5")]


@pytest.mark.parametrize(
    ("answer", "is_ban"),
    [
        (Response(HEADERS, status=200), False),
        (Response(HEADERS, status_code=200), False),
        (Response(HEADERS, status=429), True),
        (Response(HEADERS, status_code=418), True),
        (Response(HEADERS, status=503), False),
        (HttpError(headers=HEADERS), False),
        (HttpError(headers=HEADERS, status=429), True),
        (HttpError(response=Response(HEADERS, status=429)), True),
        (HttpError(headers=None, response=Response(HEADERS, status_code=418)), True),
        (HttpError(response=Response(HEADERS)), False),
    ],
)
def test_headers_are_found_with_whether_it_was_a_ban(answer: object, is_ban: bool) -> None:
    """On a response, on an error, or on the response of an error; as text."""
    found = answer_of(answer)

    assert found is not None
    assert list(found.headers) == READ
    assert found.is_ban is is_ban


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"headers": 1},
        ValueError("no"),
        HttpError(headers=None, response=None),
        HttpError(headers=7),
        Response(HEADERS),
        Response(HEADERS, status="200"),
        Response(None, status=200),
        Response(None, status=200, response=Response(HEADERS, status=200)),
        Mock(status=200),
    ],
)
def test_other_results_are_not_looked_at_any_further(answer: object) -> None:
    """A result is the user's own: only what looks like a response is read, and nothing raises."""
    assert answer_of(answer) is None


def test_property_that_raises_has_no_headers() -> None:
    """A foreign object's property may raise anything."""

    class Hostile:
        status = 200

        @property
        def headers(self) -> object:
            raise ZeroDivisionError

    assert answer_of(Hostile()) is None
