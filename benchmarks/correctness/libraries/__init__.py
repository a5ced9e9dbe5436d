"""One adapter a file. A library that is not installed is left out of the table."""

from __future__ import annotations

from importlib import import_module

from correctness.library import Library

MODULES = {
    "shockproof": "with_shockproof",
    "nopanic": "with_nopanic",
    "interlock-cb": "with_interlock",
    "resilix": "with_resilix",
    "pyresilience": "with_pyresilience",
    "hyx": "with_hyx",
    "stamina": "with_stamina",
    "tenacity": "with_tenacity",
    "aiobreaker": "with_aiobreaker",
    "purgatory": "with_purgatory",
    "circuitbreaker": "with_circuitbreaker",
}


def load(name: str) -> type[Library]:
    """
    The adapter for a library.

    Raises:
        ImportError: the library is not installed.
    """
    found = import_module(f"correctness.libraries.{MODULES[name]}").Adapter
    assert issubclass(found, Library)
    return found
