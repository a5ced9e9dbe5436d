"""The fixtures as a user's project sees them: each case is a run of pytest in a directory of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from shockproof.testing.seed import SEED_VARIABLE, seed_from

CONFTEST = 'pytest_plugins = ["shockproof.testing.pytest_plugin"]\n'

ANYIO_CONFTEST = CONFTEST + dedent(
    """
    import pytest

    @pytest.fixture
    def anyio_backend(clock):
        return clock.anyio_backend
    """
)


def run(
    directory: Path, test: str, *arguments: str, conftest: str = CONFTEST, seed: str | None = None
) -> str:
    """What pytest says about this test file."""
    (directory / "conftest.py").write_text(conftest, encoding="utf-8")
    (directory / "test_bot.py").write_text(dedent(test), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "SHOCKPROOF_SEED"}
    if seed is not None:
        environment["SHOCKPROOF_SEED"] = seed
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "error::RuntimeWarning",
            "test_bot.py",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=environment,
        timeout=100,
    )
    return done.stdout + done.stderr


USE_EVERYTHING = """
    import asyncio
    import pytest
    from shockproof import AttemptFailed, CircuitOpened
    from shockproof.testing import Hangs, VirtualTimeLoop

    @pytest.mark.{mark}
    async def test_all_fixtures_are_of_one_piece(recovery, clock, events, faults, storm, rng, nothing_left):
        assert isinstance(asyncio.get_running_loop(), VirtualTimeLoop)
        assert asyncio.get_running_loop().clock is clock
        market = recovery.service("market_data", timeout=2.0, max_retries=9)

        async def quote():
            return 150.25

        began = clock.monotonic()
        with faults.on("market_data", plan=[ConnectionError, Hangs()]) as injected:
            assert await market.call(quote) == 150.25
        assert injected.injected == 2
        assert len(events.of(AttemptFailed)) == 2
        assert clock.monotonic() - began == 1 + 2 + 2
        with faults.on("market_data", ConnectionError), pytest.raises(ConnectionError):
            await market.call(quote)
        assert await events.wait_for(CircuitOpened)
        result = await storm(seconds=3, outage=(1, 2)).simulate({{"timeout": 1.0}})
        assert result.storm.seed == 7
        assert rng.random() == __import__("random").Random(7).random()
    """


def test_all_fixtures_work_with_pytest_asyncio(tmp_path: Path) -> None:
    """In its strict mode, which is its default."""
    assert "1 passed" in run(tmp_path, USE_EVERYTHING.format(mark="asyncio"))


def test_all_fixtures_work_with_pytest_asyncios_auto_mode(tmp_path: Path) -> None:
    """Where no test is marked."""
    test = USE_EVERYTHING.format(mark="skipif(False, reason='')")
    assert "1 passed" in run(tmp_path, test, "-o", "asyncio_mode=auto")


def test_all_fixtures_work_with_anyios_plugin(tmp_path: Path) -> None:
    """On the backend that the clock gives."""
    assert "1 passed" in run(tmp_path, USE_EVERYTHING.format(mark="anyio"), conftest=ANYIO_CONFTEST)


def test_all_fixtures_work_with_anyios_plugin_alone(tmp_path: Path) -> None:
    """Where pytest-asyncio is not installed."""
    hidden = "import sys\nsys.modules['pytest_asyncio'] = None\n" + ANYIO_CONFTEST
    out = run(tmp_path, USE_EVERYTHING.format(mark="anyio"), "-p", "no:asyncio", conftest=hidden)
    assert "1 passed" in out


def test_a_plain_test_runs_things_on_the_clock(tmp_path: Path) -> None:
    """Without a loop of its own."""
    out = run(
        tmp_path,
        """
        def test_plain(recovery, clock, events, faults):
            market = recovery.service("market_data")

            async def quote():
                return 150.25

            with faults.on("market_data", plan=[ConnectionError]):
                assert clock.run(market.call(quote)) == 150.25
            assert len(events) == 2
        """,
    )
    assert "1 passed" in out


def test_a_plain_test_in_a_file_of_coroutine_tests_runs_too(tmp_path: Path) -> None:
    """Their mark is on it as well, and gives it no loop."""
    out = run(
        tmp_path,
        """
        import pytest

        pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("nothing_left")]

        async def quote():
            return 150.25

        def test_plain(recovery, clock):
            assert clock.run(recovery.service("market_data").call(quote)) == 150.25

        async def test_coroutine(recovery, clock):
            await clock.sleep(3600)
            assert await recovery.service("market_data").call(quote) == 150.25
        """,
    )
    assert "2 passed" in out


FAILS = """
    import pytest

    @pytest.mark.asyncio
    async def test_fails(recovery, events):
        async def broken():
            raise ConnectionError("down")

        await recovery.retry_with_backoff(broken, service_name="api", max_retries=0)

    def test_that_draws_nothing():
        assert False
    """


def test_a_failure_shows_its_seed_and_its_events(tmp_path: Path) -> None:
    """A test that drew nothing of ours says nothing of it."""
    out = run(tmp_path, FAILS)
    assert out.count("repeat it with --shockproof-seed=7") == 1
    assert "AttemptFailed function_name='broken' attempt=1" in out


@pytest.mark.parametrize(
    ("given", "variable", "seed"), [(None, None, 7), (None, "41", 41), ("42", "41", 42), (None, "", 7)]
)
def test_the_seed_is_the_options_or_the_environments(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str | None, seed: int
) -> None:
    """Or else 7, so that nothing fails by chance."""
    monkeypatch.delenv(SEED_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(SEED_VARIABLE, variable)
    assert seed_from(given) == seed


def test_a_random_seed_is_shown_and_repeats(tmp_path: Path) -> None:
    """That is what it is shown for."""
    test = """
        def test_draws(rng):
            assert rng.random() is None
        """
    first = run(tmp_path, test, "--shockproof-seed=random")
    match = re.search(r"--shockproof-seed=(\d+)", first)
    assert match is not None
    again = run(tmp_path, test, match[0])
    assert re.search(r"assert 0\.\d+ is None", first)[0] in again  # type: ignore[index]  # it is there
    assert seed_from("random") != seed_from("random")


def test_a_seed_that_is_none_is_refused(tmp_path: Path) -> None:
    """Before any test runs, by the name of where it came from."""
    assert "seed must be a whole number or 'random', got 'x'" in run(tmp_path, FAILS, "--shockproof-seed=x")
    assert "SHOCKPROOF_SEED must be a whole number" in run(tmp_path, FAILS, seed="x")


def test_what_a_test_leaves_behind_fails_it_when_asked_to(tmp_path: Path) -> None:
    """A task, a place in a bulkhead, faults that are on."""
    out = run(
        tmp_path,
        """
        import asyncio
        import pytest

        pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("nothing_left")]

        async def test_task(recovery):
            recovery.task = asyncio.create_task(asyncio.sleep(1000), name="forgotten")

        async def test_place(recovery, clock):
            orders = recovery.service("orders", max_concurrent=2)
            recovery.task = asyncio.create_task(orders.call(clock.sleep, 1000))
            await asyncio.sleep(1)

        async def test_faults(recovery, faults):
            recovery.service("orders")
            recovery.faults = faults.on("orders", ConnectionError).__enter__()

        async def test_clean(recovery, clock):
            await recovery.service("orders", health_check=clock.sleep).call(clock.sleep, 1)
        """,
    )
    assert "4 passed, 3 errors" in out, out
    assert "left running at the end of the test: <Task pending name='forgotten'" in out
    assert "service 'orders': 1 places of max_concurrent" in out
    assert "service 'orders': 1 faults that are on" in out


def test_a_file_on_the_loop_fails_a_test_that_asks_for_that(tmp_path: Path) -> None:
    """With the line; in a thread it is where it belongs."""
    told = run(
        tmp_path,
        """
        import asyncio
        import pathlib
        import pytest

        pytestmark = pytest.mark.usefixtures("no_blocking_files")

        @pytest.mark.asyncio
        async def test_that_blocks():
            pathlib.Path("a file").write_text("here")

        @pytest.mark.asyncio
        async def test_that_does_not():
            await asyncio.to_thread(pathlib.Path("a file").write_text, "here")
        """,
    )
    assert "2 passed, 1 error" in told, told
    assert "files were touched on a running event loop" in told
    assert "in test_that_blocks" in told
