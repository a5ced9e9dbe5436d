"""What the transports for httpx and httpx2, which share names and no classes, do with a request."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from shockproof.calls.handle import Handle
from shockproof.integrations.guarded_requests import Asked, GuardedRequests
from shockproof.integrations.outcome_table import OutcomeTable
from shockproof.integrations.service_per_host import ServicePerHost
from shockproof.vocabulary.outcomes import CallEffect

__all__ = ["HttpxRequests"]

_SHORT: Final = 65_536
"""Bytes: pages that go with an error are shorter."""


class HttpxRequests:
    """Sends requests of *client*, the module, by *transport*, each through a service."""

    def __init__(
        self,
        client: ModuleType,
        table: OutcomeTable,
        services: Handle | ServicePerHost,
        transport: Any,  # Any: an AsyncBaseTransport of the one or the other, or None
        effect_of: Callable[[Any], CallEffect | None] | None,  # Any: a Request of the one or the other
        risk_reducing_if: Callable[[Any], bool] | None,  # Any: as above
    ) -> None:
        self._guarded = GuardedRequests[Any](  # Any: a Response of the one or the other
            services, table, status_of=lambda answer: int(answer.status_code), close=_close, hedges=True
        )
        if transport is not None and not isinstance(transport, client.AsyncBaseTransport):
            raise TypeError(
                f"transport must be one of {client.__name__}'s, such as AsyncHTTPTransport(), got {transport!r}"
            )
        self._client = client
        self._effect_of = effect_of
        self._risk_reducing_if = risk_reducing_if
        self.transport: Any = client.AsyncHTTPTransport() if transport is None else transport  # Any: as above

    async def send(self, request: Any) -> Any:  # Any: a Request and a Response of the one or the other
        """The answer to *request*."""
        url, host = request.url, request.url.netloc.decode("ascii")
        asked = Asked(
            request.method.upper(),
            host,
            f"{url.scheme}://{host}{url.path}",
            "idempotency-key" in request.headers,
            isinstance(request.stream, self._client.ByteStream),
        )
        effect = None if self._effect_of is None else self._effect_of(request)
        reduces_risk = self._risk_reducing_if is not None and self._risk_reducing_if(request)

        async def once() -> Any:  # Any: as above
            return await self._with_short_page(await self.transport.handle_async_request(request))

        return await self._guarded.send(asked, once, effect=effect, reduces_risk=reduces_risk)

    async def _with_short_page(self, answer: Any) -> Any:  # Any: as above
        """A failure whose short page was read, so that its connection is free while the next attempt is waited for."""
        length: str | None = answer.headers.get("content-length")
        if answer.status_code < 400 or length is None or not length.isdecimal() or int(length) > _SHORT:
            return answer
        try:
            page = b"".join([piece async for piece in answer.aiter_raw()])
        finally:
            await answer.aclose()
        return self._client.Response(
            answer.status_code,
            headers=answer.headers,
            stream=self._client.ByteStream(page),
            extensions=answer.extensions,
        )


async def _close(answer: Any) -> None:  # Any: a Response of the one or the other
    await answer.aclose()
