"""
Reading pickles without running anything.

`pickle` is a little machine that imports and calls what a file tells it to. This one reads the same
language and can do neither: a class in the file is a name to be looked up in a table of our own, exact
and without dots, and what the table does not hold is refused. Sizes are bounded: a file of n bytes costs
time and memory in the order of n, and a few bytes that stand for a million leaves are refused.

What it reads: plain values, the standard types of the table below, registered classes, and the two
classes of the original program. What it does not read on purpose: `builtins.getattr`, which pickles of
ZoneInfo need and every attack too.
"""

from __future__ import annotations

import collections
import datetime
import struct
import time
from collections.abc import Callable, Mapping
from enum import Flag
from typing import Any

from shockproof.memory.state.registered_types import RegisteredType, registered_class

__all__ = ["RefusedPickleError", "read_pickle"]

_MAX_DEPTH = 200
_MIN_LEAVES = 1_000_000
_MAX_KEY_LEAVES = 1_000
_MAX_INTEGER_BYTES = 100_000
_OPCODES_AT_ONCE = 2_000


class RefusedPickleError(Exception):
    """The bytes are no pickle, or one that asks for more than plain values. Nothing was run."""


def read_pickle(data: bytes) -> Any:  # Any: what was pickled
    """
    The plain value in *data*; what follows the pickle's end is not looked at.

    The original program's SystemState comes as the dict of its fields, a ServiceStatus as its value.
    May import modules: not for the event loop's thread.

    Raises:
        RefusedPickleError: see there.
    """
    try:
        value = _Machine(data).run()
        return _Settler(max(_MIN_LEAVES, len(data))).settle(value, 0)
    except RefusedPickleError:
        raise
    except RecursionError:
        raise RefusedPickleError("is nested too deeply") from None
    except (
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        struct.error,
    ) as error:
        raise RefusedPickleError(f"not a readable pickle ({type(error).__name__})") from error


