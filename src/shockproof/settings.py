"""
The settings of a recovery service: argument, else environment, else default; each checked by name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any, Final, TypedDict

from shockproof.memory.error_log.bounded_queue import WhenFull
from shockproof.vocabulary.arguments import NOT_GIVEN, Seconds, at_least, out_of, seconds, whole_number

__all__ = [
    "CONFIGURABLE",
    "DEFAULTS",
    "ErrorLogOptions",
    "LoopMonitorOptions",
    "check_change",
    "check_error_log",
    "check_loop_monitor",
    "resolve",
]


class ErrorLogOptions(TypedDict, total=False):
    """How the error log keeps its files and its bounds; everything is off or wide by default."""

    zone: tzinfo | None
    """Whose days the files are. Default: UTC."""
    max_file_bytes: int | None
    """A day goes on in another part when its file is about this large. Default: any size."""
    keep_days: int | None
    """Files of days more than so many before today are deleted. Default: all are kept."""
    keep_bytes: int | None
    """The oldest files are deleted until the rest is no larger; never today's. Default: all are kept."""
    compress: bool
    """Files of closed days become ``.gz``. Default: False."""
    fold: Seconds | None
    """Seconds in which identical records become two lines, the first, and the last with how many. Default: all are lines."""
    fold_numbers: bool
    """Messages that differ in numbers only are identical then. Default: False."""
    max_records: int
    """How many records may wait for the disk. Default: 10,000."""
    max_bytes: int
    """How much memory they may take, about. Default: 8 MiB."""
    when_full: WhenFull
    """``"drop_lowest"`` (default), ``"drop_oldest"`` or ``"drop_new"``; what is dropped is counted."""
    fsync: bool
    """Whether a flush also survives a power failure. Default: False."""


class LoopMonitorOptions(TypedDict, total=False):
    """How the event loop is watched. Seconds, as numbers or `timedelta`."""

    tick: Seconds
    """Between two beats, more than 0. Default: 0.05."""
    stall_after: Seconds
    """How late a beat is when that is told as a stall, more than 0. Default: 0.1."""
    degraded_above: Seconds
    """How late a beat is when the health becomes degraded, more than 0. Default: 0.5."""
    recovers_after: Seconds
    """How long none may be so late until the health is well again, at least 0. Default: 30.0."""


def _threshold(name: str, value: object) -> int | None:
    return None if value is None else whole_number(name, value, minimum=1)


def _positive(name: str, value: object) -> float:
    return seconds(name, value, more_than=0)


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(value):
        raise TypeError(
            f'{name} must be a directory, as a string or a Path such as "data/state", got {value!r}'
        )
    path = Path(value)
    return Path(os.path.abspath(path))


def _whole_text(text: str) -> int:
    return int(text)


_Check = Callable[[str, object], Any]  # Any: each setting has a type of its own

_NUMBERS: Final[Mapping[str, tuple[object, _Check, Callable[[str], object]]]] = {
    "max_retries": (3, lambda name, value: whole_number(name, value, minimum=0), _whole_text),
    "base_delay": (1.0, seconds, float),
    "max_delay": (60.0, seconds, float),
    "backoff_factor": (2.0, lambda name, value: at_least(name, value, 1), float),
    "circuit_threshold": (5, _threshold, _whole_text),
    "circuit_timeout": (60.0, _positive, float),
    "state_save_interval": (60.0, seconds, float),
}
_PATHS: Final = {"state_dir": "data/state", "error_log_dir": "data/errors"}

DEFAULTS: Final[Mapping[str, object]] = {**_PATHS, **{name: row[0] for name, row in _NUMBERS.items()}}
CONFIGURABLE: Final = tuple(_NUMBERS)
"""What `configure` may change while running."""


def resolve(
    given: Mapping[str, object], environ: Mapping[str, str]
) -> dict[str, Any]:  # Any: each setting has a type of its own
    """
    Every setting, checked; NOT_GIVEN is looked up as ``ERROR_RECOVERY_<NAME>``, then the default.

    Raises:
        TypeError, ValueError: a value that is not allowed, named with where it came from.
    """
    known = {f"ERROR_RECOVERY_{name.upper()}" for name in _NUMBERS}
    for variable in environ:
        if variable.startswith("ERROR_RECOVERY_") and variable not in known:
            warnings.warn(
                f"environment variable {variable} is not one of {', '.join(sorted(known))}: it changes nothing",
                stacklevel=4,
            )
    settings: dict[str, Any] = {}  # Any: each setting has a type of its own
    for name, directory in _PATHS.items():
        value = given.get(name, NOT_GIVEN)
        settings[name] = _path(name, directory if value is NOT_GIVEN else value)
    for name, (default, check, _) in _NUMBERS.items():
        value = given.get(name, NOT_GIVEN)
        variable = f"ERROR_RECOVERY_{name.upper()}"
        if value is not NOT_GIVEN:
            settings[name] = check(name, value)
        elif environ.get(variable, "") != "":
            settings[name] = _from_environment(name, variable, environ[variable])
        else:
            settings[name] = default
    return settings


