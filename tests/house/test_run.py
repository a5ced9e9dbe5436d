"""`./run`, in a project of its own with a stand-in for uv: nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Notes each call; makes an environment that holds a python; and does what the test asks of it meanwhile.
UV = """\
#!/bin/sh
echo "$1 $2" >> "$NOTES"
case $1 in
venv) for last; do :; done; mkdir -p "$last/bin"; ln -s "$REAL_PYTHON" "$last/bin/python"; touch "$last/pyvenv.cfg" ;;
pip) eval "${DURING_INSTALL:-:}" ;;
esac
"""


class Project:
    """A checkout with nothing but what `./run` reads, in a folder whose name has a space."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a project"
        self.notes = folder / "notes"
        tools = folder / "tools"
        for made in (self.root / "requirements", tools, folder / "home"):
            made.mkdir(parents=True)
        shutil.copy(ROOT / "run", self.root)
        for lock in ("demo", "test", "check", "bench"):
            (self.root / "requirements" / f"{lock}.txt").write_text(f"# {lock}\n")
        (self.root / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.ruff]\nline-length = 1\n')
        (tools / "uv").write_text(UV)
        (tools / "uv").chmod(0o755)
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": f"{tools}{os.pathsep}{os.defpath}",
            "NOTES": str(self.notes),
            "REAL_PYTHON": sys.executable,
        }

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, self.root / "run", *words],
            env=self.environment | environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        with self.start(*words, **environment) as process:
            out, err = process.communicate()
        return process.returncode, out, err

    def installed(self) -> list[str]:
        """What the installer was called for, in order; forgets it."""
        calls = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return calls


def stop_at(gate: Path) -> str:
    """Make the next installer call, and only that one, wait until *gate* was opened for writing and closed."""
    os.mkfifo(gate)
    return f"if [ -p '{gate}' ]; then cat '{gate}'; rm '{gate}'; fi"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


WHOLE = ["venv -q", "pip install", "pip install"]
AGAIN = ["pip install", "pip install"]


def test_first_run_sets_up_and_the_second_calls_no_installer(project: Project) -> None:
    """With an empty home and a space in the path, the job runs; a valid stamp needs no network."""
    assert project.run("sh", "echo", "hello")[:2] == (0, "hello\n")
    assert project.installed() == WHOLE
    assert project.run("sh", "echo", "hello") == (0, "hello\n", "")
    assert project.installed() == []


def test_a_smaller_job_uses_the_larger_environment(project: Project) -> None:
    """What was set up for the tests serves the demo too."""
    project.run("sh", "true")
    project.installed()
    assert project.run("demo")[0] != 0, "there is no program in this project"
    assert project.installed() == []


def test_exit_code_of_the_job_is_passed_through(project: Project) -> None:
    """`./run` is invisible to what calls it."""
    assert project.run("sh", "sh", "-c", "exit 7")[0] == 7


def test_job_runs_inside_the_environment(project: Project) -> None:
    """Python is the environment's own, as if it were activated."""
    code, out, _ = project.run("sh", "sh", "-c", 'command -v python; echo "$VIRTUAL_ENV"')
    venv = project.root / ".venv"
    assert (code, out.splitlines()) == (0, [f"{venv}/bin/python", str(venv)])


def test_unknown_job_shows_the_jobs_and_exits_2(project: Project) -> None:
    """A typing mistake costs no set-up."""
    code, out, err = project.run("tset")
    assert (code, out) == (2, "")
    assert "./run test" in err
    assert err.rstrip().endswith("run: no such job: 'tset'")
    assert project.installed() == []


@pytest.mark.parametrize("words", [(), ("help",), ("--help",)])
def test_help_lists_the_jobs(project: Project, words: tuple[str, ...]) -> None:
    """Asking is no error."""
    code, out, err = project.run(*words)
    assert (code, err) == (0, "")
    assert all(f"./run {job}" in out for job in ("demo", "test", "check", "docs", "sh"))


def test_unknown_command_and_unknown_check_are_named(project: Project) -> None:
    """What cannot be run is named, with what there is."""
    assert project.run("sh", "no-such-tool")[::2][0] == 127
    code, _, err = project.run("check", "no-such-check")
    assert code == 2
    assert "'no-such-check'; there are lint, " in err


