"""
Which options make no sense together or do harm, and what is said about it when a handle is built.

Harm is refused; an option that can have no effect is warned about, for it is a mistake and no danger.
docs/explanation/composition.md holds the whole table, also of what is accepted, with the reasons.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from shockproof.calls.options import outside_level
from shockproof.calls.stand_in import chain_of
from shockproof.vocabulary.errors import OutcomeUnknownError, ShockproofError

__all__ = ["add_layer", "check_layers", "refuse_harmful", "warn_of_useless"]

Options = Mapping[str, Any]  # Any: each option has a type of its own


# -- options of one handle ---------------------------------------------------------------------------


def refuse_harmful(options: Options) -> None:
    """
    Refuse what would do harm.

    Raises:
        ValueError: with the reason and the way out.
    """
    wanted = options.get("retry_on", Exception)
    for kind in wanted if isinstance(wanted, tuple) else (wanted,):
        if kind is ShockproofError or (isinstance(kind, type) and issubclass(kind, OutcomeUnknownError)):
            raise ValueError(
                f"retry_on={wanted!r}: it covers OutcomeUnknownError, which is never repeated, for its order may have been "
                "placed; name the other errors, and call once() again with the error's key, which looks the order up, or "
                "await reconcile()"
            )
    effect = options.get("effect", "read")
    hedge_after = options.get("hedge_after")
    if hedge_after is not None and effect == "unsafe":
        raise ValueError(
            f"hedge_after={hedge_after!r} with effect='unsafe': it would be sent twice; "
            "declare effect='idempotent' if that does no harm, or leave hedge_after out"
        )
    if effect != "read" and any(one.last_good is not None for one in chain_of(options.get("fallback"))):
        raise ValueError(
            f"LastGood with effect={effect!r}: what an earlier write gave would be taken for the answer to "
            "this one; use it for calls that read, and look up what became of a write"
        )


def warn_of_useless(given: Options, merged: Options) -> None:
    """
    Warn whoever builds a handle of each option that can have no effect.

    *given* is what is said here and now, *merged* that and what holds besides; what was said elsewhere,
    and is overruled here on purpose, is no mistake.
    """
    for message in _useless(given, merged):
        warnings.warn(message, stacklevel=outside_level())


class _Need(NamedTuple):
    """Options that do nothing as long as another one is not set."""

    options: tuple[str, ...]
    is_met: Callable[[Options], bool]
    missing: str


def _is_set(*names: str) -> Callable[[Options], bool]:
    return lambda options: any(options.get(name) is not None for name in names)


def _can_open(options: Options) -> bool:
    return options.get("circuit_threshold", 1) is not None or _has_rate(options)


def _repeats(options: Options) -> bool:
    retries: int | None = options.get("max_retries")
    return retries != 0 and (retries is not None or options.get("hedge_after") is None)


def _multiplies(options: Options) -> bool:
    return options.get("backoff", "exponential") == "exponential" and options.get("jitter") != "decorrelated"


_has_rate: Final = _is_set("failure_rate", "slow_call_rate")

_NEEDS: Final = (
    _Need(("max_hedges",), _is_set("hedge_after"), "hedge_after, which says when a hedge is sent"),
    _Need(
        ("max_queue",),
        _is_set("max_concurrent"),
        "max_concurrent, in front of which the queue stands: the one for a rate_limit is bounded by max_wait",
    ),
    _Need(
        ("max_wait",),
        _is_set("max_concurrent", "rate_limit", "adaptive"),
        "max_concurrent, rate_limit or adaptive, which make calls wait",
    ),
    _Need(("circuit_quorum",), _is_set("shared"), "shared=True, which is what a quorum decides about"),
    _Need(("check_every",), _is_set("health_check"), "health_check, which is what would be run"),
    _Need(
        ("window", "window_calls", "min_calls"),
        _has_rate,
        "failure_rate or slow_call_rate, which are taken over the window",
    ),
    _Need(
        ("slow_call_after",), _is_set("slow_call_rate"), "slow_call_rate, the share of slow calls that counts"
    ),
    _Need(
        (
            "circuit_timeout",
            "circuit_timeout_factor",
            "max_circuit_timeout",
            "circuit_jitter",
            "half_open_probes",
            "probe_lease",
        ),
        _can_open,
        "circuit_threshold or a rate: the circuit never opens",
    ),
    _Need(
        ("base_delay", "backoff_factor", "backoff", "jitter"),
        _repeats,
        "retries: max_retries is 0, or a hedge stands in their place",
    ),
    _Need(
        ("base_delay",),
        lambda options: not _repeats(options) or isinstance(options.get("backoff", ""), str),
        "a backoff by name: a sequence or a function says all waits itself",
    ),
    _Need(
        ("backoff_factor",),
        lambda options: not _repeats(options) or _multiplies(options),
        "exponential backoff and a jitter other than 'decorrelated': nothing else is multiplied by it",
    ),
)


def _useless(given: Options, merged: Options) -> Iterator[str]:
    for need in _NEEDS:
        for name in need.options:
            if given.get(name) and not need.is_met(merged):
                yield (
                    f"{name}={given[name]!r} has no effect without {need.missing}; "
                    f"set that, too, or leave {name} out"
                )
    timeout, deadline = merged.get("timeout"), merged.get("deadline")
    # Only of a timeout that is given here: a shorter deadline is how one call is hurried.
    if given.get("timeout") is not None and deadline is not None and timeout > deadline:
        yield (
            f"timeout={timeout:g} is longer than deadline={deadline:g}: no attempt can reach its timeout; "
            "make the deadline the sum of what the attempts and waits may take"
        )
    hedge_after = given.get("hedge_after")
    for name, limit in (("timeout", timeout), ("deadline", deadline)):
        if isinstance(hedge_after, float) and limit is not None and hedge_after >= limit:
            yield (
                f"hedge_after={hedge_after:g} is not shorter than {name}={limit:g}: the attempt is over before "
                f"a hedge is sent; make hedge_after what a slow answer takes, well below the {name}"
            )
    if (
        given.get("max_wait") is not None
        and given.get("deadline") is not None
        and given["max_wait"] > deadline
    ):
        yield (
            f"max_wait={given['max_wait']:g} is longer than deadline={deadline:g}: no call waits that long; "
            "make it a part of the deadline, so that time is left for the call itself"
        )
    slow = given.get("slow_call_after")
    if slow is not None and timeout is not None and slow > timeout:
        yield (
            f"slow_call_after={slow:g} is longer than timeout={timeout:g}: no call can be that slow; "
            "make it shorter than the timeout"
        )
    first_wait = given.get("base_delay")
    is_exact = _repeats(merged) and merged.get("jitter", "none") == "none"
    if first_wait and is_exact and given.get("deadline") is not None and first_wait >= deadline:
        yield (
            f"base_delay={first_wait:g} is not shorter than deadline={deadline:g}: the first wait would use "
            "the deadline up, so that nothing is ever repeated; shorten it, or say max_retries=0"
        )
    for one in chain_of(given.get("fallback"))[:-1]:
        if one.always_answers:
            yield (
                f"fallback: the value {one.value!r} always answers, so that what stands behind it is never "
                "asked; put it last"
            )


# -- several decorators on one function --------------------------------------------------------------

_LAYERS: Final = "__shockproof_layers__"


class Layer(NamedTuple):
    """What one decorator does with the calls of the function it was put on."""

    service_name: str
    identity: object
    """The same for two layers on one service."""
    options: Options
    """Those of the handle, with the retries it really makes, and of its service."""


def _layers_of(fn: object) -> tuple[Layer, ...]:
    found = getattr(fn, _LAYERS, ())
    return found if isinstance(found, tuple) else ()  # a Mock has everything


def add_layer(wrapped: object, fn: object, layer: Layer) -> None:
    """Remember on *wrapped* which layers it has: those of *fn*, and *layer* around them."""
    if not isinstance(wrapped, staticmethod):
        setattr(wrapped, _LAYERS, (*_layers_of(fn), layer))


def check_layers(fn: object, outer: Layer) -> None:
    """
    Look at the layers below a new, outer one: refuse what does harm, warn about the rest.

    Raises:
        ValueError: a call declared unsafe would be repeated, hedged or sent elsewhere by the outer layer, or by one inside of it
            that says nothing of what its calls do.
    """
    name = getattr(fn, "__name__", fn)
    for inner in _layers_of(fn):
        for message in _harmful(name, outer, inner):
            raise ValueError(message)
        for message in _doubtful(name, outer, inner):
            warnings.warn(message, stacklevel=outside_level())


def _harmful(name: object, outer: Layer, inner: Layer) -> Iterator[str]:
    for unsafe, other, where in ((inner, outer, "around"), (outer, inner, "inside")):
        if unsafe.options.get("effect") != "unsafe" or other.options.get("effect") == "unsafe":
            continue
        if where == "inside" and any(other.options.get(said) is not None for said in _SAYS_WHAT_IS_HARMLESS):
            continue
        for does, it_does in (
            ("repeat", other.options["max_retries"] != 0),
            ("hedge", other.options.get("hedge_after") is not None),
            ("send elsewhere", other.options.get("fallback") is not None),
        ):
            if it_does:
                yield (
                    f"{name!r} is unsafe for {unsafe.service_name!r}, and {other.service_name!r} {where} it would "
                    f"{does} what may have happened already; declare effect='unsafe' there, too, or put all "
                    "options on one handle"
                )


_SAYS_WHAT_IS_HARMLESS: Final = ("effect", "retry_on", "classify")
"""Options of an inner layer that knows what it repeats."""


def _doubtful(name: object, outer: Layer, inner: Layer) -> Iterator[str]:
    repeats = inner.options["max_retries"] != 0
    has_its_name = outer.service_name == inner.service_name
    if outer.identity == inner.identity or (has_its_name and repeats and outer.options["max_retries"] != 0):
        yield (
            f"{name!r} is already guarded by service {inner.service_name!r}: retries inside retries on one "
            "service; decorate it once"
        )
        return
    if any(one.always_answers for one in chain_of(inner.options.get("fallback"))) and (
        outer.options["max_retries"] != 0
        or outer.options.get("hedge_after") is not None
        or outer.options.get("circuit_threshold") is not None
    ):
        yield (
            f"{name!r}: the fallback of {inner.service_name!r} always answers, so that {outer.service_name!r} "
            "around it never sees a failure; put the fallback outermost, or all options on one handle"
        )
    if repeats and outer.options.get("hedge_after") is not None:
        yield (
            f"{name!r}: {outer.service_name!r} hedges what {inner.service_name!r} repeats, and multiplies the "
            "load; hedge inside the retry, or put all options on one handle"
        )
    if repeats and outer.options.get("rate_limit") is not None:
        yield (
            f"{name!r}: the rate limit of {outer.service_name!r} counts one call for all attempts of "
            f"{inner.service_name!r}; put it below the retry, or all options on one handle"
        )
    limits = [
        outer.options[limit] for limit in ("timeout", "deadline") if outer.options.get(limit) is not None
    ]
    own = inner.options.get("timeout")
    if limits and own is not None and min(limits) < own:
        yield (
            f"{name!r}: {outer.service_name!r} ends it after {min(limits):g} s, before the timeout of "
            f"{inner.service_name!r}, {own:g} s, is reached; make the outer limit the longer one"
        )
