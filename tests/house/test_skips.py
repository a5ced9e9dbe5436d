"""The watch over skipped tests and over coroutines, in sessions of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder with our conftest and one test that is skipped here."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = strict\n")
    (tmp_path / "allowed_skips.txt").write_text("# nothing\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_runs(): pass\n"
        "@pytest.mark.skip(reason='no server here')\n"
        "@pytest.mark.parametrize('x', ['a'])\n"
        "def test_skipped(x): pass\n"
    )
    return tmp_path


def run(suite: Path, *words: str, ci: bool) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
        cwd=suite,
        env=environment | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_skip_on_a_developers_machine_is_named_and_passes(suite: Path) -> None:
    """Without the optional servers the suite passes and says what was missing."""
    code, text = run(suite, ci=False)
    assert code == 0
    assert "not tested here (1 skipped): no server here" in text


def test_unlisted_skip_in_ci_fails(suite: Path) -> None:
    """Where everything is installed, a skipped test is a hole."""
    code, text = run(suite, ci=True)
    assert code == 1
    assert (
        "CI: skipped and not listed in tests/allowed_skips.txt: test_it.py::test_skipped[a] (no server"
        in text
    )


def test_skipped_module_in_ci_fails(suite: Path) -> None:
    """A whole module that skips itself is seen too."""
    (suite / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    code, text = run(suite, "test_module.py", "test_it.py::test_runs", ci=True)
    assert code == 1
    assert "test_module.py (could not import" in text


def test_listed_skip_in_ci_passes(suite: Path) -> None:
    """A reason in the list is a reason."""
    (suite / "allowed_skips.txt").write_text(
        "test_it.py::test_skipped[[]a]  # brackets stand for themselves\n"
    )
    assert run(suite, ci=True)[0] == 1
    (suite / "allowed_skips.txt").write_text(
        "test_it.py::test_skipped[*]  # needs a server that Debian lacks\n"
    )
    assert run(suite, ci=True)[0] == 0


def test_listed_skip_that_matches_nothing_fails(suite: Path) -> None:
    """The list does not outlive its tests; a session over some tests only does not complain."""
    lines = "test_it.py::test_skipped*  # needs a server\ntest_it.py::test_gone  # was removed\n"
    (suite / "allowed_skips.txt").write_text(lines)
    code, text = run(suite, ci=True)
    assert code == 1
    assert "lists 'test_it.py::test_gone', which matches no test" in text
    assert run(suite, "test_it.py", ci=True)[0] == 0


def test_listed_skip_without_a_reason_is_refused(suite: Path) -> None:
    """The reason is the point of the list."""
    (suite / "allowed_skips.txt").write_text("test_it.py::test_skipped*\n")
    code, text = run(suite, ci=False)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "allowed_skips.txt:1: 'test_it.py::test_skipped*' has no '  # reason'" in text


@pytest.mark.parametrize(
    ("mark", "complaint"), [("", "needs @pytest.mark.asyncio"), ("@pytest.mark.anyio\n", "is asyncio only")]
)
def test_coroutine_that_would_not_run_on_asyncio_is_refused(suite: Path, mark: str, complaint: str) -> None:
    """No coroutine test passes without having run."""
    (suite / "test_async.py").write_text(f"import pytest\n{mark}async def test_it(): assert False\n")
    code, text = run(suite, ci=False)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert complaint in text


def test_thread_left_behind_fails_its_test(suite: Path) -> None:
    """A thread that would keep the program from ending is a failure where it was started."""
    (suite / "test_thread.py").write_text(
        "import threading\n"
        "stop = threading.Event()\n"
        "def test_leaks(): threading.Thread(target=stop.wait).start()\n"
        "def test_tidies_up(): stop.set()\n"
    )
    code, text = run(suite, "test_thread.py", ci=False)
    assert code == 1
    assert "left the thread" in text
    assert "2 passed, 1 error" in text
