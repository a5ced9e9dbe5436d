"""
Everything shockproof raises by itself. The user's own errors always pass untouched.

    ShockproofError
    ├── CallRejectedError            the function did not run
    │   ├── CircuitOpenError         the circuit of the service is open
    │   ├── BulkheadFullError        too many calls are in flight
    │   ├── RateLimitedError         it could not be sent in time
    │   └── HaltedError              the kill switch is on
    ├── AttemptTimeoutError          also a TimeoutError: one attempt took too long
    ├── DeadlineExceededError        also a TimeoutError: all attempts together took too long
    ├── StreamSilentError            also a TimeoutError: a feed gave no item for too long
    ├── StreamEndedError             also a ConnectionError: a feed ended, and should not
    ├── OutcomeUnknownError          an order was sent, and nothing can be proven of it
    ├── OperationCompletedError      an operation or an order with this key was completed before
    │   └── KeyReusedError           the key of an order that is there was used for another one
    ├── OperationBusyError           it is running at another place of this process
    ├── JournalUnavailableError      what has to be known after a crash could not be made durable
    ├── JournalLockedError           another process owns the journal
    ├── StateNotSavedError           the disk refused the state
    ├── StateVersionError            a state file was written by a newer version
    ├── StoreConflictError           somebody else has changed what several processes share
    └── StoreUnavailableError        what several processes share cannot be reached
"""

from __future__ import annotations

import os

__all__ = [
    "AttemptTimeoutError",
    "BudgetExhaustedError",
    "BulkheadFullError",
    "CallRejectedError",
    "CircuitOpenError",
    "DeadlineExceededError",
    "HaltedError",
    "JournalLockedError",
    "JournalUnavailableError",
    "KeyReusedError",
    "OperationBusyError",
    "OperationCompletedError",
    "OutcomeUnknownError",
    "RateLimitedError",
    "ShockproofError",
    "StateNotSavedError",
    "StateVersionError",
    "StoreConflictError",
    "StoreUnavailableError",
    "StreamEndedError",
    "StreamSilentError",
]


class ShockproofError(Exception):
    """Whatever shockproof raises by itself is one of these."""


class CallRejectedError(ShockproofError):
    """
    A policy refused the call: the function did not run, so nothing happened at the other side.

    Built from its arguments alone and rendered only when somebody asks for the text, so that a
    refusal stays cheap; it pickles and copies like any exception.
    """

    def __init__(
        self,
        service_name: str,
        policy: str,
        retry_after: float | None = None,
        last_error: str | None = None,
    ) -> None:
        self.args = (service_name, policy, retry_after, last_error)

    @property
    def service_name(self) -> str:
        """The service whose policy refused."""
        name: str = self.args[0]
        return name

    @property
    def policy(self) -> str:
        """The policy that refused, for example ``"circuit_breaker"``."""
        policy: str = self.args[1]
        return policy

    @property
    def retry_after(self) -> float | None:
        """Seconds after which a call may be admitted again, or None when that is not known."""
        seconds: float | None = self.args[2]
        return seconds

    @property
    def last_error(self) -> str | None:
        """Type and text of the error that led to the refusal, never the object."""
        text: str | None = self.args[3]
        return text

    def __str__(self) -> str:
        when = "" if self.retry_after is None else f"; retry in {max(0.0, self.retry_after):.3g} s"
        why = "" if self.last_error is None else f" (last error: {self.last_error})"
        return f"service {self.service_name!r}: {self._what()}{when}{why}"

    def _what(self) -> str:
        return f"call rejected by {self.policy}"


class CircuitOpenError(CallRejectedError):
    """The circuit of the service is open, forced open by hand, or half-open with every probe taken."""

    def __init__(
        self,
        service_name: str,
        policy: str = "circuit_breaker",
        retry_after: float | None = None,
        last_error: str | None = None,
        forced: str | None = None,
    ) -> None:
        self.args = (service_name, policy, retry_after, last_error)
        if forced is not None:
            self.args += (forced,)

    @property
    def forced(self) -> str | None:
        """Why somebody forced it open, ``""`` if no reason was given; None when it opened by itself."""
        reason: str | None = self.args[4] if len(self.args) > 4 else None
        return reason

    def _what(self) -> str:
        if self.forced is None:
            return "the circuit is open"
        return "the circuit was forced open" + (f": {self.forced}" if self.forced else "")


