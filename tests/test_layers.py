"""What `import shockproof` costs: nothing but the standard library, and little of that."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def said_by(program: str, *arguments: str) -> str:
    """What *program* prints in a fresh interpreter, where nothing goes wrong."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def modules_after(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded at the end of *program*."""
    end = "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(said_by(textwrap.dedent(program) + end).splitlines()[-1]))


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


MAKING_ONE = """
    from shockproof import ErrorRecoveryService
    recovery = ErrorRecoveryService()
    market = recovery.service("market")
    @market
    async def fetch(): return 1
"""
# What a program loads with that, beyond what asyncio has loaded: each takes part of the time to start.
STANDARD = {
    "bisect": "the windows of rate limits",
    "dataclasses": "of `Verdict`, `Attempt` and `CallInfo`",
    "datetime": "a duration may be a timedelta",
    "gc": "none is collected while the frames of all threads are asked for",
    "json": "the texts of errors, quoted while they are captured",
    "pathlib": "the directories",
    "queue": "the disk's thread",
    "random": "jitter",
    "zlib": "how far the file of the error log was read",
}


def test_making_a_service_loads_what_calls_and_their_errors_need_and_nothing_else() -> None:
    """State, journal, orders, feeds, what processes share, and stand-ins are loaded by who uses them."""
    modules = modules_after(MAKING_ONE)
    ours = {name for name in modules if name.startswith("shockproof.")}
    elsewhere = (
        *("memory.state", "memory.journal", "memory.fleet", "memory.stores", "memory.services.health"),
        *(
            "policies.fleet_circuit",
            "policies.fleet_limit",
            "policies.fleet_budget",
            "policies.fallback",
            "policies.adaptive_concurrency",
        ),
        *("calls.once", "calls.stream", "calls.reconciliation", "calls.rate_queue", "calls.periodic"),
        *("vocabulary.events", "vocabulary.look_up"),
    )
    unasked = [name for name in ours if name.removeprefix("shockproof.").startswith(elsewhere)]

    assert sorted(unasked) == []
    assert len(ours) <= 93, "loading and running each takes about 0.1 ms: load it where it is used"


def test_making_a_service_loads_little_of_the_standard_library() -> None:
    """What is not in this list takes longer to load than most of our own modules."""
    added = {name for name in modules_after(MAKING_ONE) - modules_after("import asyncio") if "." not in name}
    brought_along = {"__future__", "copy", "fnmatch", "ipaddress", "ntpath", "urllib"}  # by those of the list
    assert (
        sorted(added - {"shockproof"} - set(STANDARD) - brought_along - {n for n in added if n[0] == "_"})
        == []
    )


def test_making_a_service_makes_few_dataclasses() -> None:
    """Each is written and compiled while it is imported, which takes as long as five modules."""
    program = (
        MAKING_ONE
        + """
    import sys
    made = {
        kind.__qualname__
        for name, module in list(sys.modules.items())
        if name.startswith("shockproof")
        for kind in vars(module).values()
        if isinstance(kind, type) and "__dataclass_fields__" in vars(kind)
    }
    print(*sorted(made))
"""
    )
    assert said_by(program).split() == ["Attempt", "CallInfo", "Verdict"]


@pytest.mark.parametrize(
    ("use", "loads"),
    [
        ("recovery.on_event(print)", {"vocabulary.events"}),
        ("recovery.service('quotes', fallback=0)", {"policies.fallback"}),
        (
            "recovery.service('quotes', max_concurrent=shockproof.AdaptiveConcurrency())",
            {"policies.adaptive_concurrency"},
        ),
        ("recovery.operation('rebalance')", {"memory.journal.operation"}),
        (
            "recovery.service('orders').once(confirm=lambda key: None)",
            {"calls.once", "calls.ways"},
        ),
        (
            "asyncio.run(recovery.start())",
            {"calls.once", "calls.stream", "memory.state.state_saver", "vocabulary.events"},
        ),
    ],
)
def test_a_program_loads_what_it_uses(use: str, loads: set[str]) -> None:
    """And does not load it before: most programs never use most of it."""
    names = {f"shockproof.{name}" for name in loads}
    assert modules_after(MAKING_ONE) & names == set()
    assert names <= modules_after(f"{MAKING_ONE}\n    import asyncio, shockproof\n    {use}")