def _from_environment(name: str, variable: str, text: str) -> object:
    _, check, parse = _NUMBERS[name]
    try:
        value = parse(text.strip())
    except ValueError:
        kind = "a whole number" if parse is _whole_text else "a number"
        raise ValueError(
            f"environment variable {variable} must be {kind}, got {text!r}; correct or unset it"
        ) from None
    return check(f"environment variable {variable}", value)


def check_change(name: str, value: object) -> Any:  # Any: each setting has a type of its own
    """
    One changed setting for `configure`.

    Raises:
        TypeError: there is no such setting, or its value has the wrong type.
        ValueError: its value is out of range.
    """
    if name not in _NUMBERS:
        raise TypeError(f"configure() knows no {name!r}; {out_of(name, CONFIGURABLE)}")
    return _NUMBERS[name][1](name, value)


def _at_least(minimum: int) -> _Check:
    return lambda name, value: whole_number(name, value, minimum=minimum)


def _or_none(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


def _of_type(kind: type, described: str) -> _Check:
    def check(name: str, value: object) -> object:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {described}, got {value!r}")
        return value

    return check


def _when_full(name: str, value: object) -> object:
    allowed = ("drop_lowest", "drop_oldest", "drop_new")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


_ERROR_LOG: Final[Mapping[str, _Check]] = {
    "zone": _or_none(_of_type(tzinfo, 'a time zone such as ZoneInfo("Europe/Berlin")')),
    "max_file_bytes": _or_none(_at_least(1)),
    "keep_days": _or_none(_at_least(0)),
    "keep_bytes": _or_none(_at_least(0)),
    "compress": _of_type(bool, "True or False"),
    "fold": _or_none(_positive),
    "fold_numbers": _of_type(bool, "True or False"),
    "max_records": _at_least(1),
    "max_bytes": _at_least(1),
    "when_full": _when_full,
    "fsync": _of_type(bool, "True or False"),
}


def check_error_log(options: Mapping[str, object]) -> dict[str, Any]:  # Any: each has a type of its own
    """
    The options of the error log, each checked.

    Raises:
        TypeError, ValueError: an unknown name, or a value that is not allowed.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f'error_log must be a dict such as {{"keep_days": 30}}, got {options!r}')
    checked: dict[str, Any] = {}  # Any: each has a type of its own
    for name, value in options.items():
        if name not in _ERROR_LOG:
            raise TypeError(f"error_log knows no {name!r}; {out_of(name, _ERROR_LOG)}")
        checked[name] = _ERROR_LOG[name](f"error_log[{name!r}]", value)
    if checked.get("fold_numbers") and "fold" not in checked:
        raise ValueError(
            'error_log["fold_numbers"] says how identical errors are found, and nothing is folded: add "fold": 10.0 (seconds)'
        )
    return checked


_LOOP_MONITOR: Final[Mapping[str, tuple[float, _Check]]] = {
    "tick": (0.05, _positive),
    "stall_after": (0.1, _positive),
    "degraded_above": (0.5, _positive),
    "recovers_after": (30.0, seconds),
}


def check_loop_monitor(given: object) -> dict[str, float] | None:
    """
    The options of the loop monitor, all of them; None where there is none.

    Raises:
        TypeError, ValueError: an unknown name, or a value that is not allowed.
    """
    if given is False or given is None:
        return None
    if given is not True and not isinstance(given, Mapping):
        raise TypeError(
            f'loop_monitor must be True, False or a dict such as {{"stall_after": 0.1}}, got {given!r}'
        )
    options: Mapping[str, object] = {} if given is True else given
    for name in options:
        if name not in _LOOP_MONITOR:
            raise TypeError(f"loop_monitor knows no {name!r}; {out_of(name, _LOOP_MONITOR)}")
    return {
        name: check(f"loop_monitor[{name!r}]", options[name]) if name in options else default
        for name, (default, check) in _LOOP_MONITOR.items()
    }
