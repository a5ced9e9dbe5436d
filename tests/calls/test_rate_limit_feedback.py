"""What the venue says about its rate limit is believed: used weight, what is left, bans."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shockproof import (
    CallInfo,
    ErrorRecoveryService,
    Event,
    Handle,
    Outcome,
    RateLimitedError,
    RateLimitPaused,
    Verdict,
)
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio


class Response:
    """What an HTTP client gives."""

    def __init__(self, status: int = 200, **headers: str) -> None:
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class ResponseError(Exception):
    """What an HTTP client raises."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def used(recovery: ErrorRecoveryService) -> list[int]:
    return [one["used"] for one in recovery.get_health_status()["services"]["venue"]["rate_limit"]]


async def answer(value: object) -> object:
    if isinstance(value, Exception):
        raise value
    return value


def venue_of(recovery: ErrorRecoveryService, **options: Any) -> Handle:
    return recovery.service("venue", **{"max_retries": 0, "rate_limit": "100/min", **options})


async def test_used_weight_in_the_headers_of_a_response_is_taken_over(recovery: ErrorRecoveryService) -> None:
    """Another program uses the same key; nobody has to write a line for it."""
    venue = venue_of(recovery, rate_limit=("50 orders/10s", "100/min"))

    await venue.call(answer, Response(X_MBX_USED_WEIGHT_1M="80", X_MBX_ORDER_COUNT_10S="7"))

    assert used(recovery) == [7, 80]


async def test_used_weight_in_the_headers_of_an_error_is_taken_over(recovery: ErrorRecoveryService) -> None:
    """An error tells as much as an answer."""
    venue = venue_of(recovery)

    with pytest.raises(ResponseError):
        await venue.call(answer, ResponseError(Response(400, X_MBX_USED_WEIGHT_1M="80")))

    assert used(recovery) == [80]


@pytest.mark.parametrize(
    "headers",
    [
        {"RateLimit_Limit": "120", "RateLimit_Remaining": "20", "RateLimit_Reset": "9"},
        {"RateLimit_Limit": "120, 120;w=60", "RateLimit_Remaining": "20", "RateLimit_Reset": "9"},
        {"RateLimit": "limit=120, remaining=20, reset=9"},
        {"RateLimit": '"default";r=0;t=9'},
        {"X_RateLimit_Limit": "120", "X_RateLimit_Remaining": "20", "X_RateLimit_Reset": "1767225609"},
        {
            "X_Bapi_Limit": "120",
            "X_Bapi_Limit_Status": "20",
            "X_Bapi_Limit_Reset_Timestamp": "1767225609000",
        },
    ],
)
async def test_what_is_left_and_until_when_is_understood_in_every_form(
    recovery: ErrorRecoveryService, clock: VirtualClock, headers: dict[str, str]
) -> None:
    """The call waits for the moment at which the venue begins anew."""
    venue, begun = venue_of(recovery), clock.monotonic()

    await venue.call(answer, Response(**headers))
    assert used(recovery) == [100]
    await venue.call(answer, None)

    assert clock.monotonic() - begun == pytest.approx(9.0)


async def test_headers_that_the_client_keeps_elsewhere_are_handed_in(recovery: ErrorRecoveryService) -> None:
    """Some clients, ccxt for one, keep them on themselves."""
    venue = venue_of(recovery)
    venue.rate_limit.headers(
        {"x-mbx-used-weight-1m": "33", "content-type": "text/html", "retry-after": "soon"}
    )

    assert used(recovery) == [33]


async def test_number_is_handed_in_for_a_window(recovery: ErrorRecoveryService, clock: VirtualClock) -> None:
    """A WebSocket's answers have no headers, but say what is used."""
    venue, begun = venue_of(recovery), clock.monotonic()
    venue.rate_limit.used("1m", 100, resets_in=12.5)
    await venue.call(answer, None)

    assert clock.monotonic() - begun == 12.5