def test_first_call_of_a_program_has_the_rest_loaded_beside_it(tmp_path: Path) -> None:
    """Without `start` too, an operation an hour later imports nothing on the loop; and it is the disk's thread that loads."""
    program = f"""
        import asyncio, sys, threading
        from shockproof import ErrorRecoveryService
        from shockproof import service
        service._PATIENCE = 60.0
        threads, main_thread = set(), threading.current_thread()
        def hook(event, args):
            if event == "import" and args[0].startswith("shockproof.memory.journal."):
                threads.add(threading.current_thread().name)
        sys.addaudithook(hook)
        async def works(): return 1
        async def main():
            recovery = ErrorRecoveryService({str(tmp_path / "state")!r}, {str(tmp_path / "errors")!r})
            await recovery.service("market").call(works)
            await recovery._state_writer.run(lambda: None)  # behind it in the same thread
            async with recovery.operation("rebalance"):
                pass
            await recovery.aclose()
        asyncio.run(main())
        print(*(name.partition(" ")[0] for name in threads))
    """
    assert said_by(program).split() == ["shockproof-disk"]


FIRST_THING = """
    import asyncio, sys, threading
    from shockproof import ErrorRecoveryService, Found
    from shockproof import service
    by_the_loop, main_thread, watching = [], threading.current_thread(), False
    def hook(event, args):
        if event == "import" and watching and threading.current_thread() is main_thread:
            by_the_loop.append(args[0])
    sys.addaudithook(hook)
    async def works(**_): return 1
    async def finds(key): return Found(1)
    async def operation(recovery):
        async with recovery.operation("rebalance", key="1", risk_reducing=True) as op:
            await op.checkpoint(index=1)
    async def order(recovery):
        await recovery.service("orders", risk_reducing=True).once(confirm=finds, key_argument="key").call(works)
    async def health(recovery):
        assert recovery.get_health_status()["journal"]["state"] == "closed"
    async def main(what, patience, held):
        global watching
        service._PATIENCE = patience
        recovery = ErrorRecoveryService(sys.argv[1] + "/state", sys.argv[1] + "/errors")
        release = threading.Event()
        if held:
            recovery._state_writer.submit(release.wait)
        watching = True
        await what(recovery)
        watching = False
        release.set()
        await recovery.aclose()
        print(*by_the_loop)
"""


def imported_by_the_loop(tmp_path: Path, arguments: str) -> list[str]:
    """What was imported in the loop's thread by the first thing that the program did on it."""
    program = textwrap.dedent(FIRST_THING) + f"\nasyncio.run(main({arguments}))"
    return said_by(program, str(tmp_path)).split()


@pytest.mark.parametrize(("what", "at_most"), [("operation", 5), ("order", 13), ("health", 3)])
def test_the_first_thing_on_a_loop_waits_for_the_disks_thread_to_load_the_journal(
    tmp_path: Path, what: str, at_most: int
) -> None:
    """Without `start` and without a call before it: what it takes to check its arguments is all that the loop imports."""
    imported = imported_by_the_loop(tmp_path, f"{what}, patience=60, held=False")
    elsewhere = (
        *(
            "shockproof.memory.state",
            "shockproof.memory.journal.journal_files",
            "shockproof.calls.reconciliation",
        ),
        *("hashlib", "decimal", "uuid", "secrets"),
    )
    assert [name for name in imported if name.startswith(elsewhere)] == []
    assert len(imported) <= at_most, imported


@pytest.mark.parametrize("what", ["operation", "order"])
def test_a_disk_that_hangs_holds_up_the_first_thing_for_a_while_only(tmp_path: Path, what: str) -> None:
    """What reduces risk runs: the loop imports then, for nobody else does."""
    imported = imported_by_the_loop(tmp_path, f"{what}, patience=0.01, held=True")
    assert "shockproof.memory.journal.segment" in imported


