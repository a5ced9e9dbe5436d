"""Errors are taken down at once, hold nothing alive, and are rendered later."""

from __future__ import annotations

import gc
import json
import linecache
import re
import sys
import traceback
import weakref
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import NoReturn

import pytest

from shockproof.memory.error_log import capture as capturing
from shockproof.memory.error_log.capture import CapturedError, capture, iso_time
from shockproof.memory.error_log.json_line import json_line
from shockproof.memory.error_log.redaction import Redactor
from shockproof.vocabulary.models import ErrorRecord
from shockproof.vocabulary.statuses import ErrorSeverity

NOON = 1_790_000_000.25
HEADER = "Traceback (most recent call last):\n"


def raised(error: BaseException, depth: int = 0) -> BaseException:
    """The error with a traceback of depth + 1 frames."""

    def descend(left: int) -> NoReturn:
        if left == 0:
            raise error
        descend(left - 1)

    try:
        descend(depth)
    except BaseException as caught:  # noqa: BLE001  whatever was asked for
        return caught


def taken(
    error: BaseException,
    *,
    context: dict[str, object] | None = None,
    redactor: Redactor | None = None,
    said: str = "",
) -> CapturedError:
    return capture(
        error,
        severity=ErrorSeverity.HIGH,
        service_name="market",
        function_name="fetch",
        retry_count=2,
        timestamp=NOON,
        context=context,
        captured_at=5.0,
        redactor=redactor,
        said=said,
    )


def rendered(error: BaseException) -> str:
    text = taken(error).render()
    assert text is not None
    return text


def test_the_nine_fields_are_plain_and_make_a_record() -> None:
    """As they stand in the log and in a summary."""
    captured = taken(raised(ValueError("bad")), context={"symbol": "AAPL"})
    fields = captured.to_fields()

    assert {name: value for name, value in fields.items() if name != "stack_trace"} == {
        "timestamp": "2026-09-21T14:13:20.250000+00:00",
        "error_type": "ValueError",
        "error_message": "bad",
        "severity": "high",
        "service_name": "market",
        "function_name": "fetch",
        "retry_count": 2,
        "context": {"symbol": "AAPL"},
    }
    record = captured.record()
    assert isinstance(record, ErrorRecord)
    assert record.to_dict() | {"timestamp": ""} == fields | {"timestamp": ""}
    assert record.timestamp.timestamp() == NOON


def test_source_lines_are_there_once_it_is_rendered() -> None:
    """Before that nobody reads a file."""
    captured = taken(raised(ValueError("bad"), 1))
    before = captured.stack_trace
    text = captured.render()

    assert before is not None
    assert text is not None
    assert before.startswith(HEADER)
    assert text.startswith(HEADER)
    assert "raise error" not in before
    assert "    raise error\n" in text
    assert "in descend\n" in before
    assert text.endswith("ValueError: bad\n")
    assert captured.stack_trace == text == captured.render()


def test_lines_are_those_of_a_printed_traceback() -> None:
    """They are looked up from the instruction that failed, when the error is shown."""

    def fails(fuel: int) -> int:
        return 10 // (
            fuel  # the line of the call is the one above
            - 1
        )

    try:
        for fuel in (
            3,
            1,
        ):
            fails(
                fuel,
            )
    except ZeroDivisionError as error:
        shown = rendered(error)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)]

    assert [int(line) for line in re.findall(r"line (\d+), in", shown)] == lines
    assert len(lines) == 2


def test_a_traceback_made_by_hand_does_no_harm() -> None:
    """One with an instruction that its function does not have is shown at the function's first line."""
    frame = sys._getframe()
    error = ValueError("bad").with_traceback(TracebackType(None, frame, 10**6, 3))

    assert f"line {frame.f_code.co_firstlineno}, in {frame.f_code.co_name}\n" in rendered(error)


def test_functions_that_read_the_same_are_told_apart_by_their_files() -> None:
    """A strategy that was copied fails in its own file; Python takes the code of both for equal."""
    redactor = Redactor()
    texts: list[object] = []
    for file in ("strategy_a.py", "strategy_b.py"):
        names: dict[str, Callable[[], NoReturn]] = {}
        exec(compile("def trade():\n    raise ValueError('no')", file, "exec"), names)
        try:
            names["trade"]()
        except ValueError as error:
            captured = taken(error, redactor=redactor)
        texts += [captured.render(), captured.stack_trace, json.loads(json_line(captured))["stack_trace"]]

    assert ["strategy_a.py" in str(text) for text in texts] == [True] * 3 + [False] * 3
    assert ["strategy_b.py" in str(text) for text in texts] == [False] * 3 + [True] * 3


def by_ways(number: int, depth: int = 0) -> NoReturn:
    """Fails by another way through the same lines for each number."""
    if depth == 6:
        raise ValueError(number)
    if number >> depth & 1:
        by_ways(number, depth + 1)
    by_ways(number, depth + 1)


def way(number: int) -> CapturedError:
    try:
        by_ways(number)
    except ValueError as error:
        return taken(error)


