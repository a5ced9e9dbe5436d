"""All file work of the library goes through one interface, so that a simulated disk shows what a crash makes of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.house.test_files import none_of

SOURCES = Path(__file__).parents[2] / "src" / "shockproof"

OUTSIDE = {
    "memory/disk/file_layer.py": "the interface itself, for the real disk",
    "memory/disk/append_file.py": "hands what is written to aiofiles",
    "memory/disk/boot.py": "asks the kernel for the number of this boot",
    "memory/stores/file_store.py": "hands its file to SQLite, which locks and syncs it by itself",
    "endpoints/unix_socket.py": "names a socket, of which nothing has to outlive a crash",
    "endpoints/status_page.py": "reads the style and the script that come with the package",
    "integrations/prometheus.py": "reads the dashboards that come with the package",
    "testing/blocking_files.py": "asks whether a descriptor that somebody else uses is a file",
    "command_line": "looks, for a person; what it writes goes through the interface",
    "views": "writes the page that a person asked for",
    "demo": "a program of its own, that uses the library",
}
"""What may go past it, each with its reason; docs/architecture.md says the same."""

MODULES = {"aiofiles", "fcntl", "mmap", "shutil", "tempfile"}
OPENING = {"open", "FileIO"}
OF_OS = {
    "access", "chmod", "chown", "close", "copy_file_range", "dup", "dup2", "fdatasync", "fdopen", "fstat", "fstatvfs",
    "fsync", "ftruncate", "link", "listdir", "lockf", "lseek", "lstat", "makedirs", "mkdir", "mkfifo", "open",
    "posix_fadvise", "posix_fallocate", "pread", "preadv", "pwrite", "pwritev", "read", "readlink", "readv", "remove",
    "removedirs", "rename", "renames", "replace", "rmdir", "scandir", "sendfile", "stat", "statvfs", "symlink",
    "sync", "truncate", "unlink", "utime", "walk", "write", "writev",
}  # fmt: skip
OF_PATHS = {
    "chmod", "exists", "glob", "hardlink_to", "is_dir", "is_file", "is_symlink", "iterdir", "lstat", "mkdir",
    "read_bytes", "read_text", "rename", "rglob", "rmdir", "samefile", "stat", "symlink_to", "touch", "unlink",
    "write_bytes", "write_text",
}  # fmt: skip
"""Not `open` and `replace`: other things have them too. Whoever opens a path is caught by what it then lacks."""


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the name of everything that reaches for a file by itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            )
            yield from ((node.lineno, f"import {name}") for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in OPENING:
            yield node.lineno, node.func.id
        if isinstance(node.func, ast.Attribute):
            of = ast.unparse(node.func.value)
            name = node.func.attr
            is_layer = of.lower().endswith(("layer", "system_files", "systemfiles()"))
            if (
                (of == "os" and name in OF_OS)
                or (of in ("io", "gzip", "bz2", "lzma", "zstd") and name in OPENING)
                or (name in OF_PATHS and of != "os" and not is_layer)
                or (name in ("open", "replace") and "path" in of.lower())
            ):
                yield node.lineno, f"{of}.{name}"


def files_of(name: str) -> list[Path]:
    return [SOURCES / name] if name.endswith(".py") else sorted((SOURCES / name).rglob("*.py"))


def offenders(sources: Path) -> list[str]:
    found: list[str] = []
    for file in sorted(sources.rglob("*.py")):
        name = file.relative_to(sources).as_posix()
        if name in OUTSIDE or name.split("/")[0] in OUTSIDE:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [f"src/shockproof/{name}:{line}: {what}" for line, what in calls(tree)]
    return found


def test_nothing_goes_past_the_interface_for_files() -> None:
    """Or has its reason above: what goes past it is missing in every crash state and every fault that is tried."""
    none_of(offenders(SOURCES))


def test_what_goes_past_is_found(tmp_path: Path) -> None:
    """Each of the ways to reach a file."""
    ways = [
        "import shutil", "from tempfile import mkstemp", "import aiofiles.os", "open(path)", "os.fsync(handle)",
        "path.read_text()", "path.open('rb')", "temporary_path.replace(path)", "gzip.open(path)", "self._path.unlink()",
        "os.open(path, flags)", "io.FileIO(path)", "directory.iterdir()",
    ]  # fmt: skip
    (tmp_path / "new.py").write_text("\n".join(ways))
    harmless = [
        "layer.unlink(path)",
        "self._layer.read(path, 10)",
        "text.replace('a', 'b')",
        "os.getpid()",
        "feed.open()",
    ]
    (tmp_path / "fine.py").write_text("\n".join(harmless))

    assert [line.split(":")[:2] for line in offenders(tmp_path)] == [
        ["src/shockproof/new.py", str(number)] for number in range(1, len(ways) + 1)
    ]


def test_every_exception_is_still_one() -> None:
    """And is named in the documents."""
    gone = [
        name
        for name in OUTSIDE
        if not any(list(calls(ast.parse(file.read_text()))) for file in files_of(name))
    ]
    text = (SOURCES.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert gone == []
    assert [name for name in OUTSIDE if f"`{name}`" not in text] == []
