"""What every file of the repository keeps to."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def files() -> list[Path]:
    """What is in the repository or about to be: everything that git does not ignore."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    return [file for name in names if name and (file := ROOT / name).is_file() and not file.is_symlink()]


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def lines_with(pattern: str, suspects: list[Path]) -> list[str]:
    """Where it stands, in the form that an editor jumps to."""
    wanted = re.compile(pattern)
    return [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in suspects
        for number, line in enumerate(text_of(file).splitlines(), 1)
        if wanted.search(line)
    ]


def none_of(offenders: list[str]) -> None:
    """Fail with every offender on a line of its own, where an assertion would shorten the list."""
    if offenders:
        pytest.fail("\n".join(["found:", *offenders]), pytrace=False)


def test_no_file_names_a_registry_or_a_place_of_one_machine() -> None:
    """Where packages come from, and where a checkout lies, is each user's own affair."""
    # Written in pieces, so that this file does not hold them either.
    registries = ["py" + r"pi\.org", "python" + r"hosted\.org", "npm" + r"js\.org", "deb" + r"ian\.org"]
    places = [
        r"(?<![\w.])/" + name + "/"
        for name in ("wo" + "rk", "tm" + "p", "ro" + "ot", "op" + "t", "ho" + "me")
    ]
    none_of(lines_with("|".join(registries + places), files()))


def test_pins_hold_hashes_and_no_address() -> None:
    """A requirements file installs the same bytes from wherever the user's packages come."""
    pins = sorted((ROOT / "requirements").glob("*.txt"))
    assert [file.stem for file in pins] == ["bench", "check", "demo", "test"]
    none_of(lines_with(r"://|--index|--extra-index|--find-links|--trusted|@ ", pins))
    for file in pins:
        blocks = re.split(r"\n(?=\S)", text_of(file).strip())
        assert [block for block in blocks if "--hash=sha256:" not in block or "==" not in block] == []


@pytest.mark.parametrize("name", ["run", ".ci/run", "requirements/compile"])
def test_what_is_started_by_name_can_be_run(name: str) -> None:
    """The run bit survives on disk and in git."""
    assert os.access(ROOT / name, os.X_OK)
    listed = subprocess.run(
        ["git", "ls-files", "--stage", name], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert listed == "" or listed.startswith("100755 ")


IGNORE = re.compile(
    r"#\s*(?:noqa(?::\s*(?P<ruff>[A-Z]+\d+(?:,\s*[A-Z]+\d+)*))?"
    r"|(?:type|pyright):\s*ignore(?P<types>\[[\w, -]+\])?"
    r"|pragma:\s*no cover)(?P<reason>.*)"
)


def comments(file: Path) -> list[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(text_of(file)).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def python_files() -> list[Path]:
    return [file for file in files() if file.suffix == ".py" or file == ROOT / "run"]


def test_every_ignore_names_its_rule_and_its_reason() -> None:
    """Whoever reads an exception reads why it is one."""
    bare = []
    for file in python_files():
        for number, comment in comments(file):
            for found in IGNORE.finditer(comment):
                named = found["ruff"] or found["types"] or "pragma" in found[0]
                if not named or not re.search(r"\w+ \w+", found["reason"]):
                    bare.append(f"{file.relative_to(ROOT)}:{number}: {comment}")
    none_of(bare)


def statements(file: Path) -> Iterator[list[tokenize.TokenInfo]]:
    """The tokens of each logical line, with the comments on it."""
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(text_of(file)).readline):
        statement.append(token)
        if token.type == tokenize.NEWLINE:
            yield statement
            statement = []


def test_every_any_in_the_sources_has_its_reason_beside_it() -> None:
    """`Any` switches the type checkers off: a comment in the statement says why that is right here."""
    bare = []
    for file in python_files():
        if not file.is_relative_to(ROOT / "src"):
            continue
        for statement in statements(file):
            code = " ".join(token.string for token in statement if token.type in (tokenize.NAME, tokenize.OP))
            # What a coroutine yields and is sent is the event loop's business, and Any everywhere.
            code = code.replace("Coroutine [ Any , Any", "")
            is_explained = any(token.type == tokenize.COMMENT for token in statement)
            if re.search(r"\bAny\b", code) and not code.startswith(("from ", "import ")) and not is_explained:
                number = next(token.start[0] for token in statement if token.type == tokenize.NAME)
                bare.append(f"{file.relative_to(ROOT)}:{number}: {code}")
    none_of(bare)


def test_every_rule_that_is_switched_off_has_its_reason() -> None:
    """pyproject.toml switches nothing off in silence."""
    text = text_of(ROOT / "pyproject.toml")
    ignored = re.findall(r'^    "[A-Z]+\d*",.*$', text[text.index("\nignore = [") :], re.MULTILINE)
    switched_off = re.findall(r'^report\w+ = (?:"none"|false).*$', text, re.MULTILINE)
    disabled = re.findall(
        r"^(?:disable_error_code|ignore_\w+|allow_\w+|follow_untyped_imports) = .*$", text, re.MULTILINE
    )
    assert ignored
    assert switched_off
    assert [line for line in ignored + switched_off if not re.search(r"# \S+ \S+", line)] == []
    assert [line for line in disabled if line.startswith("disable_error_code") and "#" not in line] == []
