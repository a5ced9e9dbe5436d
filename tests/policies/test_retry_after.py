"""How long the other side asked us to wait, in all the forms it may say so."""

from __future__ import annotations

from datetime import timedelta
from email.utils import formatdate
from typing import Any
from unittest.mock import Mock

import pytest

from shockproof.policies import retry_after
from shockproof.policies.retry_after import asked_to_wait


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
    ],
)
def test_what_was_asked_for_is_found(error: Exception, expected: float | None) -> None:
    """An attribute, a header of the error, or a header of its response."""
    assert asked_to_wait(error) == expected


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
    assert asked_to_wait(error) is None


def test_a_property_that_raises_is_no_wait() -> None:
    """A foreign object's property may raise anything."""

    class BrokenError(Exception):
        @property
        def retry_after(self) -> float:
            raise ZeroDivisionError

    assert asked_to_wait(BrokenError()) is None


def test_a_date_is_counted_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The date form of the header, RFC 9110 section 10.2.3."""
    monkeypatch.setattr(retry_after.time, "time", lambda: 1_000_000.0)
    error = HttpError(headers={"Retry-After": formatdate(1_000_030, usegmt=True)})
    assert asked_to_wait(error) == 30.0


def test_a_date_that_has_passed_means_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A date in the past asks for no wait, not for a negative one."""
    monkeypatch.setattr(retry_after.time, "time", lambda: 1_000_000.0)
    error = HttpError(headers={"Retry-After": formatdate(999_000, usegmt=True)})
    assert asked_to_wait(error) == 0.0