class BulkheadFullError(CallRejectedError):
    """Too many calls of the service are in flight, and its queue is full or took too long."""

    def _what(self) -> str:
        return "too many calls are in flight"


class RateLimitedError(CallRejectedError):
    """The rate limit of the service leaves no room in the time the call may wait."""

    def _what(self) -> str:
        return "the rate limit leaves no room"


class BudgetExhaustedError(CallRejectedError):
    """A repetition that `RetryBudget.repetition` was asked for is not paid for: successes have to come first."""

    def __init__(
        self,
        service_name: str,
        policy: str = "retry_budget",
        retry_after: float | None = None,
        last_error: str | None = None,
    ) -> None:
        self.args = (service_name, policy, retry_after, last_error)

    def _what(self) -> str:
        return "the retry budget is exhausted"


class HaltedError(CallRejectedError):
    """The call is neither a read nor reduces risk, and `ErrorRecoveryService.halt` is in force, or another process owns it."""

    def __init__(
        self,
        service_name: str,
        policy: str = "halt",
        retry_after: float | None = None,
        last_error: str | None = None,
        reason: str = "",
    ) -> None:
        self.args = (service_name, policy, retry_after, last_error, reason)

    @property
    def reason(self) -> str:
        """Why it was halted, as somebody told `halt`."""
        reason: str = self.args[4]
        return reason

    def _what(self) -> str:
        return f"halted: {self.reason}"


class _TimeLimitError(ShockproofError, TimeoutError):
    def __init__(self, service_name: str, seconds: float) -> None:
        super().__init__(service_name, seconds)
        self.errno = self.strerror = None  # an OSError takes two arguments for these; aiohttp looks at them
        self.service_name = service_name
        self.seconds = seconds


class AttemptTimeoutError(_TimeLimitError):
    """One attempt ran longer than ``timeout`` and was cancelled."""

    def __str__(self) -> str:
        return f"service {self.service_name!r}: an attempt took longer than its timeout of {self.seconds:g} s"


class DeadlineExceededError(_TimeLimitError):
    """The deadline of the whole call passed while an attempt was in flight; it was cancelled."""

    def __str__(self) -> str:
        return f"service {self.service_name!r}: the deadline of {self.seconds:g} s passed"


class _OperationError(ShockproofError):
    def __init__(self, operation: str, key: str | None, *more: object) -> None:
        super().__init__(operation, key, *more)
        self.operation = operation
        self.key = key

    @property
    def _named(self) -> str:
        return f"operation {self.operation!r}" + ("" if self.key is None else f" with key {self.key!r}")


class OperationCompletedError(_OperationError):
    """An operation with this key was completed before; ``result`` is what it left in ``op.result``."""

    def __init__(self, operation: str, key: str | None, result: object = None) -> None:
        super().__init__(operation, key, result)
        self.result = result

    def __str__(self) -> str:
        left = "it left no result" if self.result is None else "its result is on this error"
        return f"{self._named} was completed before: {left}; to do it again, use another key"


class OperationBusyError(_OperationError):
    """An operation with this name and key is running at another place of this process."""

    def __str__(self) -> str:
        return f"{self._named} is running already: wait for it, or give this one a key of its own"


