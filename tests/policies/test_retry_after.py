"""How long the other side asked us to wait, in all the forms it may say so."""

from __future__ import annotations

from datetime import timedelta
from email.utils import formatdate
from typing import Any
from unittest.mock import Mock

import pytest

from shockproof.policies.retry_after import asked_to_wait
from shockproof.testing import VirtualClock

NOW = VirtualClock(wall=1_700_000_000.0)


class HttpError(Exception):
    """An error as HTTP clients raise it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("429")
        self.__dict__.update(attributes)


class Response:
    def __init__(self, headers: Any) -> None:
        self.headers = headers


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(), None),
        (HttpError(retry_after=3), 3.0),
        (HttpError(retry_after=0), 0.0),
        (HttpError(retry_after=timedelta(minutes=1)), 60.0),
        (HttpError(headers={"Retry-After": "12"}), 12.0),
        (HttpError(headers={"retry-after": "0.5"}), 0.5),
        (HttpError(response=Response({"Retry-After": "7"})), 7.0),
        (HttpError(retry_after=None, response=Response({"Retry-After": "7"})), 7.0),
        (HttpError(headers=object(), response=Response({"Retry-After": "7"})), 7.0),
    ],
)
def test_what_was_asked_for_is_found(error: Exception, expected: float | None) -> None:
    """An attribute, a header of the error, or a header of its response."""
    assert asked_to_wait(error, NOW) == expected


@pytest.mark.parametrize(
    "error",
    [
        HttpError(retry_after=-1),
        HttpError(retry_after=float("nan")),
        HttpError(retry_after=float("inf")),
        HttpError(retry_after=True),
        HttpError(retry_after="soon"),
        HttpError(headers={"Retry-After": "-5"}),
        HttpError(headers={"Retry-After": "nan"}),
        HttpError(headers={"Retry-After": "soon"}),
        HttpError(headers={"Retry-After": ""}),
        HttpError(headers=[("Retry-After", "5")]),
        HttpError(headers=None, response=None),
        HttpError(response=Mock()),
        HttpError(retry_after=Mock(), headers=Mock(), response=Mock()),
    ],
)
def test_what_cannot_be_understood_is_no_wait(error: Exception) -> None:
    """Nonsense and mocks are not taken for seconds, and raise nothing."""
    assert asked_to_wait(error, NOW) is None


def test_a_property_that_raises_is_no_wait() -> None:
    """A foreign object's property may raise anything."""

    class BrokenError(Exception):
        @property
        def retry_after(self) -> float:
            raise ZeroDivisionError

    assert asked_to_wait(BrokenError(), NOW) is None


def test_a_date_is_counted_from_now() -> None:
    """The date form of the header, RFC 9110 section 10.2.3."""
    error = HttpError(headers={"Retry-After": formatdate(1_700_000_030, usegmt=True)})
    assert asked_to_wait(error, NOW) == 30.0


def test_a_date_that_has_passed_means_now() -> None:
    """A date in the past asks for no wait, not for a negative one."""
    error = HttpError(headers={"Retry-After": formatdate(1_699_999_000, usegmt=True)})
    assert asked_to_wait(error, NOW) == 0.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "12"}, 12.0),
        ({"RateLimit-Remaining": "3", "RateLimit-Reset": "12"}, None),
        ({"ratelimit-reset": "12"}, None),
        ({"RateLimit": "limit=100, remaining=0, reset=5"}, 5.0),
        ({"RateLimit": '"default";r=0;t=9'}, 9.0),
        ({"RateLimit": '"default";r=1;t=9'}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}, 7.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000030"}, 30.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1699999000"}, 0.0),
        ({"X-Bapi-Limit-Status": "0", "X-Bapi-Limit-Reset-Timestamp": "1700000004500"}, 4.5),
        ({"X-RateLimit-Remaining": "none", "X-RateLimit-Reset": "soon"}, None),
        ({"Retry-After-Ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "2", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}, 7.0),
        ({"Retry-After": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}, 20.0),
        ({"Retry-After": "soon", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}, 7.0),
    ],
)
def test_a_rate_limit_of_which_nothing_is_left_is_waited_for(
    headers: dict[str, str], expected: float | None
) -> None:
    """In seconds from now, or as a moment; the longest of all that is said, and nothing while some is left."""
    assert asked_to_wait(HttpError(headers=headers), NOW) == expected
    assert asked_to_wait(HttpError(response=Response(headers)), NOW) == expected


def test_a_ban_in_words_is_waited_for() -> None:
    """As Binance puts it, in the text of its error."""
    text = "Way too much request weight used; IP banned until {}. Please use websocket."
    assert asked_to_wait(ValueError(text.format(1_700_000_090_500)), NOW) == 90.5
    assert asked_to_wait(ValueError(text.format(1_699_000_000_000)), NOW) == 0.0
    assert asked_to_wait(ValueError(text.format("tomorrow")), NOW) is None
    assert (
        asked_to_wait(text.format(1_700_000_090_500), NOW) is None
    )  # a result that speaks of one is no error


class BusyError(Exception):
    """What a client of somebody's may raise."""

    @property
    def retry_after(self) -> float:
        return 7.0


def test_what_the_class_of_an_error_says_is_found() -> None:
    """Although the error itself holds nothing but its text."""
    assert asked_to_wait(BusyError("busy"), NOW) == 7.0


def test_a_ban_in_the_words_of_somebodys_own_error_is_waited_for() -> None:
    """As a client wraps what the venue said."""

    class VenueError(Exception):
        """A client's."""

    assert asked_to_wait(VenueError("IP banned until 1700000030000"), NOW) == 30.0
