"""
A client whose calls go through shockproof: the same names, each guarded according to what it does.
"""

from __future__ import annotations

import functools
import inspect
import re
import uuid
from collections.abc import Callable, Coroutine, Mapping
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast

if TYPE_CHECKING:
    from shockproof.calls.handle import Handle
    from shockproof.calls.options import ServiceOptions
    from shockproof.policies.classification import Classify
    from shockproof.service import ErrorRecoveryService

__all__ = ["Closes", "Does", "ProtectedClient", "WithKey", "new_key", "only_closes", "stand_in"]


class Does(Enum):
    """What a call of the client does at the venue, and so how it is guarded."""

    READ = "read"
    """Asks; repeated freely."""
    WRITE = "write"
    """Must never be repeated blindly: an order, an amendment, a transfer, and whatever is not known."""
    SET = "set"
    """A write that may be repeated without harm, such as a leverage."""
    CANCEL = "cancel"
    """As `SET`, and it reduces risk: it passes an open circuit."""
    CLOSE = "close"
    """As `WRITE`, and it reduces risk: an order that closes a position."""


WithKey = Callable[
    [tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any], str | None]
]  # Any: as above
"""Takes an order's arguments; gives them with a client order id in them, and the id; None if there is none."""


Closes = Callable[[tuple[Any, ...], dict[str, Any]], bool]  # Any: as above
"""Whether the order of these arguments can only close a position."""


MethodsAre = Literal["coroutine functions", "functions that wait", "functions that give awaitables"]
"""What the calls of a client are."""


def new_key() -> str:
    """A client order id that no other order has: 35 letters and digits and a hyphen."""
    return f"sp-{uuid.uuid4().hex}"


def only_closes(parameters: Mapping[str, object]) -> bool:
    """Whether an order with these *parameters* says that it can only close: Binance takes "true" for true, too."""
    return any(
        value.lower() == "true" if isinstance(value, str) else bool(value)
        for value in (parameters.get("reduceOnly"), parameters.get("closePosition"))
    )


_SETTLED: Final = ("effect", "risk_reducing", "classify")
_CAPITALS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Protection:
    """How the calls of one client are guarded; see `stand_in` for the arguments."""

    def __init__(
        self,
        client: object,
        recovery: ErrorRecoveryService,
        *,
        name: str,
        classify: Classify,
        does: Callable[[str], Does | None],
        with_key: Callable[[str], WithKey | None],
        closes: Callable[[str], Closes | None],
        added: Mapping[str, Callable[..., Any]],  # Any: as the client's own methods
        orders: ServiceOptions | None,
        reads: ServiceOptions | None,
        methods_are: MethodsAre,
    ) -> None:
        for argument, options in (("orders", orders), ("reads", reads)):
            for option in _SETTLED:
                if options is not None and option in options:
                    raise TypeError(
                        f"{argument} must not hold {option!r}: the adapter declares it for each call by itself"
                    )
        of_orders: ServiceOptions = {**(orders or {}), "effect": "unsafe", "classify": classify}
        of_reads: ServiceOptions = {**(reads or {}), "effect": "read", "classify": classify}
        writes = recovery.service(f"{name}.orders", **of_orders)
        self.client = client
        self.does = does
        self.with_key = with_key
        self.closes = closes
        self.added = added
        self.recovery = recovery
        self.methods_are = methods_are
        self.handles: Mapping[Does, Handle] = {
            Does.READ: recovery.service(f"{name}.reads", **of_reads),
            Does.WRITE: writes,
            Does.SET: writes.using(effect="idempotent"),
            Does.CANCEL: writes.using(effect="idempotent", risk_reducing=True),
            Does.CLOSE: writes.using(risk_reducing=True),
        }
        self._guarded: dict[str, tuple[object, object]] = {}

    def attribute(self, name: str) -> object:
        """What the client has under *name*, guarded if it is a call to the venue."""
        value = self.added[name] if name in self.added else getattr(self.client, name)
        if name.startswith("_") or not callable(value):
            return value
        if self.methods_are == "coroutine functions" and not inspect.iscoroutinefunction(value):
            return value
        known = self._guarded.get(name)
        if known is not None and known[0] == value:
            return known[1]
        plain_name = _CAPITALS.sub("_", name).lower()
        does = self.does(plain_name)
        guarded = value if does is None else self.handles[does](self._awaitable(value))
        closes = self.closes(plain_name) if does is Does.WRITE else None
        if closes is not None:
            guarded = self._as_it_says(guarded, self.handles[Does.CLOSE](self._awaitable(value)), closes)
        with_key = None if does is None else self.with_key(plain_name)
        if with_key is not None:
            guarded = self._keyed(guarded, with_key)
        self._guarded[name] = value, guarded
        return guarded

    def _awaitable(
        self,
        method: Callable[..., Any],  # Any: the method's own arguments and result
    ) -> Callable[..., Any]:  # Any: as above
        # A handle takes a function that is no coroutine function for one that waits, and a thread for it.
        if self.methods_are != "functions that give awaitables" or inspect.iscoroutinefunction(method):
            return method

        @functools.wraps(method)
        async def call(*args: Any, **kwargs: Any) -> Any:  # Any: as above
            return await method(*args, **kwargs)

        return call

    def _as_it_says(
        self,
        write: Callable[..., Any],  # Any: the method's own arguments and result
        close: Callable[..., Any],  # Any: as above
        closes: Closes,
    ) -> Callable[..., Coroutine[Any, Any, Any]]:  # Any: as above
        """The one or the other, by the arguments of each call."""

        @functools.wraps(write)
        async def call(*args: Any, **kwargs: Any) -> Any:  # Any: as above
            return await (close if closes(args, kwargs) else write)(*args, **kwargs)

        return call

    def _keyed(
        self,
        guarded: Callable[..., Any],  # Any: the method's own arguments and result
        with_key: WithKey,
    ) -> Callable[..., Coroutine[Any, Any, Any]]:  # Any: as above
        """The id is made out here, once for all attempts, and is known wherever the call fails."""

        @functools.wraps(guarded)
        async def call(*args: Any, **kwargs: Any) -> Any:  # Any: as above
            args, kwargs, key = with_key(args, kwargs)
            if key is None:
                return await guarded(*args, **kwargs)
            with self.recovery.context(client_order_id=key):
                try:
                    return await guarded(*args, **kwargs)
                except Exception as error:
                    error.add_note(f"client order id: {key}")
                    raise

        return call


