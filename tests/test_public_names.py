"""
The public names, pinned in public_names.txt: a change of it is a change of the contract with users.

After a change that is meant, `python tests/test_public_names.py` writes the file anew: read the diff.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Union, get_origin, is_typeddict

import pytest

import shockproof
import shockproof.alerts
import shockproof.endpoints
import shockproof.testing

CLIENTS = (
    "aiohttp",
    "alpaca",
    "apprise",
    "binance",
    "ccxt",
    "etcd",
    "grpc",
    "httpx",
    "httpx2",
    "ib",
    "logging",
    "opentelemetry",
    "prometheus",
    "redis",
    "requests",
    "starlette",
    "structlog",
)
"""The integrations; the test extras bring all of them."""
PINNED = Path(__file__).with_name("public_names.txt")


def signature(function: object, *, is_method: bool) -> str:
    """Parameters with their kinds and defaults; types are pinned by tests/typing/api.py."""
    assert callable(function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # it takes over what a built-in has
        return "(...)"
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters[is_method:]]
    return str(inspect.Signature(bare))


def members(owner: type) -> Iterator[str]:
    """The methods, properties and operators that a class of ours offers, those it inherits from us included."""
    ours = [kind for kind in owner.__mro__ if kind.__module__.startswith("shockproof.")]
    seen: set[str] = set()
    wanted = {"__call__", "__aenter__", "__aexit__", "__aiter__", "__anext__"}
    for kind in ours:
        for name, value in vars(kind).items():
            if name in seen or (name.startswith("_") and name not in wanted):
                continue
            seen.add(name)
            if isinstance(value, property):
                yield f"{owner.__name__}.{name}"
            elif isinstance(value, classmethod | staticmethod):
                function = value.__func__
                yield f"{owner.__name__}.{name}{signature(function, is_method=isinstance(value, classmethod))}"
            elif inspect.isfunction(value):
                is_async = inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
                yield f"{'async ' * is_async}{owner.__name__}.{name}{signature(value, is_method=True)}"


def is_alias(value: object) -> bool:
    """Whether it is a name for one type or another."""
    return get_origin(value) in {Union, UnionType}


def describe(name: str, value: object) -> Iterator[str]:
    """One public name, in as many lines as it has parts."""
    if isinstance(value, type):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        heading = f"class {name}({bases})" if bases else f"class {name}"
        if issubclass(value, enum.Enum):
            yield f"{heading}: {', '.join(f'{one.name}={one.value!r}' for one in value)}"
            return
        fields = getattr(value, "model_fields", None)
        if is_typeddict(value):
            yield f"{heading}: {', '.join(sorted(value.__annotations__))}"
        elif fields is not None:
            parts = [f"{key}{'' if field.is_required() else '=...'}" for key, field in fields.items()]
            yield f"{heading}: {', '.join(parts)}"
        else:
            constructor = "(...)"
            if not getattr(value, "_is_protocol", False):
                constructor = signature(value, is_method=False)
            yield f"{heading}: {constructor}"
        yield from sorted(members(value))
    elif is_alias(value):
        yield f"type {name}"
    elif callable(value):
        yield f"{'async ' * inspect.iscoroutinefunction(value)}def {name}{signature(value, is_method=False)}"
    else:
        yield f"{name} = {value!r}"


def names_now() -> str:
    """What the file should hold."""
    from shockproof.calls.options import HandleOptions, ServiceOptions

    lines: list[str] = []
    clients = [importlib.import_module(f"shockproof.integrations.{name}") for name in CLIENTS]
    for module in (shockproof, shockproof.alerts, shockproof.endpoints, shockproof.testing, *clients):
        for name in sorted(module.__all__):
            lines.extend(f"{module.__name__}: {line}" for line in describe(name, getattr(module, name)))
    of_handles = sorted(HandleOptions.__annotations__)
    of_services = sorted(set(ServiceOptions.__annotations__) - set(of_handles))
    lines.append(f"options of a handle: {', '.join(of_handles)}")
    lines.append(f"options of a service: {', '.join(of_services)}")
    return "\n".join(lines) + "\n"


def test_the_public_names_are_those_of_the_reviewed_file() -> None:
    """Nothing is added, removed, renamed or given another default without somebody having read it."""
    assert names_now() == PINNED.read_text(encoding="utf-8"), (
        "the public names have changed; if that is meant: python tests/test_public_names.py, and read the diff"
    )


def test_every_public_name_is_documented() -> None:
    """Each has a docstring of its own."""
    values = {name: getattr(shockproof, name) for name in shockproof.__all__}
    # An alias of a type cannot hold the text that stands below it; the reference takes it from the source.
    silent = [name for name, one in values.items() if not (is_alias(one) or inspect.getdoc(one))]
    assert silent == []


def test_every_public_name_says_where_users_find_it() -> None:
    """dir() and a star import show what __all__ lists."""
    assert set(shockproof.__all__) <= set(dir(shockproof))
    program = "from shockproof import *; import shockproof; assert set(shockproof.__all__) <= set(dir())"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Lazy loading does not change what Python says."""
    with pytest.raises(AttributeError, match="module 'shockproof' has no attribute 'nonsense'"):
        _ = shockproof.nonsense  # type: ignore[attr-defined]  # the mistake under test


def test_the_names_of_the_contract_are_there() -> None:
    """What sections 1 and 2 fix cannot be lost by writing the file anew."""
    methods = {
        "retry_with_backoff", "with_fallback", "save_state", "restore_state", "is_circuit_open",
        "reset_circuit_breaker", "get_error_summary", "get_health_status", "get_service_status",
        "get_all_service_statuses", "clear_error_history", "configure", "context", "track_state",
        "read_errors", "on_event", "start", "aclose", "service",
    }  # fmt: skip
    assert methods <= set(dir(shockproof.ErrorRecoveryService))
    assert {"call", "using", "guard", "attempts", "__call__"} <= set(dir(shockproof.Handle))
    errors = {
        "CallRejectedError": ("ShockproofError",),
        "CircuitOpenError": ("CallRejectedError",),
        "AttemptTimeoutError": ("ShockproofError", "TimeoutError"),
        "DeadlineExceededError": ("ShockproofError", "TimeoutError"),
        "StateNotSavedError": ("ShockproofError",),
        "StateVersionError": ("ShockproofError",),
    }
    for name, parents in errors.items():
        known = {kind.__name__ for kind in getattr(shockproof, name).__mro__}
        assert known.issuperset(parents)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            "__init__",
            "(self, state_dir, error_log_dir, max_retries, base_delay, max_delay, backoff_factor, *, ",
        ),
        ("retry_with_backoff", "(self, func, /, *args, service_name='unknown', max_retries=None, **kwargs)"),
        (
            "save_state",
            "(self, active_operations=None, cached_data=None, configuration=None, force=False)",
        ),
        ("get_error_summary", "(self, since=None, service_name=None, min_severity=None)"),
        ("track_state", "(self, provider, *, every=None)"),
        ("read_errors", "(self, *, since=None, until=None, service_name=None, min_severity=None)"),
        ("aclose", "(self, timeout=5.0)"),
        ("context", "(self, **data)"),
        ("configure", "(self, **changes)"),
    ],
)
def test_the_signatures_of_the_contract_are_there(method: str, expected: str) -> None:
    """Names, order, kinds and defaults of the arguments."""
    function = getattr(shockproof.ErrorRecoveryService, method)
    found = signature(function, is_method=False)
    if method == "__init__":
        found = found.replace("=NOT_GIVEN", "")
    assert found.startswith(expected)


if __name__ == "__main__":
    PINNED.write_text(names_now(), encoding="utf-8")