def test_a_new_way_through_known_frames_asks_for_no_line_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """More ways than are remembered, in turn: each is put together of the same few frames."""
    texts = capturing.SourceTexts(None)
    monkeypatch.setattr(capturing, "_plain_texts", texts)
    monkeypatch.setattr(capturing, "_MOST_TRACE_TEXTS", 8)
    asked: list[int] = []
    line_of = capturing._line_of

    def count(code: CodeType, instruction: int) -> int:
        asked.append(instruction)
        return line_of(code, instruction)

    monkeypatch.setattr(capturing, "_line_of", count)
    ways = [way(number) for number in range(64)]
    for _ in range(2):
        for one in ways:
            assert json.loads(json_line(one))["stack_trace"] == one.render()

    assert len({one.render() for one in ways}) == 64
    assert len(asked) == 4  # of this file's `way`, two calls, and what fails
    assert len(texts._traces) <= 8


def test_the_newer_half_of_what_is_remembered_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no room for another trace, or another frame."""
    texts = capturing.SourceTexts(None)
    monkeypatch.setattr(capturing, "_MOST_TRACE_TEXTS", 8)
    monkeypatch.setattr(capturing, "_MOST_FRAME_TEXTS", 2)
    frames = [way(number).chain[0][3] for number in range(9)]
    shown = [texts.json_of(one, 0) for one in frames]

    assert all(texts.json_of(one, 0) is known for one, known in zip(frames[4:], shown[4:], strict=True))
    assert len(texts._traces) == 5
    assert texts.json_of(frames[0], 0) == shown[0]
    assert len(texts._frames) <= 2


def test_taking_down_and_asking_read_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both happen on the event loop."""
    read: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(linecache, "getline", lambda file, _: read.append(file) or "")
        captured = taken(raised(ValueError("bad"), 3), redactor=Redactor())
        fields = captured.to_fields()
        on_the_loop = list(read)
        captured.render()

    assert fields["stack_trace"]
    assert on_the_loop == []
    assert read


def test_nothing_is_kept_alive() -> None:
    """Neither the exception, nor its frames, nor what the context holds."""

    class Order:
        pass

    class RefusedError(Exception):
        pass

    order = Order()
    error = raised(RefusedError("bad"), 3)
    gone = [weakref.ref(order), weakref.ref(error)]
    captured = taken(error, context={"order": order})
    del order, error
    gc.collect()

    assert [ref() for ref in gone] == [None, None]
    assert "Order object" in str(captured.context)


def test_a_deep_traceback_keeps_its_two_ends() -> None:
    """And says how much is missing, before rendering and after."""
    captured = taken(raised(ValueError("bad"), 500))
    for text in (captured.stack_trace, captured.render()):
        assert text is not None
        assert text.count("  File ") == 64
        assert "  ... 438 frames left out ...\n" in text
        assert text.index("raised") < text.index("left out")


def chained(link: Callable[[Exception, Exception], None]) -> Exception:
    first, second = raised(KeyError("first")), ValueError("second")
    assert isinstance(first, Exception)
    link(second, first)
    return second


def test_causes_stand_before_what_they_caused() -> None:
    """As in a printed traceback; a suppressed context does not stand there at all."""

    def cause(error: Exception, first: Exception) -> None:
        error.__cause__ = first

    def context(error: Exception, first: Exception) -> None:
        error.__context__ = first

    def suppressed(error: Exception, first: Exception) -> None:
        error.__context__ = first
        error.__suppress_context__ = True

    by_cause, by_context = rendered(chained(cause)), rendered(chained(context))

    assert (
        by_cause.index("KeyError: 'first'")
        < by_cause.index("direct cause")
        < by_cause.index("ValueError: second")
    )
    assert by_context.index("KeyError") < by_context.index("During handling") < by_context.index("ValueError")
    assert rendered(chained(suppressed)) == HEADER + "ValueError: second\n"


def test_a_chain_without_end_ends() -> None:
    """A loop of causes, and a thousand of them."""
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    last = ValueError("0")
    for number in range(1_000):
        error = ValueError(str(number))
        error.__cause__ = last
        last = error

    assert rendered(one).count("Error: ") == 2
    assert rendered(last).count("ValueError: ") == 16
    assert rendered(last).endswith("ValueError: 999\n")


def test_a_group_shows_some_of_its_leaves() -> None:
    """Whatever the nesting, and with a word about the others."""
    small = ExceptionGroup("small", [raised(ValueError("a")), ExceptionGroup("in", [KeyError("b")])])  # type: ignore[list-item]  # a BaseException is what raised() declares
    large = ExceptionGroup("large", [ValueError(str(number)) for number in range(100)])

    assert "  | ValueError: a\n" in rendered(small)
    assert "  | KeyError: 'b'\n" in rendered(small)
    assert "ExceptionGroup: small (2 sub-exceptions)\n" in rendered(small)
    assert "  ... 92 more errors left out ...\n" in rendered(large)


