"""Whether another process stands still, and so does nothing by itself any more."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shockproof.memory.disk.file_layer import FileLayer

__all__ = ["is_stopped"]

_STOPPED: Final = (b"T", b"t")
"""By a signal; by a debugger."""
_MOST_BYTES: Final = 4096


def is_stopped(layer: FileLayer, pid: int) -> bool:
    """Whether the process *pid* is stopped; False also where this system does not tell, and only Linux does."""
    try:
        # 4711 (its name, in which anything may stand) T ...
        state = layer.read(Path(f"/proc/{pid}/stat"), _MOST_BYTES).rpartition(b")")[2].split()[:1]
    except OSError:
        return False
    return bool(state) and state[0] in _STOPPED
