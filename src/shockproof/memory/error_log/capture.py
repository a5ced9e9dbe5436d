"""
An error, taken down on the event loop in microseconds and rendered elsewhere.

`capture` walks the traceback to plain names and numbers, takes the message, freezes the context, and
lets go of the exception: nothing here keeps a frame, an exception or a user's object alive. What is
slow is left to the writer's thread, which calls `CapturedError.render`: source lines (linecache reads
files) and redaction.
"""

from __future__ import annotations

import linecache
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from json.encoder import encode_basestring_ascii as quoted
from operator import is_
from textwrap import indent
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from shockproof.memory.error_log.frozen_values import clean_text, freeze, safe_repr, shortened
from shockproof.memory.error_log.redaction import Redactor
from shockproof.vocabulary.statuses import ErrorSeverity

if TYPE_CHECKING:
    from shockproof.vocabulary.models import ErrorRecord

__all__ = ["CapturedError", "capture", "iso_time", "quoted_name", "text_of"]

_FIRST_FRAMES: Final = 24
_LAST_FRAMES: Final = 40
_MOST_FRAMES: Final = range(_FIRST_FRAMES + _LAST_FRAMES)
_MOST_ERRORS: Final = 16
"""Errors of one report: the error itself, its causes, and the leaves of groups."""
_MOST_NOTES: Final = 16
_LONGEST_NOTE: Final = 1_000
_LONGEST_MESSAGE: Final = 8_000
_LONGEST_NAME: Final = 200
_MOST_FRAME_TEXTS: Final = 4_096
_MOST_COUNTED: Final = 1_000
_MOST_NAMES: Final = 4_096
_LONGEST_SOURCE: Final = 500

_MOST_TRACE_TEXTS: Final = 512
_MOST_ALIKE: Final = 4
"""Traces with the same instructions in other functions that are kept."""

T = TypeVar("T")
U = TypeVar("U")

# Plain tuples of plain values throughout: the garbage collector lets go of them at first sight, so that
# thousands of waiting records do not lengthen its pauses. (Code objects are plain in that sense.)
_Frames: TypeAlias = tuple[CodeType | int, ...]
"""
Code, instruction, code, instruction, ...: the code knows its file, its name and the lines of its instructions, and asking
for those can wait. Asking a traceback for a line decodes a table, which takes longer than all the rest of a frame.
"""
_Link: TypeAlias = tuple[str, str, str, _Frames, int, tuple[str, ...], str, tuple["_Link", ...], int]
"""
One exception of a chain, without the exception: its type's module and name, its message, its frames, how
many frames were left out in the middle, its notes, what stands before it in the text when another one led
to it, the leaves of a group (depth is folded), and how many leaves were left out.
"""

