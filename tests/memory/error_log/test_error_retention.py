"""Old files go by the date in their names, closed days are compressed, and nothing else is touched."""

from __future__ import annotations

import gzip
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.error_log.error_files import file_name
from shockproof.memory.error_log.error_retention import Retention

TODAY = date(2026, 11, 25)


def days_ago(days: int, part: int = 0) -> str:
    return file_name(TODAY - timedelta(days=days), part)


def fill(directory: Path, *names: str, size: int = 10) -> None:
    for name in names:
        (directory / name).write_bytes(b"x" * size)


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def tidy(retention: Retention, today: date = TODAY) -> None:
    for _ in retention.steps(today):
        pass


def test_days_beyond_the_kept_ones_are_deleted(tmp_path: Path) -> None:
    """All parts of them, compressed or not; strangers, links and directories stay."""
    fill(tmp_path, days_ago(0), days_ago(2), days_ago(2, 1), days_ago(3), days_ago(3, 7), days_ago(9) + ".gz")
    fill(tmp_path, "errors_2026.jsonl", "errors_20200101.jsonl.bak", "system_state.json")
    (tmp_path / days_ago(50)).mkdir()
    (tmp_path / days_ago(51)).symlink_to(tmp_path / "system_state.json")
    tidy(Retention(tmp_path, keep_days=2))

    assert left(tmp_path) == {
        days_ago(0), days_ago(2), days_ago(2, 1), days_ago(50), days_ago(51),
        "errors_2026.jsonl", "errors_20200101.jsonl.bak", "system_state.json",
    }  # fmt: skip


def test_todays_files_are_never_deleted(tmp_path: Path) -> None:
    """However little is to be kept, and whatever the clock says of the future."""
    fill(tmp_path, days_ago(-1), days_ago(0), days_ago(0, 1), days_ago(1), size=1_000)
    tidy(Retention(tmp_path, keep_days=0, keep_bytes=0))

    assert left(tmp_path) == {days_ago(-1), days_ago(0), days_ago(0, 1)}


def test_the_oldest_files_go_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    """Part by part, and what is compressed of one goes with the rest of it."""
    fill(tmp_path, days_ago(0), days_ago(1), days_ago(2, 1), days_ago(2, 10), days_ago(3), size=100)
    fill(tmp_path, days_ago(2), days_ago(2) + ".gz", size=50)
    tidy(Retention(tmp_path, keep_bytes=500))
    first = left(tmp_path)
    tidy(Retention(tmp_path, keep_bytes=499))
    second = left(tmp_path)
    tidy(Retention(tmp_path, keep_bytes=300))

    assert first == {
        days_ago(0), days_ago(1), days_ago(2), days_ago(2) + ".gz", days_ago(2, 1), days_ago(2, 10)
    }  # fmt: skip
    assert second == {days_ago(0), days_ago(1), days_ago(2, 1), days_ago(2, 10)}
    assert left(tmp_path) == {days_ago(0), days_ago(1), days_ago(2, 10)}


def test_a_storm_that_was_larger_than_all_that_is_kept_leaves_its_end(tmp_path: Path) -> None:
    """Yesterday is not gone at midnight because it was a bad day."""
    fill(tmp_path, days_ago(0), days_ago(1), *(days_ago(1, part) for part in range(1, 12)), size=100)
    tidy(Retention(tmp_path, keep_bytes=350))

    assert left(tmp_path) == {days_ago(0), days_ago(1, 10), days_ago(1, 11)}


def test_closed_days_are_compressed_but_not_yesterday(tmp_path: Path) -> None:
    """Yesterday's file may still get late records; what is compressed is read as before."""
    fill(tmp_path, days_ago(0), days_ago(1))
    (tmp_path / days_ago(2)).write_bytes(b"line\n" * 200_000)
    tidy(Retention(tmp_path, compress=True))

    assert left(tmp_path) == {days_ago(0), days_ago(1), days_ago(2) + ".gz"}
    assert gzip.decompress((tmp_path / (days_ago(2) + ".gz")).read_bytes()) == b"line\n" * 200_000
    assert (tmp_path / (days_ago(2) + ".gz")).stat().st_mode & 0o777 == 0o600