def test_notes_are_shown_and_bounded() -> None:
    """Also those that are no texts."""
    error = ValueError("bad")
    for number in range(100):
        error.add_note(f"note {number}")
    odd = ValueError("bad")
    odd.__notes__ = [3, "x"]

    assert rendered(error).count("note ") == 16
    assert rendered(odd).endswith("ValueError: bad\n3\nx\n")


def test_what_the_program_said_stands_before_the_message_only() -> None:
    """The traceback ends with what was raised, as Python prints it."""
    captured = taken(raised(ValueError("bad")), said="quote lost")

    assert captured.error_message == "quote lost: bad"
    assert (captured.render() or "").endswith("\nValueError: bad\n")


def test_a_hostile_exception_does_no_harm() -> None:
    """Its text raises, its class lies: there is a record all the same."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    class LiarError(Exception):
        @property
        def __dict__(self) -> dict[str, object]:  # type: ignore[override]  # it misbehaves on purpose
            raise RuntimeError("no")

    assert taken(MuteError()).error_message == "<MuteError whose text cannot be had: RuntimeError>"
    assert taken(LiarError()).error_type == "LiarError"
    assert taken(LiarError()).to_fields()["stack_trace"] is None


def test_long_and_odd_texts_are_bounded_and_clean() -> None:
    """A megabyte of answer, half a character, a name that is no text."""
    captured = taken(ValueError("x" * 2**20 + "\udcff"))

    assert len(captured.error_message) < 8_100
    assert captured.error_message.endswith("more characters)")
    assert taken(ValueError("a\udcff")).error_message == "a\\udcff"
    assert captured.size < 40_000


def test_secrets_are_gone_wherever_somebody_looks() -> None:
    """In message, context, notes, causes, leaves and source lines, before rendering and after."""
    redactor = Redactor(values=["registered-value"])
    error = ValueError("GET /x?signature=hidden")
    error.add_note("password: hidden")
    error.__cause__ = ExceptionGroup("token=hidden", [KeyError("api_key=hidden")])
    captured = taken(
        raised(error), context={"secret": "hidden", "url": "registered-value"}, redactor=redactor
    )
    signature = "hidden"  # the line that raises holds a secret of its own
    try:
        raise ValueError(signature, "token='hidden'")
    except ValueError as caught:
        in_source = taken(caught, redactor=redactor)

    before, after = captured.to_fields(), (captured.render(), captured.to_fields())
    for shown in (before, after, in_source.to_fields(), in_source.render()):
        assert "hidden'" not in str(shown).replace("'hidden', \"token", "")
    assert "hidden" not in str((before, after))
    assert "registered-value" not in str((before, after))
    assert "signature=***" in captured.error_message


@pytest.mark.parametrize("secret", ["Zq9sEcReT7xPaSsPhRaSe0123456789", "correct horse battery staple"])
@pytest.mark.parametrize("inside", [1, 4, 8, 16, 27])
@pytest.mark.parametrize("before", ["x", "words "], ids=["one word", "words"])
def test_no_part_of_a_secret_is_left_where_a_text_is_cut(secret: str, inside: int, before: str) -> None:
    """Half of it would not be known any more; a passphrase has blanks of its own at which a text may be cut."""
    redactor = Redactor(values=[secret])

    def text(longest: int) -> str:
        return (before * longest)[: longest - inside - 1] + " " * (before != "x") + secret + " y" * 100

    class Shown:
        def __repr__(self) -> str:
            return text(500)

    error = raised(ValueError(text(8_000)))
    error.__cause__ = raised(KeyError("a cause"))
    error.add_note(text(1_000))
    deep = {"text": text(4_000), "object": Shown(), text(200): [text(4_000)]}
    captured = taken(error, context=deep, redactor=redactor, said=text(4_000) if inside % 8 else "")
    line = json_line(captured).decode() + str(captured.render())

    assert "more characters)" in line
    assert "more characters)" in captured.error_message
    for end in range(4, len(secret) + 1):
        assert secret[:end] not in line


def test_a_record_made_by_hand_is_redacted_too() -> None:
    """It comes with a text where others come with frames."""
    captured = CapturedError(
        timestamp=NOON,
        error_type="X",
        error_message="token=hidden",
        severity=ErrorSeverity.LOW,
        service_name="s",
        function_name="f",
        stack_trace="Traceback (most recent call last):\n  token=hidden\n",
        redactor=Redactor(),
    )

    assert "hidden" not in str(captured.to_fields())
    assert "hidden" not in str(captured.render())


def test_times_are_iso_with_their_offset() -> None:
    """To the microsecond, also before 1970, and for what no calendar has."""
    assert iso_time(0.0) == "1970-01-01T00:00:00.000000+00:00"
    assert iso_time(1_790_000_000.9999999) == "2026-09-21T14:13:21.000000+00:00"
    assert iso_time(-0.5) == "1969-12-31T23:59:59.500000+00:00"
    assert iso_time(float("nan")).startswith("1970-")
    assert iso_time(float("inf")).startswith("9999-")
    assert iso_time(1e300).startswith("9999-")
    assert iso_time(-1e300).startswith("1970-")
