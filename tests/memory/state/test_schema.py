"""A state that an older version of the user's program saved, and the way to the form of today."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shockproof import ErrorRecoveryService, StateVersionError
from shockproof.memory.state.state_files import StateFiles

pytestmark = pytest.mark.asyncio

ORIGINAL = Path(__file__).parents[2] / "data" / "original-state"
Make = Callable[..., ErrorRecoveryService]
State = dict[str, Any]


@pytest_asyncio.fixture
async def program(tmp_path: Path) -> AsyncIterator[Make]:
    """`program(*migrations)`: the recovery service of one version of a program."""
    made: list[ErrorRecoveryService] = []

    def make(*migrations: Any) -> ErrorRecoveryService:
        made.append(
            ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", state_migrations=migrations)
        )
        return made[-1]

    yield make
    for recovery in made:
        await recovery.aclose()


def prices_in_cents(state: State) -> State:
    """From version 1 to 2."""
    cached = {symbol: round(price * 100) for symbol, price in state["cached_data"].items()}
    return {**state, "cached_data": cached}


def prices_with_currency(state: State) -> State:
    """From version 2 to 3."""
    cached = {symbol: {"USD": price} for symbol, price in state["cached_data"].items()}
    return {**state, "cached_data": cached}


def on_disk(directory: Path) -> State:
    content: State = json.loads((directory / "system_state.json").read_text())
    return content


@pytest.mark.parametrize("lost", ["system_state.json", "system_state.pkl"])
async def test_older_state_is_led_to_the_form_of_today(program: Make, tmp_path: Path, lost: str) -> None:
    """Step by step, from JSON and from the pickle, and with everything else as it was."""
    await program().save_state([{"operation": "fetch"}], {"AAPL": 1.5}, {"mode": "paper"})
    assert "schema_version" not in on_disk(tmp_path / "state")
    (tmp_path / "state" / lost).unlink()

    state = await program(prices_in_cents, prices_with_currency).restore_state()

    assert state is not None
    assert state.cached_data == {"AAPL": {"USD": 150}}
    assert state.active_operations == [{"operation": "fetch"}]
    assert state.configuration == {"mode": "paper"}


async def test_state_of_the_version_in_between_takes_the_last_step_only(
    program: Make, tmp_path: Path
) -> None:
    """What is saved carries the version, and what has it needs no step at all."""
    await program(prices_in_cents).save_state(cached_data={"AAPL": 150})
    assert list(on_disk(tmp_path / "state"))[:3] == ["format_version", "sequence", "schema_version"]
    assert on_disk(tmp_path / "state")["schema_version"] == 2

    later = program(prices_in_cents, prices_with_currency)
    state = await later.restore_state()
    assert state is not None
    assert state.cached_data == {"AAPL": {"USD": 150}}
    await later.save_state(cached_data=state.cached_data)

    again = await program(prices_in_cents, prices_with_currency).restore_state()
    assert again is not None
    assert again.cached_data == {"AAPL": {"USD": 150}}


async def test_state_of_the_original_program_is_of_version_1(program: Make, tmp_path: Path) -> None:
    """It knew no versions at all."""
    shutil.copytree(ORIGINAL, tmp_path / "state")

    def flat(state: State) -> State:
        return {**state, "cached_data": {name: one["price"] for name, one in state["cached_data"].items()}}

    state = await program(flat).restore_state()
    assert state is not None
    assert state.cached_data == {"AAPL": 150.0}


async def test_state_of_a_newer_program_is_neither_restored_nor_overwritten(
    program: Make, tmp_path: Path
) -> None:
    """Whoever goes back by mistake loses nothing."""
    await program(prices_in_cents).save_state(cached_data={"AAPL": 150})
    before = on_disk(tmp_path / "state")

    older = program()
    with pytest.raises(
        StateVersionError, match=r"has schema version 2; the state_migrations .* lead to version 1"
    ):
        await older.restore_state()
    with pytest.raises(StateVersionError, match=r"has schema version 2"):
        await older.save_state(cached_data={"AAPL": 1.5})
    assert on_disk(tmp_path / "state") == before
    assert not (tmp_path / "state" / "damaged").exists()
    shutil.rmtree(tmp_path / "state")  # what is kept in memory can be written now


async def test_people_who_look_see_a_state_of_any_version(program: Make, tmp_path: Path) -> None:
    """They have none of the program's migrations."""
    await program(prices_in_cents, prices_with_currency).save_state(cached_data={"AAPL": {"USD": 150}})

    seen = await asyncio.to_thread(StateFiles(tmp_path / "state").survey)
    assert [file.verdict for file in seen] == ["valid", "valid"]
    assert [file.content["cached_data"] for file in seen if file.content] == [{"AAPL": {"USD": 150}}] * 2


async def test_files_from_before_the_migration_are_kept(program: Make, tmp_path: Path) -> None:
    """Whatever is saved afterwards; the copy is a state directory of its own."""
    await program().save_state(cached_data={"AAPL": 1.5})
    later = program(prices_in_cents)
    await later.restore_state()
    for cents in (151, 152, 153):
        await later.save_state(cached_data={"AAPL": cents}, force=True)

    kept = tmp_path / "state" / "before-schema-2"
    assert {path.name for path in kept.iterdir()} == {"system_state.json", "system_state.pkl"}
    state = await ErrorRecoveryService(kept, tmp_path / "errors").restore_state()
    assert state is not None
    assert state.cached_data == {"AAPL": 1.5}


def forgets_to_return(state: State) -> None:
    state["cached_data"].clear()


def drops_a_part(state: State) -> State:
    del state["configuration"]
    return state


def fails(state: State) -> State:
    raise KeyError("K-secret")


@pytest.mark.parametrize(
    ("migration", "complaint"),
    [
        (
            fails,
            "has schema version 1, and fails could not lead it to version 2: KeyError. Nothing was moved",
        ),
        (
            forgets_to_return,
            "forgets_to_return did not return a dict of active_operations, cached_data, config",
        ),
        (drops_a_part, "drops_a_part did not return a dict of"),
    ],
)
async def test_migration_that_fails_is_an_error_and_no_damage(
    program: Make, tmp_path: Path, migration: Any, complaint: str
) -> None:
    """It says which one, never what was in the state; the mended program finds everything in place."""
    await program().save_state(cached_data={"AAPL": 1.5})

    with pytest.raises(StateVersionError) as failed:
        await program(migration).restore_state()

    assert complaint in str(failed.value)
    assert "K-secret" not in str(failed.value)
    state = await program(prices_in_cents).restore_state()
    assert state is not None
    assert state.cached_data == {"AAPL": 150}


async def test_what_is_no_function_is_refused_at_once(program: Make) -> None:
    """With its place in the list."""
    with pytest.raises(TypeError, match=r"state_migrations must be functions.*number 2 is 'later'"):
        program(prices_in_cents, "later")


@pytest.mark.parametrize("version", [0, -1, True, "2", None])
async def test_version_that_is_none_is_damage(program: Make, tmp_path: Path, version: Any) -> None:
    """Somebody edited the file."""
    await program().save_state(cached_data={"AAPL": 1.5})
    path = tmp_path / "state" / "system_state.json"
    path.write_text(json.dumps({**on_disk(tmp_path / "state"), "schema_version": version, "checksum": None}))
    (tmp_path / "state" / "system_state.pkl").unlink()

    assert await program().restore_state() is None
    assert (tmp_path / "state" / "damaged").is_dir()
