from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tenacity

from correctness.library import Call, Library


class Adapter(Library):
    distribution = "tenacity"

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        return tenacity.retry(
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_fixed(delay),
            retry=tenacity.retry_if_exception_type(on),
            reraise=True,
        )(function)

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        return tenacity.retry(
            stop=tenacity.stop_after_attempt(attempts),
            retry=tenacity.retry_if_not_exception_type(kind),
            reraise=True,
        )(function)

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        wait = (
            tenacity.wait_random_exponential(multiplier=base, max=cap)
            if jitter
            else tenacity.wait_exponential(multiplier=base, max=cap)
        )
        return tenacity.retry(stop=tenacity.stop_after_attempt(attempts), wait=wait, reraise=True)(function)

    def retry_result(self, function: Call, unwanted: Callable[[Any], bool], *, attempts: int) -> Call:
        return tenacity.retry(
            stop=tenacity.stop_after_attempt(attempts),
            retry=tenacity.retry_if_result(unwanted),
            retry_error_callback=lambda state: state.outcome.result(),
        )(function)

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        return tenacity.retry(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(attempts), tenacity.stop_before_delay(deadline)
            ),
            wait=tenacity.wait_fixed(delay),
            reraise=True,
        )(function)

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        stop: Any = tenacity.stop_after_attempt(attempts)
        if deadline is not None:
            stop = tenacity.stop_any(stop, tenacity.stop_before_delay(deadline))
        return tenacity.retry(
            stop=stop, wait=tenacity.wait_exception(lambda error: error.retry_after), reraise=True
        )(function)

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        return tenacity.retry(
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exception(lambda error: delays[type(error)]),
            reraise=True,
        )(function)

    def retry_block(self, *, attempts: int) -> Any:
        return tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(attempts), reraise=True)

    def attempts_told(self, call: Call, error: BaseException) -> int:
        statistics: dict[str, Any] = call.statistics
        return int(statistics["attempt_number"])
