"""
shockproof: asyncio-native resilience for trading systems.

Names are loaded when first used: importing this package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shockproof.calls.blocks import AttemptBlock as AttemptBlock
    from shockproof.calls.blocks import Attempts as Attempts
    from shockproof.calls.blocks import Guard as Guard
    from shockproof.calls.handle import Handle as Handle
    from shockproof.calls.history_of_attempts import attempts_of as attempts_of
    from shockproof.calls.once import KeyedOnce as KeyedOnce
    from shockproof.calls.once import Once as Once
    from shockproof.calls.rate_limit_feedback import RateLimitFeedback as RateLimitFeedback
    from shockproof.calls.reconciliation import Reconciled as Reconciled
    from shockproof.calls.stream import Stream as Stream
    from shockproof.decorators import get_error_recovery_service as get_error_recovery_service
    from shockproof.decorators import set_error_recovery_service as set_error_recovery_service
    from shockproof.decorators import with_error_recovery as with_error_recovery
    from shockproof.memory.journal.operation import Operation as Operation
    from shockproof.memory.state.registered_types import register_type as register_type
    from shockproof.memory.state.secrets import Redacted as Redacted
    from shockproof.memory.state.secrets import SecretNotSavedWarning as SecretNotSavedWarning
    from shockproof.memory.stores.file_store import FileStore as FileStore
    from shockproof.memory.stores.lease import Lease as Lease
    from shockproof.memory.stores.lease import take_lease as take_lease
    from shockproof.memory.stores.memory_store import MemoryStore as MemoryStore
    from shockproof.memory.stores.state_store import StateStore as StateStore
    from shockproof.memory.stores.state_store import StoreChange as StoreChange
    from shockproof.memory.stores.state_store import StoreEntry as StoreEntry
    from shockproof.policies.adaptive_concurrency import AdaptiveConcurrency as AdaptiveConcurrency
    from shockproof.policies.fallback import LastGood as LastGood
    from shockproof.policies.fallback import OnError as OnError
    from shockproof.policies.fallback import Stale as Stale
    from shockproof.policies.retry_budget import RetryBudget as RetryBudget
    from shockproof.service import ErrorRecoveryService as ErrorRecoveryService
    from shockproof.settings import ErrorLogOptions as ErrorLogOptions
    from shockproof.settings import LoopMonitorOptions as LoopMonitorOptions
    from shockproof.standalone import Bulkhead as Bulkhead
    from shockproof.standalone import CircuitBreaker as CircuitBreaker
    from shockproof.standalone import Fallback as Fallback
    from shockproof.standalone import Hedge as Hedge
    from shockproof.standalone import RateLimit as RateLimit
    from shockproof.standalone import Retry as Retry
    from shockproof.standalone import Timeout as Timeout
    from shockproof.vocabulary.clock import Clock as Clock
    from shockproof.vocabulary.errors import AttemptTimeoutError as AttemptTimeoutError
    from shockproof.vocabulary.errors import BudgetExhaustedError as BudgetExhaustedError
    from shockproof.vocabulary.errors import BulkheadFullError as BulkheadFullError
    from shockproof.vocabulary.errors import CallRejectedError as CallRejectedError
    from shockproof.vocabulary.errors import CircuitOpenError as CircuitOpenError
    from shockproof.vocabulary.errors import DeadlineExceededError as DeadlineExceededError
    from shockproof.vocabulary.errors import HaltedError as HaltedError
    from shockproof.vocabulary.errors import JournalLockedError as JournalLockedError
    from shockproof.vocabulary.errors import JournalUnavailableError as JournalUnavailableError
    from shockproof.vocabulary.errors import KeyReusedError as KeyReusedError
    from shockproof.vocabulary.errors import OperationBusyError as OperationBusyError
    from shockproof.vocabulary.errors import OperationCompletedError as OperationCompletedError
    from shockproof.vocabulary.errors import OutcomeUnknownError as OutcomeUnknownError
    from shockproof.vocabulary.errors import RateLimitedError as RateLimitedError
    from shockproof.vocabulary.errors import ShockproofError as ShockproofError
    from shockproof.vocabulary.errors import StateNotSavedError as StateNotSavedError
    from shockproof.vocabulary.errors import StateVersionError as StateVersionError
    from shockproof.vocabulary.errors import StoreConflictError as StoreConflictError
    from shockproof.vocabulary.errors import StoreUnavailableError as StoreUnavailableError
    from shockproof.vocabulary.errors import StreamEndedError as StreamEndedError
    from shockproof.vocabulary.errors import StreamSilentError as StreamSilentError
    from shockproof.vocabulary.events import AttemptFailed as AttemptFailed
    from shockproof.vocabulary.events import CallFailed as CallFailed
    from shockproof.vocabulary.events import CallHedged as CallHedged
    from shockproof.vocabulary.events import CallOverdue as CallOverdue
    from shockproof.vocabulary.events import CallRejected as CallRejected
    from shockproof.vocabulary.events import CircuitClosed as CircuitClosed
    from shockproof.vocabulary.events import CircuitHalfOpened as CircuitHalfOpened
    from shockproof.vocabulary.events import CircuitModeChanged as CircuitModeChanged
    from shockproof.vocabulary.events import CircuitOpened as CircuitOpened
    from shockproof.vocabulary.events import CircuitWouldOpen as CircuitWouldOpen
    from shockproof.vocabulary.events import Event as Event
    from shockproof.vocabulary.events import FallbackAnswered as FallbackAnswered
    from shockproof.vocabulary.events import Halted as Halted
    from shockproof.vocabulary.events import LoopStalled as LoopStalled
    from shockproof.vocabulary.events import OwnershipLost as OwnershipLost
    from shockproof.vocabulary.events import OwnershipTaken as OwnershipTaken
    from shockproof.vocabulary.events import RateLimitPaused as RateLimitPaused
    from shockproof.vocabulary.events import Resumed as Resumed
    from shockproof.vocabulary.events import RetryScheduled as RetryScheduled
    from shockproof.vocabulary.events import StreamGap as StreamGap
    from shockproof.vocabulary.events import StreamLost as StreamLost
    from shockproof.vocabulary.look_up import NOT_FOUND as NOT_FOUND
    from shockproof.vocabulary.look_up import UNKNOWN as UNKNOWN
    from shockproof.vocabulary.look_up import Found as Found
    from shockproof.vocabulary.look_up import LookUp as LookUp
    from shockproof.vocabulary.models import ErrorRecord as ErrorRecord
    from shockproof.vocabulary.models import SystemState as SystemState
    from shockproof.vocabulary.outcomes import Attempt as Attempt
    from shockproof.vocabulary.outcomes import CallInfo as CallInfo
    from shockproof.vocabulary.outcomes import Outcome as Outcome
    from shockproof.vocabulary.outcomes import Verdict as Verdict
    from shockproof.vocabulary.statuses import ErrorSeverity as ErrorSeverity
    from shockproof.vocabulary.statuses import ServiceStatus as ServiceStatus

_HOMES = {
    "calls.blocks": ("AttemptBlock", "Attempts", "Guard"),
    "calls.handle": ("Handle",),
    "calls.history_of_attempts": ("attempts_of",),
    "calls.rate_limit_feedback": ("RateLimitFeedback",),
    "calls.stream": ("Stream",),
    "calls.once": ("KeyedOnce", "Once"),
    "calls.reconciliation": ("Reconciled",),
    "decorators": ("get_error_recovery_service", "set_error_recovery_service", "with_error_recovery"),
    "memory.journal.operation": ("Operation",),
    "memory.state.registered_types": ("register_type",),
    "memory.state.secrets": ("Redacted", "SecretNotSavedWarning"),
    "memory.stores.file_store": ("FileStore",),
    "memory.stores.lease": ("Lease", "take_lease"),
    "memory.stores.memory_store": ("MemoryStore",),
    "memory.stores.state_store": ("StateStore", "StoreChange", "StoreEntry"),
    "policies.adaptive_concurrency": ("AdaptiveConcurrency",),
    "policies.fallback": ("LastGood", "OnError", "Stale"),
    "policies.retry_budget": ("RetryBudget",),
    "service": ("ErrorRecoveryService",),
    "settings": ("ErrorLogOptions", "LoopMonitorOptions"),
    "standalone": ("Bulkhead", "CircuitBreaker", "Fallback", "Hedge", "RateLimit", "Retry", "Timeout"),
    "vocabulary.clock": ("Clock",),
    "vocabulary.errors": (
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
    ),
    "vocabulary.events": (
        "AttemptFailed",
        "CallFailed",
        "CallHedged",
        "CallOverdue",
        "CallRejected",
        "CircuitClosed",
        "CircuitHalfOpened",
        "CircuitModeChanged",
        "CircuitOpened",
        "CircuitWouldOpen",
        "Event",
        "FallbackAnswered",
        "Halted",
        "LoopStalled",
        "OwnershipLost",
        "OwnershipTaken",
        "RateLimitPaused",
        "Resumed",
        "RetryScheduled",
        "StreamGap",
        "StreamLost",
    ),
    "vocabulary.look_up": ("NOT_FOUND", "UNKNOWN", "Found", "LookUp"),
    "vocabulary.models": ("ErrorRecord", "SystemState"),
    "vocabulary.outcomes": ("Attempt", "CallInfo", "Outcome", "Verdict"),
    "vocabulary.statuses": ("ErrorSeverity", "ServiceStatus"),
}
_HOME_OF = {name: f"shockproof.{home}" for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # checkers read the imports above
    __all__ = [*_HOME_OF]  # noqa: PLE0604 - they are strings, from the one table above
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'shockproof' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
