"""`recovery.operation`: what is known of it, however its block is left."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shockproof import (
    ErrorRecoveryService,
    JournalUnavailableError,
    Operation,
    OperationBusyError,
    OperationCompletedError,
    Redacted,
    SecretNotSavedWarning,
    StateVersionError,
    register_type,
)
from shockproof.memory.journal.journal import RecordTooLargeError
from shockproof.memory.state.codec import UnsavableValueError


def after_a_crash(recovery: ErrorRecoveryService, **options: Any) -> ErrorRecoveryService:
    """A program that finds the directory as it is now; the lock of a dead process is no lock."""
    copy = recovery.state_dir.with_name(f"{recovery.state_dir.name}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(recovery.state_dir, copy)
    return ErrorRecoveryService(copy, recovery.error_log_dir, **options)


async def pending(recovery: ErrorRecoveryService) -> list[dict[str, Any]]:
    state = await recovery.restore_state()
    return [] if state is None else state.active_operations


async def failing(operation: Operation, error: BaseException, **progress: Any) -> None:
    async with operation:
        await operation.checkpoint(**progress)
        raise error


async def interrupted(recovery: ErrorRecoveryService, **progress: Any) -> None:
    with pytest.raises(KeyError):
        await failing(recovery.operation("job", key="1"), KeyError("inside"), **progress)


@pytest.mark.asyncio
async def test_operation_is_known_after_a_crash_from_before_its_first_line(
    recovery: ErrorRecoveryService,
) -> None:
    """With its name, its key and its last checkpoint."""
    async with recovery.operation("rebalance", key="2026-11-23") as op:
        at_first = after_a_crash(recovery)
        assert await pending(at_first) == [
            {"operation": "rebalance", "key": "2026-11-23", "status": "pending"}
        ]
        await op.checkpoint(index=41, price=Decimal("1.10"))
        later = after_a_crash(recovery)
        assert await pending(later) == [
            {
                "operation": "rebalance",
                "key": "2026-11-23",
                "status": "pending",
                "index": 41,
                "price": Decimal("1.10"),
            }
        ]
    assert await pending(after_a_crash(recovery)) == []


@pytest.mark.asyncio
async def test_operation_resumes_from_its_last_checkpoint(recovery: ErrorRecoveryService) -> None:
    """In the next life, and only that once."""
    done: list[int] = []

    async def work(recovery: ErrorRecoveryService, *, dies_at: int | None = None) -> bool:
        async with recovery.operation("process", key="data") as op:
            for item in range(op.progress.get("index", 0), 10):
                if item == dies_at:
                    raise RuntimeError("power cut")
                done.append(item)
                await op.checkpoint(index=item + 1)
            return op.resumed

    with pytest.raises(RuntimeError):
        await work(recovery, dies_at=4)
    second = after_a_crash(recovery)

    assert await work(second) is True
    assert done == list(range(10))
    with pytest.raises(OperationCompletedError):
        await work(second)
    await second.aclose()


@pytest.mark.asyncio
async def test_operation_that_raises_stays_pending_with_the_error(recovery: ErrorRecoveryService) -> None:
    """The error passes as the same object."""
    error = KeyError("inside")
    with pytest.raises(KeyError) as caught:
        await failing(recovery.operation("job", key="1"), error, index=1)

    assert caught.value is error
    assert await pending(recovery) == [{"operation": "job", "key": "1", "status": "pending", "index": 1}]
    async with recovery.operation("job", key="1") as op:
        assert op.resumed
        assert op.progress == {"index": 1}


@pytest.mark.asyncio
async def test_operation_that_is_cancelled_stays_pending(recovery: ErrorRecoveryService) -> None:
    """The cancellation passes at once."""
    entered = asyncio.Event()

    async def work() -> None:
        async with recovery.operation("job", key="1") as op:
            await op.checkpoint(index=1)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await pending(recovery) == [{"operation": "job", "key": "1", "status": "pending", "index": 1}]
    async with recovery.operation("job", key="1") as op:
        assert op.resumed


@pytest.mark.asyncio
async def test_operation_that_was_cancelled_before_it_began_is_not_pending(
    recovery: ErrorRecoveryService,
) -> None:
    """Its block never ran; and it is not busy."""

    async def work() -> None:
        async with recovery.operation("job", key="1"):
            pytest.fail("it does not run")

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await pending(recovery) == []
    async with recovery.operation("job", key="1") as op:
        assert not op.resumed


@pytest.mark.asyncio
async def test_operation_that_was_pending_stays_so_when_its_resumption_is_cancelled(
    recovery: ErrorRecoveryService,
) -> None:
    """Nothing is forgotten by it."""
    await interrupted(recovery, index=1)
    task = asyncio.ensure_future(recovery.operation("job", key="1").__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with recovery.operation("job", key="1") as op:
        assert op.progress == {"index": 1}


@pytest.mark.asyncio
async def test_completed_operation_is_refused_with_its_result(recovery: ErrorRecoveryService) -> None:
    """Also in the next life."""
    async with recovery.operation("rebalance", key="today") as op:
        op.result = {"orders": 3, "at": datetime(2026, 11, 25, tzinfo=UTC)}
    next_life = after_a_crash(recovery)
    for service in (recovery, next_life):
        with pytest.raises(
            OperationCompletedError, match="'rebalance' with key 'today' was completed"
        ) as caught:
            async with service.operation("rebalance", key="today"):
                pytest.fail("it does not run")
        assert caught.value.result == {"orders": 3, "at": datetime(2026, 11, 25, tzinfo=UTC)}
    await next_life.aclose()


@pytest.mark.asyncio
async def test_running_operation_is_refused_at_a_second_place(recovery: ErrorRecoveryService) -> None:
    """Two at once would both resume from the same checkpoint; another key is another operation."""
    async with recovery.operation("job", key="1"):
        with pytest.raises(OperationBusyError, match="'job' with key '1' is running"):
            async with recovery.operation("job", key="1"):
                pytest.fail("it does not run")
        async with recovery.operation("job", key="2"):
            pass
        async with recovery.operation("job"):
            pass


@pytest.mark.asyncio
async def test_operation_without_a_key_may_begin_again_when_it_ended(recovery: ErrorRecoveryService) -> None:
    """There is one of its name at a time, and it is resumed like any other."""
    for _ in range(2):
        async with recovery.operation("sweep") as op:
            assert not op.resumed
            with pytest.raises(OperationBusyError):
                await recovery.operation("sweep").__aenter__()
    with pytest.raises(KeyError):
        await failing(recovery.operation("sweep"), KeyError(), index=7)
    async with recovery.operation("sweep") as op:
        assert op.progress == {"index": 7}


@pytest.mark.asyncio
@pytest.mark.parametrize("raises", [False, True])
async def test_abandoned_operation_may_begin_again_from_nothing(
    recovery: ErrorRecoveryService, raises: bool
) -> None:
    """The way out for one that can never succeed."""
    await interrupted(recovery, index=1)
    with pytest.raises(ValueError) if raises else warnings.catch_warnings():
        async with recovery.operation("job", key="1") as op:
            op.abandon()
            if raises:
                raise ValueError("no such symbol")

    async with recovery.operation("job", key="1") as op:
        assert op.progress == {}
        assert not op.resumed


@pytest.mark.asyncio
async def test_pending_operations_follow_the_saved_ones(recovery: ErrorRecoveryService) -> None:
    """Oldest first; the rest of the state is what was saved."""
    await recovery.save_state(active_operations=[{"operation": "saved"}], configuration={"mode": "paper"})
    for name in ("b", "a"):
        with pytest.raises(KeyError):
            async with recovery.operation(name):
                raise KeyError

    state = await recovery.restore_state()

    assert state is not None
    assert state.configuration == {"mode": "paper"}
    assert [one["operation"] for one in state.active_operations] == ["saved", "b", "a"]


@pytest.mark.asyncio
async def test_looking_for_a_state_makes_no_journal(recovery: ErrorRecoveryService) -> None:
    """Who uses no operation has no directory for them, and no lock."""
    assert await recovery.restore_state() is None
    await recovery.save_state(force=True)
    await recovery.aclose()

    assert not (recovery.state_dir / "journal").exists()


@pytest.mark.asyncio
async def test_details_are_those_of_the_first_beginning(recovery: ErrorRecoveryService) -> None:
    """A resumed operation goes on with what it was begun with."""
    operation = recovery.operation("job", key="1", service_name="broker", size=Decimal(2))
    with pytest.raises(KeyError):
        await failing(operation, KeyError())
    assert operation.details == {"size": Decimal(2)}
    async with recovery.operation("job", key="1", size=Decimal(3)) as op:
        assert op.details == {"size": Decimal(2)}


@pytest.mark.asyncio
async def test_secrets_never_reach_the_journal_without_a_key(recovery: ErrorRecoveryService) -> None:
    """Neither as details nor inside of an error's text; a warning tells where they were."""
    with pytest.raises(RuntimeError), pytest.warns(SecretNotSavedWarning, match=r"details\.api_key"):
        async with recovery.operation("job", key="1", api_key="S3cret-value"):
            raise RuntimeError("refused: api_key=S3cret-value")
    await recovery.aclose()
    written = b"".join(path.read_bytes() for path in (recovery.state_dir / "journal").iterdir())
    assert b"S3cret-value" not in written
    assert b"refused" in written

    async with recovery.operation("job", key="1") as op:
        assert op.details == {"api_key": Redacted("details.api_key")}


