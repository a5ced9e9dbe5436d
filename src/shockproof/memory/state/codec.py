"""
Python values as plain JSON values and back, with nothing lost on the way.

What JSON has stays as it is and readable. Everything else becomes an object with the key ``$``::

    {"$": "decimal", "v": "1.10"}
    {"$": "datetime", "v": "2026-11-25T10:00:00+01:00", "zone": "Europe/Zurich"}
    {"$": "map", "v": [[1, "one"], [2, "two"]]}          a dict whose keys are no strings, or hold a "$"

Freezing a value makes a copy of it that nobody else can change, so that a thread may write it while the
program goes on; it refuses what cannot come back, with the path to it.
"""

from __future__ import annotations

import binascii
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, Flag
from typing import Any, Protocol

from shockproof.memory.disk import writer
from shockproof.memory.state.registered_types import RegisteredType, registered_as, registered_for
from shockproof.memory.state.secrets import Redacted, SecretNames
from shockproof.vocabulary.errors import StateNotSavedError

__all__ = [
    "TAG",
    "Frozen",
    "MalformedValueError",
    "SecretSink",
    "UnknownTypeError",
    "UnsavableValueError",
    "freeze",
    "freeze_steps",
    "sealed_form",
    "thaw",
]

TAG = "$"
"""The key that marks what is no plain JSON value."""

Frozen = Any  # Any: what JSON has: None, bool, int, float, str, list and dict of these

_MAX_DEPTH = 100
_SLICE = 2_000
# Values frozen without giving way, about a millisecond; a state up to this size is frozen in one go.
_LARGE_SLICE = 6 * _SLICE
# An entry of 10,000 values is still frozen whole.


class UnsavableValueError(StateNotSavedError, TypeError):
    """The state holds a value that could not come back from the disk; nothing was written."""


class MalformedValueError(Exception):
    """What was read is not what `freeze` makes: the file is damaged, or no state file."""


class UnknownTypeError(Exception):
    """What was read is sound, and needs a class or a time zone that this program does not have."""


class SecretSink(Protocol):
    """What to do with the secrets that are met on the way."""

    names: SecretNames

    def take(self, secret: str | bytes, path: str) -> Frozen:
        """What stands in the frozen value in the secret's place."""
        ...


def freeze(
    value: object,
    *,
    name: str = "value",
    secrets: SecretSink | None = None,
    refusal: str = "the state was not saved",
) -> Frozen:
    """
    *value* as plain JSON values that share nothing changeable with it; *name* begins the paths.

    *refusal* begins the message of what is raised.

    Raises:
        UnsavableValueError: a type that is neither plain nor registered, a value that contains itself,
            or more than 100 levels.
    """
    into: dict[str, Frozen] = {}
    for _ in _Freezer(secrets, refusal).run({name: value}, into):
        pass
    return into[name]


def freeze_steps(
    sections: Mapping[str, object], *, into: dict[str, Frozen], secrets: SecretSink | None = None
) -> Iterator[None]:
    """
    `freeze` each of *sections* into *into*, in steps of about a millisecond.

    Between two steps the caller may do something else, and so may the program with the values: an entry
    of a section is frozen whole (unless it holds more than 10,000 values), two entries maybe not at the
    same moment.
    """
    return _Freezer(secrets).run(sections, into)


# How the steps of a path are written.
_KEYS, _INDEXES, _FIELDS, _PAIRS, _PAIR, _NAME_AND_VALUE = range(6)


class _Frame:
    """A container that is being copied: how far, and where to."""

    __slots__ = ("at", "children", "guarded", "into", "secret", "source", "style")

    def __init__(
        self,
        source: object,
        style: int,
        children: Iterable[tuple[Any, Any]],  # Any: keys and values of every kind
        into: dict[str, Frozen] | list[Frozen],
        *,
        guarded: bool = False,
    ) -> None:
        self.source = source  # kept alive while its id stands for it
        self.style = style
        self.children = iter(children)
        self.into = into
        self.guarded = guarded
        """Among its keys may be the name of a secret."""
        self.secret = False
        """It stands under the name of a secret."""
        self.at: Any = None  # Any: as above

    def step(self) -> str:
        at = self.at
        if self.style == _FIELDS:
            return f".{at}"
        if self.style == _KEYS and at.isidentifier() and at.islower():
            return f".{at}"
        if self.style == _KEYS:
            return '["{}"]'.format(at.replace("\\", "\\\\").replace('"', '\\"'))
        if self.style == _PAIR:
            return "" if at == 1 else " (the key)"
        plain = type(at) in (str, float, bool) or (type(at) is int and -_BIG < at < _BIG)
        return f"[{at!r}]" if plain else f"[<{type(at).__name__}>]"


