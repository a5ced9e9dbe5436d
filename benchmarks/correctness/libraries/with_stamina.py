from __future__ import annotations

from typing import Any

import stamina

from correctness.library import Call, Library


class Adapter(Library):
    distribution = "stamina"

    def retry(self, function: Call, *, attempts: int, delay: float = 0.0, on: Any = Exception) -> Call:
        return stamina.retry(
            on=on, attempts=attempts, timeout=None, wait_initial=delay, wait_jitter=0.0, wait_exp_base=1
        )(function)

    def retry_everything_but(self, function: Call, kind: type[Exception], *, attempts: int) -> Call:
        return self.retry(function, attempts=attempts, on=lambda error: not isinstance(error, kind))

    def retry_growing(self, function: Call, *, attempts: int, base: float, cap: float, jitter: bool) -> Call:
        return stamina.retry(
            on=Exception,
            attempts=attempts,
            timeout=None,
            wait_initial=base,
            wait_max=cap,
            wait_jitter=base if jitter else 0.0,
        )(function)

    def retry_within(self, function: Call, *, attempts: int, delay: float, deadline: float) -> Call:
        return stamina.retry(
            on=Exception,
            attempts=attempts,
            timeout=deadline,
            wait_initial=delay,
            wait_jitter=0.0,
            wait_exp_base=1,
        )(function)

    def retry_after(self, function: Call, *, attempts: int, deadline: float | None = None) -> Call:
        return stamina.retry(on=lambda error: error.retry_after, attempts=attempts, timeout=deadline)(
            function
        )

    def retry_by_kind(self, function: Call, delays: dict[type[Exception], float], *, attempts: int) -> Call:
        return stamina.retry(on=lambda error: delays[type(error)], attempts=attempts, timeout=None)(function)

    def retry_block(self, *, attempts: int) -> Any:
        return stamina.retry_context(on=Exception, attempts=attempts, wait_initial=0.0, wait_jitter=0.0)
