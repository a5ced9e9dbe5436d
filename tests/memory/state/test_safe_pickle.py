"""Reading pickles that somebody else wrote, the evil ones included."""

from __future__ import annotations

import builtins
import collections
import datetime
import enum
import io
import json
import os
import pickle
import pickletools
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state.pieces import pickle_pieces
from shockproof.memory.state.registered_types import register_type
from shockproof.memory.state.safe_pickle import RefusedPickleError, read_pickle
from shockproof.vocabulary.models import SystemState
from shockproof.vocabulary.statuses import ServiceStatus

ORIGINAL = Path(__file__).parents[2] / "data" / "original-state"


@register_type
class Side(enum.Enum):
    BUY = "buy"


@register_type
@dataclass
class Quote:
    symbol: str
    price: Decimal


@register_type
@dataclass(frozen=True, slots=True)
class Fill:
    price: Decimal


@register_type
class Level(NamedTuple):
    price: float
    size: int


@register_type
class Position(BaseModel):
    symbol: str


class NotRegistered(enum.Enum):
    ONE = 1


for registered in (Side, Quote, Fill, Level, Position, NotRegistered):
    # Test modules are imported under a name that pickle cannot import: it is looked up here instead.
    registered.__module__ = "shockproof_pickle_test"


def dumped(value: object, protocol: int = 4) -> bytes:
    """`pickle.dumps`, for classes of this module too."""
    import sys
    import types

    module = types.ModuleType("shockproof_pickle_test")
    for registered in (Side, Quote, Fill, Level, Position, NotRegistered):
        setattr(module, registered.__name__, registered)
    sys.modules[module.__name__] = module
    try:
        return pickle.dumps(value, protocol)
    finally:
        del sys.modules[module.__name__]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.text(), inner), st.lists(inner).map(tuple), st.sets(st.integers())
    ),
    max_leaves=20,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(PLAIN, st.integers(3, 5))
def test_plain_values_are_read_in_every_protocol(value: object, protocol: int) -> None:
    """What `pickle.dumps` writes without classes comes out the same."""
    assert read_pickle(pickle.dumps(value, protocol)) == value


@given(JSON)
def test_pickle_made_of_pieces_is_a_pickle(value: object) -> None:
    """Ours reads it, and so does Python's own."""
    data = b"".join(pickle_pieces(value, pace=Pace()))

    assert read_pickle(data) == value
    assert pickle.loads(data) == value


def test_large_pickle_made_of_pieces_is_one_pickle() -> None:
    """A value that is divided on several levels, with strings that the pieces' memos share."""
    value = {"a": [{"symbol": "x", "n": number, "l": list(range(600))} for number in range(50)], "b": {}}

    pieces = list(pickle_pieces(value, pace=Pace()))

    assert len(pieces) > 100
    assert pickle.loads(b"".join(pieces)) == value
    assert read_pickle(b"".join(pieces)) == value


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(2026, 2, 12, 11, 55, 0, 123456),
        datetime.datetime(2026, 2, 12, fold=1, tzinfo=datetime.UTC),
        datetime.datetime(2026, 2, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "EET")),
        datetime.date(2026, 2, 12),
        datetime.time(23, 59, fold=1),
        datetime.timedelta(days=-1, microseconds=5),
        Decimal("1.10"),
        Decimal("NaN"),
        uuid.UUID(int=7),
        {uuid.UUID(int=7): 1},
        collections.OrderedDict([("b", [uuid.UUID(int=1)]), ("a", 1)]),
        collections.Counter("abca"),
        collections.deque([1, 2], maxlen=3),
        collections.defaultdict(list, {"a": [1]}),
        collections.defaultdict(None, {}),
        frozenset({1, ("a", 2)}),
        bytearray(b"abc"),
        Side.BUY,
        Quote("AAPL", Decimal("1.5")),
        Fill(Decimal(2)),
        Level(1.5, 2),
        Position(symbol="AAPL"),
        ServiceStatus.DEGRADED,
        {(1, 2): [Side.BUY, {"q": Quote("X", Decimal(1))}]},
    ],
    ids=repr,
)
def test_known_classes_are_read(value: object, protocol: int) -> None:
    """Standard types and registered ones come out equal, and of the same type."""
    restored = read_pickle(dumped(value, protocol))

    assert type(restored) is type(value)
    assert repr(restored) == repr(value)


