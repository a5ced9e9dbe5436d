"""While a state is restored nobody walks through all objects, and the collector is as its owner wants it before, meanwhile and after."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.state.collector import no_full_collections
from shockproof.memory.state.state_files import StateFiles
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


def test_what_the_user_sets_meanwhile_stays() -> None:
    """It is their collector."""
    with no_full_collections():
        gc.set_threshold(900, 9, 9)
    assert gc.get_threshold() == (900, 9, 9)

    gc.disable()
    with no_full_collections():
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