class _Freezer:
    """One run of `freeze_steps`."""

    def __init__(self, secrets: SecretSink | None, refusal: str = "the state was not saved") -> None:
        self._secrets = secrets if secrets is not None and secrets.names else None
        self._refusal = refusal
        self._frames: list[_Frame] = []
        self._open: set[int] = set()

    def run(self, sections: Mapping[str, object], into: dict[str, Frozen]) -> Iterator[None]:
        # No recursion: one can stop anywhere, and no value is nested too deeply for it. The inner loop
        # runs once for each value of the state, which is why the plain types are told apart right here.
        frames = self._frames
        self._enter(_Frame(sections, _FIELDS, list(sections.items()), into))
        frames[-1].guarded = self._may_hold_secret(sections)
        since = 0
        while frames:
            frame = frames[-1]
            target = frame.into
            keyed = target if isinstance(target, dict) else None
            append = None if isinstance(target, dict) else target.append
            guarded = self._secrets is not None and (frame.guarded or frame.secret)
            most = _SLICE if len(frames) <= 2 else _LARGE_SLICE
            if since >= most:
                yield
                since = 0
            opened: _Frame | None = None
            for key, child in frame.children:
                since += 1
                kind = type(child)
                frozen: Frozen
                is_secret = guarded and self._is_secret(frame, key)
                if is_secret and kind in (str, bytes, bytearray) and child:
                    frame.at = key
                    frozen = self._take_secret(child)
                elif kind is str:
                    frozen = child if child.isascii() else _text(child)
                elif kind is float:
                    frozen = child if child - child == 0.0 else {TAG: "float", "v": repr(child)}
                elif kind is bool or child is None:
                    frozen = child
                elif kind is int:
                    frozen = child if -_BIG < child < _BIG else {TAG: "int", "v": hex(child)}
                else:
                    frame.at = key
                    frozen, opened = self._freeze_other(child, kind)
                if keyed is not None:
                    keyed[key] = frozen
                elif append is not None:
                    append(frozen)
                if opened is not None:
                    opened.secret = is_secret
                    self._enter(opened)
                    break
                if since >= most:
                    yield
                    since = 0
            else:
                frames.pop()
                self._open.discard(id(frame.source))

    def _enter(self, frame: _Frame) -> None:
        if id(frame.source) in self._open:
            raise UnsavableValueError(f"{self._refusal}: {self._path()} contains itself")
        if len(self._frames) > _MAX_DEPTH:
            raise UnsavableValueError(
                f"{self._refusal}: {self._path()} is nested deeper than {_MAX_DEPTH} levels: flatten it"
            )
        self._frames.append(frame)
        self._open.add(id(frame.source))

    def _path(self) -> str:
        path = "".join(frame.step() for frame in self._frames)[1:]
        return path.encode("utf-8", "backslashreplace").decode()  # no file may hold lone surrogates

    def _refuse(self, kind: type, way_out: str) -> UnsavableValueError:
        return UnsavableValueError(
            f"{self._refusal}: {self._path()} is of type {kind.__module__}.{kind.__qualname__}, "
            f"which could not be restored: {way_out}"
        )

    def _may_hold_secret(self, keys: Iterable[object]) -> bool:
        return self._secrets is not None and self._secrets.names.may_be_in("\0".join(map(_name_in, keys)))

    def _is_secret(self, frame: _Frame, key: object) -> bool:
        if frame.secret:
            return not (frame.style == _PAIR and key == 0)
        if frame.style == _NAME_AND_VALUE:
            return key == 1
        assert self._secrets is not None
        return frame.style != _INDEXES and self._secrets.names.matches(_name_in(key))

    def _take_secret(self, secret: Any) -> Frozen:  # Any: the caller has looked at its type
        assert self._secrets is not None
        return self._secrets.take(bytes(secret) if isinstance(secret, bytearray) else secret, self._path())

    def _freeze_other(
        self, child: Any, kind: type
    ) -> tuple[Frozen, _Frame | None]:  # Any: every value there is
        if kind is dict:
            return self._freeze_dict(child)
        if kind is list:
            values: list[Frozen] = []
            copy = child.copy()
            named = len(copy) == 2 and self._is_named_secret(copy)
            style = _NAME_AND_VALUE if named else _INDEXES
            return values, _Frame(child, style, enumerate(copy), values, guarded=named)
        handler = _handler_for(kind)
        if handler is not None:
            return handler(self, child)
        registered = registered_for(kind)
        if registered is not None:
            return self._freeze_registered(child, registered)
        raise self._refuse(kind, _way_out(kind))

    def _freeze_dict(self, child: dict[Any, object]) -> tuple[Frozen, _Frame]:  # Any: keys of every kind
        if not child:
            empty: dict[str, Frozen] = {}
            return empty, _Frame(child, _KEYS, (), empty)
        if set(map(type, child)) == {str} and TAG not in child:
            joined = "\0".join(child)
            if joined.isascii() or _is_unicode(joined):
                plain: dict[str, Frozen] = {}
                guarded = self._secrets is not None and self._secrets.names.may_be_in(joined)
                return plain, _Frame(child, _KEYS, list(child.items()), plain, guarded=guarded)
        return self._freeze_pairs("map", child, {})

    def _freeze_pairs(
        self,
        tag: str,
        child: Mapping[Any, object],
        more: dict[str, Frozen],  # Any: keys of every kind
    ) -> tuple[Frozen, _Frame]:
        pairs: list[Frozen] = []
        children = [(key, _Pair((key, value))) for key, value in child.items()]
        guarded = self._may_hold_secret(child)
        return {TAG: tag, "v": pairs, **more}, _Frame(child, _PAIRS, children, pairs, guarded=guarded)

    def _freeze_values(
        self, tag: str, child: Iterable[object], more: dict[str, Frozen] | None = None
    ) -> tuple[Frozen, _Frame]:
        values: list[Frozen] = []
        copy = list(child)
        named = tag == "tuple" and len(copy) == 2 and self._is_named_secret(copy)
        style = _NAME_AND_VALUE if named else _INDEXES
        frame = _Frame(child, style, enumerate(copy), values, guarded=named)
        return {TAG: tag, "v": values, **(more or {})}, frame

    def _is_named_secret(self, pair: list[object]) -> bool:
        """Whether these two are the name of a secret and the secret, as in a list of HTTP headers."""
        if self._secrets is None or type(pair[0]) not in (str, bytes):
            return False
        name = _name_in(pair[0])
        if name[:1].isdigit():
            return False  # most pairs are prices and sizes: do not search those
        names = self._secrets.names
        # Two names are two names: ["api_key", "password"] may tell what to ask for.
        return names.may_be_in(name) and names.matches(name) and not names.lists(_name_in(pair[1]))

    def _freeze_registered(
        self, child: Any, registered: RegisteredType
    ) -> tuple[Frozen, _Frame | None]:  # Any: the user's object
        if registered.fields_of is None:
            if isinstance(child, Flag):
                return {TAG: "enum", "type": registered.name, "v": child.value}, None
            assert isinstance(child, Enum)
            return {TAG: "enum", "type": registered.name, "v": child.name}, None
        try:
            fields = registered.fields_of(child)
        except AttributeError as error:
            raise self._refuse(type(child), f"it is incomplete ({error})") from error
        into: dict[str, Frozen] = {}
        frame = _Frame(child, _FIELDS, list(fields.items()), into, guarded=self._may_hold_secret(fields))
        return {TAG: "object", "type": registered.name, "v": into}, frame