def test_state_of_the_original_program_is_read() -> None:
    """Its SystemState comes as its fields, its ServiceStatus as the value."""
    state = read_pickle((ORIGINAL / "system_state.pkl").read_bytes())

    assert state["timestamp"] == datetime.datetime(2026, 2, 12, 11, 55, 0, 123456)
    assert state["service_statuses"] == {"market_data": "degraded", "trading": "operational"}
    assert state["active_operations"] == [{"operation": "fetch_data", "symbol": "AAPL", "status": "pending"}]
    assert state["cached_data"] == {"AAPL": {"price": 150.0}}


def test_pickled_state_of_ours_is_read() -> None:
    """Somebody may have pickled the model itself."""
    state = SystemState(cached_data={"a": 1}, service_statuses={"x": ServiceStatus.DEGRADED})

    assert read_pickle(pickle.dumps(state)) == state


class Reduced:
    """Pickles as a call of *function* with *arguments*."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.arguments


def stack_global(module: str, name: str) -> bytes:
    return (
        b"\x8c"
        + bytes([len(module)])
        + module.encode()
        + b"\x8c"
        + bytes([len(name)])
        + name.encode()
        + b"\x93"
    )


ATTACKS: dict[str, bytes] = {
    "os.system": pickle.dumps(Reduced(os.system, "touch hacked")),
    "os.system, protocol 0": pickle.dumps(Reduced(os.system, "touch hacked"), 0),
    "os.system, protocol 2": pickle.dumps(Reduced(os.system, "touch hacked"), 2),
    "eval": pickle.dumps(Reduced(eval, "open('hacked', 'w')")),
    "exec": pickle.dumps(Reduced(exec, "open('hacked', 'w')")),
    "open": pickle.dumps(Reduced(open, "hacked", "w")),
    "__import__": pickle.dumps(Reduced(builtins.__import__, "os")),
    "getattr": pickle.dumps(Reduced(getattr, collections.OrderedDict, "clear")),
    "zone through getattr": pickle.dumps(ZoneInfo("Europe/Zurich")),
    "dotted name": b"\x80\x04" + stack_global("enum", "sys.modules.get") + b"\x8c\x02os\x85R.",
    "dots into a known module": b"\x80\x04" + stack_global("datetime", "datetime.__class__") + b".",
    "sys of a module of ours": b"\x80\x04" + stack_global("shockproof.memory.state.codec", "sys") + b".",
    "a class as value": b"\x80\x04" + stack_global("datetime", "datetime") + b".",
    "a class inside a value": b"\x80\x04]" + stack_global("decimal", "Decimal") + b"a.",
    "class not registered": dumped(NotRegistered.ONE),
    "persistent id": b"\x80\x04\x8c\x01xQ.",
    "extension code": b"\x80\x04\x82\x01.",
    "instance opcode": b"(S'touch hacked'\nios\nsystem\n.",
    "object opcode": b"\x80\x02(cos\nsystem\nX\x05\x00\x00\x00helloo.",
    "new object with keywords": b"\x80\x04" + stack_global("datetime", "datetime") + b")}\x92.",
    "state of a class": b"\x80\x04" + stack_global("shockproof.vocabulary.models", "SystemState") + b"}b.",
    "state of a dict": b"\x80\x04}}b.",
    "state twice": b"\x80\x04" + stack_global("uuid", "UUID") + b")\x81}b}b.",
    "call of a value": b"\x80\x04K\x01)R.",
    "call with no tuple": b"\x80\x04" + stack_global("decimal", "Decimal") + b"\x8c\x011R.",
    "datetime with a subclassed zone": b"\x80\x04" + stack_global("datetime", "datetime") + b"K\x01K\x01}\x87R.",
    "bytes for a million bytes": b"\x80\x04" + stack_global("builtins", "bytes") + b"J\x00\x00\x00\x7f\x85R.",
    "bytearray by its length": b"\x80\x04" + stack_global("builtins", "bytearray") + b"J\x00\x00\x00\x7f\x85R.",
    "bytearray longer than the file": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "text longer than the file": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "integer of 2 GB": b"\x80\x04\x8b\xff\xff\xff\x7f.",
    "negative length": b"\x80\x04\x8b\xff\xff\xff\xff.",
    "range": pickle.dumps(range(10**12)),
    "defaultdict of eval": pickle.dumps(Reduced(collections.defaultdict, eval)),
    "unhashable key": b"\x80\x04}]K\x01s.",
    "no value": b"\x80\x04.",
    "two values": b"\x80\x04NN.",
    "mark for a value": b"\x80\x04(.",
    "mark in a tuple": b"\x80\x04N(\x86.",
    "mark remembered": b"\x80\x04(\x94N.",
    "memo never written": b"\x80\x04h\x07.",
    "empty": b"",
    "text": b"hello",
    "invalid utf-8": b"\x80\x04\x8c\x01\xff.",
    "protocol 6": b"\x80\x06N.",
    "items of a list": b"\x80\x04]K\x01K\x01s.",
    "odd number of items": b"\x80\x04}(K\x01u.",
    "hour 200": b"\x80\x04" + stack_global("datetime", "datetime") + b"C\x0a\x07\xea\x02\x0c\xc8\x37\x00\x01\xe2\x40\x85R.",
    "day 77": b"\x80\x04" + stack_global("datetime", "date") + b"C\x04\x07\xea\x02\x4d\x85R.",
    "list that contains itself": pickle.dumps((loop := [], loop.append(loop))[0]),
}  # fmt: skip


def shared(levels: int) -> bytes:
    """A pair of the pair before, twice, and so on: few bytes that stand for 2 to the *levels* leaves."""
    return b")\x94" + b"".join(b"h" + bytes([level]) + b"\x86\x94" for level in range(levels))


BOMBS: dict[str, bytes] = {
    "16 million leaves": b"\x80\x04" + shared(24) + b".",
    "10 to the 10 leaves, in lists": b"\x80\x04(]\x94"
    + b"".join(b"](" + (b"h" + bytes([level])) * 10 + b"e\x94" for level in range(10))
    + b"t.",
}
ATTACKS |= BOMBS
ATTACKS["10 to the 18 leaves, hashed as a key"] = b"\x80\x04}" + shared(60) + b"Ns."
ATTACKS["10 to the 18 leaves, hashed as one of several keys"] = b"\x80\x04}(" + shared(60) + b"Nu."
ATTACKS["10 to the 18 leaves, hashed in a set"] = b"\x80\x04\x8f(" + shared(60) + b"\x90."
ATTACKS["10 to the 18 leaves, hashed in a frozenset"] = b"\x80\x04(" + shared(60) + b"\x91."
ATTACKS["hundred thousand levels"] = b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."
ATTACKS["memo at place 4 billion"] = b"\x80\x04Nr\xff\xff\xff\xff0."


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attack_is_refused_and_nothing_is_run(
    attack: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kind of error for all of them, at once, and nothing was created on the disk."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RefusedPickleError):
        read_pickle(attack)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_bomb_is_refused_for_its_size(bomb: bytes) -> None:
    """It is a sound pickle of a few bytes, which Python's own reads in no time."""
    assert len(bomb) < 400
    pickle.loads(bomb)

    with pytest.raises(RefusedPickleError, match="stands for more than 1,000,000 values"):
        read_pickle(bomb)


