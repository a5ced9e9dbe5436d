"""One record, one line: the original program's form, valid whatever is in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.error_log.bounded_queue import Gap
from shockproof.memory.error_log.capture import CapturedError, capture
from shockproof.memory.error_log.json_line import gap_line, json_line
from shockproof.memory.error_log.redaction import Redactor
from shockproof.vocabulary.models import ErrorRecord
from shockproof.vocabulary.statuses import ErrorSeverity


def error(message: str, context: dict[str, object] | None = None) -> CapturedError:
    return CapturedError(
        timestamp=1_795_593_600.0,
        error_type="ValueError",
        error_message=message,
        severity=ErrorSeverity.CRITICAL,
        service_name="market",
        function_name="fetch",
        retry_count=3,
        context=context,
    )


def test_a_line_looks_as_the_original_programs_did() -> None:
    """Same order, same blanks, so that scripts that cut it by hand go on working."""
    assert json_line(error("bad")) == (
        b'{"timestamp": "2026-11-25T08:00:00.000000+00:00", "error_type": "ValueError", "error_message": "bad", '
        b'"severity": "critical", "service_name": "market", "function_name": "fetch", "retry_count": 3, '
        b'"stack_trace": null, "context": null}\n'
    )


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False)))
def test_any_text_makes_one_line_that_reads_back(message: str, context: dict[str, object]) -> None:
    """Line breaks of all kinds, quotes, other alphabets."""
    line = json_line(error(message, context))

    assert line.isascii()
    assert line.count(b"\n") == 1
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line)["error_message"] == message


def raised(kind: str, message: str) -> Exception:
    """An error that was raised, alone or with others before it or in it."""
    try:
        try:
            raise ValueError(f"before {message}")
        except ValueError as earlier:
            alone = OSError(message)
            alone.add_note(f"a note on {message}")
            match kind:
                case "alone":
                    raise alone from None
                case "cause":
                    raise alone from earlier
                case "context":
                    raise alone  # noqa: B904  its context is the point
                case _:
                    raise ExceptionGroup(message, [alone, earlier]) from None
    except Exception as error:  # noqa: BLE001  all of them
        return error


@pytest.mark.parametrize("kind", ["alone", "cause", "context", "group"])
@pytest.mark.parametrize("message", ["", "plain", 'of "quotes"\nand €, \ud800', "token=abcdef123"])
@pytest.mark.parametrize("redactor", [None, Redactor()], ids=["plain", "redacted"])
def test_the_traceback_in_a_line_is_the_one_that_is_rendered(
    kind: str, message: str, redactor: Redactor | None
) -> None:
    """What is remembered of it in JSON, and what is looked through once only, changes no character; twice, for the memory."""
    for _ in range(2):
        captured, other = (
            capture(
                raised(kind, message),
                severity=ErrorSeverity.HIGH,
                service_name="market",
                function_name="fetch",
                retry_count=0,
                timestamp=0.0,
                context={"token": "abcdef123", "said": message},
                redactor=redactor,
            )
            for _ in range(2)
        )

        line = json.loads(json_line(captured))

        assert line == other.to_fields() | {"stack_trace": other.render()}
        assert line == captured.to_fields()
        assert ("abcdef123" in str(line)) == (redactor is None)


def test_a_gap_is_a_record_as_bad_as_the_worst_that_was_dropped() -> None:
    """A reader who knows nothing of gaps still sees that something is missing."""
    fields = json.loads(gap_line(Gap(0, 1_795_593_600.0, 1_795_593_601.5, [5, 0, 2, 0])))

    assert fields["context"] == {
        "dropped": {"low": 5, "high": 2},
        "from": "2026-11-25T08:00:00.000000+00:00",
        "to": "2026-11-25T08:00:01.500000+00:00",
    }
    record = ErrorRecord.model_validate(fields)
    assert (record.error_type, record.service_name, record.severity) == (
        "RecordsDropped",
        "shockproof",
        ErrorSeverity.HIGH,
    )
    assert record.error_message.startswith("7 error records were dropped")
