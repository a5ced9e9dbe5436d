"""What an extra installs is imported in one file of `integrations/`, which says how to install it."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "shockproof"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOR_DEVELOPERS = {"all", "bench", "docs"}
# Distributions whose module has another name.
MODULES = {
    "alpaca-py": "alpaca",
    "grpcio": "grpc",
    "ib-async": "ib_async",
    "opentelemetry-api": "opentelemetry",
    "prometheus-client": "prometheus_client",
    "python-binance": "binance",
}
OPTIONAL = {
    MODULES.get(name, name)
    for extra, wanted in PYPROJECT["project"]["optional-dependencies"].items()
    if extra not in FOR_DEVELOPERS
    for requirement in wanted
    for name in re.findall(r"^[\w.-]+", requirement)
}
# The demo is a program of its own, which uses libraries as a user's does: `shockproof demo` says what it lacks.
LIBRARY = sorted(path for path in SOURCE.rglob("*.py") if not path.is_relative_to(SOURCE / "demo"))


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_an_optional_package_is_imported_in_one_file_of_integrations() -> None:
    """Whoever lacks it meets one error, and whoever replaces it changes one file."""
    places: dict[str, list[str]] = {package: [] for package in OPTIONAL}
    for path in LIBRARY:
        for package in imported(path) & OPTIONAL:
            places[package].append(path.relative_to(SOURCE).as_posix())
    assert {package: names for package, names in places.items() if len(names) != 1} == {}
    assert all(name.startswith("integrations/") for (name,) in places.values())


def test_the_file_that_imports_it_names_the_command_that_installs_it() -> None:
    """`missing` makes that error."""
    for path in (SOURCE / "integrations").glob("*.py"):
        if imported(path) & OPTIONAL:
            assert "raise missing(" in path.read_text(encoding="utf-8"), path.name


def test_the_import_contract_knows_every_optional_package() -> None:
    """It sees what is imported by a detour; its list is kept by hand."""
    (contract,) = (one for one in PYPROJECT["tool"]["importlinter"]["contracts"] if one["id"] == "extras")
    assert set(contract["forbidden_modules"]) >= OPTIONAL
