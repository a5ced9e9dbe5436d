"""Where a setting comes from, and which values are refused: arguments, environment, defaults."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shockproof import ErrorRecoveryService
from shockproof.settings import CONFIGURABLE, DEFAULTS, check_change, resolve
from shockproof.testing import VirtualClock
from shockproof.vocabulary.arguments import NOT_GIVEN

SEVEN = {
    "max_retries": ("7", 7, 3),
    "base_delay": ("0.25", 0.25, 1.0),
    "max_delay": ("90", 90.0, 60.0),
    "backoff_factor": ("1.5", 1.5, 2.0),
    "circuit_threshold": ("11", 11, 5),
    "circuit_timeout": ("33.5", 33.5, 60.0),
    "state_save_interval": ("5", 5.0, 60.0),
}
"""What the environment may say, what it then is, and the default."""


@pytest.mark.parametrize("name", SEVEN)
def test_defaults_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    """Neither an argument nor a variable: the default."""
    assert getattr(ErrorRecoveryService(tmp_path, tmp_path), name) == SEVEN[name][2]


def test_default_directories_are_those_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data/state and data/errors below the working directory, as absolute paths."""
    monkeypatch.chdir(tmp_path)
    recovery = ErrorRecoveryService()
    assert recovery.state_dir == tmp_path / "data" / "state"
    assert recovery.error_log_dir == tmp_path / "data" / "errors"


