"""A journal's identity is its own, and is told to nobody before the journal knows what it does not know."""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from shockproof.memory.disk.file_layer import FileStamp, SystemFiles
from shockproof.memory.journal.identity import IDENTITY_NAME, Identity, identity_with, read_identity
from shockproof.memory.journal.incomplete import INCOMPLETE_NAME, OwnedElsewhere, read_incomplete
from shockproof.memory.journal.journal import Journal
from shockproof.memory.journal.journal_files import JournalFiles
from shockproof.vocabulary.moment import Moment
from tests.memory.disk.crash_histories import Known, complaints_where_calls_fail, crash_everywhere
from tests.memory.disk.simulated_disk import SimulatedDisk

LAYER = SystemFiles()
HOME = Path("/state/journal")
AT = Moment(1_000.0, 10.0, "a boot")


class Disk(SimulatedDisk):
    """What a crash leaves has the numbers that it had."""

    def stamp(self, path: Path, *, follow_links: bool = True) -> FileStamp:
        return super().stamp(path, follow_links=follow_links)._replace(number=7)


class Told(NamedTuple):
    """What the store may hold for all that the program knows."""

    identity: str = "of another journal"


class TakesOver:
    """A journal that takes an account over from another one; once more in each life."""

    def __init__(self, at_first: str) -> None:
        self.at_first = Told(at_first)

    def live(self, disk: SimulatedDisk, facts: Told, life: int) -> Known[Told]:
        known = Known(disk, facts)
        journal = Journal(HOME, layer=disk, segment_bytes=1536)

        async def take_over() -> None:
            identity = await journal.take_over("account 7", facts.identity, AT)
            known.now(Told(identity))
            await journal.aclose()

        try:
            asyncio.run(take_over())
        except Exception:  # noqa: BLE001 - the disk refuses: then it is not told
            journal._files.close()
        return known

    def complaint(self, disk: SimulatedDisk, facts: Told) -> str | None:
        is_told = facts != self.at_first
        if not read_identity(disk, HOME).follows(facts.identity, "account 7"):
            return "it was told, and is not its own" if is_told else None
        if not is_told:
            return "it is taken for the other one's"
        return None if read_incomplete(disk, HOME).elsewhere is not None else "it is believed to know all"


@pytest.mark.parametrize("former", ["of another journal", ""])
def test_after_a_crash_at_any_moment_it_knows_that_it_does_not_know_all(former: str) -> None:
    """Or the store was not told of it, so that the next life finds the other one's there."""
    findings = crash_everywhere(TakesOver(former), Disk, second_life_each=40)
    assert findings.wrong == []
    assert findings.second_crashes > 50, findings


@pytest.mark.parametrize("is_lasting", [False, True])
def test_a_disk_that_refuses_at_any_call_lets_it_be_told_only_when_all_is_durable(
    *, is_lasting: bool
) -> None:
    """It is asked again, and until then nobody is told."""
    calls, wrong = complaints_where_calls_fail(
        TakesOver("of another journal"), errno.EIO, is_lasting=is_lasting, make_disk=Disk
    )
    assert wrong == []
    assert calls > 20


def test_a_copy_has_no_identity_of_its_own_and_knows_the_accounts(tmp_path: Path) -> None:
    """What its original did since is not in it."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    text = identity_with(LAYER, original, "account 7")
    assert identity_with(LAYER, original, "account 7") == text
    shutil.copytree(original, copy)
    assert read_identity(LAYER, copy) == Identity(None, frozenset({"account 7"}), is_there=True)
    of_the_copy = identity_with(LAYER, copy, "account 8")
    assert of_the_copy != text
    assert read_identity(LAYER, copy) == Identity(of_the_copy, frozenset({"account 7", "account 8"}), True)
    original.rename(tmp_path / "renamed")
    assert read_identity(LAYER, tmp_path / "renamed").text == text, "it is the same one under another name"


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"identity": "x"}', b"\0" * 300, b"[" * 9000])
def test_a_damaged_one_is_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    """Whatever was known by it is not known any more."""
    (tmp_path / IDENTITY_NAME).write_bytes(content)
    assert read_identity(LAYER, tmp_path) == Identity(is_there=True)
    text = identity_with(LAYER, tmp_path, "account 7")
    assert read_identity(LAYER, tmp_path) == Identity(text, frozenset({"account 7"}), is_there=True)


def test_of_two_processes_that_make_it_at_the_same_time_both_have_that_of_the_first(tmp_path: Path) -> None:
    """Two bots over one directory start together."""

    class Late(SystemFiles):
        """Somebody else is faster in the last moment."""

        def link(self, existing: Path, new: Path) -> None:
            if not new.exists():
                shutil.rmtree(new.parent / "theirs", ignore_errors=True)
                identity_with(LAYER, new.parent / "theirs", "account 7")
                (new.parent / "theirs" / IDENTITY_NAME).rename(new)
            super().link(existing, new)

    text = identity_with(Late(), tmp_path, "account 7")
    assert read_identity(LAYER, tmp_path).text == text
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [IDENTITY_NAME]


def test_where_files_have_one_name_each_it_is_made_all_the_same(tmp_path: Path) -> None:
    """Some network shares know no hard links."""

    class NoLinks(SystemFiles):
        """Refuses a second name."""

        def link(self, existing: Path, new: Path) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    text = identity_with(NoLinks(), tmp_path, "account 7")
    assert read_identity(LAYER, tmp_path).text == text


@pytest.mark.parametrize(
    ("former", "follows"), [("mine", True), ("theirs", False), ("", False), (None, False)]
)
def test_it_follows_itself_alone_where_it_was_told_of_the_account(
    *, former: str | None, follows: bool
) -> None:
    """None in the store is a store that has lost its data; of an account that is new here it is the first owner of all."""
    assert Identity("mine", frozenset({"account 7"})).follows(former, "account 7") is follows
    assert Identity("mine", frozenset({"account 7"})).follows(None, "account 8")
    assert Identity().follows(None, "account 7")
    assert not Identity().follows("", "account 7")


@pytest.mark.parametrize("mark", ['{"reason": "r", "owned_elsewhere": 3}', '{"owned_elsewhere": {}}'])
def test_a_mark_whose_words_cannot_be_read_counts_as_a_loss(tmp_path: Path, mark: str) -> None:
    """That it is there is what counts."""
    (tmp_path / INCOMPLETE_NAME).write_text(mark)
    assert read_incomplete(LAYER, tmp_path).lost is not None


def test_a_journal_of_a_former_owner_that_is_damaged_besides_knows_of_both(tmp_path: Path) -> None:
    """Neither takes the place of the other."""
    files = JournalFiles(tmp_path, layer=LAYER, segment_bytes=4096)
    files.open()
    elsewhere = OwnedElsewhere("somebody else", AT)
    files.mark_owned_elsewhere(elsewhere)
    files.close()
    for segment in tmp_path.glob("journal-*"):
        segment.unlink()
    files.open()
    files.close()
    lost, still = read_incomplete(LAYER, tmp_path)
    assert still == elsewhere
    assert lost is not None