def _name_in(key: object) -> str:
    """The text of a key, in which the name of a secret may be found."""
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return key.decode("latin-1")
    if isinstance(key, Enum):
        return key.name or ""
    if isinstance(key, tuple):
        return " ".join(part for part in key if isinstance(part, str))
    return ""


class _Pair(tuple[Any, object]):  # Any: keys of every kind
    """A key and its value, on their way into a list; no tuple of the user's."""

    __slots__ = ()


_BIG = 1 << 1024  # larger integers would meet Python's limit on digits when they are read

_Handler = Callable[[_Freezer, Any], tuple[Frozen, _Frame | None]]  # Any: a value of the handler's type


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(text: str) -> Frozen:
    if _is_unicode(text):
        return text
    # Lone surrogates, as in file names that are no UTF-8: no JSON file may hold them.
    return {TAG: "str", "v": _base64(text.encode("utf-8", "surrogatepass"))}


def _way_out(kind: type) -> str:
    for plain in (bool, int, float, str, bytes, dict, list, set, tuple):
        if issubclass(kind, plain):
            return f"convert it with {plain.__name__}(...)" + (
                ", or register it with shockproof.register_type" if hasattr(kind, "_fields") else ""
            )
    return "save its parts as plain values, or make it a dataclass, Enum or pydantic model and call shockproof.register_type"


