"""A forked child of the test's own process: what it answers, and, where it fails, why."""

from __future__ import annotations

import faulthandler
import json
import os
import traceback
from collections.abc import Callable
from typing import Any, Final

__all__ = ["ForkedChild"]

_PATIENCE: Final = 100.0
"""Seconds after which a child that does not answer tells where it stands: before the test's own time is up."""


class ForkedChild:
    """A child that begins with *work* at once, in the middle of whatever its parent was doing."""

    def __init__(self, work: Callable[[], Any]) -> None:  # Any: whatever JSON carries
        self._reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(writing)
            return
        # Whatever happens, the child never goes on with the tests of its parent.
        code = 1
        try:
            faulthandler.dump_traceback_later(_PATIENCE, exit=True, file=writing)
            told, code = json.dumps(work()), 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told
            told = traceback.format_exc()
        finally:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(told)
            os._exit(code)

    def answer(self) -> Any:  # Any: as above
        """What *work* returned; fails with the child's own traceback, or where it hung."""
        with os.fdopen(self._reading) as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        assert code == 0, f"the forked child ended with {code}:\n{told}"
        return json.loads(told)
