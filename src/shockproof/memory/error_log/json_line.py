"""One line of the error log: the nine fields as a JSON object, in the original program's form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring_ascii as quoted

from shockproof.memory.error_log.bounded_queue import Gap
from shockproof.memory.error_log.capture import CapturedError, iso_time, quoted_name
from shockproof.memory.error_log.frozen_values import clean_text, freeze
from shockproof.vocabulary.statuses import ErrorSeverity

__all__ = ["add_json_line", "add_line", "gap_line", "json_line"]

# Not pydantic_core, which encodes twice as fast: it has to be imported first, which takes ten times as
# long as everything else that the first error of a process needs, and refuses a lone surrogate. The
# standard library's quoting function alone, without the encoder around it, costs half of json.dumps.

_encoder = json.JSONEncoder(allow_nan=False)


def _pieces_without_c(value: object, _level: int) -> Iterable[str]:
    return _encoder.iterencode(value)


# As JSONEncoder.encode does, but it makes its encoder anew for each value, which takes longer than the encoding. Nothing
# here contains itself: `capture` made it. None where the interpreter has no such thing.
_make: Callable[..., Callable[[object, int], Iterable[str]]] | None = getattr(
    json.encoder, "c_make_encoder", None
)
_pieces = (
    _pieces_without_c
    if _make is None
    else _make(None, _encoder.default, quoted, None, ": ", ", ", False, False, False)
)


def _encode(value: object) -> str:
    return "".join(_pieces(value, 0))


def add_json_line(error: CapturedError, pieces: list[bytes]) -> None:
    """
    Add the line's pieces, newline included: pure ASCII, so that half a character cannot be torn.

    In pieces, because what a line is long by, its frames, is there already and is copied once, with the whole batch.
    Renders the traceback, which reads source files: for the writer's thread. Adds all pieces or none.
    """
    message, before, frames, after = error.render_json()
    # Looked through for secrets by now; the property would ask for it once more. The enumeration's member tells its value
    # by a descriptor in Python.
    context = error._context
    begin = (
        f'{{"timestamp": "{iso_time(error.timestamp)}", "error_type": {quoted_name(error.error_type)}, '
        f'"error_message": {message}, "severity": "{error.severity._value_}", '
        f'"service_name": {quoted_name(error.service_name)}, "function_name": {quoted_name(error.function_name)}, '
        f'"retry_count": {error.retry_count:d}, "stack_trace": {before}'
    ).encode("ascii")
    end = f'{after}, "context": {"null" if context is None else _encoded(context)}}}\n'.encode("ascii")
    pieces += (begin, frames, end)


def add_line(entry: CapturedError | Gap, pieces: list[bytes]) -> None:
    """Add the line of whatever comes out of the queue. One odd record is neither lost nor takes others along."""
    if isinstance(entry, Gap):
        pieces.append(gap_line(entry))
        return
    try:
        add_json_line(entry, pieces)
    except Exception as failure:  # noqa: BLE001  whatever its fields hold
        add_json_line(_instead_of(entry, failure), pieces)


def json_line(error: CapturedError) -> bytes:
    """The line as a whole."""
    pieces: list[bytes] = []
    add_json_line(error, pieces)
    return b"".join(pieces)


def gap_line(gap: Gap) -> bytes:
    """The line that stands where records were dropped: an error record like any other."""
    ranks = list(ErrorSeverity)
    dropped = {ranks[rank].value: count for rank, count in enumerate(gap.dropped) if count}
    worst = max(rank for rank, count in enumerate(gap.dropped) if count)
    fields = {
        "timestamp": iso_time(gap.begins),
        "error_type": "RecordsDropped",
        "error_message": f"{sum(gap.dropped)} error records were dropped here: the queue was full",
        "severity": ranks[worst].value,
        "service_name": "shockproof",
        "function_name": "error_log",
        "retry_count": 0,
        "stack_trace": None,
        "context": {"dropped": dropped, "from": iso_time(gap.begins), "to": iso_time(gap.ends)},
    }
    return json.dumps(fields).encode("ascii") + b"\n"


def _instead_of(error: CapturedError, failure: Exception) -> CapturedError:
    return CapturedError(
        timestamp=float(error.timestamp),
        error_type=clean_text(error.error_type, 200),
        error_message=f"<this record could not be encoded: {type(failure).__name__}>",
        severity=error.severity,
        service_name=clean_text(error.service_name, 200),
        function_name=clean_text(error.function_name, 200),
    )


def _encoded(context: object) -> str:
    try:
        return _encode(context)
    except (ValueError, TypeError, RecursionError):
        # A record made by hand may hold anything; what capture froze never comes here.
        frozen, _ = freeze(context if isinstance(context, dict) else {"context": context})
        return _encode(frozen)