_HEADER: Final = "Traceback (most recent call last):\n"
_QUOTED_HEADER: Final = quoted(_HEADER)[1:-1]
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class CapturedError:
    """
    One failed attempt as it will stand in the log: made by `capture`, or by hand from plain values.

    Nobody changes it afterwards; any thread may ask at any time.
    """

    __slots__ = (
        "_chain",
        "_context",
        "_frames",
        "_is_redacted",
        "_message",
        "_module",
        "_qualname",
        "_redactor",
        "_stack",
        "captured_at",
        "error_type",
        "function_name",
        "retry_count",
        "service_name",
        "severity",
        "size",
        "timestamp",
    )

    _module: str
    _qualname: str
    """Of the error's type; there where there are frames."""

    def __init__(
        self,
        *,
        timestamp: float,
        error_type: str,
        error_message: str,
        severity: ErrorSeverity,
        service_name: str,
        function_name: str,
        retry_count: int = 0,
        stack_trace: str | None = None,
        context: dict[str, object] | None = None,
        captured_at: float = 0.0,
        redactor: Redactor | None = None,
        chain: tuple[_Link, ...] = (),
        size: int | None = None,
    ) -> None:
        self.timestamp = timestamp
        """Wall time, seconds since 1970 UTC."""
        self.captured_at = captured_at
        """The clock's monotonic reading, to ask "how long ago"."""
        self.error_type = error_type
        """The name of the exception's class, without its module."""
        self.severity = severity
        self.service_name = service_name
        self.function_name = function_name
        self.retry_count = retry_count
        self._message = error_message
        self._stack = stack_trace
        self._context = context
        self._chain = chain
        self._frames: _Frames | None = None
        """Of an error that stands alone, as most do: they, two names and the message are all there is to its chain."""
        self._redactor = redactor
        self._is_redacted = redactor is None
        self.size = 500 + len(error_message) + len(stack_trace or "") if size is None else size
        """About how many bytes of memory it takes while it waits."""

    def __repr__(self) -> str:
        where = f"{self.service_name}.{self.function_name}"
        return (
            f"<CapturedError {self.error_type} in {where}, {self.severity.value}, retry {self.retry_count}>"
        )

    @property
    def error_message(self) -> str:
        """The error's text, bounded, without secrets."""
        self._redact()
        return self._message

    @property
    def context(self) -> dict[str, object] | None:
        """What the user said about the circumstances: plain JSON values, without secrets."""
        self._redact()
        return self._context

    @property
    def chain(self) -> tuple[_Link, ...]:
        """The error as the last of those that led to it; empty where there is no traceback, or only its text."""
        if self._frames is None:
            return self._chain
        return ((self._module, self._qualname, self._message, self._frames, 0, (), "", (), 0),)

    @property
    def stack_trace(self) -> str | None:
        """
        The rendered traceback, beginning with ``Traceback (most recent call last)``.

        It has source lines as soon as the writer's thread has rendered it. Asking reads no file.
        """
        self._redact()
        chain = self.chain
        if self._stack is not None or not chain:
            return self._stack
        text = _render(chain, _source_texts(self._redactor).known)
        return text if self._redactor is None else self._redactor.text(text)

    def render(self) -> str | None:
        """
        The traceback with its source lines.

        Reads files, so not for an event loop: the writer's thread calls it.
        """
        self._redact()
        chain = self.chain
        if self._stack is not None or not chain:
            return self._stack
        return _render(chain, _source_texts(self._redactor).of)

    def render_json(self) -> tuple[str, str, bytes, str]:
        """
        What a line says of the error, in JSON: its message, and `render` in three parts, or ``null``.

        Of a thousand records hardly one has a traceback of its own: its last frames, the middle part, are remembered as
        they stand in the file, since quoting and copying them takes longer than everything else that a line needs.
        """
        self._redact()
        message = quoted(self._message)
        chain = self.chain
        if self._stack is not None or not chain or _has_group(chain):
            text = self.render()
            return message, "null" if text is None else quoted(text), b"", ""
        texts = _source_texts(self._redactor)
        before = '"'
        for link in chain[:-1]:
            before += quoted(link[6])[1:-1] + texts.json_of(link[3], link[4]).decode("ascii")
            before += _said_json(link, quoted(link[2]))
        last = chain[-1]
        if last[6]:
            before += quoted(last[6])[1:-1]
        said = _said_json(last, message if last[2] is self._message else quoted(last[2]))
        return message, before, texts.json_of(last[3], last[4]), f'{said}"'

    def to_fields(self) -> dict[str, object]:
        """The nine fields of the log's line as plain JSON-ready values, redacted; reads no file."""
        self._redact()
        return {
            "timestamp": iso_time(self.timestamp),
            "error_type": self.error_type,
            "error_message": self._message,
            "severity": self.severity.value,
            "service_name": self.service_name,
            "function_name": self.function_name,
            "retry_count": self.retry_count,
            "stack_trace": self.stack_trace,
            "context": self._context,
        }

    def record(self) -> ErrorRecord:
        """The pydantic record. Imports pydantic if nobody did so far."""
        from shockproof.vocabulary.models import ErrorRecord

        return ErrorRecord.model_validate(self.to_fields())

    def _redact(self) -> None:
        # Twice at the same time in two threads does no harm: what is redacted stays as it is.
        redactor = self._redactor
        if self._is_redacted or redactor is None:
            return
        raw = self._message
        self._message = shown = redactor.text(raw)
        if self._stack is not None:
            self._stack = redactor.text(self._stack)
        if self._context is not None:
            context = redactor.value(self._context)
            assert isinstance(context, dict)  # a dict's copy is a dict
            self._context = context
        chain = self._chain
        # The record's own message stands in its link once more; many have nothing else, and nothing to hide.
        if chain and (shown is not raw or len(chain) != 1 or chain[0][-4] or chain[0][-2]):
            self._chain = tuple([_redacted_link(link, redactor, raw, shown) for link in chain])
        self._is_redacted = True


