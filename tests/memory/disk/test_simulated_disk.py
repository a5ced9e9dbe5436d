"""The simulated disk answers as the real one does, and keeps at a crash what was synced, and any part of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shockproof.memory.disk.durable_file import Replacement, replace_durably
from shockproof.memory.disk.file_layer import FileLayer, SystemFiles
from tests.memory.disk.simulated_disk import SimulatedDisk, crash_states

HOME = Path("/home")


def written(layer: FileLayer, path: Path, data: bytes) -> int:
    handle = layer.create(path)
    rest = memoryview(data)
    while rest:
        rest = rest[layer.write(handle, rest) :]
    return handle


def whatever_the_library_does(layer: FileLayer, home: Path) -> list[object]:
    """What each call answers, or the kind of its error."""
    told: list[object] = []

    def tell(call: Callable[[], object]) -> None:
        try:
            told.append(call())
        except OSError as error:
            told.append(type(error))

    handle = written(layer, home / "a", b"12345678")
    layer.fsync(handle)
    layer.close(handle)
    tell(lambda: layer.create(home / "a"))
    layer.link(home / "a", home / "b")
    tell(lambda: layer.link(home / "a", home / "b"))
    tell(lambda: layer.link(home / "none", home / "c"))
    layer.replace(home / "a", home / "b")  # two names of one file: both stay
    tell(lambda: sorted(layer.list_directory(home)))
    layer.unlink(home / "a")
    tell(lambda: layer.unlink(home / "a"))
    tell(lambda: layer.replace(home / "a", home / "b"))
    tell(lambda: layer.read(home / "b", 5))
    tell(lambda: layer.read(home / "a", 5))
    tell(lambda: layer.rewrite(home / "a"))
    tell(lambda: layer.stamp(home / "a"))
    tell(lambda: layer.stamp(home / "b").size)
    tell(lambda: layer.stamp(home / "b") == layer.stamp(home / "b"))
    handle = layer.rewrite(home / "b")
    layer.preallocate(handle, 12)
    tell(lambda: layer.size(handle))
    tell(lambda: [layer.leads_to(home / name, handle) for name in "ab"])
    layer.write(handle, memoryview(b"abc"))
    layer.sync_data(handle)
    layer.close(handle)
    tell(lambda: layer.read(home / "b", 100))
    before = layer.stamp(home / "b")
    layer.close(written(layer, home / "c", b"more"))
    layer.replace(home / "b", home / "c")
    tell(lambda: layer.read(home / "c", 100))
    tell(lambda: layer.stamp(home / "c") == before)
    with layer.locked(home):
        layer.fsync_directory(home)
    tell(lambda: sorted(layer.list_directory(home)))
    layer.make_directory(home / "d")
    tell(lambda: layer.make_directory(home / "d"))
    tell(lambda: layer.make_directory(home / "c"))
    tell(lambda: layer.make_directory(home / "none" / "e"))
    tell(lambda: [layer.is_directory(home / name) for name in ("c", "d", "none")])
    tell(lambda: [layer.list_directory(home / name) for name in ("d", "none")])
    tell(lambda: sorted(layer.list_directory(home)))
    tell(lambda: layer.open_to_append(home / "none" / "f"))
    tell(lambda: layer.open_to_read(home / "none" / "f"))
    for piece in (b"one\n", b"two\n", b"three\n"):
        with layer.open_to_append(home / "d" / "f") as file:
            file.write(piece)
            layer.fsync(file.fileno())
            tell(lambda: layer.size(file.fileno()))
            tell(lambda: layer.leads_to(home / "d" / "f", file.fileno()))
            file.seek(1)
            tell(lambda: file.read(3))
    with layer.open_to_append(home / "d" / "f") as file:
        file.truncate(6)
        file.write(b"4")
    with layer.open_to_read(home / "d" / "f") as source:
        tell(lambda: source.read(5))
        tell(lambda: [source.seek(0), source.read()])
    tell(lambda: layer.is_writable(home / "d"))
    return told


def test_it_answers_as_the_real_disk_does(tmp_path: Path) -> None:
    """What is shown on the one holds for the other."""
    assert whatever_the_library_does(SimulatedDisk(directories=[HOME]), HOME) == whatever_the_library_does(
        SystemFiles(), tmp_path
    )


def after_a_crash(disk: SimulatedDisk) -> list[dict[str, bytes]]:
    return [
        {path.name: data for path, data in files.items()} for files in crash_states(disk, len(disk.steps))
    ]


def test_what_was_synced_is_there_after_any_crash() -> None:
    """The content by its own sync, and the name by that of the directory."""
    disk = SimulatedDisk(directories=[HOME])
    disk.fsync(written(disk, HOME / "a", b"12345678"))
    disk.fsync_directory(HOME)

    assert after_a_crash(disk) == [{"a": b"12345678"}]


def test_of_what_was_not_synced_any_part_may_be_there() -> None:
    """Nothing, a half, the other one, all of it, or zeros in its place; and the name or not."""
    disk = SimulatedDisk(directories=[HOME])
    written(disk, HOME / "a", b"12345678")
    zeros = b"\0\0\0\0"
    contents = [b"", b"1234", zeros + b"5678", zeros + zeros, b"12345678"]

    found = after_a_crash(disk)

    assert sorted(map(str, found)) == sorted(map(str, [{}, *({"a": content} for content in contents)]))


def test_a_name_is_made_durable_by_its_own_directory_only() -> None:
    """A file that moves to another directory is for a while in both, in one, or in none that was synced."""
    aside = HOME / "aside"
    disk = SimulatedDisk({HOME / "a": b"1"}, directories=[aside])
    disk.replace(HOME / "a", aside / "a")

    assert len(list(crash_states(disk, len(disk.steps)))) == 4
    disk.fsync_directory(aside)
    assert {len(files) for files in crash_states(disk, len(disk.steps))} == {1, 2}
    disk.fsync_directory(HOME)
    assert list(crash_states(disk, len(disk.steps))) == [{aside / "a": b"1"}]


def test_what_a_failed_sync_has_dropped_is_not_saved_by_the_next_one() -> None:
    """The kernel takes it for clean."""
    disk = SimulatedDisk({HOME / "a": b"...."})
    handle = disk.rewrite(HOME / "a")
    disk.write(handle, memoryview(b"new!"))
    disk.fails = lambda call, what: what == "fsync"
    with pytest.raises(OSError, match="refuses"):
        disk.fsync(handle)
    disk.fails = lambda call, what: False
    disk.fsync(handle)

    assert disk.read(HOME / "a", 4) == b"new!"
    assert after_a_crash(disk) == [{"a": b"...."}]


def test_a_crash_during_a_replacement_leaves_the_old_or_the_new_file() -> None:
    """At any step; and the new one from the moment that it is reported."""
    old, new = b"old" * 100, b"new" * 150
    disk = SimulatedDisk({HOME / "file": old}, takes=150)
    replace_durably(disk, HOME, [Replacement("file", [new])])

    for steps in range(len(disk.steps) + 1):
        for files in crash_states(disk, steps):
            assert files[HOME / "file"] in ({old, new} if steps < len(disk.steps) else {new})


def test_what_is_in_a_directory_goes_with_its_name() -> None:
    """However durable the file itself is."""
    disk = SimulatedDisk(directories=[HOME])
    disk.make_directory(HOME / "new")
    disk.fsync(written(disk, HOME / "new" / "a", b"1"))
    disk.fsync_directory(HOME / "new")

    assert after_a_crash(disk) == [{}, {"a": b"1"}]
    disk.fsync_directory(HOME)
    assert after_a_crash(disk) == [{"a": b"1"}]


def test_what_was_cut_off_may_be_back() -> None:
    """Until it is synced."""
    disk = SimulatedDisk({HOME / "a": b"123456"})
    with disk.open_to_append(HOME / "a") as file:
        file.truncate(3)
        assert after_a_crash(disk) == [{"a": b"123456"}, {"a": b"123"}]
        disk.fsync(file.fileno())
    assert after_a_crash(disk) == [{"a": b"123"}]
