"""
The scenarios. Each takes a library, and raises `Failed` or `Differs`, or lets `NotOffered` through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module

from correctness.library import Library

GROUPS = ("retry", "circuit_breaker", "timeout", "fallback", "bulkhead", "rate_limit", "composition")

Body = Callable[[Library], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    group: str
    name: str
    title: str
    cites: str
    body: Body


_FOUND: list[Scenario] = []


def scenario(cites: str) -> Callable[[Body], Body]:
    """Enter a scenario; its docstring is its title, its module its group."""

    def enter(body: Body) -> Body:
        title = " ".join((body.__doc__ or "").split()).rstrip(".")
        assert title, body
        _FOUND.append(Scenario(body.__module__.rsplit(".", 1)[-1], body.__name__, title, cites, body))
        return body

    return enter


def all_scenarios() -> list[Scenario]:
    for group in GROUPS:
        import_module(f"correctness.scenarios.{group}")
    return sorted(_FOUND, key=lambda found: GROUPS.index(found.group))