def capture(
    error: BaseException,
    severity: ErrorSeverity,
    service_name: str,
    function_name: str,
    retry_count: int,
    timestamp: float,
    captured_at: float = 0.0,
    context: Mapping[str, object] | None = None,
    redactor: Redactor | None = None,
    text: str | None = None,
    said: str = "",
) -> CapturedError:
    """
    Take an error down. Never raises, never waits, reads no file.

    Args:
        error: the exception, with its traceback, cause, context, notes and leaves.
        severity: how bad it is.
        service_name: the service that was called.
        function_name: the function that failed.
        retry_count: 0 for the first attempt.
        timestamp: wall time in seconds since 1970 UTC.
        captured_at: the clock's monotonic reading.
        context: whatever the user wants to find in the record; plain JSON values are copied, all
            others become a short ``repr``, within bounds.
        redactor: takes out the secrets, not here but where the record is rendered or read.
        text: what `text_of` says, from whom has asked already; None: it is asked here.
        said: what the program said about it, which stands before the error's own text.
    """
    kind = type(error)
    module = qualname = ""
    frames: _Frames | None = None
    left_out = 0
    chain: tuple[_Link, ...] = ()
    try:
        message = text_of(error, redactor) if text is None else text
        if (
            error.__cause__ is error.__context__ is None
            and not said  # which stands before the message, and not before the last line of the traceback
            and "__notes__" not in error.__dict__
            and not isinstance(error, BaseExceptionGroup)
        ):
            frames, left_out = _frames_of(error.__traceback__)
            module, qualname = kind.__module__, kind.__qualname__
        if frames is not None and not left_out:  # nearly always
            size = 150 + len(message) + 27 * len(frames)  # what `_size_of` says, without its call
        else:
            frames = None
            chain = _chain_of(error, message, redactor)
            size = sum(map(_size_of, chain))
        if said:
            message = clean_text(f"{said}: {message}" if message else said, _LONGEST_MESSAGE, redactor)
        size += 500 + len(message)  # of what waits in memory; the line will have about twice as much
        frozen = None
        if context:
            frozen, context_size = freeze(context, redactor)
            size += context_size
    except Exception as failure:  # noqa: BLE001  a hostile exception class must not hurt the caller
        message = f"<the error could not be taken down: {safe_repr(failure)}>"
        chain, frames, frozen, size = (), None, None, 1_000
    # Made without its __init__: checking and naming so many arguments would take as long as all of the above.
    captured = _new(CapturedError)
    captured.timestamp = timestamp
    captured.captured_at = captured_at
    captured.error_type = _clean_names[kind.__name__]
    captured.severity = severity
    captured.service_name = _clean_names[service_name]
    captured.function_name = _clean_names[function_name]
    captured.retry_count = retry_count
    captured.size = size
    captured._message = message
    captured._stack = None
    captured._context = frozen
    captured._chain = chain
    captured._frames = frames
    captured._module = module
    captured._qualname = qualname
    captured._redactor = redactor
    captured._is_redacted = redactor is None
    return captured


class _CleanNames(dict[str, str]):
    """Names and what of them may stand in a record: the same few come again with each."""

    def __missing__(self, name: str) -> str:
        clean = clean_text(name, _LONGEST_NAME)
        if len(self) >= _MOST_NAMES:
            self.clear()
        self[name] = clean
        return clean


