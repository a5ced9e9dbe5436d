"""What kind of trouble an error tells of, in the forms that HTTP clients and Python give it."""

from __future__ import annotations

import asyncio
import email.message
import socket
import urllib.error
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from shockproof import AttemptTimeoutError
from shockproof.policies.error_kinds import ErrorKind, kind_of, says_too_much, status_of


class HttpError(Exception):
    """An error as HTTP clients raise it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("failed")
        self.__dict__.update(attributes)


def named(*names: str) -> Exception:
    """An error of a class with the last name, whose bases have the names before."""
    kind: type[Exception] = Exception
    for name in names:
        kind = type(name, (kind,), {})
    return kind("failed")


def answered(status: int) -> HttpError:
    return HttpError(response=SimpleNamespace(status_code=status))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (HttpError(status=503), 503),
        (HttpError(status_code=429), 429),
        (HttpError(code=502), 502),
        (answered(500), 500),
        (HttpError(response=SimpleNamespace(status=504)), 504),
        (HttpError(response={"ResponseMetadata": {"HTTPStatusCode": 400}, "Error": {}}), 400),
        (urllib.error.HTTPError("http://x", 429, "", email.message.Message(), None), 429),
        (HttpError(status_code=429, code=-1003), 429),
        (HttpError(code=-1003), None),
        (HttpError(code=99), None),
        (HttpError(code=100), 100),
        (HttpError(code=600), None),
        (HttpError(code="ETIMEDOUT"), None),
        (HttpError(status=True), None),
        (HttpError(status="503"), None),
        (HttpError(response=Mock()), None),
        (HttpError(response={"ResponseMetadata": None}), None),
        (HttpError(response={}), None),
        (ValueError(), None),
    ],
)
def test_a_status_is_found_where_clients_have_it(error: Exception, status: int | None) -> None:
    """On the error or on its response, under any of its names; nonsense and mocks are no status."""
    assert status_of(error) == status


def test_a_property_that_raises_is_no_status() -> None:
    """A foreign object's property may raise anything."""

    class BrokenError(Exception):
        @property
        def status(self) -> int:
            raise ZeroDivisionError

        @property
        def response(self) -> Any:
            raise ZeroDivisionError

    assert status_of(BrokenError()) is None
    assert kind_of(BrokenError()) == "other"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered(429), "throttled"),
        (answered(418), "throttled"),
        (answered(408), "timeout"),
        (answered(504), "timeout"),
        (answered(500), "server"),
        (answered(599), "server"),
        (answered(400), "other"),
        (answered(404), "other"),
        (TimeoutError(), "timeout"),
        (AttemptTimeoutError("api", 1.0), "timeout"),
        (ConnectionRefusedError(), "connection"),
        (ConnectionResetError(), "connection"),
        (socket.gaierror(), "connection"),
        (asyncio.IncompleteReadError(b"", 1), "connection"),
        (FileNotFoundError(), "other"),
        (ValueError(), "other"),
        # ccxt
        (named("BaseError", "OperationFailed", "NetworkError"), "connection"),
        (named("NetworkError", "RateLimitExceeded"), "throttled"),
        (named("NetworkError", "DDoSProtection"), "throttled"),
        (named("NetworkError", "RequestTimeout"), "timeout"),
        (named("NetworkError", "ExchangeNotAvailable"), "server"),
        (named("NetworkError", "ExchangeNotAvailable", "OnMaintenance"), "server"),
        (named("BaseError", "ExchangeError"), "other"),
        # httpx, requests, aiohttp
        (named("TransportError", "TimeoutException", "ReadTimeout"), "timeout"),
        (named("TransportError", "NetworkError", "ConnectError"), "connection"),
        (named("RequestException", "ConnectionError", "ConnectTimeout"), "timeout"),
        (named("RedisError", "ConnectionError"), "connection"),
        (named("RedisError", "TimeoutError"), "timeout"),
        (named("ClientError", "ClientConnectionError", "ServerDisconnectedError"), "connection"),
        (None, "other"),
    ],
)
def test_an_error_is_told_by_its_status_else_its_class(error: Exception | None, kind: ErrorKind) -> None:
    """A status says more than a class, and a narrow class more than a wide one."""
    assert kind_of(error) == kind


def test_whoever_asks_to_wait_throttles() -> None:
    """A 503 with a Retry-After, or the user's own verdict with one, even one of nothing."""
    assert kind_of(answered(503), retry_after=0.0) == "throttled"
    assert kind_of(None, retry_after=3.0) == "throttled"


@pytest.mark.parametrize(
    ("leaves", "kind"),
    [
        ([ValueError(), ConnectionResetError()], "connection"),
        ([ConnectionResetError(), answered(500)], "server"),
        ([answered(500), TimeoutError()], "timeout"),
        ([TimeoutError(), ExceptionGroup("", [ValueError(), answered(429)])], "throttled"),
    ],
)
def test_a_group_is_of_the_most_telling_kind_inside(leaves: list[Exception], kind: ErrorKind) -> None:
    """One throttled leaf, however deep, is enough to slow down."""
    assert kind_of(ExceptionGroup("", leaves)) == kind


@pytest.mark.parametrize(
    ("answer", "retry_after", "too_much"),
    [
        (TimeoutError(), None, True),
        (ExceptionGroup("legs", [ValueError(), TimeoutError()]), None, True),
        (ValueError(), 2.0, True),
        (HttpError(status=503), None, True),
        (HttpError(status=400), None, False),
        (answered(429), None, True),  # on its response, as httpx has it
        (ConnectionResetError(), None, False),
        ({"error": "nothing"}, None, False),
    ],
)
def test_what_says_that_there_was_too_much(answer: object, retry_after: float | None, too_much: bool) -> None:
    """A wrong request, or a broken connection, says nothing about load."""
    assert says_too_much(answer, retry_after) is too_much


def test_answer_whose_property_raises_says_nothing() -> None:
    """A foreign object's property may raise anything."""

    class Hostile:
        @property
        def status(self) -> int:
            raise ZeroDivisionError

    assert not says_too_much(Hostile(), None)