def test_changed_pins_are_installed_and_changed_tool_settings_are_not(project: Project) -> None:
    """The stamp covers what an environment depends on, and nothing else."""
    project.run("sh", "true")
    project.installed()
    settings = project.root / "pyproject.toml"
    settings.write_text(settings.read_text().replace("line-length = 1", "line-length = 2"))
    project.run("sh", "true")
    assert project.installed() == []
    (project.root / "requirements" / "test.txt").write_text("# other\n")
    project.run("sh", "true")
    assert project.installed() == AGAIN


def test_killed_set_up_is_begun_anew(project: Project) -> None:
    """Half an environment is never taken for a whole one."""
    code, _, _ = project.run("sh", "true", DURING_INSTALL="kill -9 $PPID")
    assert code == -9
    project.installed()
    assert project.run("sh", "true")[0] == 0
    assert project.installed() == WHOLE


def test_environment_whose_python_is_gone_is_made_anew(project: Project) -> None:
    """A system upgrade takes the interpreter away: the next run repairs that."""
    project.run("sh", "true")
    project.installed()
    (project.root / ".venv" / "bin" / "python").unlink()
    assert project.run("sh", "true")[0] == 0
    assert project.installed() == WHOLE


def test_environment_that_was_moved_is_made_anew(project: Project) -> None:
    """The commands in it hold their old path: a renamed checkout gets a new one."""
    project.run("sh", "true")
    project.installed()
    project.root = project.root.rename(project.root.with_name("another name"))
    assert project.run("sh", "true")[0] == 0
    assert project.installed() == WHOLE
    assert project.run("sh", "true")[0] == 0
    assert project.installed() == []


def test_failed_step_is_named_and_the_next_run_begins_anew(project: Project) -> None:
    """When uv fails, pip is tried; when that fails too, the message names the step and how it ended."""
    code, _, err = project.run("sh", "true", DURING_INSTALL="exit 3", PIP_NO_INDEX="1")
    assert code == 1
    assert "uv pip install -q ... failed (exit 3); trying again with pip" in err
    assert "run: set-up failed:" in err.splitlines()[-1]
    project.installed()
    assert project.run("sh", "true")[0] == 0
    assert project.installed() == WHOLE


def test_two_at_once_set_up_only_once(project: Project, tmp_path: Path) -> None:
    """The second waits for the first, then finds everything there."""
    gate = tmp_path / "gate"
    first = project.start("sh", "echo", "first", DURING_INSTALL=stop_at(gate))
    with gate.open("w"):  # returns when the installer has opened its side
        second = project.start("sh", "echo", "second")
        assert second.stderr is not None
        assert "waiting for another set-up" in second.stderr.readline()
        before = project.installed()
    assert first.communicate()[0] == "first\n"
    assert second.communicate()[0] == "second\n"
    assert before + project.installed() == WHOLE


def test_killed_starter_leaves_the_lock_to_its_installer(project: Project, tmp_path: Path) -> None:
    """While an orphaned installer still writes, nobody else does."""
    gate = tmp_path / "gate"
    first = project.start("sh", "true", DURING_INSTALL=stop_at(gate))
    with gate.open("w"):
        first.kill()
        first.wait()
        second = project.start("sh", "echo", "second")
        assert second.stderr is not None
        assert "waiting for another set-up" in second.stderr.readline()
    assert second.communicate()[0] == "second\n"
    first.communicate()


def test_missing_venv_module_names_the_package(project: Project, tmp_path: Path) -> None:
    """A bare Debian says what to install; no half-made environment is used afterwards."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "venv.py").write_text("raise SystemExit(1)")
    code, _, err = project.run("sh", "true", PATH="", PYTHONPATH=str(tmp_path / "broken"))
    assert code == 1
    assert "apt-get install python3-venv" in err
    assert project.run("sh", "true")[0] == 0


def test_folder_of_somebody_else_is_left_alone(project: Project, tmp_path: Path) -> None:
    """SHOCKPROOF_VENV that points at files or at another environment is refused before anything is touched."""
    precious = tmp_path / "home" / "work"
    precious.mkdir()
    (precious / "pyvenv.cfg").touch()
    code, _, err = project.run("sh", "true", SHOCKPROOF_VENV=str(precious))
    assert code == 1
    assert "choose another place" in err
    assert [file.name for file in precious.iterdir()] == ["pyvenv.cfg"]