async def test_ban_stops_everybody_and_everybody_goes_on_after_it(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """One call gets the 429; the others are not sent into the ban, and no cancel is either."""
    venue, begun, made = venue_of(recovery), clock.monotonic(), list[float]()
    events = list[Event]()
    recovery.on_event(events.append)

    async def send() -> None:
        made.append(clock.monotonic() - begun)

    with pytest.raises(ResponseError):
        await venue.call(answer, ResponseError(Response(429, Retry_After="30")))
    health = recovery.get_health_status()["services"]["venue"]
    assert health["paused_for"] == 30.0
    await asyncio.gather(*(venue.using(risk_reducing=cancels).call(send) for cancels in (False, True, False)))

    assert made == [30.0, 30.0, 30.0]
    await recovery.aclose()
    assert [event.seconds for event in events if isinstance(event, RateLimitPaused)] == [30.0]


async def test_call_that_may_not_wait_so_long_is_refused_at_once(recovery: ErrorRecoveryService) -> None:
    """It is told when the ban ends."""
    venue = venue_of(recovery, max_wait=5.0)
    venue.rate_limit.pause(30.0)

    with pytest.raises(RateLimitedError) as refused:
        await venue.call(answer, None)

    assert refused.value.retry_after == 30.0


async def test_calls_that_wait_already_wait_for_the_end_of_the_ban(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The timer of the head was set before anybody knew."""
    venue, begun = venue_of(recovery, rate_limit="1/s"), clock.monotonic()
    await venue.call(answer, None)
    waiting = asyncio.create_task(venue.call(answer, None))
    await asyncio.sleep(0.5)
    venue.rate_limit.pause(10.0)
    await waiting

    assert clock.monotonic() - begun == 10.5


async def test_retry_after_its_wait_is_the_first_to_be_sent(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The pause holds the others exactly as long as the retry waits by itself."""
    venue, begun = venue_of(recovery, max_retries=1, base_delay=1.0), clock.monotonic()
    outcomes = iter([ResponseError(Response(429, Retry_After="4")), "book"])

    async def fetch() -> object:
        return await answer(next(outcomes))

    assert await venue.call(fetch) == "book"
    assert clock.monotonic() - begun == pytest.approx(4.0, abs=1e-5)


async def test_response_that_is_a_ban_pauses_although_nothing_was_raised(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """Both aiohttp and httpx give the response and leave it to you to look at its status."""
    venue = venue_of(recovery)

    await venue.call(answer, Response(200, Retry_After="99"))
    assert recovery.get_health_status()["services"]["venue"]["paused_for"] == 0
    await venue.call(answer, Response(418, Retry_After="99"))
    assert recovery.get_health_status()["services"]["venue"]["paused_for"] == 99.0


async def test_verdict_of_the_users_pauses_too(recovery: ErrorRecoveryService) -> None:
    """A venue that says it in its message only: classify knows."""

    def classify(outcome: object, call: CallInfo) -> Verdict | None:
        return Verdict(Outcome.NEUTRAL, retry_after=20.0) if isinstance(outcome, RuntimeError) else None

    venue = venue_of(recovery, classify=classify)
    with pytest.raises(RuntimeError):
        await venue.call(answer, RuntimeError("banned until ..."))

    assert recovery.get_health_status()["services"]["venue"]["paused_for"] == 20.0


async def test_results_that_only_look_like_responses_do_no_harm(recovery: ErrorRecoveryService) -> None:
    """A result is the user's own: it may raise where it is looked at, or have headers of another kind."""

    class Spreadsheet:
        status = 1
        headers = ("bid", "ask")

    class Hostile:
        @property
        def headers(self) -> object:
            raise ValueError("not now")

    venue = venue_of(recovery)
    for result in (Spreadsheet(), Hostile(), object(), {"headers": 1}):
        assert await venue.call(answer, result) is result

    assert used(recovery) == [4]


async def test_feedback_without_a_rate_limit_is_refused(recovery: ErrorRecoveryService) -> None:
    """The message says what is missing."""
    plain, venue = recovery.service("plain", max_concurrent=2), venue_of(recovery)

    with pytest.raises(ValueError, match="service 'plain' has no rate limit"):
        plain.rate_limit.pause(3.0)
    with pytest.raises(ValueError, match="no rate of weight in '10s'; there are weight in 60 s"):
        venue.rate_limit.used("10s", 3)
    with pytest.raises(ValueError, match="must be what export"):
        venue.rate_limit.restore({"sent": 3})


async def test_restart_does_not_forget_what_was_sent(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """The venue counts on while the program is down."""
    venue = venue_of(recovery, rate_limit="2/min", max_wait=0.0)
    await venue.call(answer, None)
    await asyncio.sleep(10)
    await venue.call(answer, None)
    exported = venue.rate_limit.export()
    await asyncio.sleep(5)

    reborn = recovery.service("reborn", rate_limit="2/min", max_wait=0.0)
    reborn.rate_limit.restore(exported)
    with pytest.raises(RateLimitedError) as refused:
        await reborn.call(answer, None)

    assert refused.value.retry_after == pytest.approx(45.0)


@pytest.mark.parametrize(
    "headers",
    [
        {"X_RateLimit_Remaining": "9" * 400},
        {"X_RateLimit_Limit": "9" * 400, "X_RateLimit_Remaining": "5"},
        {"X_MBX_USED_WEIGHT_0S": "5"},
        {"X_MBX_USED_WEIGHT_1M": "9" * 5000},
    ],
)
async def test_headers_with_absurd_numbers_are_passed_over(
    recovery: ErrorRecoveryService, headers: dict[str, str]
) -> None:
    """The call was answered: nothing that a header says takes the answer away, or stops the next call."""
    venue = venue_of(recovery, max_wait=0.0)
    response = Response(**headers)

    assert await venue.call(answer, response) is response
    assert await venue.call(answer, response) is response


async def test_a_reset_that_lies_years_ahead_is_believed_for_a_week(
    recovery: ErrorRecoveryService, clock: VirtualClock
) -> None:
    """It is given in another unit than we think: no service is dead for ever because of that."""
    venue = venue_of(recovery, max_wait=0.0)
    microseconds = str(int(clock.time() * 1e6) + 10**15)

    await venue.call(answer, Response(X_RateLimit_Remaining="0", X_RateLimit_Reset=microseconds))
    clock.advance(86_400.0)
    with pytest.raises(RateLimitedError):
        await venue.using(weight=2).call(answer, None)
    clock.advance(6 * 86_400.0)

    await venue.using(weight=2).call(answer, None)
