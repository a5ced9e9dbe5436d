"""
What the journal calls operations, and orders that are sent once.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["SENT_ONCE", "Name", "is_name_of_sendings", "name_of_sending", "service_of_name"]

SENT_ONCE: Final = ".once"
"""How the names of all orders end."""


class Name(NamedTuple):
    """What tells operations apart."""

    operation: str
    key: str | None


def name_of_sending(service_name: str, key: str) -> Name:
    """What the journal calls it: each service has keys of its own."""
    return Name(service_name + SENT_ONCE, key)


def service_of_name(name: Name) -> str:
    """Whose order has this name."""
    return name.operation.removesuffix(SENT_ONCE)


def is_name_of_sendings(operation: str) -> bool:
    """Whether what has this name and a key would be taken for something that is sent once."""
    return operation.endswith(SENT_ONCE)