def quoted_name(name: str) -> str:
    """A name as a string of JSON, remembered: of a class, a function, a service."""
    known = _quoted_names.get(name)
    if known is None:
        if len(_quoted_names) >= _MOST_NAMES:
            _quoted_names.clear()
        known = _quoted_names[name] = quoted(name)
    return known


_clean_names: Final = _CleanNames()
_quoted_names: Final = dict[str, str]()
_new: Final = object.__new__


def iso_time(timestamp: float) -> str:
    """Wall seconds as ISO 8601 in UTC with its offset; what no calendar has becomes the nearest that it has."""
    global _last_second
    try:
        second, micros = divmod(round(timestamp * 1_000_000), 1_000_000)
        known, text = _last_second
        if second != known:
            text = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
            _last_second = second, text
    except (OverflowError, ValueError):
        moment = _EPOCH if math.isnan(timestamp) or timestamp < 0 else datetime.max.replace(tzinfo=UTC)
        return moment.isoformat()
    return f"{text}.{micros:06}+00:00"


# Many errors in one second are the rule here; one tuple, so that threads may race.
_last_second: tuple[int, str] = (0, "1970-01-01T00:00:00")


# Taking down


def text_of(error: BaseException, redactor: Redactor | None = None) -> str:
    """
    The text of *error*, bounded and such that UTF-8 can carry it; of one that cannot be made it is said.

    What *redactor* hides is hidden where the text is cut, and left in it elsewhere.
    """
    try:
        text = str(error)
    except Exception as failure:  # noqa: BLE001  the text is the user's code
        return f"<{type(error).__name__} whose text cannot be had: {type(failure).__name__}>"
    if type(text) is str and len(text) <= _LONGEST_MESSAGE and text.isascii():
        return text
    return clean_text(text, _LONGEST_MESSAGE, redactor)


def _frames_of(traceback: TracebackType | None) -> tuple[_Frames, int]:
    frames: list[CodeType | int] = []
    for _ in _MOST_FRAMES:
        if traceback is None:
            return tuple(frames), 0
        frames.append(
            traceback.tb_frame.f_code
        )  # the interpreter has a short cut for it, and none for a bound method
        frames.append(traceback.tb_lasti)
        traceback = traceback.tb_next
    if traceback is None:
        return tuple(frames), 0
    # A deep one: of what follows its first frames only the last are kept.
    rest = _LAST_FRAMES
    last: deque[CodeType | int] = deque(frames[2 * _FIRST_FRAMES :], maxlen=2 * _LAST_FRAMES)
    while traceback is not None:  # a traceback has no length
        rest += 1
        last += (traceback.tb_frame.f_code, traceback.tb_lasti)
        traceback = traceback.tb_next
    return (*frames[: 2 * _FIRST_FRAMES], *last), rest - _LAST_FRAMES


