"""
The user's own versions of what is in the state, and the way from an older one to that of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from shockproof.vocabulary.errors import StateVersionError

__all__ = ["MIGRATED", "Migration", "Schema"]

Migration = Callable[[dict[str, Any]], dict[str, Any]]  # Any: the user's own values
"""Takes the user's part of a state as one version of a program saved it, and returns it as the next one would."""

MIGRATED: Final = ("active_operations", "cached_data", "configuration")
"""The user's part of a state: what `save_state` takes."""


class Schema:
    """
    Versions 1, 2, ... of one program's state: the n-th migration leads from version n to the next.

    A state without a version is of version 1.

    Raises:
        TypeError: a migration is not callable.
    """

    def __init__(self, migrations: Sequence[Migration] = ()) -> None:
        if not isinstance(migrations, Iterable):
            raise TypeError(f"state_migrations must be a sequence of functions, got {migrations!r}")
        self._migrations = tuple(migrations)
        for number, migration in enumerate(self._migrations, 1):
            if not callable(migration):
                raise TypeError(
                    f"state_migrations must be functions, each from one version of the state to the next; "
                    f"number {number} is {migration!r}"
                )

    @property
    def version(self) -> int:
        """That of the states that are saved now."""
        return len(self._migrations) + 1

    def refuse_newer(self, version: int, where: object) -> None:
        """
        See that this program knows the *version* of the state file *where*.

        Raises:
            StateVersionError: it does not.
        """
        if version > self.version:
            raise StateVersionError(
                f"state file {where} has schema version {version}; the state_migrations of this program lead to "
                f"version {self.version}: use the newer program that wrote it, or another state_dir. Nothing was moved"
            )

    def migrate(self, fields: dict[str, Any], version: int, where: object) -> dict[str, Any]:  # Any: as above
        """
        *fields* of a state of *version* as this program would have saved them; what is not the user's stays.

        Raises:
            StateVersionError: this program does not know the version, or a migration failed.
        """
        self.refuse_newer(version, where)
        if version == self.version:
            return fields
        migrated: Any = {
            name: fields.get(name, [] if name == MIGRATED[0] else {}) for name in MIGRATED
        }  # Any: theirs
        for number in range(version, self.version):
            migration = self._migrations[number - 1]
            name = getattr(migration, "__qualname__", repr(migration))
            try:
                migrated = migration(migrated)
            except Exception as error:
                raise StateVersionError(
                    f"state file {where} has schema version {number}, and {name} could not lead it to version "
                    f"{number + 1}: {type(error).__name__}. Nothing was moved"
                ) from error
            if not isinstance(migrated, dict) or set(migrated) != set(MIGRATED):
                raise StateVersionError(
                    f"state file {where} has schema version {number}, and {name} did not return a dict of "
                    f"{', '.join(MIGRATED)}. Nothing was moved"
                )
        return {**fields, **migrated}
