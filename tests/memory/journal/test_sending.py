"""What the journal is told of one key, by whoever sends it and by what was left behind."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from shockproof.memory.disk.file_layer import SystemFiles
from shockproof.memory.journal.journal import Journal, Session
from shockproof.memory.journal.journal_files import read_journal
from shockproof.memory.journal.journalled_values import JournalledValues
from shockproof.memory.journal.moments import moment_of
from shockproof.memory.journal.operation_table import OperationEntry
from shockproof.memory.journal.sending import (
    Earlier,
    NotFreshError,
    Sending,
    name_of_sending,
    sent_at,
    under_way_until,
)
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import StateSecrets
from shockproof.testing import VirtualClock
from shockproof.vocabulary.errors import JournalLockedError, JournalUnavailableError


def nobody() -> bool:
    return False


class BrokenDisk(SystemFiles):
    """The real disk, until it is broken."""

    is_broken = False

    def sync_data(self, handle: int) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, "broken")
        super().sync_data(handle)


class Desk:
    """Sends one key, by a clock of its own."""

    def __init__(self, directory: Path) -> None:
        self.clock = VirtualClock()
        self.disk = BrokenDisk()
        self.journal = Journal(directory, layer=self.disk)
        self.values = JournalledValues(StateSecrets(SecretNames()))

    def sending(self) -> Sending:
        return Sending(self.journal, self.values, "orders", "a", now=lambda: moment_of(self.clock))

    async def sent(self) -> Sending:
        """One that was sent and whose caller has given up, while it goes on."""
        sending = self.sending()
        await sending.claim(is_under_way=nobody)
        await sending.about_to_send(at_most_for=None, even_without_space=False)
        sending.leave_behind()
        sending.outcome_unknown("cancelled", moment_of(self.clock), is_over=False)
        sending.release()
        return sending

    async def known(self) -> dict[str, Any] | None:
        def look(session: Any) -> dict[str, Any] | None:
            entry = session.table.get(name_of_sending("orders", "a"))
            return None if entry is None else entry.body

        return await self.journal.ask(look)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "journal")


@pytest.mark.asyncio
async def test_nothing_counts_from_a_look_at_what_still_runs(desk: Desk) -> None:
    """It may be sent behind that look, and a crash right then must not find the window half over."""
    left_behind = await desk.sent()

    again = desk.sending()
    assert left_behind.is_left_behind
    assert await again.claim(is_under_way=nobody) == Earlier(0.0, is_there=False)
    again.release()
    known = await desk.known()
    assert known is not None
    assert known["counts_from"] is None

    left_behind.ended_late("OSError", moment_of(desk.clock))
    desk.clock.advance(5.0)
    assert await again.claim(is_under_way=nobody) == Earlier(5.0, is_there=False)
    assert not left_behind.is_left_behind
    again.release()
    await desk.journal.aclose()


@pytest.mark.asyncio
async def test_nothing_counts_from_a_look_while_another_attempt_may_be_a_part_of_it(desk: Desk) -> None:
    """Whoever runs threads inside of an order's function has them counted for the service."""
    sending = await desk.sent()
    sending.ended_late("OSError", moment_of(desk.clock))
    sending.outcome_unknown("cancelled", moment_of(desk.clock), is_over=False)

    await sending.claim(is_under_way=lambda: True)
    sending.release()

    known = await desk.known()
    assert known is not None
    assert known["counts_from"] is None
    await desk.journal.aclose()


@pytest.mark.asyncio
async def test_late_end_tells_nothing_of_what_was_sent_again(desk: Desk) -> None:
    """Two are under way, and only the first is over: the second one's window, and that it is pending, stay."""
    first = await desk.sent()
    second = desk.sending()
    await second.claim(is_under_way=nobody)
    desk.clock.advance(60.0)
    await second.about_to_send(at_most_for=5.0, even_without_space=False)
    before = await desk.known()

    first.ended_late("OSError", moment_of(desk.clock))
    first.is_not_there_late()

    assert await desk.known() == before
    first.is_there_late("the order")
    known = await desk.known()
    assert known is not None
    assert (known["status"], known["result"]) == ("completed", "the order")
    second.release()
    await desk.journal.aclose()


@pytest.mark.parametrize(
    ("known", "sent", "until"),
    [
        ({"begun": 1, "at": 10.0, "sent_at": 15.0}, 10.0, None),
        ({"begun": 2, "at": 10.0, "sent_at": 35.0, "counts_from": {"wall": 35.0}}, None, 35.0),
        ({"begun": 2, "at": 10.0, "sent_at": 35.0, "status": "completed", "ended": 31.0}, None, None),
        ({"begun": 2, "at": 10.0, "sent_at": 30.0, "status": "completed", "ended": 31.0}, 30.0, None),
        ({"begun": 2, "at": 10.0, "sent_at": 30.0, "attempt_at": 30.0, "counts_from": None}, 30.0, None),
        (
            {"begun": 2, "at": 10.0, "sent_at": 30.0, "attempt_at": 30.0, "counts_from": {"wall": 99.0}},
            30.0,
            None,
        ),
    ],
    ids=["first form", "older", "older, ended", "ended", "no limit", "no limit, seen later"],
)
def test_until_when_it_may_run_is_never_taken_for_when_it_was_sent(
    known: dict[str, Any], sent: float | None, until: float | None
) -> None:
    """Also in what an older shockproof summed up, which kept only the one: better none than a wrong one."""
    entry = OperationEntry(name_of_sending("orders", "a"), known)
    assert (sent_at(entry), under_way_until(entry)) == (sent, until)