class ProtectedClient:
    """
    Stands in for a client: every attribute is the client's, and calls to the venue are guarded.

    For ``isinstance`` and for type checkers it is what the client is. Setting an attribute sets the client's.
    """

    __slots__ = ("_shockproof",)

    _shockproof: Protection

    def __init__(self, protection: Protection) -> None:
        object.__setattr__(self, "_shockproof", protection)

    @property  # type: ignore[misc]  # type() still tells the truth; isinstance believes this
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        return type(self._shockproof.client)

    def __getattr__(self, name: str) -> object:
        return self._shockproof.attribute(name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._shockproof.client, name, value)

    def __dir__(self) -> list[str]:
        return dir(self._shockproof.client)

    def __repr__(self) -> str:
        return f"<{self._shockproof.client!r}, protected by shockproof>"

    async def __aenter__(self) -> Self:
        await self._shockproof.client.__aenter__()  # type: ignore[attr-defined]  # not every client has it
        return self

    async def __aexit__(self, *ended_with: object) -> Any:  # Any: the client's own business
        return await self._shockproof.client.__aexit__(*ended_with)  # type: ignore[attr-defined]  # as above


C = TypeVar("C")


def stand_in(
    client: C,
    recovery: ErrorRecoveryService,
    *,
    name: str,
    classify: Classify,
    does: Callable[[str], Does | None],
    with_key: Callable[[str], WithKey | None] = lambda _name: None,
    closes: Callable[[str], Closes | None] = lambda _name: None,
    added: Mapping[str, Callable[..., Any]] = MappingProxyType({}),  # Any: as the client's own methods
    orders: ServiceOptions | None = None,
    reads: ServiceOptions | None = None,
    methods_are: MethodsAre = "coroutine functions",
) -> C:
    """
    A `ProtectedClient` for *client*, typed as the client itself.

    Args:
        client: the client.
        recovery: guards the calls, in two services, ``name.orders`` and ``name.reads``: an open circuit of
            the one must not close the eyes of the other.
        name: what the services are called after.
        classify: what the client's errors mean.
        does: what the method of a name does, the name in snake case; None leaves it alone.
        added: methods that the adapter adds, guarded as `does` says.
        with_key: for a method that takes a client order id, the function that finds it or makes one.
        closes: for a write whose arguments may say that it can only close a position, the function that tells.
        orders: options of ``name.orders``.
        reads: options of ``name.reads``.
        methods_are: what the client's calls are. Functions that wait run in threads; those that give
            something to await are awaited.

    Raises:
        TypeError: an option that the adapter itself settles, or one that does not exist.
        ValueError: an option out of range.
    """
    protection = Protection(
        client,
        recovery,
        name=name,
        classify=classify,
        does=does,
        with_key=with_key,
        closes=closes,
        added=added,
        orders=orders,
        reads=reads,
        methods_are=methods_are,
    )
    return cast("C", cast("object", ProtectedClient(protection)))