@pytest.mark.asyncio
async def test_secrets_are_encrypted_with_a_key(tmp_path: Path) -> None:
    """And come back as they were."""
    fernet = pytest.importorskip("cryptography.fernet")
    key = fernet.Fernet.generate_key()
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", encryption_key=key)
    with pytest.raises(KeyError):
        await failing(recovery.operation("job", api_key="S3cret-value"), KeyError(), password="another")
    await recovery.aclose()
    written = b"".join(path.read_bytes() for path in (recovery.state_dir / "journal").iterdir())
    assert b"S3cret-value" not in written
    assert b"another" not in written

    async with recovery.operation("job") as op:
        assert op.details == {"api_key": "S3cret-value"}
        assert op.progress == {"password": "another"}
    await recovery.aclose()


LEAKY: dict[str, Any] = {
    "token": "S3cret-value",
    "headers": [("Authorization", "S3cret-value")],
    "url": "https://venue.example/orders?symbol=AAPL&signature=S3cret-value",
    "note": ["user:S3cret-value", {"said": "refused: token=S3cret-value (try again)"}],
    "proxy": ("https://bot:S3cret-value@proxy.example",),
}


def in_the_journal(recovery: ErrorRecoveryService) -> bytes:
    return b"".join(path.read_bytes() for path in (recovery.state_dir / "journal").iterdir())