def test_what_is_loaded_beside_a_loop_comes_in_small_pieces() -> None:
    """Between two of them the loop has its turn: each brings few modules along, and none makes many classes."""
    program = (
        MAKING_ONE
        + """
    import importlib, json, sys
    from shockproof.service import _REST
    def loaded():
        return {name for name in sys.modules if name.startswith("shockproof.")}
    brought = {}
    for name in _REST:
        before = loaded()
        importlib.import_module(name)
        brought[name] = len(loaded() - before)
    print(json.dumps([brought, "shockproof.vocabulary.events" in sys.modules]))
"""
    )
    brought, has_events = json.loads(said_by(program))
    assert {name: count for name, count in brought.items() if count > 5} == {}
    assert not has_events


def test_what_is_loaded_ahead_is_all_that_a_running_program_loads(tmp_path: Path) -> None:
    """`start` has loaded what the loop would else import, and read from a disk, while it trades."""
    program = f"""
        import asyncio, sys, threading, shockproof
        from shockproof import Found, ErrorRecoveryService
        by_the_loop, main_thread, watching = [], threading.current_thread(), False
        def hook(event, args):
            if event == "import" and watching and threading.current_thread() is main_thread:
                by_the_loop.append(args[0])
        sys.addaudithook(hook)
        async def fails(**_): raise ConnectionError("reset")
        async def works(**_): return 1
        async def finds(key): return Found(1)
        async def main():
            global watching
            recovery = ErrorRecoveryService({str(tmp_path / "state")!r}, {str(tmp_path / "errors")!r}, base_delay=0)
            await recovery.start()
            watching, before = True, set(sys.modules)
            await recovery.with_fallback(fails, 0)
            await recovery.service("quotes", fallback=shockproof.LastGood(max_age=1)).call(works)
            await asyncio.gather(recovery.service("hedged", hedge_after=5, timeout=9).call(fails), return_exceptions=True)
            async with recovery.operation("rebalance") as op:
                await op.checkpoint(index=1)
            await recovery.service("orders", risk_reducing=True).once(confirm=finds, key_argument="key").call(works)
            async with recovery.service("blocks").guard():
                pass
            await recovery.save_state(cached_data={{"AAPL": 150.25}})
            await recovery.restore_state()
            await recovery.reconcile()
            [error async for error in recovery.read_errors()]
            recovery.get_health_status(), recovery.get_error_summary()
            watching = False
            print(*by_the_loop)
            print(*(set(sys.modules) - before))
            await recovery.aclose()
        asyncio.run(main())
    """
    by_the_loop, by_anybody = said_by(program).splitlines()
    assert by_the_loop.split() == []
    assert " ".join(sorted(by_anybody.split())) == ""


def test_first_order_of_a_process_loads_the_journal_beside_the_loop(tmp_path: Path) -> None:
    """Without `start`, and with what it is looked up by: the journal is for the disk's thread to load."""
    program = f"""
        import asyncio, sys, threading
        from shockproof import NOT_FOUND, ErrorRecoveryService
        from shockproof import service
        service._PATIENCE = 60.0
        by_the_loop, main_thread = [], threading.current_thread()
        def hook(event, args):
            if event == "import" and threading.current_thread() is main_thread:
                by_the_loop.append(args[0])
        async def works(**_): return 1
        async def finds(key, details): return NOT_FOUND
        async def main():
            recovery = ErrorRecoveryService({str(tmp_path / "state")!r}, {str(tmp_path / "errors")!r})
            orders = recovery.service("orders", effect="unsafe")
            sys.addaudithook(hook)
            once = orders.once(confirm=finds, key_argument="key", details={{"symbol": "AAPL", "qty": 10}})
            assert await once.call(works) == 1
            print(*by_the_loop)
            await recovery.aclose()
        asyncio.run(main())
    """
    by_the_loop = said_by(program).split()
    assert [name for name in by_the_loop if not name.startswith("shockproof.calls.")] == []
    assert len(by_the_loop) <= 8


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
