"""What `import shockproof` costs: nothing but the standard library, and little of that."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest


def modules_after(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded at the end of *program*."""
    text = textwrap.dedent(program) + "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = (
    "pydantic",
    "pydantic_core",
    "aiofiles",
    "anyio",
    "ccxt",
    "aiohttp",
    "rich",
    "cryptography",
    "pytest",
)


def loaded(modules: set[str], packages: tuple[str, ...]) -> list[str]:
    return sorted(name for name in modules if name.split(".")[0] in packages)


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Names are loaded when first used: neither pydantic nor aiofiles nor anyio, nor any extra."""
    assert loaded(modules_after("import shockproof"), HEAVY) == []


def test_importing_the_package_loads_no_event_loop() -> None:
    """The event loop comes with the first name that needs it."""
    before = modules_after("")
    added = modules_after("import shockproof") - before
    assert loaded(added, ("asyncio",)) == []
    assert sorted(name for name in added if name.startswith("shockproof")) == ["shockproof"]


@pytest.mark.parametrize(
    "program",
    [
        "from shockproof import ErrorRecoveryService",
        "from shockproof import ErrorRecoveryService, CircuitOpenError, ServiceStatus, Verdict, attempts_of",
        """
        from shockproof import ErrorRecoveryService, with_error_recovery
        recovery = ErrorRecoveryService()
        market = recovery.service("market", timeout=1.0)
        @market
        async def fetch(): ...
        @with_error_recovery("other")
        def plain(): ...
        """,
        """
        import asyncio
        from shockproof import ErrorRecoveryService
        recovery = ErrorRecoveryService()
        async def fetch(): return 1
        asyncio.run(recovery.retry_with_backoff(fetch))
        recovery.get_health_status()
        recovery.get_error_summary()
        """,
    ],
    ids=["the service", "its words", "handles and decorators", "a healthy call"],
)
def test_using_the_service_loads_nothing_heavy(program: str) -> None:
    """Models and file access are loaded when the first of them is needed, not before."""
    assert loaded(modules_after(program), HEAVY) == []


def test_a_program_loads_what_it_uses() -> None:
    """Events as soon as somebody listens, orders and feeds when there are any: it is half of the time to start."""
    rarely = {"shockproof.vocabulary.events", "shockproof.calls.once", "shockproof.calls.stream"}
    program = """
        import asyncio
        from shockproof import ErrorRecoveryService
        recovery = ErrorRecoveryService()
        async def fetch(): return 1
        asyncio.run(recovery.service("market", timeout=1.0, fallback=0).call(fetch))
    """
    listening = program + "    recovery.on_event(print)"

    assert sorted(modules_after(program) & rarely) == []
    assert sorted(modules_after(listening) & rarely) == ["shockproof.vocabulary.events"]


@pytest.mark.parametrize("module", ["policies", "vocabulary", "memory", "calls"])
def test_a_lower_layer_does_not_load_a_higher_one(module: str) -> None:
    """Imports point down only, when they run as well as on paper."""
    order = ["vocabulary", "policies", "memory", "calls", "settings", "service", "decorators", "testing"]
    above = order[order.index(module) + 1 :]
    program = f"""
        import pkgutil, importlib, shockproof.{module} as package
        for found in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{{package.__name__}}.{{found.name}}")
    """
    modules = modules_after(program)
    wrong = [
        name for name in modules if any(f"{name}.".startswith(f"shockproof.{layer}.") for layer in above)
    ]
    assert sorted(wrong) == []


def test_policies_and_words_need_no_event_loop_of_a_third_party() -> None:
    """They decide: no file, no process, no thread pool."""
    program = """
        import pkgutil, importlib, shockproof.policies as package
        for found in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{found.name}")
    """
    added = modules_after(program) - modules_after("import asyncio")
    assert loaded(added, ("aiofiles", "anyio", "pydantic", "trio")) == []