@pytest.mark.asyncio
async def test_details_get_the_care_of_the_error_log(recovery: ErrorRecoveryService) -> None:
    """They are for people: names as in the log, and secrets in URLs and other texts, which stay readable."""
    recovery.register_secret("S3cret-value")
    with (
        pytest.warns(SecretNotSavedWarning, match=r"details\.token, .*details\.note\[1\]\.said"),
        pytest.raises(KeyError),
    ):
        await failing(recovery.operation("job", **LEAKY), KeyError())
    await recovery.aclose()
    assert b"S3cret-value" not in in_the_journal(recovery)

    async with recovery.operation("job") as op:
        assert op.details["token"] == Redacted("details.token")
        assert op.details["url"] == "https://venue.example/orders?symbol=AAPL&signature=***"
        assert op.details["note"] == ["user:***", {"said": "refused: token=*** (try again)"}]
        assert op.details["proxy"] == ("https://bot:***@proxy.example",)


@pytest.mark.asyncio
async def test_details_come_back_whole_with_a_key(tmp_path: Path) -> None:
    """A text that holds a secret is encrypted as a whole."""
    fernet = pytest.importorskip("cryptography.fernet")
    recovery = ErrorRecoveryService(
        tmp_path / "state", tmp_path / "errors", encryption_key=fernet.Fernet.generate_key()
    )
    recovery.register_secret("S3cret-value")
    with pytest.raises(KeyError):
        await failing(recovery.operation("job", **LEAKY), KeyError())
    await recovery.aclose()
    assert b"S3cret-value" not in in_the_journal(recovery)

    async with recovery.operation("job") as op:
        assert op.details == LEAKY
    await recovery.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("has_key", [False, True], ids=["without a key", "with a key"])
