"""
The recovery service of the process, and the decorator that uses it.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from shockproof.calls.combinations import Layer, add_layer, check_layers, warn_of_useless
from shockproof.calls.members import Members
from shockproof.calls.options import ServiceOptions, calling_place, check_options
from shockproof.calls.plan import Plan
from shockproof.calls.wrap import wrap
from shockproof.memory.services.registry import refuse_second_value
from shockproof.service import ErrorRecoveryService
from shockproof.vocabulary.arguments import a_name

__all__ = ["get_error_recovery_service", "set_error_recovery_service", "with_error_recovery"]

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()
_current: ErrorRecoveryService | None = None


def get_error_recovery_service() -> ErrorRecoveryService:
    """The one recovery service of this process, made with the environment's settings at first need."""
    global _current
    with _lock:
        if _current is None:
            _current = ErrorRecoveryService()
        return _current


def set_error_recovery_service(service: ErrorRecoveryService | None) -> None:
    """
    Use *service* for the whole process; functions decorated before follow at their next call.

    Meant for tests and for programs that configure their service at start-up. None: a new one is
    made at the next need. The one used before is left as it is; close it if it is not needed.
    """
    global _current
    if service is not None and not isinstance(service, ErrorRecoveryService):
        raise TypeError(f"service must be an ErrorRecoveryService or None, got {service!r}")
    with _lock:
        _current = service
    for plan in _ProcessPlan.made.all():
        plan.unbind()


class _ProcessPlan(Plan):
    """A plan of the process's service, bound at its first call and again when that is replaced."""

    __slots__ = ("_name", "_place", "_service_options")

    is_fixed = False
    made: ClassVar[Members[_ProcessPlan]] = Members()

    def __init__(
        self,
        name: str,
        options: dict[str, Any],  # Any: each option has a type of its own
        service_options: dict[str, Any],  # Any: each option has a type of its own
        place: str,
    ) -> None:
        super().__init__(options)
        self._name, self._service_options, self._place = name, service_options, place
        _ProcessPlan.made.add(self)

    @property
    def layer(self) -> Layer:
        """As ever, but of a service that is known by its name alone until the first call."""
        retries = self.options.get("max_retries")
        own = {"max_retries": 1 if retries is None and self.hedge is None else retries or 0}
        circuit = {"circuit_threshold": self._service_options.get("circuit_threshold", 1)}
        return Layer(
            self._name, ("process", self._name), {**self._service_options, **self.options, **own, **circuit}
        )

    def prepare(self) -> None:
        get_error_recovery_service()._bind(self, self._name, self._service_options, self._place)
        super().prepare()


def _refuse_conflict(
    name: str,
    options: dict[str, Any],  # Any: each option has a type of its own
    place: str,
) -> None:
    # The service itself would refuse it, too, but at the first call: which may be in the middle of a night.
    known = None if _current is None else _current._registry.get(name)
    if known is not None:
        refuse_second_value(name, options, place, known.set_by_hand, known.declared_at)
    for other in _ProcessPlan.made.all():
        if other._name == name:
            declared_at = dict.fromkeys(other._service_options, other._place)
            refuse_second_value(name, options, place, other._service_options, declared_at)


class Decorator(Protocol):
    """Makes a function one that recovers: its signature, name and docstring stay."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


def with_error_recovery(service_name: str, **options: Unpack[ServiceOptions]) -> Decorator:
    """
    Decorate a function so that its calls recover, through the process's service.

    Args:
        service_name: whose circuit and health the calls belong to.
        **options: what `ErrorRecoveryService.service` takes: ``max_retries``, ``fallback``,
            ``timeout`` and so on.

    Returns:
        A decorator; a plain function becomes a coroutine function.

    Raises:
        TypeError, ValueError: an option that is unknown or not allowed, a second, different value for
            what belongs to the service, or a function that cannot be guarded.
    """
    name = a_name("service_name", service_name)
    handle_options, service_options = check_options(options)
    place = calling_place()
    _refuse_conflict(name, service_options, place)
    warn_of_useless({**handle_options, **service_options}, {**handle_options, **service_options})

    def decorate(fn: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:  # Any: see Decorator
        plan = _ProcessPlan(name, handle_options, service_options, place)
        check_layers(fn, plan.layer)
        wrapped = wrap(plan, fn)
        add_layer(wrapped, fn, plan.layer)
        return wrapped

    return cast("Decorator", decorate)
