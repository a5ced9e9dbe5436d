"""Hostile values and damaged files against the saved state."""

import asyncio
import os
import re
import subprocess
import sys
import textwrap
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService, StateNotSavedError

_PROGRAM = """
import asyncio, os, sys
from datetime import UTC, datetime
from shockproof import ErrorRecoveryService
home = sys.argv[1]
recovery = ErrorRecoveryService(home + "/state", home + "/errors", max_retries=0)
async def fails():
    raise ValueError("x" * 200)
"""


def _run(body: str, home: Path) -> subprocess.CompletedProcess[str]:
    program = _PROGRAM + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", program, str(home)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "state",
    [
        {"cached_data": {1: "one"}},
        {"configuration": {("a", 1): "x"}},
        {"active_operations": [{1: "one"}]},
    ],
)
@pytest.mark.asyncio
async def test_a_state_with_keys_that_are_no_strings_is_refused_or_comes_back(
    tmp_path: Path, state: dict[str, Any]
) -> None:  # Any: what a user hands in
    """True means durable: what was saved restores equal, or the save says no."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    try:
        saved = await recovery.save_state(**state, force=True)
    except (StateNotSavedError, TypeError):
        return
    assert saved
    restored = await recovery.restore_state()
    assert restored is not None
    (name, value), *_ = state.items()
    assert getattr(restored, name) == value


@pytest.mark.asyncio
async def test_an_unsavable_value_under_a_huge_number_is_refused_by_name(tmp_path: Path) -> None:
    """The refusal is the documented one, even where its path cannot be written in digits."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    with pytest.raises(StateNotSavedError):
        await recovery.save_state(cached_data={"x": {10**6000: object()}}, force=True)


@pytest.mark.parametrize("at", range(24))
@pytest.mark.asyncio
async def test_a_flipped_bit_in_the_head_never_gives_wrong_values(tmp_path: Path, at: int) -> None:
    """A file of ours whose head is damaged is no file of the original program: its checksum still counts."""
    directory = tmp_path / "state"
    await ErrorRecoveryService(directory, tmp_path / "errors").save_state(
        cached_data={"price": Decimal("1.1")}, force=True
    )
    (directory / "system_state.pkl").unlink()
    file = directory / "system_state.json"
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    restored = await ErrorRecoveryService(directory, tmp_path / "errors").restore_state()
    assert restored is None or restored.cached_data == {"price": Decimal("1.1")}


@pytest.mark.asyncio
async def test_a_flipped_version_digit_beside_a_valid_pickle_is_not_fatal(tmp_path: Path) -> None:
    """A file whose checksum does not match is damaged, whatever version it claims."""
    directory = tmp_path / "state"
    await ErrorRecoveryService(directory, tmp_path / "errors").save_state(cached_data={"a": 1}, force=True)
    file = directory / "system_state.json"
    text = file.read_text()
    damaged = re.sub(r'("format_version": )\d', r"\g<1>9", text, count=1)
    assert damaged != text
    file.write_text(damaged)
    restored = await ErrorRecoveryService(directory, tmp_path / "errors").restore_state()
    assert restored is not None
    assert restored.cached_data == {"a": 1}


@pytest.mark.asyncio
async def test_a_directory_in_place_of_the_previous_generation_stops_no_save(tmp_path: Path) -> None:
    """What is in the way is set aside, also when it came after the first save."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    await recovery.save_state(cached_data={"a": 1}, force=True)
    (tmp_path / "state" / "system_state.prev.json" / "sub").mkdir(parents=True)
    assert await recovery.save_state(cached_data={"a": 2}, force=True)


@pytest.mark.asyncio
async def test_a_pipe_in_place_of_the_state_holds_nobody(tmp_path: Path) -> None:
    """A file that is no file is damaged: it is set aside, and the state is saved and restored."""
    (tmp_path / "state").mkdir()
    os.mkfifo(tmp_path / "state" / "system_state.json")
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    try:
        async with asyncio.timeout(60.0):
            assert await recovery.save_state(cached_data={"a": 1}, force=True)
    finally:
        # Whoever still reads the pipe gets its end.
        if (tmp_path / "state" / "system_state.json").is_fifo():
            os.close(os.open(tmp_path / "state" / "system_state.json", os.O_RDWR))


def test_two_anonymous_providers_are_warned_of_and_stopped_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopping one does not stop another that has the same name; each would overwrite what the other has saved."""
    asked: list[int] = []

    def provider(number: int) -> Any:  # Any: what save_state takes
        def provide() -> dict[str, object]:
            asked.append(number)
            return {}

        return provide

    async def main() -> None:
        recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
        stop_first = recovery.track_state(provider(1), every=60.0)
        recovery.track_state(provider(2), every=60.0)
        stop_first()
        await recovery.aclose()

    asyncio.run(main())
    assert asked == [2]
    assert "begins beside automatic saving no. 1" in caplog.text


def test_a_hanging_error_log_does_not_lose_the_pending_state_at_exit(tmp_path: Path) -> None:
    """Each disk gets its share of the time: one that hangs does not use up the others'."""
    (tmp_path / "errors").mkdir()
    ended = _run(
        """
        os.mkfifo(f"{home}/errors/errors_{datetime.now(UTC):%Y%m%d}.jsonl")
        async def main():
            for _ in range(400):
                try:
                    await recovery.service("a", circuit_threshold=None).call(fails)
                except ValueError:
                    pass
            await recovery.save_state(cached_data={"generation": "first"}, force=True)
            assert not await recovery.save_state(cached_data={"generation": "second"})
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert "second" in (tmp_path / "state" / "system_state.json").read_text(), ended.stderr


def test_a_forced_save_that_was_cancelled_in_flight_is_finished_at_exit(tmp_path: Path) -> None:
    """Ctrl-C cancels the waiting, not the write: the program's end waits for it."""
    ended = _run(
        """
        import threading
        async def main():
            await recovery.save_state(cached_data={"generation": "first"}, force=True)
            started = threading.Event()
            recovery._state_writer.submit(lambda: (started.set(), threading.Event().wait(0.5)))
            saving = asyncio.ensure_future(recovery.save_state(cached_data={"generation": "second"}, force=True))
            await asyncio.to_thread(started.wait)
            saving.cancel()
            try:
                await saving
            except asyncio.CancelledError:
                pass
        asyncio.run(main())
        """,
        tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert "second" in (tmp_path / "state" / "system_state.json").read_text(), ended.stderr
