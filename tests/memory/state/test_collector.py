"""While a state is saved or restored nobody walks through all objects, and the collector is as its owner wants it before, meanwhile and after."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.state.collector import no_full_collections, rare_young_collections
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import StateSecrets, capture_state
from shockproof.memory.state.state_files import StateFiles
from tests.forked_child import ForkedChild
from tests.memory.state.test_large_states import Program

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="this Python walks through all objects in steps, and needs no help"
)


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """Whatever a test does to it."""
    thresholds, is_enabled = gc.get_threshold(), gc.isenabled()
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(500, 7, 8)
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    (gc.enable if is_enabled else gc.disable)()


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that are collected."""
    found: list[int] = []

    def tell(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(tell)
    yield found
    gc.callbacks.remove(tell)


def make_objects(number: int) -> list[Any]:
    return [[] for _ in range(number)]


def test_restoring_a_large_state_collects_what_is_young_only(tmp_path: Path, collections: list[int]) -> None:
    """Else the event loop of the program waits each time; and what the rest of the program throws away still goes."""
    state = {f"SYM{number}": {"levels": [number]} for number in range(30_000)}
    Program(tmp_path).save(state)
    kept = make_objects(200_000)
    gc.collect()
    collections.clear()

    restored = StateFiles(tmp_path).load().state

    assert restored is not None
    assert restored.cached_data == state
    assert collections.count(2) == 0
    assert collections.count(0) > 10
    assert gc.get_threshold() == (500, 7, 8)
    del kept


def test_full_collection_does_not_come_right_after_it(collections: list[int]) -> None:
    """The count that leads to it begins anew: some 28,000 objects later, as ever."""
    kept = make_objects(1_000)
    with no_full_collections():
        kept += make_objects(300_000)
    kept += make_objects(20_000)
    assert 2 not in collections
    kept += make_objects(40_000)
    assert 2 in collections


def test_thresholds_come_back_after_an_error() -> None:
    """A damaged file, a migration that raises."""
    with pytest.raises(ValueError, match="bad"), no_full_collections():
        raise ValueError("bad")
    assert gc.get_threshold() == (500, 7, 8)


def test_last_of_several_threads_gives_them_back() -> None:
    """Several services, each on its own loop."""
    entered, leave = threading.Event(), threading.Event()

    def restore() -> None:
        with no_full_collections():
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=restore)
    with no_full_collections():
        thread.start()
        assert entered.wait(60)
    assert gc.get_threshold()[2] > 1_000
    leave.set()
    thread.join()
    assert gc.get_threshold() == (500, 7, 8)


@pytest.mark.parametrize("held", [no_full_collections, rare_young_collections])
def test_what_the_user_sets_meanwhile_stays(held: Callable[[], AbstractContextManager[None]]) -> None:
    """It is their collector."""
    with held():
        gc.set_threshold(900, 9, 9)
        with no_full_collections():
            assert gc.get_threshold() == (900, 9, 9)
    assert gc.get_threshold() == (900, 9, 9)

    gc.disable()
    with held():
        assert gc.get_threshold() == (900, 9, 9)
    assert not gc.isenabled()


def test_what_is_frozen_stays_frozen() -> None:
    """And what is not, stays so."""
    gc.collect()
    with no_full_collections():
        kept = make_objects(1_000)
    assert gc.get_freeze_count() == 0
    gc.freeze()
    frozen = gc.get_freeze_count()
    with no_full_collections():
        kept += make_objects(1_000)
    assert gc.get_freeze_count() > 0.9 * frozen
    del kept


def test_copying_a_large_state_has_nobody_walk_through_the_copy(collections: list[int]) -> None:
    """What is made beside it is collected at its end, once: else the event loop waits while all entries are looked at."""
    state = {f"SYM{number}": {"levels": [number]} for number in range(30_000)}
    secrets = StateSecrets(SecretNames())

    async def capture_twice() -> list[int]:
        first = await capture_state({"cached_data": state}, secrets=secrets, timestamp=0.0)
        for entry in state.values():
            entry["levels"].append(0)
        gc.collect()
        collections.clear()
        second = await capture_state(
            {"cached_data": state}, secrets=secrets, timestamp=1.0, known=first.packed
        )
        assert second.packed.keys() == first.packed.keys()
        return collections.copy()

    assert asyncio.run(capture_twice()) in ([], [0])
    assert gc.get_threshold() == (500, 7, 8)


def test_young_objects_are_collected_all_the_same_where_a_copy_never_ends(collections: list[int]) -> None:
    """A program may stop its event loop in the middle of one."""
    with rare_young_collections():
        kept = make_objects(40_000)
        assert collections == []
        kept += make_objects(20_000)
        assert collections == [0]


def test_copy_and_restore_at_a_time_each_have_what_they_need(collections: list[int]) -> None:
    """Whichever ends first."""
    with rare_young_collections():
        with no_full_collections():
            assert gc.get_threshold()[0] > 10_000
            assert gc.get_threshold()[2] > 10_000
        assert gc.get_threshold()[0] > 10_000
        assert gc.get_threshold()[1:] == (7, 8)
    assert gc.get_threshold() == (500, 7, 8)


@pytest.mark.parametrize("held", [no_full_collections, rare_young_collections])
def test_forked_child_has_the_thresholds_of_before(held: Callable[[], AbstractContextManager[None]]) -> None:
    """Whoever restored or copied is a thread of the parent's, and never gives them back there."""

    def in_the_child() -> list[object]:
        at_first = gc.get_threshold()
        with no_full_collections(), rare_young_collections():
            pass
        return [at_first, gc.get_threshold()]

    with held():
        child = ForkedChild(in_the_child)
        assert child.answer() == [[500, 7, 8], [500, 7, 8]]
    assert gc.get_threshold() == (500, 7, 8)