def test_late_records_join_their_compressed_day(tmp_path: Path) -> None:
    """And doing it again changes nothing."""
    packed = tmp_path / (days_ago(2) + ".gz")
    packed.write_bytes(gzip.compress(b"early\n"))
    (tmp_path / days_ago(2)).write_bytes(b"late\n")
    tidy(Retention(tmp_path, compress=True))
    tidy(Retention(tmp_path, compress=True))

    assert gzip.decompress(packed.read_bytes()) == b"early\nlate\n"
    assert left(tmp_path) == {packed.name}


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_crash_at_any_step_loses_and_doubles_nothing(tmp_path: Path, steps: int) -> None:
    """Stopped anywhere, the next run ends what was begun."""
    packed = tmp_path / (days_ago(2) + ".gz")
    packed.write_bytes(gzip.compress(b"early\n"))
    (tmp_path / days_ago(2)).write_bytes(b"late\n" * 100_000)
    run = Retention(tmp_path, compress=True).steps(TODAY)
    for _ in range(steps):
        next(run, None)
    run.close()
    tidy(Retention(tmp_path, compress=True))

    assert gzip.decompress(packed.read_bytes()) == b"early\n" + b"late\n" * 100_000
    assert left(tmp_path) == {packed.name}


def test_a_crash_between_replacing_and_deleting_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compressed file's own checksum tells that the plain one is in it."""
    (tmp_path / days_ago(2)).write_bytes(b"line\n")

    def crash(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            tidy(Retention(tmp_path, compress=True))
    between = left(tmp_path)
    tidy(Retention(tmp_path, compress=True))

    assert days_ago(2) in between
    assert gzip.decompress((tmp_path / (days_ago(2) + ".gz")).read_bytes()) == b"line\n"
    assert left(tmp_path) == {days_ago(2) + ".gz"}


def test_a_file_that_grows_meanwhile_is_kept(tmp_path: Path) -> None:
    """Another process writes to it: another time, then."""
    plain = tmp_path / days_ago(2)
    plain.write_bytes(b"line\n")
    run = Retention(tmp_path, compress=True).steps(TODAY)
    while len(left(tmp_path)) == 1:
        next(run)
    with plain.open("ab") as other:
        other.write(b"more\n")
    for _ in run:
        pass

    assert left(tmp_path) == {plain.name}
    assert plain.read_bytes() == b"line\nmore\n"


@given(
    names=st.sets(
        st.one_of(
            st.builds(file_name, st.dates(date(2026, 11, 1), date(2026, 12, 24)), st.integers(0, 3)),
            st.from_regex(r"errors_[0-9]{7,9}(_[0-9])?\.jsonl(\.gz)?x?", fullmatch=True),
            st.sampled_from(["errors.jsonl", "errors_20261101.json", "x_errors_20261101.jsonl"]),
        ),
        max_size=20,
    ),
    keep_days=st.none() | st.integers(0, 10**7),
    keep_bytes=st.none() | st.integers(0, 200),
)
def test_no_file_of_today_and_no_foreign_file_ever_goes(
    tmp_path_factory: pytest.TempPathFactory, names: set[str], keep_days: int | None, keep_bytes: int | None
) -> None:
    """Whatever the names and the settings."""
    directory = tmp_path_factory.mktemp("errors")
    fill(directory, *names)
    tidy(Retention(directory, keep_days=keep_days, keep_bytes=keep_bytes))
    gone = names - left(directory)

    assert all(name.startswith("errors_") and date.fromisoformat(name[7:15]) for name in gone)
    assert all(name[7:15] < TODAY.strftime("%Y%m%d") for name in gone)
    if keep_days is not None and keep_bytes is None:
        assert all(date.fromisoformat(name[7:15]) < TODAY - timedelta(days=keep_days) for name in gone)
