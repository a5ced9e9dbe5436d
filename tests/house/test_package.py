"""What is promised about the package: what it needs, what it brings, and what importing it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any, get_origin

import pytest

import shockproof

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
DOCUMENTED = (types.FunctionType, property, classmethod, staticmethod)
# The integrations: modules that say what to install when their client is not there.
CLIENTS = {
    path.stem
    for path in (ROOT / "src" / "shockproof" / "integrations").glob("*.py")
    if "raise missing(" in path.read_text(encoding="utf-8")
} - {"argcomplete", "cryptography", "rich"}  # parts of our own features: the extras `cli` and `crypto`
# Those of them that are nobody's broker or HTTP client: what a user switches on, as `all` does.
SWITCHED_ON = {"apprise", "etcd", "opentelemetry", "prometheus", "redis", "structlog"}
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {match[0].lower() for match in found if match}


def pins(lock: str) -> dict[str, set[str]]:
    """Name to pinned versions, of which a universal file may hold several, for different Pythons."""
    pinned: dict[str, set[str]] = {}
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE):
        pinned.setdefault(name, set()).add(version)
    return pinned


def test_mandatory_dependencies_are_the_three() -> None:
    """Everything else is an extra: a trading desk reads each dependency."""
    assert names(PROJECT["dependencies"]) == {"aiofiles", "anyio", "pydantic"}


def test_all_brings_every_extra_for_users() -> None:
    """`all` is kept up by hand: a new extra has to be in it, be a client, or be one for developers."""
    (everything,) = EXTRAS["all"]
    chosen = set(re.findall(r"\w+", everything.partition("[")[2]))
    assert chosen == set(EXTRAS) - {"all", "bench", "docs"} - (CLIENTS - SWITCHED_ON)


def test_every_client_has_an_extra_of_its_modules_name() -> None:
    """The error of a client that is not installed names an extra: it exists, and brings the client."""
    assert set(EXTRAS) >= CLIENTS


@pytest.mark.parametrize(("smaller", "larger"), [("demo", "test"), ("test", "check"), ("check", "bench")])
def test_larger_pins_hold_the_smaller_ones(smaller: str, larger: str) -> None:
    """One .venv grows from job to job, and nothing in it changes its version on the way."""
    assert pins(smaller).items() <= pins(larger).items()


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("demo", PROJECT["dependencies"] + EXTRAS["demo"] + PYPROJECT["dependency-groups"]["build"]),
        ("test", PYPROJECT["dependency-groups"]["test"] + EXTRAS["crypto"] + EXTRAS["docs"]),
        ("test", [one for client in CLIENTS for one in EXTRAS[client]]),
        ("check", PYPROJECT["dependency-groups"]["dev"]),
        ("bench", EXTRAS["bench"]),
    ],
)
def test_pins_hold_what_pyproject_asks_for(lock: str, wanted: list[str]) -> None:
    """Who adds a dependency and forgets requirements/compile is told here."""
    assert names(wanted) <= set(pins(lock))


def test_import_loads_nothing_that_is_dear_or_optional() -> None:
    """`import shockproof` is cheap: everything third-party is loaded when it is first used."""
    program = "import sys, shockproof; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {program}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    )
    assert "shockproof" in loaded
    assert loaded - {"shockproof", "__main__"} <= set(sys.stdlib_module_names) | {"_distutils_hack"}


def test_everything_public_is_documented() -> None:
    """Each public name, and each public method and property of it, says what it does."""
    silent = []
    for name in shockproof.__all__:
        thing = getattr(shockproof, name)
        if isinstance(thing, type):
            members = [member for member in vars(thing) if not member.startswith("_")]
            parts = [(f"{name}.{member}", inspect.getattr_static(thing, member)) for member in members]
            parts = [(path, part) for path, part in parts if isinstance(part, DOCUMENTED)]
            silent += [
                path for path, _ in parts if not inspect.getdoc(getattr(thing, path.partition(".")[2]))
            ]
        is_alias = get_origin(thing) is not None  # it cannot hold the text that stands below it
        if (isinstance(thing, type) or callable(thing)) and not is_alias and not inspect.getdoc(thing):
            silent.append(name)
    assert silent == []


def test_package_says_that_it_is_typed() -> None:
    """Users' type checkers look for the marker."""
    assert (ROOT / "src" / "shockproof" / "py.typed").exists()


def test_console_command_points_at_a_function() -> None:
    """The command that the package installs exists."""
    module, _, function = PROJECT["scripts"]["shockproof"].partition(":")
    file = ROOT / "src" / Path(*module.split(".")).with_suffix(".py")
    assert re.search(rf"^def {function}\(", file.read_text(encoding="utf-8"), re.MULTILINE)