# ---- the types that JSON lacks: how each is frozen


def _leaf(tag: str, text: Callable[[Any], Frozen]) -> _Handler:  # Any: a value of the handler's type
    return lambda freezer, value: ({TAG: tag, "v": text(value)}, None)


def _freeze_moment(freezer: _Freezer, value: Any) -> tuple[Frozen, None]:  # Any: a datetime or a time
    kind = type(value).__name__
    frozen = {TAG: kind, "v": value.isoformat()}
    zone = value.tzinfo
    if zone is not None and (type(zone).__module__, type(zone).__qualname__) != ("datetime", "timezone"):
        key = getattr(zone, "key", None)
        if type(zone).__module__ != "zoneinfo" or not isinstance(key, str):
            raise freezer._refuse(
                type(zone), "use zoneinfo.ZoneInfo(name) or datetime.timezone as its tzinfo"
            )
        frozen["zone"] = key
    if value.fold:
        frozen["fold"] = 1
    return frozen, None


def _freeze_zone(freezer: _Freezer, value: Any) -> tuple[Frozen, None]:  # Any: a ZoneInfo
    if not isinstance(value.key, str):
        raise freezer._refuse(type(value), "it was made from a file and has no name")
    return {TAG: "zone", "v": value.key}, None


def _freeze_deque(freezer: _Freezer, value: Any) -> tuple[Frozen, _Frame]:  # Any: a deque
    return freezer._freeze_values("deque", value, {"maxlen": value.maxlen})


def _freeze_defaultdict(freezer: _Freezer, value: Any) -> tuple[Frozen, _Frame]:  # Any: a defaultdict
    factory = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "")
    if name not in _FACTORIES or _FACTORIES[name] is not factory:
        raise freezer._refuse(
            type(value), f"its factory {factory!r} is no built-in type; save dict(...) of it"
        )
    return freezer._freeze_pairs("defaultdict", value, {"factory": name})


def _freeze_redacted(freezer: _Freezer, value: Redacted) -> tuple[Frozen, None]:
    if value.token is None:
        return {TAG: "redacted", "path": value.path}, None
    return {TAG: "secret", "path": value.path, "v": value.token}, None


_FACTORIES: dict[str | None, Callable[[], object] | None] = {
    None: None,
    **{kind.__name__: kind for kind in (bool, int, float, str, list, dict, set)},
}


def _parts(value: Any) -> Frozen:  # Any: a timedelta
    return [value.days, value.seconds, value.microseconds]


def _base64(value: bytes | bytearray) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


_HANDLERS: dict[tuple[str, str], _Handler] = {
    ("builtins", "bytes"): _leaf("bytes", _base64),
    ("builtins", "bytearray"): _leaf("bytearray", _base64),
    ("builtins", "complex"): _leaf("complex", repr),
    ("builtins", "tuple"): lambda freezer, value: freezer._freeze_values("tuple", value),
    ("builtins", "set"): lambda freezer, value: freezer._freeze_values("set", value),
    ("builtins", "frozenset"): lambda freezer, value: freezer._freeze_values("frozenset", value),
    ("collections", "deque"): _freeze_deque,
    ("collections", "OrderedDict"): lambda freezer, value: freezer._freeze_pairs("ordereddict", value, {}),
    ("collections", "Counter"): lambda freezer, value: freezer._freeze_pairs("counter", value, {}),
    ("collections", "defaultdict"): _freeze_defaultdict,
    ("datetime", "date"): _leaf("date", lambda value: value.isoformat()),
    ("datetime", "datetime"): _freeze_moment,
    ("datetime", "time"): _freeze_moment,
    ("datetime", "timedelta"): _leaf("timedelta", _parts),
    ("datetime", "timezone"): _leaf("timezone", lambda value: _parts(value.utcoffset(None))),
    ("decimal", "Decimal"): _leaf("decimal", str),
    ("uuid", "UUID"): _leaf("uuid", str),
    ("zoneinfo", "ZoneInfo"): _freeze_zone,
}

