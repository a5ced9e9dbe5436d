"""
Requests of an HTTP client, each through a service: what transports and middlewares of all clients share.

What may be repeated follows from the method. What an error or a status means is the business of the client's table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final, Generic, NamedTuple, TypeVar

from shockproof.calls.handle import Handle
from shockproof.calls.options import HandleOptions
from shockproof.integrations.outcome_table import Meaning, OutcomeTable
from shockproof.integrations.service_per_host import ServicePerHost
from shockproof.policies.classification import Classify
from shockproof.policies.retry_after import asked_to_wait
from shockproof.vocabulary.arguments import one_of
from shockproof.vocabulary.outcomes import CallEffect, CallInfo, Verdict

__all__ = ["Asked", "GuardedRequests", "StatusError"]

A = TypeVar("A")

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"})
_IDEMPOTENT: Final = frozenset({"PUT", "DELETE"})
_EFFECTS: Final = ("read", "idempotent", "unsafe")
_FAILS: Final = (Meaning.UNKNOWN, Meaning.TURNED_AWAY)


class StatusError(Exception):
    """
    An answer that counts as a failure, for the policies and in the error log; the caller gets the answer itself.

    ``retry_on`` and `OnError` see it, and may name it.
    """

    def __init__(self, asked: Asked, status: int, answer: object) -> None:
        super().__init__(asked.method, asked.url, status)
        self.method = asked.method
        self.url = asked.url
        """Without user, query and fragment."""
        self.status = status
        self.asked = asked
        self.answer = answer
        """The response of the client."""

    def __str__(self) -> str:
        try:
            words = f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:  # one that nobody has named
            words = str(self.status)
        return f"{self.method} {self.url} was answered with {words}"


class Asked(NamedTuple):
    """What decides about a request, and how it is called."""

    method: str
    host: str
    """As in the URL, with a port that is not the usual one."""
    url: str
    """Without user, query and fragment: it stands in the error log."""
    has_key: bool
    """Whether it carries an ``Idempotency-Key``, so that the other side knows it again."""
    is_replayable: bool
    """Whether its body is there to be sent a second time."""

    @property
    def effect(self) -> CallEffect:
        """What it does at the other side, by RFC 9110: a method that is not known does whatever it likes."""
        if self.method in _READS:
            return "read"
        return "idempotent" if self.has_key or self.method in _IDEMPOTENT else "unsafe"


class GuardedRequests(Generic[A]):
    """
    Sends the requests of one client through services.

    Args:
        services: the one service, or one for each host.
        table: what the client's errors and answers mean.
        status_of: the status of an answer.
        close: ends an answer that nobody will read, so that its connection is free.
        hedges: whether one request may be on its way twice at a time.
    """

    def __init__(
        self,
        services: Handle | ServicePerHost,
        table: OutcomeTable,
        *,
        status_of: Callable[[A], int],
        close: Callable[[A], Awaitable[object]],
        hedges: bool,
    ) -> None:
        if not isinstance(services, Handle | ServicePerHost):
            raise TypeError(
                f'services must be a handle, such as recovery.service("venue"), or a ServicePerHost, got {services!r}'
            )
        self._services = services
        self._table = table
        self._status_of = status_of
        self._close = close
        self._hedges = hedges
        self._ways: dict[tuple[str, CallEffect, bool, bool], Handle] = {}

    async def send(
        self,
        asked: Asked,
        once: Callable[[], Coroutine[Any, Any, A]],  # Any: a coroutine's own
        *,
        effect: CallEffect | None,
        reduces_risk: bool,
    ) -> A:
        """
        The answer to a request that *once* sends once, after as many attempts as its service allows.

        *effect* and *reduces_risk* are what its user knows of it; an effect of None leaves it to the method. Of answers that
        are not given to the caller, each is closed, also when the call is cancelled.

        Raises:
            CallRejectedError: a policy refuses, and nothing was sent.
            Exception: the last attempt's own.
        """
        does: CallEffect = asked.effect if effect is None else one_of("effect", effect, _EFFECTS)
        way = self._way(asked, does, reduces_risk=reduces_risk)
        answers: list[A] = []
        kept: object = None
        is_over = False

        async def attempt() -> A:
            if way.plan.hedge is None:  # else another request of this call may be on its way with one of them
                await self._discard(answers)
            answer = await once()
            if is_over:  # the race was lost while the answer came
                await self._close(answer)
                return answer
            answers.append(answer)
            if self._table.meaning_of(answer) in _FAILS:
                raise StatusError(asked, self._status_of(answer), answer)
            return answer

        attempt.__name__ = asked.method  # what the error log calls it
        try:
            try:
                kept = answer = await way.call(attempt)
                return answer
            except StatusError as failed:
                if failed.asked is not asked:  # of a request inside this one
                    raise
                kept = failed.answer
                return failed.answer  # type: ignore[return-value]  # one of the answers
        finally:
            is_over = True
            await self._discard(answers, but=kept)

    async def _discard(self, answers: list[A], but: object = None) -> None:
        while answers:
            answer = answers.pop()
            if answer is not but:
                await self._close(answer)

    def _way(self, asked: Asked, effect: CallEffect, *, reduces_risk: bool) -> Handle:
        """The handle for requests like this one: the service's own, with what the method says."""
        services = self._services
        handle = services if isinstance(services, Handle) else services.of(asked.host)
        which = (handle.service_name, effect, reduces_risk, asked.is_replayable)
        way = self._ways.get(which)
        if way is None:
            own: Classify | None = handle.plan.options.get("classify")
            options: HandleOptions = {"effect": effect, "classify": self._classify_after(own)}
            if reduces_risk:
                options["risk_reducing"] = True
            if not asked.is_replayable:
                options["max_retries"] = 0
            if effect != "read" or not self._hedges or not asked.is_replayable:
                options["hedge_after"] = None
            way = self._ways[which] = handle.using(**options)
        return way

    def _classify_after(self, own: Classify | None) -> Classify:
        """The user's word on an error or an answer, and else the table's."""

        def classify(value: object, call: CallInfo) -> Verdict | None:
            judged = value.answer if isinstance(value, StatusError) else value
            verdict = None if own is None else own(judged, call)
            if verdict is not None:
                return verdict
            if not isinstance(value, StatusError):
                return self._table.classify(value, call)
            meaning = self._table.meaning_of(judged)
            return None if meaning is None else meaning.verdict(asked_to_wait(judged, call.clock))

        return classify
