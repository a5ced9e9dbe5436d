"""
Every Python example of README, docs and docstrings, run as it stands.

The blocks of one page run one after another in one namespace and on one event loop with virtual
time, in an empty directory. A block may ``await`` at its top level; one that calls a ``run(...)``, or
compares storms, starts a loop of its own, and so is run outside of the page's. What a block prints is what the ``text``
block right below it shows, where ``...`` stands for anything; a block that prints
and has no such block below it fails. Setting the stage may be hidden in ``<!-- invisible-code-block:
python ... -->``, and ``<!-- warns: Category -->`` above a block names the warning it gives.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import logging
import os
import re
import warnings
from collections.abc import Coroutine
from pathlib import Path
from textwrap import dedent
from types import CodeType
from typing import Any

import pytest
from sybil import Document, Example
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import CodeBlockParser

from shockproof import ErrorRecoveryService, get_error_recovery_service, set_error_recovery_service
from shockproof.testing import VirtualTimeLoop

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
NAMES = {path: str(path.relative_to(ROOT)) for path in [*PAGES, *SOURCES]}

_SHOWN = re.compile(r"```\s*\n\s*(?:<!--.*?-->\s*\n\s*)*```text\n(.*?)\n?[ ]*```", re.DOTALL)
_WARNS = re.compile(r"<!-- warns: (\w+) -->\s*\Z")


class Stage:
    """Where the blocks of one page run."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner(loop_factory=VirtualTimeLoop)
        self.names: dict[str, Any] = {"__name__": "page"}

    def run(self, example: Example) -> None:
        """Run one block, and compare what it prints with what the page shows."""
        path, text = Path(example.path), example.document.text
        where = f"{NAMES[path]}:{example.line}"
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        # dont_inherit: this module's own __future__ import is not the page's.
        tree = compile(example.parsed, str(path), "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        ast.increment_lineno(tree, example.line + example.parsed.line_offset)
        code = compile(tree, str(path), "exec", flags, dont_inherit=True)
        printed = io.StringIO()
        warned = _WARNS.search(text, 0, example.region.start)
        with contextlib.redirect_stdout(printed), contextlib.ExitStack() as stack:
            caught: list[warnings.WarningMessage] = []
            if warned:
                caught = stack.enter_context(warnings.catch_warnings(record=True, action="always"))
            if code.co_flags & inspect.CO_COROUTINE:
                self.runner.run(eval(code, self.names))
            elif re.search(r"\b(run|compare_storms)\(", example.parsed):
                exec(code, self.names)
            else:
                self.runner.run(self.execute(code))
        self.names["_block_above"] = str(example.parsed)  # for a hidden block that does more with it
        if warned:
            assert [w.category.__name__ for w in caught] == [warned[1]], f"{where}: the warnings it gives"
        shown = _SHOWN.match(text, text.rfind("```", 0, example.region.end))
        if shown is None:
            assert printed.getvalue() == "", f"{where}: it prints, and the page does not show what"
        else:
            promised = dedent(shown[1])
            expected = re.escape(promised).replace(re.escape("..."), ".*")
            if not re.fullmatch(expected, printed.getvalue().rstrip("\n"), re.DOTALL):
                lie = f"{where}: it prints\n{printed.getvalue()}\nand the page shows\n{promised}"
                raise AssertionError(lie)

    async def execute(self, code: CodeType) -> None:
        exec(code, self.names)

    def close(self) -> None:
        """End as a program ends: what services hold is flushed, and tasks are cancelled."""
        made = [value for value in self.names.values() if isinstance(value, ErrorRecoveryService)]
        for service in {id(one): one for one in [*made, get_error_recovery_service()]}.values():
            self.runner.run(service.aclose())
        self.runner.close()


def virtual_run(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop, **options) as runner:
        return runner.run(main)


def run_all(document: Document, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(asyncio, "run", virtual_run)
    set_error_recovery_service(None)
    environment = dict(os.environ)
    level = logging.getLogger("shockproof").level
    stage = Stage()
    try:
        for example in document.examples():
            stage.run(example)
    finally:
        stage.close()
        set_error_recovery_service(None)
        os.environ.clear()
        os.environ.update(environment)
        logging.getLogger("shockproof").setLevel(level)


PARSER = CodeBlockParser("python", lambda example: None)


# Pages that write files themselves, of what they ask a function of the library for.
WRITE_FILES = {"docs/how-to/prometheus.md"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.plays_the_disk] if NAMES[path] in WRITE_FILES else [])
        for path in PAGES
    ],
    ids=NAMES.get,
)
def test_examples_of_a_page_run_and_print_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader copies works, and what he is promised to see is what he sees."""
    run_all(Document.parse(str(path), PARSER), tmp_path, monkeypatch)


def run_docstrings(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = PythonDocStringDocument.parse(str(path), PARSER)
    if any(document.examples()):
        run_all(document, folder, monkeypatch)


def test_examples_of_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example in a docstring is an example all the same; like a page's, it imports what it uses."""
    for path in SOURCES:
        run_docstrings(path, tmp_path, monkeypatch)


DOCSTRING = '''
def fine() -> None:
    """
    Something.

    ```python
    for number in (1, 2):
        print(number)
    ```

    ```text
    1
    2
    ```
    """
'''


def test_runner_reads_docstrings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An indented example runs, and one that lies is noticed."""
    path = tmp_path / "module.py"
    monkeypatch.setitem(NAMES, path, "module.py")
    path.write_text(DOCSTRING, "utf-8")
    run_docstrings(path, tmp_path, monkeypatch)
    path.write_text(DOCSTRING.replace("    2\n", "    3\n"), "utf-8")
    with pytest.raises(AssertionError, match="and the page shows\n1\n3"):
        run_docstrings(path, tmp_path, monkeypatch)


def test_no_doctest_hides_from_the_runner() -> None:
    """Prompts would not be run: examples are fenced blocks."""
    prompts = [NAMES[path] for path in NAMES if re.search(r"^\s*>>> ", path.read_text("utf-8"), re.MULTILINE)]
    assert prompts == []


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```python\nprint(1)\n```\n", "does not show"),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "it prints\n1\n\nand the page shows\n2"),
        ("```python\nx = 1\n```\n\n```text\n1\n```\n", "and the page shows\n1"),
        ("<!-- invisible-code-block: python\nraise OSError('hidden')\n-->\n", "hidden"),
        ("```python\nimport asyncio\nawait asyncio.sleep(9999)\nraise OSError('late')\n```\n", "late"),
        ("<!-- warns: UserWarning -->\n```python\nx = 1\n```\n", "the warnings it gives"),
    ],
)
def test_runner_notices_a_page_that_lies(
    page: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner that passes everything would prove nothing."""
    path = tmp_path / "page.md"
    path.write_text(page, "utf-8")
    monkeypatch.setitem(NAMES, path, "page.md")
    with pytest.raises((AssertionError, OSError), match=re.escape(complaint)):
        run_all(Document.parse(str(path), PARSER), tmp_path, monkeypatch)