@pytest.mark.asyncio
async def test_journal_stays_owned_until_what_was_left_behind_has_ended(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process would send the key as well. The end is known before the directory is given up."""
    left_behind = await desk.sent()
    other = Journal(desk.journal.directory)

    for _ in range(2):
        await desk.journal.aclose()
        assert desk.journal.status().state == "open"
    with pytest.raises(JournalLockedError):
        await other.ask(lambda session: None)
    assert "stays locked: 1 that were left behind may still send" in caplog.text

    left_behind.is_there_late("the order")
    await desk.journal.flush()

    assert desk.journal.status().state == "closed"
    assert await other.ask(lambda session: len(session.table.pending())) == 0
    await other.aclose()


@pytest.mark.asyncio
async def test_journal_that_is_used_again_is_not_given_up_for_an_earlier_close(desk: Desk) -> None:
    """Whoever uses it closes it."""
    left_behind = await desk.sent()
    await desk.journal.aclose()
    await desk.known()

    left_behind.ended_late("OSError", moment_of(desk.clock))
    await desk.journal.flush()

    assert desk.journal.status().state == "open"
    await desk.journal.aclose()
    assert desk.journal.status().state == "closed"


@pytest.mark.asyncio
@pytest.mark.parametrize("asks", ["in memory", "on the disk"])
async def test_an_order_of_an_earlier_life_stays_when_it_is_asked_for_before_the_journal_hears_that_nothing_was_sent(
    desk: Desk, asks: str
) -> None:
    """What was not sent is the new attempt. Given up, the old one would be sent again after a crash."""
    earlier = await desk.sent()
    earlier.ended_late("OSError", moment_of(desk.clock))
    await desk.journal.flush()
    held, sending = threading.Event(), desk.sending()
    with pytest.raises(NotFreshError):
        await sending.about_to_send(at_most_for=1.0, even_without_space=False)

    def hold(session: Session) -> None:
        assert held.wait(60)

    desk.journal.tell(hold)
    if asks == "in memory":
        sending.is_not_there()
        assert sending.claim_at_once(is_under_way=nobody) == Earlier(0.0, is_there=False)
    else:
        claiming = asyncio.ensure_future(sending.claim(is_under_way=nobody))
        await asyncio.sleep(0)
        sending.is_not_there()
        claiming.cancel()
    held.set()

    assert (await desk.known() or {})["status"] == "pending"
    sending.release()
    await desk.journal.aclose()


@pytest.mark.asyncio
async def test_what_is_asked_for_and_given_up_before_the_disk_hears_of_it_is_free_again(desk: Desk) -> None:
    """It is in the journal behind that moment, and nothing was sent: nobody would ever settle it."""
    held, sending = threading.Event(), desk.sending()
    assert await desk.known() is None

    def hold(session: Session) -> None:
        assert held.wait(60)

    desk.journal.tell(hold)
    asking = asyncio.ensure_future(sending.about_to_send(at_most_for=1.0, even_without_space=False))
    await asyncio.sleep(0)
    assert not sending.is_claimed
    sending.is_not_there()
    held.set()
    await asking

    assert await desk.known() is None
    sending.release()
    await desk.journal.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("gave_up", ["before the disk refused", "after it refused"])
async def test_what_is_sent_without_the_journal_is_pending_whatever_the_disk_refuses(
    desk: Desk, gave_up: str
) -> None:
    """That it goes out has happened. It is taken back with no batch, and written with the next segment."""
    held, sending = threading.Event(), desk.sending()
    await desk.known()
    desk.disk.is_broken = True

    def hold(session: Session) -> None:
        assert held.wait(30)

    desk.journal.tell(hold)
    asked = asyncio.ensure_future(sending.about_to_send(at_most_for=1.0, even_without_space=True))
    await asyncio.sleep(0)
    if gave_up == "before the disk refused":
        sending.sends_all_the_same(at_most_for=1.0)
    held.set()
    with pytest.raises(JournalUnavailableError):
        await asked
    if gave_up == "after it refused":
        sending.sends_all_the_same(at_most_for=1.0)
    desk.disk.is_broken = False
    await desk.journal.flush()

    assert (await desk.known() or {})["status"] == "pending"
    table = (await asyncio.to_thread(read_journal, desk.disk, desk.journal.directory)).table
    assert [entry.name.key for entry in table.pending()] == ["a"]
    sending.release()
    await desk.journal.aclose()