_handlers: dict[type, _Handler] = {
    _Pair: lambda freezer, value: (into := list[Frozen](), _Frame(value, _PAIR, enumerate(value), into)),
    Redacted: _freeze_redacted,
}


def _handler_for(kind: type) -> _Handler | None:
    # By name first, because whoever has a Decimal has loaded decimal already and we need not.
    handler = _handlers.get(kind)
    if handler is None:
        handler = _HANDLERS.get((kind.__module__, kind.__qualname__))
        if handler is None or getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is not kind:
            return None
        _handlers[kind] = handler
    return handler


# ---- and back


def thaw(
    value: Frozen, *, open_secret: Callable[[str], bytes | None] | None = None
) -> Any:  # Any: what was saved
    """
    What `freeze` was given. *value* is used up: its lists and dicts become those of the result.

    *open_secret* decrypts; what it does not open (it gave None) comes back as `Redacted`. May import
    modules: not for the event loop's thread.

    Raises:
        MalformedValueError: `freeze` does not make such a value.
        UnknownTypeError: it needs a class that is not registered, or a time zone that is not known here.
    """
    try:
        return _thaw(value, open_secret)
    except RecursionError:
        raise MalformedValueError("nested too deeply") from None


_OpenSecret = Callable[[str], bytes | None] | None


def _thaw(value: Frozen, open_secret: _OpenSecret) -> Any:  # Any: what was saved
    if type(value) is dict:
        if TAG in value:
            return _restore(value, open_secret)
        for key, child in value.items():
            if type(child) is dict or type(child) is list:
                value[key] = _thaw(child, open_secret)
    elif type(value) is list:
        for index, child in enumerate(value):
            if type(child) is dict or type(child) is list:
                value[index] = _thaw(child, open_secret)
    return value


def _restore(tagged: dict[str, Frozen], open_secret: _OpenSecret) -> Any:  # Any: what was saved
    tag = tagged[TAG]
    try:
        if tag == "secret":
            return _restore_secret(tagged, open_secret)
        restore = _RESTORERS.get(tag)
        if restore is None:
            raise MalformedValueError(f"unknown kind of value {tag!r}")
        if tag in _CONTAINERS:
            tagged["v"] = _thaw(tagged["v"], open_secret)
        return restore(tagged)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        # What these say may hold the value, and so a secret: the kind must do.
        raise MalformedValueError(f"a value of kind {tag!r} is malformed ({type(error).__name__})") from error


def _restore_secret(
    tagged: dict[str, Frozen], open_secret: _OpenSecret
) -> Any:  # Any: str, bytes or Redacted
    token = tagged["v"]
    if not isinstance(token, str):
        raise MalformedValueError("an encrypted secret is no text")
    plain = None if open_secret is None else open_secret(token)
    if plain is None:
        return Redacted(str(tagged["path"]), token)
    return plain[1:] if plain[:1] == b"b" else plain[1:].decode("utf-8", "surrogatepass")


def sealed_form(secret: str | bytes) -> bytes:
    """The bytes of a secret that are encrypted; `thaw` tells text and bytes apart again."""
    return b"b" + secret if isinstance(secret, bytes) else b"s" + secret.encode("utf-8", "surrogatepass")


def _restore_registered(tagged: dict[str, Frozen]) -> Any:  # Any: the user's object
    name = tagged["type"]
    registered = registered_as(name)
    if registered is None:
        raise UnknownTypeError(
            f"it holds an object of {name!r}, which is not registered here: "
            "call shockproof.register_type for that class before the state is restored"
        )
    content = tagged["v"]
    if registered.fields_of is None:
        content = {"value": content} if issubclass(registered.cls, Flag) else {"name": content}
    try:
        return registered.build(content)
    except (TypeError, ValueError) as error:
        raise UnknownTypeError(f"its object of {name!r} does not fit the class any more: {error}") from error