@pytest.mark.parametrize("name", SEVEN)
def test_the_environment_beats_the_default(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All seven variables of the original are read, with the type of the setting."""
    text, value, _ = SEVEN[name]
    monkeypatch.setenv(f"ERROR_RECOVERY_{name.upper()}", text)
    found = getattr(ErrorRecoveryService(tmp_path, tmp_path), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", SEVEN)
def test_an_explicit_default_beats_the_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not given is a sentinel: an argument that equals the default is still an argument."""
    text, _, default = SEVEN[name]
    monkeypatch.setenv(f"ERROR_RECOVERY_{name.upper()}", text)
    options: dict[str, Any] = {name: default}
    assert getattr(ErrorRecoveryService(tmp_path, tmp_path, **options), name) == default


def test_an_explicit_none_beats_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """circuit_threshold=None switches the breaker off, whatever the variable says."""
    monkeypatch.setenv("ERROR_RECOVERY_CIRCUIT_THRESHOLD", "2")
    assert ErrorRecoveryService(tmp_path, tmp_path, circuit_threshold=None).circuit_threshold is None


def test_the_environment_is_read_at_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of a variable changes the next service, not this one."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    monkeypatch.setenv("ERROR_RECOVERY_MAX_RETRIES", "9")
    assert recovery.max_retries == 3
    assert ErrorRecoveryService(tmp_path, tmp_path).max_retries == 9


@pytest.mark.parametrize("text", [" 7 ", "7"])
def test_blanks_around_a_number_do_not_matter(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell script may leave them."""
    monkeypatch.setenv("ERROR_RECOVERY_MAX_RETRIES", text)
    assert ErrorRecoveryService(tmp_path, tmp_path).max_retries == 7


def test_an_empty_variable_is_none_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ERROR_RECOVERY_MAX_RETRIES=` in an env file means the default."""
    monkeypatch.setenv("ERROR_RECOVERY_MAX_RETRIES", "")
    assert ErrorRecoveryService(tmp_path, tmp_path).max_retries == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_retries", "three"),
        ("max_retries", "3.5"),
        ("max_retries", "-1"),
        ("base_delay", "1s"),
        ("base_delay", "-0.5"),
        ("base_delay", "nan"),
        ("max_delay", "inf"),
        ("backoff_factor", "0.5"),
        ("circuit_threshold", "0"),
        ("circuit_timeout", "0"),
        ("state_save_interval", "-1"),
    ],
)
def test_a_bad_variable_is_refused_with_its_name_and_value(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says where the value came from, so that it can be corrected there."""
    variable = f"ERROR_RECOVERY_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=f"{variable} must be") as raised:
        ErrorRecoveryService(tmp_path, tmp_path)
    assert text.rstrip("s") in str(raised.value)


@pytest.mark.parametrize("name", SEVEN)
def test_a_bad_variable_does_not_matter_where_an_argument_is_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not even read."""
    monkeypatch.setenv(f"ERROR_RECOVERY_{name.upper()}", "nonsense")
    options: dict[str, Any] = {name: SEVEN[name][1]}
    assert getattr(ErrorRecoveryService(tmp_path, tmp_path, **options), name) == SEVEN[name][1]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"max_retries": -1}, ValueError, "max_retries must be a whole number of at least 0, got -1"),
        ({"max_retries": 2.0}, TypeError, "max_retries must be a whole number of at least 0, got 2.0"),
        ({"max_retries": True}, TypeError, "max_retries must be a whole number of at least 0, got True"),
        ({"max_retries": None}, TypeError, "max_retries must be .* got None"),
        ({"base_delay": -1}, ValueError, "base_delay must be seconds .*at least 0, got -1"),
        ({"base_delay": "1"}, TypeError, "base_delay must be seconds .*got '1'"),
        ({"base_delay": timedelta(seconds=-1)}, ValueError, "base_delay must be seconds"),
        ({"max_delay": float("nan")}, ValueError, "max_delay must be seconds .*got nan"),
        ({"max_delay": float("inf")}, ValueError, "max_delay must be seconds .*got inf"),
        ({"backoff_factor": 0.9}, ValueError, "backoff_factor must be a number of at least 1, got 0.9"),
        ({"backoff_factor": None}, TypeError, "backoff_factor must be a number of at least 1, got None"),
        ({"circuit_threshold": 0}, ValueError, "circuit_threshold must be .*at least 1, got 0"),
        ({"circuit_timeout": 0}, ValueError, "circuit_timeout must be .*more than 0, got 0"),
        ({"circuit_timeout": None}, TypeError, "circuit_timeout must be .*got None"),
        ({"state_save_interval": -5}, ValueError, "state_save_interval must be .*got -5"),
        ({"state_dir": 5}, TypeError, "state_dir must be a directory.*got 5"),
        ({"state_dir": ""}, (TypeError, ValueError), "state_dir must be a directory.*got ''"),
        ({"error_log_dir": None}, TypeError, "error_log_dir must be a directory.*got None"),
        ({"error_log_dir": b"x"}, TypeError, "error_log_dir must be a directory.*got b'x'"),
        ({"jitter": "fully"}, ValueError, "jitter must be one of .*'full'.*got 'fully'"),
        ({"max_threads": 0}, ValueError, "max_threads must be .*got 0"),
        ({"state_dir": "a\0b"}, TypeError, "state_dir must be a directory"),
        ({"clock": 5}, TypeError, "clock must have .*got 5"),
        ({"clock": VirtualClock}, TypeError, r"clock must be an object.*write VirtualClock\(\)"),
        ({"rng": 5}, TypeError, r"rng must have random\(\), such as random.Random\(7\), got 5"),
        ({"rng": random.Random}, TypeError, r"rng must have random\(\).*got <class 'random.Random'>"),
        ({"redact": 5}, TypeError, "redact must be several names .*got 5"),
        ({"redact": ["pin", 5]}, TypeError, r"redact must be several names .*got \['pin', 5\]"),
        ({"encryption_key": 5}, TypeError, "encryption_key must be a Fernet key .*got int"),
        ({"encryption_key": [5]}, TypeError, "encryption_key: key 1 must be a str or bytes, got int"),
        ({"encryption_key": []}, ValueError, "encryption_key holds no key"),
        ({"state_migrations": 5}, TypeError, "state_migrations must be a sequence of functions, got 5"),
    ],
)
def test_a_bad_argument_is_refused_with_name_value_and_what_is_allowed(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    """When the service is made, before anything else happens."""
    with pytest.raises(error, match=says):
        ErrorRecoveryService(**options)


def test_unknown_arguments_are_refused() -> None:
    """Nothing is swallowed."""
    with pytest.raises(TypeError, match="retries"):
        ErrorRecoveryService(retries=3)  # type: ignore[call-arg]  # the mistake under test


def test_resolving_takes_everything_from_where_it_belongs() -> None:
    """Arguments, then the environment that is handed in, then defaults."""
    settings = resolve(
        {"max_retries": 1, "base_delay": NOT_GIVEN, "max_delay": NOT_GIVEN},
        {"ERROR_RECOVERY_MAX_RETRIES": "2", "ERROR_RECOVERY_BASE_DELAY": "3", "MAX_DELAY": "4"},
    )
    assert (settings["max_retries"], settings["base_delay"], settings["max_delay"]) == (1, 3.0, 60.0)
    assert settings.keys() == DEFAULTS.keys()


@pytest.mark.parametrize("name", SEVEN)
def test_each_of_the_seven_can_be_changed_while_running(name: str) -> None:
    """With the same checks as at construction."""
    assert name in CONFIGURABLE
    assert check_change(name, SEVEN[name][1]) == SEVEN[name][1]
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        check_change(name, "nonsense")


@pytest.mark.parametrize("name", ["state_dir", "clock", "nonsense", "jitters"])
def test_what_cannot_be_changed_is_refused_with_what_can(name: str, tmp_path: Path) -> None:
    """configure() knows no such name."""
    recovery = ErrorRecoveryService(tmp_path, tmp_path)
    with pytest.raises(TypeError, match=f"'{name}'.*circuit_threshold"):
        recovery.configure(**{name: 1})


def test_a_bare_function_is_taken_for_the_monotonic_clock(tmp_path: Path) -> None:
    """The least a test can hand in."""
    now = 5.0
    recovery = ErrorRecoveryService(tmp_path, tmp_path, clock=lambda: now)
    assert recovery.get_health_status()["overall_health"] == "healthy"


def test_misspelt_environment_variable_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would change nothing, and nobody would know."""
    monkeypatch.setenv("ERROR_RECOVERY_MAX_RETRY", "7")
    with pytest.warns(UserWarning, match="ERROR_RECOVERY_MAX_RETRY is not one of"):
        ErrorRecoveryService(tmp_path, tmp_path)
