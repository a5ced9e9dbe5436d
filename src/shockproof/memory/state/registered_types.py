"""
The classes whose objects may be saved in the state, by name.

Nothing on disk can name a class that is not in this table: reading a file never imports and never looks
anything up in a module.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from typing import Any, NamedTuple, TypeVar, cast, overload

from shockproof.vocabulary.outcomes import Attempt, Outcome, Verdict
from shockproof.vocabulary.statuses import ErrorSeverity, ServiceStatus

__all__ = ["RegisteredType", "register_type", "registered_as", "registered_for"]

T = TypeVar("T")
AnyClass = type[Any]  # Any: the user's own classes


class RegisteredType(NamedTuple):
    """How the objects of one class are taken apart and put together."""

    name: str
    cls: AnyClass
    fields_of: Callable[[Any], dict[str, Any]] | None  # Any: the user's objects and values
    """The fields of an object by name; None for an Enum, which is saved by its member's name."""
    build: Callable[[Mapping[str, Any]], Any]  # Any: as above
    """The object with these fields; raises TypeError or ValueError when they do not fit the class."""


_lock = threading.Lock()
_by_class: dict[AnyClass, RegisteredType] = {}
_by_name: dict[str, RegisteredType] = {}
_OWN_MODELS = "shockproof.vocabulary.models"


@overload
def register_type(cls: type[T], /, *, name: str | None = None) -> type[T]: ...
@overload
def register_type(cls: None = None, /, *, name: str | None = None) -> Callable[[type[T]], type[T]]: ...
def register_type(
    cls: type[T] | None = None, /, *, name: str | None = None
) -> type[T] | Callable[[type[T]], type[T]]:
    """
    Let objects of *cls* be saved in the state and come back as what they were; also a decorator.

    *cls* is an Enum, a dataclass, a pydantic model or a NamedTuple. A dataclass and a model are restored
    from their fields without running ``__init__``, ``__post_init__`` or validators; a field that the
    class has gained since gets its default. *name* is what the files hold (default: module and class
    name); give one that outlives a move of the class to another module. Register before
    `restore_state`: a file that holds an unknown name is refused there.

    Raises:
        TypeError: *cls* is none of these kinds.
        ValueError: the name belongs to another class already.
    """
    if cls is None:
        return lambda decorated: register_type(decorated, name=name)
    if not isinstance(cls, type):
        raise TypeError(f"register_type takes a class, got {cls!r}")
    name = f"{cls.__module__}:{cls.__qualname__}" if name is None else name
    registered = _describe(cls, name)
    with _lock:
        other = _by_name.get(name)
        if other is not None and _identity(other.cls) != _identity(cls):
            raise ValueError(
                f"name {name!r} belongs to {other.cls!r} already: register {cls!r} with another name="
            )
        _by_name[name] = registered
        _by_class[cls] = registered
    return cls


def registered_for(cls: AnyClass) -> RegisteredType | None:
    """What is registered for exactly this class; a subclass is another class."""
    found = _by_class.get(cls)
    if found is None and cls.__module__ == _OWN_MODELS:
        _register_own_models()
        found = _by_class.get(cls)
    return found


def registered_as(name: str) -> RegisteredType | None:
    """What is registered under *name*. May import pydantic: not for the event loop's thread."""
    if name not in _by_name and name.startswith("shockproof:"):
        _register_own_models()
    return _by_name.get(name)


def registered_class(module: str, qualname: str) -> RegisteredType | None:
    """What is registered for the class that an old pickle calls *module*, *qualname*."""
    if module == _OWN_MODELS:
        _register_own_models()
    for cls, registered in tuple(_by_class.items()):
        if (cls.__module__, cls.__qualname__) == (module, qualname):
            return registered
    return None


def _identity(cls: AnyClass) -> tuple[str, str]:
    # A module that is loaded again makes its classes again: the newer one takes the place.
    return cls.__module__, cls.__qualname__


def _describe(cls: AnyClass, name: str) -> RegisteredType:
    if issubclass(cls, Enum):
        return RegisteredType(name, cls, None, lambda fields: _enum_member(cls, fields))
    if dataclasses.is_dataclass(cls):
        return RegisteredType(name, cls, _dataclass_fields, lambda fields: _build_dataclass(cls, fields))
    if _is_model(cls):
        return RegisteredType(name, cls, _model_fields, lambda fields: _build_model(cls, fields))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return RegisteredType(name, cls, lambda value: value._asdict(), lambda fields: cls(**fields))
    raise TypeError(
        f"register_type takes an Enum, a dataclass, a pydantic model or a NamedTuple, got {cls!r}: "
        "make it one of these, or save its parts as plain values"
    )


def _enum_member(cls: type[Enum], fields: Mapping[str, Any]) -> Enum:  # Any: a member's value
    if issubclass(cls, Flag):
        # A combination of flags has no name of its own.
        return cls(fields["value"])
    name: str = fields["name"]
    if name not in cls.__members__:
        raise ValueError(f"{cls.__qualname__} has no member {name!r}")
    return cls.__members__[name]


def _dataclass_fields(value: Any) -> dict[str, Any]:  # Any: the user's object
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _build_dataclass(cls: AnyClass, fields: Mapping[str, Any]) -> object:  # Any: the user's values
    declared = {field.name: field for field in dataclasses.fields(cls)}
    _refuse_unknown(cls, fields, declared)
    value = object.__new__(cls)
    for name, field in declared.items():
        if name in fields:
            content = fields[name]
        elif field.default is not dataclasses.MISSING:
            content = field.default
        elif field.default_factory is not dataclasses.MISSING:
            content = field.default_factory()
        else:
            raise ValueError(f"{cls.__qualname__} needs a value for {name!r}, and none was saved")
        object.__setattr__(value, name, content)  # a frozen one refuses setattr
    return cast("object", value)


def _is_model(cls: AnyClass) -> bool:
    # A model's class exists only where pydantic is loaded: never load it to find out that cls is none.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _model_fields(value: Any) -> dict[str, Any]:  # Any: the user's object
    return {**value.__dict__, **(value.__pydantic_extra__ or {})}


def _build_model(cls: AnyClass, fields: Mapping[str, Any]) -> object:  # Any: the user's values
    declared = cls.model_fields
    if cls.model_config.get("extra") != "allow":
        _refuse_unknown(cls, fields, declared)
    for name, field in declared.items():
        if name not in fields and field.is_required():
            raise ValueError(f"{cls.__qualname__} needs a value for {name!r}, and none was saved")
    return cast("object", cls.model_construct(**fields))


def _refuse_unknown(
    cls: AnyClass, fields: Mapping[str, Any], declared: Mapping[str, Any]
) -> None:  # Any: fields
    unknown = [name for name in fields if name not in declared]
    if unknown:
        raise ValueError(f"{cls.__qualname__} has no field {unknown[0]!r} any more")


def _register_own_models() -> None:
    from shockproof.vocabulary.models import ErrorRecord, SystemState

    for model in (ErrorRecord, SystemState):
        register_type(model, name=f"shockproof:{model.__name__}")


for _own in (ServiceStatus, ErrorSeverity, Outcome, Attempt, Verdict):
    register_type(_own, name=f"shockproof:{_own.__name__}")
