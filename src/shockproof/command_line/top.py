"""``shockproof top``: a program that runs, watched at a terminal."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import signal
import sys
import time
from collections.abc import Generator
from typing import Any, Final

from shockproof.command_line.outcome import CommandError, ExitCode
from shockproof.command_line.running import Running, add_running
from shockproof.command_line.screen import Screen
from shockproof.command_line.status_lines import (
    Counts,
    show_errors,
    show_head,
    show_pending,
    show_services,
)
from shockproof.views.words import ago

__all__ = ["Rates", "add_options"]

_FASTEST: Final = 0.1
_ERRORS: Final = 8
_PENDING: Final = 5
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.description = (
        "Shows how a program that runs is, again and again until Ctrl-C: services, circuits, rates, the newest errors, "
        "what is pending. Goes on while the program is away. Into a pipe or file it shows it once."
    )
    parser.add_argument(
        "--every", type=_every, default=1.0, metavar="SECONDS", help="how often it is asked (default: 1)"
    )
    parser.add_argument("--once", action="store_true", help="show it once, after one such wait, and end")
    add_running(parser)
    parser.set_defaults(run=_run)


def _every(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _FASTEST <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, 0.1 to 3600, got {text!r}")
    return seconds


def _run(given: argparse.Namespace, screen: Screen) -> int:
    running, rates = Running(given), Rates()
    first = running.status()  # whoever is not there at all is an error, and no empty screen
    if given.once or not screen.is_terminal:
        rates.of(first, time.monotonic())
        time.sleep(given.every)
        _show(running.status(), running, rates, screen, height=None)
        return ExitCode.FINE
    status: dict[str, Any] | None = first  # Any: JSON
    heard, trouble = time.monotonic(), ""
    with _whole_terminal(), contextlib.suppress(KeyboardInterrupt):
        while True:
            _paint(
                status,
                running,
                rates,
                f"{trouble} (since {ago(time.monotonic() - heard)})" if trouble else "",
            )
            time.sleep(given.every)
            try:
                status, heard, trouble = running.status(), time.monotonic(), ""
            except CommandError as error:
                status, trouble = None, str(error)
    return ExitCode.FINE


class Rates:
    """Calls and failures a second, from what was counted at two moments."""

    def __init__(self) -> None:
        self._last: Counts = {}
        self._at = 0.0

    def of(self, status: dict[str, Any], now: float) -> dict[str, tuple[float, float]]:  # Any: JSON
        """By service, since the last time; nothing where it was not there then, or has begun anew."""
        counts = {
            one["name"]: (_number(one.get("successes")), _number(one.get("failures")))
            for one in status["services"]
        }
        last, passed = self._last, max(1e-3, now - self._at)
        self._last, self._at = counts, now
        return {
            name: (
                max(0.0, fine - last[name][0] + failed - last[name][1]) / passed,
                max(0.0, failed - last[name][1]) / passed,
            )
            for name, (fine, failed) in counts.items()
            if name in last
        }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else 0.0


def _show(
    status: dict[str, Any], running: Running, rates: Rates, screen: Screen, *, height: int | None
) -> None:  # Any: JSON
    """With *height*, as many services as there is room for between the rest."""
    above, below = io.StringIO(), io.StringIO()
    show_head(status, running.name, Screen(above))
    Screen(above).line()
    show_pending(status, Screen(below), _PENDING)
    show_errors(status, Screen(below), _ERRORS)
    taken = above.getvalue().count("\n") + below.getvalue().count("\n")
    room = None if height is None else height - taken
    screen.raw(above.getvalue())
    show_services(status, screen, rates=rates.of(status, time.monotonic()), room=room)
    screen.raw(below.getvalue())


def _paint(status: dict[str, Any] | None, running: Running, rates: Rates, trouble: str) -> None:  # Any: JSON
    """One whole picture over the one before."""
    drawn = io.StringIO()
    screen = Screen(drawn)
    height = shutil.get_terminal_size().lines - 1
    if status is None:
        screen.line(screen.cut(trouble), "red")
    else:
        _show(status, running, rates, screen, height=height)
    lines = drawn.getvalue().splitlines()[:height]
    # Home, each line with what was right of it wiped, and what was below it.
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
    sys.stdout.flush()


class _EndedError(BaseException):  # no handler of errors on the way is meant
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _whole_terminal() -> Generator[None]:
    """
    The terminal's other screen, without a cursor: what was there before is there again afterwards.

    Also when a signal ends the process, which then ends by it as it would have, and while Ctrl-Z has stopped it.
    """
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _end) for number in heard}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, _pause)
    ended: int | None = None
    try:
        sys.stdout.write(_ENTER)
        yield
    except _EndedError as error:
        ended = error.number
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN)  # a second one would leave the terminal half-way
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
        for number, handler in before.items():
            signal.signal(number, handler)
    if ended is not None:
        signal.signal(ended, signal.SIG_DFL)
        os.kill(os.getpid(), ended)


def _end(number: int, _: object) -> None:
    raise _EndedError(number)


def _pause(number: int, _: object) -> None:
    # By the descriptor: what is being written may be the very thing that was interrupted.
    os.write(sys.stdout.fileno(), _LEAVE.encode())
    os.kill(os.getpid(), signal.SIGSTOP)
    os.write(sys.stdout.fileno(), _ENTER.encode())