def test_refusal_names_what_was_asked_for() -> None:
    """A person who reads the log can tell an attack from a class that was forgotten."""
    with pytest.raises(RefusedPickleError, match=r"asks for (posix|nt)\.system, which is neither plain"):
        read_pickle(ATTACKS["os.system"])


def test_every_opcode_is_read_or_refused() -> None:
    """Behind any opcode, whatever follows it, there is our error or a plain value."""
    for opcode in pickletools.opcodes:
        for filling in (b"", b"\x01" * 12, b"os\nsystem\n", b"(NN" + b"\x01" * 9):
            data = b"\x80\x04NN" + opcode.code.encode("latin-1") + filling + b"."
            try:
                read_pickle(data)
            except RefusedPickleError:
                pass


@pytest.mark.parametrize("make", [lambda data: data[:-1], lambda data: data + b"more"], ids=["cut", "grown"])
def test_pickle_of_the_original_program_cut_anywhere_is_refused(make: Callable[[bytes], bytes]) -> None:
    """A torn file is never half a state; what follows the end does no harm."""
    data = (ORIGINAL / "system_state.pkl").read_bytes()
    whole = read_pickle(data)
    if make(data) > data:
        assert read_pickle(make(data)) == whole
        return
    for end in range(len(data)):
        with pytest.raises(RefusedPickleError):
            read_pickle(data[:end])


@given(st.data())
def test_damaged_pickle_is_refused_or_plain(data: st.DataObject) -> None:
    """Any byte changed: our error, or a value without anything in it that could act."""
    pickled = bytearray((ORIGINAL / "system_state.pkl").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))

    try:
        value = read_pickle(bytes(pickled))
    except RefusedPickleError:
        return
    json.dumps(value, default=str, skipkeys=True)


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_plain(data: bytes) -> None:
    """No input makes any other error."""
    try:
        read_pickle(b"\x80\x04" + data)
    except RefusedPickleError:
        pass


def test_python_pickle_would_have_run_the_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks above are real ones."""
    monkeypatch.chdir(tmp_path)

    pickle.load(io.BytesIO(ATTACKS["open"])).close()

    assert (tmp_path / "hacked").exists()
