"""
State files as every version of the form has written them, kept for ever: each of them restores.

`python tests/memory/state/test_golden_files.py` writes those of the newest version, once, when it is new. Version 1 is written
of small states, version 2 of large ones, which have files of changes beside them.
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import shutil
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pydantic
import pytest

from shockproof.memory.state import state_files
from shockproof.memory.state.registered_types import register_type
from shockproof.memory.state.secrets import Redacted, SecretCipher, SecretNames
from shockproof.memory.state.state_capture import NOTHING_KNOWN, StateSecrets, capture_state
from shockproof.memory.state.state_file import FORMAT_VERSION
from shockproof.memory.state.state_files import RestoredState, StateFiles
from shockproof.vocabulary.models import SystemState
from shockproof.vocabulary.statuses import ServiceStatus

GOLDEN = Path(__file__).parents[2] / "data" / "golden-state"
NAMES = ("system_state.json", "system_state.pkl", "system_state.prev.json")
SECRETS = StateSecrets(SecretNames(), SecretCipher(["Z29sZGVuIGtleSBvZiB0aGUgdGVzdHMsIG5vIHNlY3I="]))
MOMENT = 1_790_000_000.25


@register_type(name="golden:Side")
class Side(Enum):
    BUY = 1


@register_type(name="golden:Features")
class Features(Flag):
    FAST = 1
    SAFE = 2


@register_type(name="golden:Position")
@dataclass
class Position:
    symbol: str
    qty: Decimal
    side: Side


@register_type(name="golden:Level")
class Level(NamedTuple):
    price: float
    size: float


@register_type(name="golden:Quote")
class Quote(pydantic.BaseModel):
    bid: Decimal
    at: datetime


PLAIN = {"text": "Zürich ✓", "number": 1.5, "whole": -7, "yes": True, "none": None, "list": [1, [2, {}]]}
RICH: dict[Any, Any] = {
    "decimal": Decimal("1.10"),
    "datetime": datetime(2026, 11, 1, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
    "naive": datetime(2026, 11, 1, 1, 30, 0, 5),
    "offset": datetime(2026, 11, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "date": date(2026, 2, 28),
    "time": time(9, 30),
    "timedelta": timedelta(days=-1, microseconds=5),
    "timezone": UTC,
    "zone": ZoneInfo("Europe/Zurich"),
    "uuid": UUID("12345678123456781234567812345678"),
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"abc"),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "tuple": (1, (2,)),
    "deque": collections.deque([1, 2], 5),
    "counter": collections.Counter("aab"),
    "ordered": collections.OrderedDict(b=1, a=2),
    "default": collections.defaultdict(list, a=[1]),
    "infinite": [math.inf, -math.inf],
    "complex": 1.5 - 2j,
    "huge": 1 << 2000,
    "surrogate": "a\udc80",
    "dollar": {"$": "decimal", "v": "1"},
    "enum": Side.BUY,
    "flag": Features.FAST | Features.SAFE,
    "dataclass": Position("AAPL", Decimal("2.50"), Side.BUY),
    "named tuple": Level(1.5, 2.0),
    "model": Quote(bid=Decimal("3.3"), at=datetime(2026, 1, 1, tzinfo=UTC)),
    7: "a key that is no text",
    ("BTC", 1): None,
}
OPERATIONS = [{"operation": "rebalance", "key": "2026-11-25", "index": 3}]
CONFIGURATION = {"mode": "paper", "api_key": "K-golden", "password": b"\x01\x02"}


def sections(number: int, *, is_large: bool) -> dict[str, Any]:
    cached = {"number": number, "plain": PLAIN, "rich": RICH}
    if is_large:
        many: dict[str, Any] = {f"key {n}": {"n": n} for n in range(600)}
        cached["many"] = {**many, "key 7": [number, Decimal(number)], f"only in {number}": None}
    return {
        "service_statuses": {"market_data": ServiceStatus.DEGRADED, "trading": ServiceStatus.OPERATIONAL},
        "active_operations": OPERATIONS,
        "cached_data": cached,
        "configuration": CONFIGURATION,
        "circuit_breakers": {"trading": {"remaining": 40.0, "openings": 1, "is_paused": False}},
    }


def write(directory: Path, *, is_large: bool) -> None:
    files = StateFiles(directory, secrets=SECRETS)
    known = NOTHING_KNOWN
    for number in (1, 2, 3) if is_large else (1, 2):
        if number == 2:
            files = StateFiles(directory, secrets=SECRETS)  # another life, which begins with a whole
        state = sections(number, is_large=is_large)
        captured = asyncio.run(capture_state(state, secrets=SECRETS, timestamp=MOMENT + number, known=known))
        known = captured.packed
        files.write(captured)


def restored(directory: Path, *only: str, tmp_path: Path, secrets: StateSecrets = SECRETS) -> RestoredState:
    for path in directory.iterdir():
        if not only or path.name in only or ".changes." in path.name:
            shutil.copy(path, tmp_path / path.name)
    return StateFiles(tmp_path, secrets=secrets).load()


VERSIONS = sorted(GOLDEN.iterdir()) if GOLDEN.is_dir() else []


def test_the_current_version_is_among_them() -> None:
    """Whoever changes the form raises its version, and keeps a file of it."""
    assert f"version-{FORMAT_VERSION}" in [version.name for version in VERSIONS]


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda path: path.name)
@pytest.mark.parametrize("name", NAMES)
def test_file_of_every_version_restores(golden: Path, name: str, tmp_path: Path) -> None:
    """From each file alone, with every kind of value."""
    found = restored(golden, name, tmp_path=tmp_path)

    is_large = golden.name != "version-1"
    number = 1 if name == "system_state.prev.json" else 3 if is_large else 2
    assert found.damaged == ()
    assert found.sequence == number
    assert found.state == SystemState(
        timestamp=datetime.fromtimestamp(MOMENT + number, UTC), **sections(number, is_large=is_large)
    )
    assert found.state is not None
    rich = found.state.cached_data["rich"]
    assert {key: type(value) for key, value in rich.items()} == {
        key: type(value) for key, value in RICH.items()
    }
    assert rich["datetime"].fold == 1
    assert rich["deque"].maxlen == 5
    assert rich["default"].default_factory is list


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda path: path.name)
def test_secret_of_every_version_stays_closed_without_its_key(golden: Path, tmp_path: Path) -> None:
    """And is in no file in the clear."""
    found = restored(golden, tmp_path=tmp_path, secrets=StateSecrets(SecretNames()))

    assert found.state is not None
    assert found.state.configuration["api_key"] == Redacted("configuration.api_key")
    assert not [name for name in NAMES if b"K-golden" in (golden / name).read_bytes()]


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_form_has_not_changed_without_a_new_version(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written today is what the golden files hold, but for what is random."""
    monkeypatch.setattr(state_files, "WHOLE_UP_TO", 0)
    write(tmp_path, is_large=version > 1)

    def content(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(path.read_bytes())
        found["timestamp"] = datetime.fromisoformat(found["timestamp"])
        assert found.pop("checksum")
        assert ("series" in found) is (found["format_version"] > 1)
        found.pop("series", None)
        for secret in ("api_key", "password"):
            del found["configuration"][secret]["v"]
        return found

    golden = GOLDEN / f"version-{version}"
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in golden.iterdir()}
    for path in golden.glob("*.json"):
        assert content(tmp_path / path.name) == content(path)


if __name__ == "__main__":
    state_files.WHOLE_UP_TO = 0
    write(GOLDEN / f"version-{FORMAT_VERSION}", is_large=True)