class KeyReusedError(OperationCompletedError):
    """
    The key of an order that is there was used for another order, which was not sent.

    ``differs`` names the arguments that are not the same, ``result`` is the order that has the key, as far as it is known.
    It is an `OperationCompletedError`, so that a program that takes this for "placed before" does so here, too.
    """

    def __init__(
        self,
        operation: str,
        key: str,
        result: object = None,
        differs: tuple[str, ...] = (),
        service_name: str = "unknown",
    ) -> None:
        super().__init__(operation, key, result)
        self.args = (operation, key, result, differs, service_name)
        self.differs = differs
        self.service_name = service_name

    def __str__(self) -> str:
        differs = ", ".join(map(repr, self.differs)) or "its arguments"
        return (
            f"service {self.service_name!r}: the key {self.key!r} belongs to an order that was placed with another value of "
            f"{differs}; this one was not sent. Give each order a key of its own; where these may change and it is "
            "the same order all the same, say so with once(compare_arguments=...)"
        )


class OutcomeUnknownError(ShockproofError):
    """An order was sent, and nothing can be proven of it; it stays pending. ``key`` is its id at the venue."""

    def __init__(self, key: str, service_name: str = "unknown", last_error: str | None = None) -> None:
        super().__init__(key, service_name, last_error)
        self.key = key
        self.service_name = service_name
        self.last_error = last_error
        """Type and text of the error that made it unknown, never the object."""

    def __str__(self) -> str:
        why = "" if self.last_error is None else f" (last error: {self.last_error})"
        return (
            f"service {self.service_name!r}: whether the order with key {self.key!r} was placed is unknown{why}; it stays "
            "pending: call again with this key, await reconcile(), or look at the venue"
        )


class JournalUnavailableError(ShockproofError):
    """The journal could not make durable what has to be known before something is done: it was not done."""


class JournalLockedError(ShockproofError):
    """
    Another process owns the journal; ``pid`` is its number, or None when it could not be read.

    ``is_stopped`` tells that it stands still, by SIGSTOP or under a debugger, and so never gives it up by itself.
    """

    def __init__(self, directory: str, pid: int | None = None, is_stopped: bool = False) -> None:
        super().__init__(directory, pid, is_stopped)
        self.directory = directory
        self.pid = pid
        self.is_stopped = is_stopped

    def __str__(self) -> str:
        owner = "another process" if self.pid is None else f"process {self.pid}"
        if self.is_stopped:
            return (
                f"the journal in {self.directory} belongs to {owner}, which is stopped and may be about to send: "
                f"kill -KILL {self.pid} ends it, kill -CONT {self.pid} lets it go on"
            )
        if self.pid == os.getpid():
            return (
                f"the journal in {self.directory} belongs to this process ({self.pid}) already, by another path, such as a symbolic link: "
                "use one path for both services, or give one of them a state_dir of its own"
            )
        return (
            f"the journal in {self.directory} belongs to {owner}: end that one, "
            "or give this program a state_dir of its own"
        )


class StreamSilentError(_TimeLimitError):
    """A feed gave no item for ``stale_after`` seconds while one was waited for."""

    def __str__(self) -> str:
        return f"service {self.service_name!r}: no item came for {self.seconds:g} s"


class StreamEndedError(ShockproofError, ConnectionError):
    """The source of a feed ended without an error, and was not expected to end."""

    def __init__(self, service_name: str) -> None:
        super().__init__(service_name)
        self.service_name = service_name

    def __str__(self) -> str:
        return f"service {self.service_name!r}: the feed ended"


class StateNotSavedError(ShockproofError):
    """The state could not be made durable; what was on disk before is still there."""


class StateVersionError(ShockproofError):
    """A state file was written by a newer program, or holds what this one cannot restore or migrate."""


class StoreConflictError(ShockproofError):
    """Somebody else has changed *key* of a shared store since it was read: nothing was put or deleted."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        super().__init__(key, expected, found)
        self.key = key
        self.expected = expected
        """The version that was asked for; 0: nothing."""
        self.found = found
        """The version that is there; 0: nothing."""

    def __str__(self) -> str:
        return (
            f"{self.key!r} has {_version(self.found)} and not {_version(self.expected)}: somebody else has changed it; "
            "read it again"
        )


def _version(number: int) -> str:
    return f"version {number}" if number else "no value"


class StoreUnavailableError(ShockproofError):
    """A shared store did not answer in time, refused, or answered nonsense. Whether it did what was asked is unknown."""