def _restore_moment(tagged: dict[str, Frozen]) -> Any:  # Any: a datetime or a time
    import datetime

    kind = datetime.time if tagged[TAG] == "time" else datetime.datetime
    value: Any = kind.fromisoformat(tagged["v"])  # Any: either has what follows
    if "zone" in tagged:
        value = value.replace(tzinfo=_zone(tagged["zone"]))
    return value.replace(fold=1) if tagged.get("fold") == 1 else value


def _zone(key: object) -> Any:  # Any: a ZoneInfo
    with writer.imports:
        import zoneinfo

    if not isinstance(key, str):
        raise MalformedValueError("the name of a time zone is no text")
    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        raise UnknownTypeError(
            f"it holds a time in the zone {key!r}, which is not known here: pip install tzdata"
        ) from None


def _restore_date(tagged: dict[str, Frozen]) -> object:
    import datetime

    return datetime.date.fromisoformat(tagged["v"])


def _restore_timedelta(tagged: dict[str, Frozen]) -> Any:  # Any: a timedelta
    import datetime

    return datetime.timedelta(*tagged["v"])


def _restore_timezone(tagged: dict[str, Frozen]) -> object:
    import datetime

    return datetime.timezone(_restore_timedelta(tagged))


def _restore_decimal(tagged: dict[str, Frozen]) -> object:
    with writer.imports:
        import decimal

    if not isinstance(tagged["v"], str):
        raise MalformedValueError("a decimal is no text")
    return decimal.Decimal(tagged["v"])


def _restore_uuid(tagged: dict[str, Frozen]) -> object:
    with writer.imports:
        import uuid

    return uuid.UUID(tagged["v"])


def _restore_deque(tagged: dict[str, Frozen]) -> object:
    import collections

    return collections.deque(tagged["v"], tagged["maxlen"])


def _restore_special_dict(tagged: dict[str, Frozen]) -> object:
    import collections

    pairs = _pairs(tagged)
    if tagged[TAG] == "ordereddict":
        return collections.OrderedDict(pairs)
    if tagged[TAG] == "counter":
        return collections.Counter(dict(pairs))
    return collections.defaultdict(_FACTORIES[tagged["factory"]], pairs)


def _pairs(tagged: dict[str, Frozen]) -> Iterator[tuple[Any, Any]]:  # Any: what was saved
    for key, value in tagged["v"]:  # noqa: UP028  anything but a pair is refused here
        yield key, value


def _unbase64(text: str) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True)


_CONTAINERS = frozenset(
    {"map", "tuple", "set", "frozenset", "deque", "ordereddict", "counter", "defaultdict", "object"}
)

_RESTORERS: dict[str, Callable[[dict[str, Frozen]], Any]] = {  # Any: what was saved
    "map": lambda tagged: dict(_pairs(tagged)),
    "tuple": lambda tagged: tuple(tagged["v"]),
    "set": lambda tagged: set(tagged["v"]),
    "frozenset": lambda tagged: frozenset(tagged["v"]),
    "deque": _restore_deque,
    "ordereddict": _restore_special_dict,
    "counter": _restore_special_dict,
    "defaultdict": _restore_special_dict,
    "object": _restore_registered,
    "enum": _restore_registered,
    "float": lambda tagged: float(tagged["v"]),
    "int": lambda tagged: int(tagged["v"], 16),
    "complex": lambda tagged: complex(tagged["v"]),
    "str": lambda tagged: _unbase64(tagged["v"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda tagged: _unbase64(tagged["v"]),
    "bytearray": lambda tagged: bytearray(_unbase64(tagged["v"])),
    "date": _restore_date,
    "datetime": _restore_moment,
    "time": _restore_moment,
    "timedelta": _restore_timedelta,
    "timezone": _restore_timezone,
    "zone": lambda tagged: _zone(tagged["v"]),
    "decimal": _restore_decimal,
    "uuid": _restore_uuid,
    "redacted": lambda tagged: Redacted(str(tagged["path"])),
}
