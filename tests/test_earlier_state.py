"""What an earlier life has saved is not overwritten by one that does not know it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio

from shockproof import ErrorRecoveryService, StateNotSavedError, StateVersionError
from shockproof.memory.state.state_files import StateFiles
from shockproof.testing import VirtualClock

pytestmark = pytest.mark.asyncio

Life = Callable[..., ErrorRecoveryService]


@pytest_asyncio.fixture
async def life(tmp_path: Path, clock: VirtualClock) -> Life:
    """Makes services of one program, one after the other; the first has saved its position."""

    def begin(**settings: object) -> ErrorRecoveryService:
        return ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", clock=clock, **settings)  # type: ignore[arg-type]  # as given by the test

    async with begin() as first:
        assert await first.save_state(cached_data={"position": 100})
    return begin


async def _position(life: Life) -> object:
    async with life() as reader:
        state = await reader.restore_state()
    return None if state is None else state.cached_data.get("position")


async def test_a_life_that_ends_before_it_restores_leaves_the_state_alone(
    life: Life, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A login that fails early must not replace a position by an empty dict, neither in between nor at the end."""
    with pytest.raises(ConnectionError):  # noqa: PT012 - the life ends in its block
        async with life() as second:
            second.track_state(lambda: {"cached_data": {}}, every=1.0)
            await clock.sleep(5)
            raise ConnectionError("the venue refuses the login")
    assert await _position(life) == 100
    (told,) = [record.message for record in caplog.records if "automatic saving" in record.message]
    assert "restore_state()" in told


async def test_automatic_saving_begins_with_the_restored_state(life: Life, clock: VirtualClock) -> None:
    """From then on the new values are the ones to keep, also where the provider was tracked before."""
    async with life() as second:
        second.track_state(lambda: {"cached_data": {"position": 7}}, every=1.0)
        await clock.sleep(5)
        state = await second.restore_state()
        assert state is not None
        assert state.cached_data == {"position": 100}
        await clock.sleep(5)
        assert await _position(life) == 7


async def test_a_save_by_hand_says_that_the_earlier_state_is_of_no_use(life: Life) -> None:
    """Whoever calls save_state means it; what is tracked is saved from then on as well."""
    async with life() as second:
        second.track_state(lambda: {"cached_data": {"position": 8}})
        assert await second.save_state(cached_data={"position": 7})
        assert await _position(life) == 7
    assert await _position(life) == 8


async def test_a_state_that_was_refused_outlives_every_kind_of_saving(
    life: Life, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the second restart would find an empty state and say nothing."""

    def migration(_: object) -> None:
        raise KeyError("price")

    why = "migration could not lead it"
    for _ in range(3):
        with pytest.raises(StateVersionError, match=why):  # noqa: PT012 - as above
            async with life(state_migrations=[migration]) as second:
                second.track_state(lambda: {"cached_data": {}})
                with pytest.raises(StateVersionError, match=why):
                    await second.restore_state()
                with pytest.raises(StateVersionError, match="would replace one that could not be restored"):
                    await second.save_state(cached_data={}, force=True)
                await second.restore_state()
    assert "automatic saving does not overwrite" in caplog.text
    assert await _position(life) == 100


async def test_after_a_refusal_that_was_mended_saving_goes_on(life: Life) -> None:
    """The function that was wrong is right at the second attempt."""
    broken = True

    def migration(state: dict[str, object]) -> dict[str, object]:
        if broken:
            raise KeyError("price")
        return state

    second = life(state_migrations=[migration])
    with pytest.raises(StateVersionError):
        await second.restore_state()
    broken = False
    assert await second.restore_state() is not None
    assert await second.save_state(cached_data={"position": 9}, force=True)
    await second.aclose()
    third = life(state_migrations=[migration])
    state = await third.restore_state()
    assert state is not None
    assert state.cached_data == {"position": 9}
    await third.aclose()


async def test_a_directory_that_cannot_be_looked_into_at_first_is_asked_again_before_it_is_replaced(
    life: Life, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that comes late has the state of the earlier life."""

    def refuse(_: StateFiles) -> bool:
        raise PermissionError(errno.EACCES, "not yet")

    async with life() as second:
        second.track_state(lambda: {"cached_data": {}}, every=1.0)
        with monkeypatch.context() as mount:
            mount.setattr(StateFiles, "hold_a_state", refuse)
            await clock.sleep(5)
            with pytest.raises(StateNotSavedError, match=r"cannot be seen.*not yet"):
                await second.aclose()
        await clock.sleep(5)
    assert await _position(life) == 100


async def test_a_save_by_hand_that_came_to_nothing_says_nothing_of_the_earlier_state(
    life: Life, clock: VirtualClock
) -> None:
    """Only one that is kept, or written, takes its place."""
    async with life() as second:
        second.track_state(lambda: {"cached_data": {}}, every=1.0)
        with pytest.raises(StateNotSavedError, match="which could not be restored"):
            await second.save_state(cached_data={"feeds": object()})
        await clock.sleep(5)
    assert await _position(life) == 100


@pytest.mark.parametrize("saves_in_between", [True, False])
@pytest.mark.parametrize("is_by_hand", [True, False])
async def test_service_that_goes_on_after_its_end_overwrites_only_what_it_has_left_itself(
    life: Life, clock: VirtualClock, saves_in_between: bool, is_by_hand: bool
) -> None:
    """Another one may have saved since; the state is tracked over both of its lives."""
    first, position = life(), 2
    async with first:
        await first.restore_state()
        if is_by_hand:
            await first.save_state(cached_data={"position": 1}, force=True)
        first.track_state(lambda: {"cached_data": {"position": position}}, every=1.0)
        await clock.sleep(2)
    if saves_in_between:
        async with life() as other:
            await other.restore_state()
            await other.save_state(cached_data={"position": 200}, force=True)
    async with first:
        await clock.sleep(2)
        assert await _position(life) == (200 if saves_in_between else 2)
        position = 3
        await clock.sleep(2)
        assert await _position(life) == (200 if saves_in_between else 3)
        state = await first.restore_state()  # now it knows
        assert state is not None
        await clock.sleep(2)
    assert await _position(life) == 3
