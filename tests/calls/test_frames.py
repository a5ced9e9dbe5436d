"""`calls.frames`: what runs in each thread is found without standing still."""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType

import pytest

from shockproof.calls.frames import current_frames


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_the_frames_of_all_threads_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    """Else a thread that begins or ends in the middle of it keeps all others from going on, for ever; what was set stays."""
    asked = sys._current_frames
    collected = list[bool]()

    def frames() -> dict[int, FrameType]:
        collected.append(gc.isenabled())
        return asked()

    monkeypatch.setattr(sys, "_current_frames", frames)
    (gc.enable if collects else gc.disable)()
    try:
        found = current_frames()
        assert gc.isenabled() is collects
    finally:
        gc.enable()
    assert collected == [False]
    assert found[threading.get_ident()].f_code.co_name == "frames"
