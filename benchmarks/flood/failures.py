"""
Errors as a bot has them: 17 frames of different functions, a message that is never the same twice; one stack, or many.

Each module's functions stand in a file of their own, which has the source lines that a traceback shows.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

FRAMES = 17


def failing(directory: Path, stacks: int = 1) -> Callable[[int], ConnectionError]:
    """
    A function that gives the error with that number, raised anew through 17 frames, about 2 KB of traceback.

    With more than one of *stacks* each function has two lines from which it calls the next, and the error with the next number
    takes another way.
    """
    lines = [
        "def fetch_16(session, symbol, timeout, number):",
        '    raise ConnectionError(f"could not fetch the quote of {symbol}, request {number}: connection reset by peer")',
    ]
    for depth in reversed(range(FRAMES - 2)):
        inner = f"fetch_{depth + 1 if depth < FRAMES - 3 else 16}"
        lines += ["", f"def fetch_{depth}(session, symbol, timeout, number):"]
        if stacks > 1:
            lines += [
                f"    if number % {stacks} >> {depth} & 1:",
                f"        return {inner}(session, symbol=symbol, timeout=timeout, number=number)",
            ]
        lines += [
            f"    return {inner}(session, symbol=symbol, timeout=timeout, number=number)",
        ]
    path = directory / "venue_client.py"
    path.write_text("\n".join([*lines, ""]), "utf-8")
    spec = importlib.util.spec_from_file_location("venue_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["venue_client"] = module
    spec.loader.exec_module(module)
    outermost: Callable[[object, str, float, int], object] = module.fetch_0

    def fail(number: int) -> ConnectionError:
        try:
            outermost(None, "AAPL", 2.0, number)
        except ConnectionError as error:
            return error
        raise AssertionError("it fails always")

    return fail