def _chain_of(error: BaseException, message: str, redactor: Redactor | None) -> tuple[_Link, ...]:
    # In the order of a printed traceback: what happened first comes first.
    links: list[_Link] = []
    seen: set[int] = set()
    room = _MOST_ERRORS
    step: BaseException | None = error
    while step is not None and id(step) not in seen and room > 0:
        seen.add(id(step))
        before = _before(step)
        goes_on = before is not None and id(before) not in seen and room > 1
        lead = "" if not goes_on else (_CAUSE if step.__cause__ is not None else _CONTEXT)
        text = message if step is error else text_of(step, redactor)
        # What led to the error matters as much as its leaves: at most half of the room for them.
        link = _link_of(step, text, lead, room // 2, redactor)
        links.append(link)
        room -= 1 + len(link[7])
        step = before
    links.reverse()
    first = links[0]
    links[0] = (*first[:6], "", *first[7:])
    return tuple(links)


def _before(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _link_of(
    error: BaseException, message: str, lead: str, most_leaves: int, redactor: Redactor | None
) -> _Link:
    kind = type(error)
    frames, left_out = _frames_of(error.__traceback__)
    notes: tuple[str, ...] = ()
    found = error.__dict__.get("__notes__")
    if isinstance(found, list):
        notes = tuple([clean_text(note, _LONGEST_NOTE, redactor) for note in islice(found, _MOST_NOTES)])
    if not isinstance(error, BaseExceptionGroup):
        return kind.__module__, kind.__qualname__, message, frames, left_out, notes, lead, (), 0
    leaves: list[_Link] = []
    count = 0
    for leaf in islice(_leaves_of(error), _MOST_COUNTED):
        count += 1
        if len(leaves) < most_leaves:
            leaves.append(_link_of(leaf, text_of(leaf, redactor), "", 0, redactor))
    more = count - len(leaves)
    return kind.__module__, kind.__qualname__, message, frames, left_out, notes, lead, tuple(leaves), more


def _size_of(link: _Link) -> int:
    return 150 + len(link[2]) + 27 * len(link[3])


def _leaves_of(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    waiting = deque(group.exceptions)
    while waiting:
        error = waiting.popleft()
        if isinstance(error, BaseExceptionGroup):
            waiting.extendleft(reversed(error.exceptions))
        else:
            yield error


# Rendering


def _redacted_link(link: _Link, redactor: Redactor, raw: str, shown: str) -> _Link:
    module, name, message, frames, left_out, notes, lead, leaves, more = link
    return (
        module,
        name,
        shown if message == raw else redactor.text(message),
        frames,
        left_out,
        tuple([redactor.text(note) for note in notes]),
        lead,
        tuple([_redacted_link(leaf, redactor, raw, shown) for leaf in leaves]),
        more,
    )


def _render(chain: tuple[_Link, ...], frames_text: Callable[[_Frames, int], str]) -> str:
    pieces: list[str] = []
    for link in chain:
        _render_link(link, frames_text, pieces)
    return "".join(pieces)


def _render_link(link: _Link, frames_text: Callable[[_Frames, int], str], pieces: list[str]) -> None:
    module, name, message, frames, left_out, notes, lead, leaves, more = link
    name = _full_name(module, name)
    pieces += (
        lead,
        _HEADER,
        frames_text(frames, left_out),
        f"{name}: {message}\n" if message else f"{name}\n",
    )
    pieces += [f"{note}\n" for note in notes]
    for number, leaf in enumerate(leaves, 1):
        inner: list[str] = []
        _render_link(leaf, frames_text, inner)
        pieces += (f"  ---------------- {number} ----------------\n", indent("".join(inner), "  | "))
    if more:
        pieces.append(f"  ... {more} more errors left out ...\n")


def _full_name(module: str, name: str) -> str:
    return name if module in {"builtins", "__main__"} else f"{module}.{name}"


def _has_group(chain: tuple[_Link, ...]) -> bool:
    # Whose leaves are indented, line by line. A loop: any() and a generator take four times as long.
    for link in chain:  # noqa: SIM110  as said
        if link[7]:
            return True
    return False


def _said_json(link: _Link, message_json: str) -> str:
    # What _render_link puts behind the frames, in JSON without quotes around it. What is quoted in pieces is quoted.
    name = quoted_name(_full_name(link[0], link[1]))[1:-1]
    said = f"{name}: {message_json[1:-1]}\\n" if link[2] else f"{name}\\n"
    for note in link[5]:
        said += f"{quoted(note)[1:-1]}\\n"
    return said


def _joined(
    frames: _Frames, left_out: int, text_of_frame: Callable[[CodeType, int], str], newline: str = "\n"
) -> str:
    texts = [
        text_of_frame(code, instruction)
        for code, instruction in zip(frames[::2], frames[1::2], strict=True)
        if isinstance(code, CodeType) and isinstance(instruction, int)  # they are; said for the type checkers
    ]
    if left_out:
        texts.insert(_FIRST_FRAMES, f"  ... {left_out} frames left out ...{newline}")
    return "".join(texts)


def _line_of(code: CodeType, instruction: int) -> int:
    for begins, ends, line in code.co_lines():
        if begins <= instruction < ends and line is not None:
            return line
    return code.co_firstlineno  # of a traceback that somebody made by hand


def _place(file: str, line: int, function: str) -> str:
    return f'  File "{file}", line {line}, in {function}\n'


class SourceTexts:
    """
    Frames with their source lines and without secrets, remembered: the same few fail again and again.

    For the writer's thread. A line is read once, so that it is the one that was there at the first
    error, and not what an editor has made of it since.
    """

    def __init__(self, redactor: Redactor | None) -> None:
        self._redactor = redactor
        self._lines: dict[tuple[str, int, str], str] = {}
        # A new way through functions that have failed before is joined of what is known of each of them. By what a code is, and
        # not by what it says: hashing that takes long, and functions of two files that read the same are equal to Python.
        self._frames: dict[tuple[int, int], tuple[CodeType, str, str]] = {}
        # By instructions: of each trace with these its code, and what stands in the file.
        self._traces: dict[tuple[_Frames, int], list[tuple[_Frames, bytes]]] = {}

    def of(self, frames: _Frames, left_out: int) -> str:
        """The text of a whole trace."""
        return _joined(frames, left_out, self._text)

    def json_of(self, frames: _Frames, left_out: int) -> bytes:
        """The same with a traceback's first line before it, as it stands in a string of JSON, without the quotes around it."""
        code = frames[::2]
        instructions = frames[1::2], left_out
        traces = self._traces.get(instructions)
        if traces is not None:
            for known, shown in traces:
                if all(map(is_, known, code)):
                    return shown
        shown = (_QUOTED_HEADER + _joined(frames, left_out, self._quoted, "\\n")).encode("ascii")
        if traces is not None and len(traces) < _MOST_ALIKE:
            traces.append((code, shown))
        else:
            if len(self._traces) >= _MOST_TRACE_TEXTS:
                _forget_half(self._traces)
            self._traces[instructions] = [(code, shown)]
        return shown

    def known(self, frames: _Frames, left_out: int) -> str:
        """As `of`, for threads that may read no file: without the source lines that nobody has read so far."""
        return _joined(frames, left_out, self._known)

    def _text(self, code: CodeType, instruction: int) -> str:
        return self._frame(code, instruction)[1]

    def _quoted(self, code: CodeType, instruction: int) -> str:
        known = self._frames.get((id(code), instruction))
        return self._frame(code, instruction)[2] if known is None else known[2]

    def _known(self, code: CodeType, instruction: int) -> str:
        known = self._frames.get((id(code), instruction))
        if known is not None:
            return known[1]
        return _place(code.co_filename, _line_of(code, instruction), code.co_name)

    def _frame(self, code: CodeType, instruction: int) -> tuple[CodeType, str, str]:
        known = self._frames.get((id(code), instruction))
        if known is None:
            text = self._line(code.co_filename, _line_of(code, instruction), code.co_name)
            if len(self._frames) >= _MOST_FRAME_TEXTS:
                _forget_half(self._frames)
            # With its code, so that no other one gets its number.
            known = self._frames[id(code), instruction] = code, text, quoted(text)[1:-1]
        return known

    def _line(self, file: str, line: int, function: str) -> str:
        text = self._lines.get((file, line, function))
        if text is None:
            redactor = self._redactor
            source = shortened(linecache.getline(file, line).strip(), _LONGEST_SOURCE, redactor)
            place = _place(file, line, function)
            text = clean_text(place + (f"    {source}\n" if source else ""), 2_000, redactor)
            if redactor is not None:
                text = redactor.text(text)
            if len(self._lines) >= _MOST_FRAME_TEXTS:
                _forget_half(self._lines)
            self._lines[file, line, function] = text
        return text


def _forget_half(known: dict[T, U]) -> None:
    # The older one: of all, those that are asked for next would have to be made anew as well.
    for key in list(islice(known, len(known) // 2)):
        known.pop(key, None)  # another thread may be at it, too


def _source_texts(redactor: Redactor | None) -> SourceTexts:
    if redactor is None:
        return _plain_texts
    texts = redactor.memory
    if not isinstance(texts, SourceTexts):
        texts = redactor.memory = SourceTexts(redactor)
    return texts


_plain_texts = SourceTexts(None)