async def test_secret_in_the_key_of_a_dict_is_cleaned_in_the_details(tmp_path: Path, has_key: bool) -> None:
    """Nor does it stand in the path of what was left out; keys that are the same then are told apart."""
    fernet = pytest.importorskip("cryptography.fernet")
    key = fernet.Fernet.generate_key() if has_key else None
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", encryption_key=key)
    recovery.register_secret("S3cret-value")
    details = {"seen": {"token=S3cret-value": 1, "token=S3cret-other": "a text", "GET S3cret-value": ["b"]}}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(KeyError):
            await failing(recovery.operation("job", **details), KeyError())
    await recovery.aclose()
    assert b"S3cret" not in in_the_journal(recovery)
    assert "S3cret" not in " ".join(str(warning.message) for warning in warned)

    async with recovery.operation("job") as op:
        assert list(op.details["seen"]) == ["token=***", "token=****", "GET ***"]
        assert op.details["seen"]["GET ***"] == ["b"]
    await recovery.aclose()


@pytest.mark.asyncio
async def test_details_are_left_alone_without_redaction(tmp_path: Path) -> None:
    """``redact=()`` turns it off."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors", redact=())
    async with recovery.operation("job", **LEAKY) as op:
        assert op.details == LEAKY
    await recovery.aclose()


@pytest.mark.asyncio
async def test_token_of_a_page_comes_back_in_the_progress(recovery: ErrorRecoveryService) -> None:
    """A job could not go on without it: progress and results are kept like the state."""
    with pytest.raises(KeyError):
        await failing(recovery.operation("job"), KeyError(), page_token="p2", next="/items?page_token=p2")

    async with recovery.operation("job") as op:
        assert op.progress == {"page_token": "p2", "next": "/items?page_token=p2"}


@dataclass
class Unregistered:
    """A class that the codec does not know."""

    x: int = 1


@pytest.mark.asyncio
async def test_value_that_could_not_come_back_is_refused_where_it_is_given(
    recovery: ErrorRecoveryService,
) -> None:
    """With its path; what was known before still is."""
    with pytest.raises(
        UnsavableValueError, match=r"nothing was written to the journal: details\.thing is of"
    ):
        async with recovery.operation("job", key="1", thing=Unregistered()):
            pytest.fail("it does not run")
    async with recovery.operation("job", key="1") as op:
        await op.checkpoint(index=1)
        with pytest.raises(UnsavableValueError, match=r"progress\.thing"):
            await op.checkpoint(thing=Unregistered())
        with pytest.raises(RecordTooLargeError):
            await op.checkpoint(text="x" * 2_000_000)
        assert op.progress == {"index": 1}
    with pytest.raises(UnsavableValueError, match="result is of"):
        async with recovery.operation("job", key="2") as op:
            op.result = Unregistered()
    assert [one["key"] for one in await pending(recovery)] == ["2"]


@pytest.mark.asyncio
async def test_progress_is_a_copy_of_what_was_given(recovery: ErrorRecoveryService) -> None:
    """What the program changes later is not on the disk, and not in `progress` either."""
    async with recovery.operation("job") as op:
        symbols = ["A"]
        await op.checkpoint(symbols=symbols)
        symbols.append("B")
        op.progress["symbols"] = None

        assert op.progress == {"symbols": ["A"]}


@pytest.mark.asyncio
async def test_operation_of_a_class_that_is_gone_hides_no_other(recovery: ErrorRecoveryService) -> None:
    """It is shown with what is wrong, and refused when it should go on."""

    @register_type(name="tests.journal.gone")
    @dataclass
    class Gone:
        x: int

    await interrupted(recovery, thing=Gone(1))
    with pytest.raises(KeyError):
        async with recovery.operation("other"):
            raise KeyError
    from shockproof.memory.state import registered_types

    registered = registered_types._by_name.pop("tests.journal.gone")
    try:
        shown = await pending(recovery)
        assert [one["operation"] for one in shown] == ["job", "other"]
        assert "tests.journal.gone" in shown[0]["error"]
        with pytest.raises(StateVersionError, match=r"tests\.journal\.gone"):
            await recovery.operation("job", key="1").__aenter__()
    finally:
        registered_types._by_name["tests.journal.gone"] = registered
    async with recovery.operation("job", key="1") as op:
        assert op.progress == {"thing": Gone(1)}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["operation", "key", "status"])
async def test_checkpoint_may_not_hide_what_active_operations_says(
    recovery: ErrorRecoveryService, name: str
) -> None:
    """Its names stand beside the progress."""
    async with recovery.operation("job") as op:
        with pytest.raises(ValueError, match=rf"checkpoint\({name}=\.\.\.\)"):
            await op.checkpoint(**{name: 1})


@pytest.mark.asyncio
async def test_operation_is_used_inside_of_its_block_only(recovery: ErrorRecoveryService) -> None:
    """Each refusal says how."""
    op = recovery.operation("job")
    for use in (lambda: op.checkpoint(index=1), op.abandon):
        with pytest.raises(RuntimeError, match="inside of the block"):
            await use()
    async with op:
        with pytest.raises(RuntimeError, match="entered already"):
            await op.__aenter__()
    async with op:
        assert not op.resumed


@pytest.mark.asyncio
@pytest.mark.parametrize(("name", "key"), [("", None), (1, None), ("a", ""), ("a", 5)])
async def test_names_and_keys_are_checked(recovery: ErrorRecoveryService, name: Any, key: Any) -> None:
    """Where they are given."""
    with pytest.raises((TypeError, ValueError), match=r"name|key"):
        recovery.operation(name, key=key)


@pytest.mark.asyncio
async def test_operation_that_cannot_be_journalled_does_not_run(tmp_path: Path) -> None:
    """Nothing that has to be known after a crash is done without being known."""
    (tmp_path / "state").write_text("a file in the way")
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")

    with pytest.raises(JournalUnavailableError, match="state_dir"):
        async with recovery.operation("job"):
            pytest.fail("it does not run")
    assert recovery.get_health_status()["journal"]["state"] == "failed"


@pytest.mark.asyncio
async def test_health_tells_of_the_journal(recovery: ErrorRecoveryService) -> None:
    """Whether it is open, and how many operations are pending."""
    assert recovery.get_health_status()["journal"] == {
        "state": "closed",
        "pending": 0,
        "last_error": None,
        "incomplete": None,
        "owned_elsewhere": None,
    }
    async with recovery.operation("job"):
        assert recovery.get_health_status()["journal"] == {
            "state": "open",
            "pending": 1,
            "last_error": None,
            "incomplete": None,
            "owned_elsewhere": None,
        }
    assert recovery.get_health_status()["journal"]["pending"] == 0


@pytest.mark.asyncio
async def test_operation_that_was_saved_again_as_pending_and_has_ended_since_is_pending_no_more(
    tmp_path: Path,
) -> None:
    """Or a program that saves what it has restored would look for it in each of its lives."""
    own = {"operation": "of another journal", "key": "k", "status": "pending"}
    first = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    async with first.operation("rebalance", key="k"):
        restored = await first.restore_state()
        assert restored is not None
        assert [one["key"] for one in restored.active_operations] == ["k"]
        await first.save_state([own, *restored.active_operations])
    await first.aclose()
    second = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    assert await pending(second) == [own]
    async with second.operation("open", key="1"):
        assert [one["key"] for one in await pending(second)] == ["k", "1"]
    await second.aclose()


@pytest.mark.asyncio
async def test_operation_that_was_restored_and_saved_again_is_told_once(tmp_path: Path) -> None:
    """The journal knows it better: its last checkpoint counts. What is the program's own stays."""
    own = [
        {"operation": "rebalance", "symbol": "AAPL", "status": "pending"},
        {"operation": "rebalance", "key": ["k"], "status": "pending"},
        {"operation": "rebalance", "key": "k", "status": "done"},
    ]
    first = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")

    async def job() -> None:
        async with first.operation("rebalance", key="k") as op:
            await op.checkpoint(index=1)
            restored = await first.restore_state()
            assert restored is not None
            await first.save_state([*own, *restored.active_operations])
            await op.checkpoint(index=2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await job()
    await first.aclose()

    state = await ErrorRecoveryService(tmp_path / "state", tmp_path / "errors").restore_state()
    assert state is not None
    assert state.active_operations == [
        *own,
        {"operation": "rebalance", "key": "k", "status": "pending", "index": 2},
    ]


WORKER = """
import asyncio, itertools, sys
from shockproof import ErrorRecoveryService

async def work(recovery, name, life):
    for number in itertools.count():
        key = f"{life}.{number}"
        async with recovery.operation(name, key=key) as op:
            print("begun", name, key, 0, flush=True)
            for index in range(1, 4):
                await op.checkpoint(index=index, text="x" * 50)
                print("step", name, key, index, flush=True)
            op.result = key
        print("ended", name, key, 4, flush=True)

async def main():
    recovery = ErrorRecoveryService(sys.argv[1], sys.argv[2])
    await asyncio.gather(*(work(recovery, f"worker-{n}", sys.argv[3]) for n in range(4)))

asyncio.run(main())
"""


def test_nothing_that_was_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """SIGKILL at random moments, life after life, in one directory."""
    state, errors = tmp_path / "state", tmp_path / "errors"
    rng = random.Random(20261125)
    told: dict[tuple[str, str], int] = {}
    for life in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(state), str(errors), str(life)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout as lines:
            for _ in range(rng.randrange(1, 400)):
                note(told, lines.readline())
            os.kill(process.pid, signal.SIGKILL)
            for line in lines:
                note(told, line)
        assert process.returncode == -signal.SIGKILL

    asyncio.run(check(ErrorRecoveryService(state, errors), told))
    assert len(told) > 50


def note(told: dict[tuple[str, str], int], line: str) -> None:
    if not line.endswith("\n"):
        return  # it was killed in the middle of saying so
    _, name, key, index = line.split()
    told[name, key] = int(index)


async def check(recovery: ErrorRecoveryService, told: dict[tuple[str, str], int]) -> None:
    for (name, key), index in told.items():
        result: object = None
        try:
            async with recovery.operation(name, key=key) as op:
                assert op.resumed, f"{name} {key} was begun, and is not known"
                assert index < 4, f"{name} {key} was completed, and is not"
                assert op.progress.get("index", 0) >= index
        except OperationCompletedError as error:
            result = error.result
        # It may have been completed, and died before it could say so.
        assert result == key or (result is None and index < 4)
    await recovery.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("risk_reducing", [False, True])
@pytest.mark.parametrize("how", ["task", "thread"])
async def test_a_checkpoint_that_nobody_awaited_does_not_reopen_what_has_ended(
    recovery: ErrorRecoveryService, how: str, risk_reducing: bool
) -> None:
    """Recorded behind the end, it would have the whole job run again."""
    begins = threading.Event()

    def late(operation: Operation) -> None:
        assert begins.wait(60)
        asyncio.run(operation.checkpoint(index=1))

    async with recovery.operation("close_all", key="d", risk_reducing=risk_reducing) as op:
        if how == "task":
            checkpoint = asyncio.ensure_future(op.checkpoint(index=1))
        else:
            checkpoint = asyncio.ensure_future(asyncio.to_thread(late, op))
    begins.set()
    with pytest.raises(RuntimeError, match="belongs inside of the block"):
        await checkpoint
    assert await pending(recovery) == []
    with pytest.raises(OperationCompletedError):
        async with recovery.operation("close_all", key="d"):
            pytest.fail("it ran again")


@pytest.mark.asyncio
async def test_a_checkpoint_on_its_way_does_not_land_in_the_next_block(
    recovery: ErrorRecoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread passed the check before the end of the block, and comes to the journal after it."""
    passed, goes_on = threading.Event(), threading.Event()
    check = Operation._require_this_process

    def slow(operation: Operation) -> None:
        check(operation)
        if threading.current_thread() is not threading.main_thread():
            passed.set()
            assert goes_on.wait(60)

    monkeypatch.setattr(Operation, "_require_this_process", slow)
    async with recovery.operation("close_all", key="d") as op:
        await op.checkpoint(index=5)
        late = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(op.checkpoint(index=1))))
        assert await asyncio.to_thread(passed.wait, 60)
    goes_on.set()
    with pytest.raises(RuntimeError, match="belongs inside of the block"):
        await late
    assert await pending(recovery) == []
