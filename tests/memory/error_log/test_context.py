"""Data that is in force around a block."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from shockproof.memory.error_log.context import current_context, error_context


def test_nothing_is_in_force_at_first() -> None:
    """No block, no data."""
    assert current_context() is None


def test_data_is_in_force_within_its_block() -> None:
    """And ends with it, however it is left."""
    with error_context({"order": "A1"}):
        assert current_context() == {"order": "A1"}
    assert current_context() is None
    with pytest.raises(ValueError, match="left"), error_context({"order": "A1"}):
        raise ValueError("left by an error")
    assert current_context() is None


def test_inner_data_is_laid_over_outer_data() -> None:
    """And the outer data is back afterwards, unchanged."""
    with error_context({"order": "A1", "strategy": "pairs"}):
        with error_context({"order": "B2", "leg": 1}):
            assert current_context() == {"order": "B2", "strategy": "pairs", "leg": 1}
        assert current_context() == {"order": "A1", "strategy": "pairs"}


def test_data_changed_afterwards_by_the_user_does_not_change_what_is_in_force() -> None:
    """What is in force is a copy."""
    data = {"order": "A1"}
    with error_context(data):
        data["order"] = "changed"
        assert current_context() == {"order": "A1"}


def test_a_block_may_be_left_in_another_context_than_it_was_entered_in() -> None:
    """As an async generator that is closed elsewhere does: no error comes out of it."""
    block = error_context({"order": "A1"})
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert current_context() is None


@pytest.mark.asyncio
async def test_tasks_have_contexts_of_their_own() -> None:
    """Two tasks at once do not see each other's data; a child sees its parent's."""
    seen: dict[str, object] = {}

    async def child(name: str) -> None:
        seen[name] = current_context()

    async def work(name: str) -> None:
        with error_context({"order": name}):
            await asyncio.sleep(0)
            await asyncio.create_task(child(name))
            await asyncio.sleep(0)
            assert current_context() == {"order": name}

    await asyncio.gather(work("A1"), work("B2"))
    assert seen == {"A1": {"order": "A1"}, "B2": {"order": "B2"}}
    assert current_context() is None
