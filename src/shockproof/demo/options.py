"""The options of the demo, checked before anything is started."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from shockproof.demo.venue.fault_plan import FAULT_LEVELS, parse_faults

__all__ = ["Options", "add_options", "check_output", "options_from"]

SHORTEST, LONGEST = 5.0, 3600.0
FLEET_SECONDS, SHORTEST_FLEET = 60.0, 45.0
"""With several traders: until another one has the account after a SIGKILL, 10 to 19 s pass."""
_USUAL_PORT = 8765


@dataclass(frozen=True, slots=True)
class Options:
    """What the person who started the demo asked for."""

    seconds: float = 30.0
    seed: int = 1
    faults: str = "normal"
    output: Path | None = None
    """Where everything is kept; None: nowhere."""
    status_page: int | None = None
    """The port of the trader's status page; None: it has none."""
    fleet: int | None = None
    """How many traders share one account; None: there is one, alone."""


_DEFAULTS = Options()


def add_options(parser: argparse.ArgumentParser) -> None:
    """The demo's options; what is wrong with a value is said in one line."""
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="S",
        help=f"length of the session, {SHORTEST:g} to {LONGEST:g} (default: {_DEFAULTS.seconds:g}; with --fleet "
        f"{FLEET_SECONDS:g}, and {SHORTEST_FLEET:g} at the least)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=_DEFAULTS.seed,
        metavar="N",
        help="prices and faults follow from it, the same every time (default: %(default)s)",
    )
    parser.add_argument(
        "--faults",
        type=_faults,
        default=_DEFAULTS.faults,
        metavar="WHICH",
        help=f"{', '.join(FAULT_LEVELS)}, or kinds such as outage,kill (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=_output,
        metavar="DIR",
        help="keep state, error log, ledger and summary in this directory, which must be new or empty",
    )
    parser.add_argument(
        "--status-page",
        type=_port,
        nargs="?",
        const=_USUAL_PORT,
        metavar="PORT",
        help=f"show the trader's status page at this port of this machine (PORT default: {_USUAL_PORT})",
    )
    parser.add_argument(
        "--fleet",
        type=_fleet,
        metavar="N",
        help="so many traders of one account, 2 to 8: one trades, and is killed; another one takes over",
    )


def options_from(given: argparse.Namespace) -> Options:
    """
    What was given, as one.

    Raises:
        ValueError: two of them do not go together.
    """
    fleet: int | None = given.fleet
    seconds: float | None = given.seconds
    if fleet is None:
        usual = _DEFAULTS.seconds
    else:
        usual = FLEET_SECONDS
        if seconds is not None and seconds < SHORTEST_FLEET:
            raise ValueError(
                f"--seconds must be {SHORTEST_FLEET:g} or more with --fleet, got {seconds:g}: until another trader "
                "takes over, some 15 s pass"
            )
        if given.status_page is not None:
            raise ValueError("--status-page is for one trader: leave it or --fleet away")
    return Options(
        usual if seconds is None else seconds,
        given.seed,
        given.faults,
        given.output,
        given.status_page,
        fleet,
    )


def _fleet(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 2 <= count <= 8:
        raise argparse.ArgumentTypeError(f"must be a number of traders from 2 to 8, got {text!r}")
    return count


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, got {text!r}")
    return port


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not SHORTEST <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"must be a number from {SHORTEST:g} to {LONGEST:g}, got {text!r}")
    return value


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def _faults(text: str) -> str:
    try:
        parse_faults(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text.strip().lower()


def _output(text: str) -> Path:
    try:
        return check_output(Path(text))
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used: {error.strerror or error}; name a directory that can be written"
        ) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_output(directory: Path) -> Path:
    """
    *directory*, absolute, made if it was not there, and proven to take files.

    Raises:
        ValueError: it holds something already: another session's files must not be mixed with ours.
        OSError: it cannot be made or written.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ValueError(f"{str(directory)!r} is not empty: name a new directory, or remove what is in it")
    probe = directory / ".probe"
    probe.touch()
    probe.unlink()
    return directory