class _Global:
    """A class or function that the file names: only the name."""

    __slots__ = ("module", "name")

    def __init__(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedPickleError("names a class by something that is no text")
        self.module = module
        self.name = name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


class _Instance:
    """An object of a class, before it is built."""

    __slots__ = ("arguments", "registered", "state", "what")

    def __init__(
        self, what: _Global, registered: RegisteredType | None, arguments: tuple[Any, ...]
    ) -> None:  # Any: pickled values
        self.what = what
        self.registered = registered  # None: the original program's, or a UUID
        self.arguments = arguments
        self.state: Any = None  # Any: pickled values


_Arguments = tuple[Any, ...]  # Any: pickled values

_ORIGINAL = "services.error_recovery_service"
_ORIGINAL_RECORDS = frozenset({"SystemState", "ErrorRecord"})
_ORIGINAL_ENUMS = frozenset({"ServiceStatus", "ErrorSeverity"})

_MARK = object()


class _Machine:
    """The stack machine of the pickle language, for what `pickle.dumps` writes in protocols 2 to 5."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []  # Any: pickled values
        self._memo: dict[int, Any] = {}  # Any: as above

    def run(self) -> Any:  # Any: what was pickled
        data = self._data
        opcodes = _OPCODES
        turns = 0
        while True:
            if self._at >= len(data):
                raise RefusedPickleError("ends in the middle")
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                break
            step = opcodes.get(code)
            if step is None:
                raise RefusedPickleError(f"holds the opcode {bytes((code,))!r}, which no state file needs")
            step(self)
            turns += 1
            if turns % _OPCODES_AT_ONCE == 0:
                time.sleep(0)  # the event loop's thread goes first
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise RefusedPickleError("ends with more or less than one value")
        return self._stack[0]

    # -- arguments of opcodes

    def take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._data):
            raise RefusedPickleError("ends in the middle")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise RefusedPickleError("ends in the middle")
        text = self._data[self._at : end].decode("utf-8")
        self._at = end + 1
        return text

    # -- the stack

    def push(self, value: Any) -> None:  # Any: pickled values
        self._stack.append(value)

    def pop(self) -> Any:  # Any: as above
        value = self._stack.pop()
        if value is _MARK:
            raise RefusedPickleError("takes a mark for a value")
        return value

    def pop_to_mark(self) -> list[Any]:  # Any: as above
        stack = self._stack
        at = len(stack) - 1
        while at >= 0 and stack[at] is not _MARK:
            at -= 1
        if at < 0:
            raise RefusedPickleError("has no mark")
        values = stack[at + 1 :]
        del stack[at:]
        return values

    # -- opcodes with more to them

    def memoize(self, place: int | None = None) -> None:
        value = self.pop()
        self.push(value)
        self._memo[len(self._memo) if place is None else place] = value

    def recall(self, place: int) -> None:
        self.push(self._memo[place])

    def integer(self, size: int) -> None:
        if size > _MAX_INTEGER_BYTES:
            raise RefusedPickleError("holds an integer that is too large")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def text(self, size: int) -> None:
        self.push(self.take(size).decode("utf-8", "surrogatepass"))

    def collect(self, build: Callable[[list[Any]], Any]) -> None:  # Any: as above
        self.push(build(self.pop_to_mark()))

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def append(self, values: list[Any]) -> None:  # Any: as above
        import collections

        target = self.pop()
        if type(target) is list or type(target) is collections.deque:
            target.extend(values)
        else:
            raise RefusedPickleError("appends to something that is no list")
        self.push(target)

    def set_items(self, values: list[Any]) -> None:  # Any: as above
        target = self.pop()
        if not isinstance(target, dict):
            raise RefusedPickleError("sets items of something that is no dict")
        for at in range(0, len(values), 2):
            _check_key(values[at])
            target[values[at]] = values[at + 1]
        self.push(target)

    def add_items(self) -> None:
        values = self.pop_to_mark()
        target = self.pop()
        if type(target) is not set:
            raise RefusedPickleError("adds items to something that is no set")
        for value in values:
            _check_key(value)
        target.update(values)
        self.push(target)

    def reduce(self) -> None:
        arguments = self.pop()
        what = self.pop()
        self.push(_call(what, arguments))

    def new_object(self) -> None:
        arguments = self.pop()
        what = self.pop()
        if not isinstance(what, _Global) or type(arguments) is not tuple:
            raise RefusedPickleError("makes an object of something that is no class")
        self.push(_Instance(what, _known_class(what), arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.pop()
        if not isinstance(target, _Instance) or target.state is not None:
            raise RefusedPickleError("sets the state of something that has none")
        target.state = state
        self.push(target)


def _known_class(what: _Global) -> RegisteredType | None:
    if (what.module, what.name) == ("uuid", "UUID"):
        return None
    if what.module == _ORIGINAL and what.name in _ORIGINAL_RECORDS:
        return None
    registered = registered_class(what.module, what.name)
    if registered is None or registered.fields_of is None:
        raise RefusedPickleError(f"asks for {what}, which is neither plain nor registered")
    return registered


def _call(what: object, arguments: object) -> Any:  # Any: pickled values
    if not isinstance(what, _Global) or type(arguments) is not tuple:
        raise RefusedPickleError("calls something that is no class")
    if what.module == _ORIGINAL and what.name in _ORIGINAL_ENUMS:
        (value,) = arguments
        if not isinstance(value, str):
            raise RefusedPickleError(f"holds a {what.name} that is no text")
        return value
    construct = _CONSTRUCTORS.get((what.module, what.name))
    if construct is not None:
        return construct(arguments)
    registered = registered_class(what.module, what.name)
    if registered is not None and registered.fields_of is None:
        (value,) = arguments
        _check_key(value)
        for member in registered.cls.__members__.values():
            if type(member.value) is type(value) and member.value == value:
                return member
        if issubclass(registered.cls, Flag):
            return registered.build({"value": value})
        raise RefusedPickleError(f"holds a {what} that is none of its members")
    raise RefusedPickleError(f"asks for {what}, which is neither plain nor registered")


# ---- the standard types: how each is built from the arguments that its pickle holds


def _checked_date(value: datetime.date) -> datetime.date:
    # Made from bytes, dates and times are not checked: an hour of 200 would pass.
    return datetime.date(value.year, value.month, value.day)


def _checked_time(value: datetime.time) -> datetime.time:
    return datetime.time(
        value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold
    )


def _plain(arguments: _Arguments, *kinds: type) -> _Arguments:
    for argument in arguments:
        if type(argument) not in kinds:
            raise RefusedPickleError(f"builds a value from a {type(argument).__name__}")
    return arguments


def _datetime(arguments: _Arguments) -> object:
    value = datetime.datetime(*_plain(arguments, int, bytes, datetime.timezone))  # noqa: DTZ001  as pickled
    return datetime.datetime.combine(_checked_date(value), _checked_time(value.timetz()))


def _date(arguments: _Arguments) -> object:
    return _checked_date(datetime.date(*_plain(arguments, int, bytes)))


def _time(arguments: _Arguments) -> object:
    return _checked_time(datetime.time(*_plain(arguments, int, bytes, datetime.timezone)))


def _timedelta(arguments: _Arguments) -> object:
    return datetime.timedelta(*_plain(arguments, int))


def _timezone(arguments: _Arguments) -> object:
    return datetime.timezone(*_plain(arguments, datetime.timedelta, str))


def _decimal(arguments: _Arguments) -> object:
    import decimal

    return decimal.Decimal(*_plain(arguments, str))


def _ordered_dict(arguments: _Arguments) -> object:
    _plain(arguments)
    return collections.OrderedDict[Any, Any]()  # Any: filled by the opcodes that follow


def _counter(arguments: _Arguments) -> object:
    (counts,) = _plain(arguments, dict)
    return collections.Counter(counts)


def _deque(arguments: _Arguments) -> object:
    items, *maxlen = arguments
    _plain((items, *maxlen), tuple, int, type(None))
    return collections.deque(items, *maxlen)


def _defaultdict(arguments: _Arguments) -> object:
    factory = None
    if arguments:
        (what,) = arguments
        if what is not None:
            if not isinstance(what, _Global) or what.module != "builtins" or what.name not in _FACTORIES:
                raise RefusedPickleError(f"makes a defaultdict with {what}")
            factory = _FACTORIES[what.name]
    return collections.defaultdict(factory)


_FACTORIES: dict[str, Callable[[], object]] = {
    kind.__name__: kind for kind in (bool, int, float, str, list, dict, set)
}


def _set(arguments: _Arguments) -> set[Any]:  # Any: pickled values
    (values,) = _plain(arguments, list)
    for value in values:
        _check_key(value)
    return set(values)


def _bytearray(arguments: _Arguments) -> object:
    return bytearray(*_plain(arguments, bytes))


_CONSTRUCTORS: dict[tuple[str, str], Callable[[_Arguments], Any]] = {  # Any: the values built
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): lambda arguments: frozenset(_set(arguments)),
    ("builtins", "bytearray"): _bytearray,
    ("collections", "Counter"): _counter,
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): _defaultdict,
    ("collections", "deque"): _deque,
    ("datetime", "date"): _date,
    ("datetime", "datetime"): _datetime,
    ("datetime", "time"): _time,
    ("datetime", "timedelta"): _timedelta,
    ("datetime", "timezone"): _timezone,
    ("decimal", "Decimal"): _decimal,
}


def _check_key(key: Any) -> None:  # Any: pickled values
    """Refuse a key whose hash would take for ever: a tuple of shared tuples, 30 levels deep."""
    left = _MAX_KEY_LEAVES
    waiting = [key]
    while waiting:
        value = waiting.pop()
        if type(value) in (tuple, frozenset):
            left -= len(value)
            if left < 0:
                raise RefusedPickleError("holds a key that is too large")
            waiting.extend(value)


class _Settler:
    """Puts the finished value together; counts what it meets, shared parts as often as they occur."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def settle(self, value: Any, depth: int) -> Any:  # Any: pickled values
        if depth > _MAX_DEPTH:
            raise RefusedPickleError(f"is nested deeper than {_MAX_DEPTH} levels, or contains itself")
        kind = type(value)
        if kind is dict:
            self._count(len(value))
            return {self.settle(key, depth + 1): self.settle(item, depth + 1) for key, item in value.items()}
        if kind in (list, tuple, set, frozenset):
            self._count(len(value))
            return kind(self.settle(item, depth + 1) for item in value)
        if isinstance(value, dict):
            self._count(len(value))
            settled = value.copy()
            settled.clear()
            for key, item in value.items():
                settled[self.settle(key, depth + 1)] = self.settle(item, depth + 1)
            return settled
        if isinstance(value, _Instance):
            self._count(1)
            return self._instance(value, depth)
        if value is _MARK or isinstance(value, _Global):
            raise RefusedPickleError(f"holds {value}, which is no value")
        if isinstance(value, collections.deque):
            self._count(len(value))
            return collections.deque((self.settle(item, depth + 1) for item in value), value.maxlen)
        return value

    def _count(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise RefusedPickleError(f"stands for more than {self._most:,} values")

    def _instance(self, instance: _Instance, depth: int) -> Any:  # Any: as above
        state = self.settle(instance.state, depth + 1)
        arguments = self.settle(instance.arguments, depth + 1)
        registered = instance.registered
        if registered is not None:
            return registered.build(_fields(registered, arguments, state))
        if not isinstance(state, dict) or arguments:
            raise RefusedPickleError(f"holds a {instance.what} without its fields")
        if instance.what.module == "uuid":
            import uuid

            return uuid.UUID(int=state["int"])
        return state


def _fields(
    registered: RegisteredType, arguments: _Arguments, state: Any
) -> Mapping[str, Any]:  # Any: pickled values
    """The fields of a registered object from what its class puts into a pickle."""
    if arguments:  # a NamedTuple
        names = getattr(registered.cls, "_fields", ())
        return dict(zip(names, arguments, strict=True))
    if isinstance(state, dict) and "__pydantic_fields_set__" in state:
        return {**state["__dict__"], **(state.get("__pydantic_extra__") or {})}
    if isinstance(state, list):  # a frozen dataclass with slots
        return dict(zip(registered.cls.__dataclass_fields__, state, strict=True))
    if isinstance(state, tuple):  # a class with slots, with or without a dict beside them
        attributes, slots = state
        return {**(attributes or {}), **(slots or {})}
    if isinstance(state, dict):
        return state
    raise RefusedPickleError(f"holds a {registered.name} without its fields")


_STOP = b"."[0]

_Step = Callable[[_Machine], None]

_BY_LETTER: dict[bytes, _Step] = {
    b"\x80": lambda machine: _check_protocol(machine.unsigned(1)),  # PROTO
    b"\x95": lambda machine: _check_frame(machine.unsigned(8)),  # FRAME
    b"(": lambda machine: machine._stack.append(_MARK),  # MARK
    b"N": lambda machine: machine.push(None),  # NONE
    b"\x88": lambda machine: machine.push(True),  # NEWTRUE
    b"\x89": lambda machine: machine.push(False),  # NEWFALSE
    b"J": lambda machine: machine.integer(4),  # BININT
    b"K": lambda machine: machine.push(machine.unsigned(1)),  # BININT1
    b"M": lambda machine: machine.push(machine.unsigned(2)),  # BININT2
    b"\x8a": lambda machine: machine.integer(machine.unsigned(1)),  # LONG1
    b"\x8b": lambda machine: machine.integer(machine.unsigned(4)),  # LONG4
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]),  # BINFLOAT
    b"\x8c": lambda machine: machine.text(machine.unsigned(1)),  # SHORT_BINUNICODE
    b"X": lambda machine: machine.text(machine.unsigned(4)),  # BINUNICODE
    b"\x8d": lambda machine: machine.text(machine.unsigned(8)),  # BINUNICODE8
    b"C": lambda machine: machine.push(machine.take(machine.unsigned(1))),  # SHORT_BINBYTES
    b"B": lambda machine: machine.push(machine.take(machine.unsigned(4))),  # BINBYTES
    b"\x8e": lambda machine: machine.push(machine.take(machine.unsigned(8))),  # BINBYTES8
    b"\x96": lambda machine: machine.push(bytearray(machine.take(machine.unsigned(8)))),  # BYTEARRAY8
    b"]": lambda machine: machine.push([]),  # EMPTY_LIST
    b"a": lambda machine: machine.append([machine.pop()]),  # APPEND
    b"e": lambda machine: machine.append(machine.pop_to_mark()),  # APPENDS
    b")": lambda machine: machine.push(()),  # EMPTY_TUPLE
    b"t": lambda machine: machine.collect(tuple),  # TUPLE
    b"\x85": lambda machine: machine.tuple_of(1),  # TUPLE1
    b"\x86": lambda machine: machine.tuple_of(2),  # TUPLE2
    b"\x87": lambda machine: machine.tuple_of(3),  # TUPLE3
    b"}": lambda machine: machine.push({}),  # EMPTY_DICT
    b"s": lambda machine: machine.set_items([machine.pop(), machine.pop()][::-1]),  # SETITEM
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),  # SETITEMS
    b"\x8f": lambda machine: machine.push(set()),  # EMPTY_SET
    b"\x90": lambda machine: machine.add_items(),  # ADDITEMS
    b"\x91": lambda machine: machine.push(frozenset(_set((machine.pop_to_mark(),)))),  # FROZENSET
    b"c": lambda machine: machine.push(_Global(machine.line(), machine.line())),  # GLOBAL
    b"\x93": lambda machine: machine.push(_Global(*[machine.pop(), machine.pop()][::-1])),  # STACK_GLOBAL
    b"R": lambda machine: machine.reduce(),  # REDUCE
    b"\x81": lambda machine: machine.new_object(),  # NEWOBJ
    b"b": lambda machine: machine.build(),  # BUILD
    b"\x94": lambda machine: machine.memoize(),  # MEMOIZE
    b"q": lambda machine: machine.memoize(machine.unsigned(1)),  # BINPUT
    b"r": lambda machine: machine.memoize(machine.unsigned(4)),  # LONG_BINPUT
    b"h": lambda machine: machine.recall(machine.unsigned(1)),  # BINGET
    b"j": lambda machine: machine.recall(machine.unsigned(4)),  # LONG_BINGET
}
_OPCODES = {letter[0]: step for letter, step in _BY_LETTER.items()}


def _check_protocol(protocol: int) -> None:
    if not 2 <= protocol <= 5:
        raise RefusedPickleError(f"is of protocol {protocol}; 2 to 5 can be read")


def _check_frame(size: int) -> None:
    """Frames only help when reading from a file."""
