"""A program that runs, asked once and watched: by its socket, over HTTP, and when it is not there."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shockproof.command_line.screen import Screen
from shockproof.command_line.status_lines import show_services
from shockproof.command_line.top import Rates

Run = Callable[..., Any]  # the fixture's result
Served = Callable[[Path], AbstractContextManager["subprocess.Popen[str]"]]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short one: a socket's path is at most 103 bytes long."""
    return tmp_path_factory.mktemp("p")


def read_until(terminal: int, wanted: bytes, said: bytes = b"") -> bytes:
    while wanted not in said:
        said += os.read(terminal, 65536)  # EIO, an error, when nobody writes any more
    return said


def test_a_program_is_asked_by_the_socket_in_its_state_directory(
    shockproof: Run, served: Served, place: Path
) -> None:
    """As a table, as JSON, and once more when it has been killed; nothing of it is a secret."""
    with served(place) as program:
        state_dir = ("--timeout", "60", "--state-dir", place / "state")
        table = shockproof("health", *state_dir)
        assert (table.code, table.err) == (1, "")
        head, columns, news, venue, *pending = table.out.splitlines()
        assert head.startswith("unhealthy: 2 services, 1 error in the last 5 min  (process ")
        assert columns.split()[:3] == ["SERVICE", "STATUS", "CIRCUIT"]
        assert news.split()[:3] == ["news", "unavailable", "open"]
        assert venue.split()[:5] == ["venue", "operational", "closed", "1", "0/4"]
        assert pending[-1].split()[:3] == ["2026-11-26", "rebalance", "operation"]
        told = shockproof("health", "--json", *state_dir)
        assert told.json["pid"] == program.pid
        assert told.json["errors"][0]["service_name"] == "news"
        once = shockproof("top", "--every", "0.1", *state_dir)
        assert (once.code, once.err) == (0, "")
        assert "CALLS/S" in once.out
        assert "NEWEST ERRORS" in once.out
        assert "\x1b" not in once.out
        assert "hunter2" not in table.out + told.out + once.out
    gone = shockproof("health", "--state-dir", place / "state")
    assert (gone.code, gone.out) == (3, "")
    assert "which a program has left that does not run any more" in gone.err


def test_top_repaints_a_terminal_goes_on_without_the_program_and_leaves_the_terminal_as_it_was(
    served: Served, place: Path
) -> None:
    """Who watches a restart sees it; Ctrl-C is the way out, and no error."""
    command = [sys.executable, "-m", "shockproof", "top", "--every", "0.1", "--timeout", "60"]
    command += ["--state-dir", str(place / "state")]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with ExitStack() as stack:
        ours, theirs = pty.openpty()
        stack.callback(os.close, ours)
        with served(place):
            top = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                start_new_session=True,
                # A shell that starts jobs in the background has them ignore it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads here
            )
            stack.callback(top.wait)
            stack.callback(top.kill)
            os.close(theirs)
            said = read_until(ours, b"NEWEST ERRORS")
        said = read_until(ours, b"nobody listens at", said)
        with served(place):
            after = read_until(ours, b"NEWEST ERRORS")
            top.send_signal(signal.SIGINT)
            after = read_until(ours, b"\x1b[?1049l", after)
            assert top.wait(60) == 0
    assert said.startswith(b"\x1b[?1049h\x1b[?25l\x1b[H")
    assert b"\x1b[31m" in said  # in colours
    assert b"Traceback" not in said + after
    assert after.endswith(b"\x1b[?25h\x1b[?1049l")


def _hear_signals() -> None:
    # What runs these tests in the background, or under nohup, has them ignored.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def top(served: Served, place: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """One at a terminal that has painted once, and the other end of that."""
    command = [
        sys.executable,
        "-m",
        "shockproof",
        "top",
        "--every",
        "60",
        "--timeout",
        "60",
        "--state-dir",
        str(place / "state"),
    ]
    with ExitStack() as stack:
        ours, theirs = pty.openpty()
        stack.callback(os.close, ours)
        stack.enter_context(served(place))
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=_hear_signals,  # noqa: PLW1509 - no threads here
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        os.close(theirs)
        read_until(ours, b"NEWEST ERRORS")
        yield process, ours


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_top_that_a_signal_ends_leaves_the_terminal_as_it_was(
    top: tuple[subprocess.Popen[bytes], int], number: signal.Signals
) -> None:
    """A terminal without a cursor, on its other screen, is of no use to whoever comes next."""
    process, terminal = top
    process.send_signal(number)
    said = read_until(terminal, b"\x1b[?1049l")
    assert process.wait(60) == -number
    assert b"Traceback" not in said
    assert said.endswith(b"\x1b[?25h\x1b[?1049l")


def test_top_that_is_stopped_gives_the_terminal_back_and_takes_it_again(
    top: tuple[subprocess.Popen[bytes], int],
) -> None:
    """Ctrl-Z, something else, and fg."""
    process, terminal = top
    process.send_signal(signal.SIGTSTP)
    read_until(terminal, b"\x1b[?25h\x1b[?1049l")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    read_until(terminal, b"\x1b[?1049h\x1b[?25l")
    process.send_signal(signal.SIGTERM)
    read_until(terminal, b"\x1b[?25h\x1b[?1049l")
    assert process.wait(60) == -signal.SIGTERM


HEALTHY: dict[str, Any] = {
    "overall_health": "healthy",
    "services": {"venue": {"status": "operational", "circuit": "closed", "successes": 5, "failures": 0}},
    "recent_error_count": 0,
    "halted": False,
    "error_log": {"state": "ok", "dropped": 0},
    "journal": {"state": "open"},
}


HEALTH = "/health?verbose"


def told_in(health: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """As the program answers: the checks, and everything below them."""
    return 200, {"status": "pass", "checks": {}, "health": health}


class Answers(BaseHTTPRequestHandler):
    pages: dict[str, tuple[int, object]] = {}  # noqa: RUF012 - a new one for each test

    def do_GET(self) -> None:
        status, answer = self.pages.get(self.path, (404, "no such page"))
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *ignored: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[tuple[str, dict[str, tuple[int, object]]]]:
    """A server, and what it answers by path."""
    answers = type("OfThisTest", (Answers,), {"pages": {}})
    server_type = type(
        "Joined", (ThreadingHTTPServer,), {"daemon_threads": False}
    )  # no thread outlives the test
    with server_type(("127.0.0.1", 0), answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", answers.pages
        finally:
            server.shutdown()
            thread.join()


Pages = tuple[str, dict[str, tuple[int, object]]]


@pytest.mark.parametrize(
    ("health", "words", "code"),
    [
        ("healthy", (), 0),
        ("degraded", (), 0),
        ("degraded", ("--strict",), 1),
        ("unhealthy", (), 1),
    ],
)
def test_scripts_read_the_exit_code(
    shockproof: Run, pages: Pages, health: str, words: tuple[str, ...], code: int
) -> None:
    """Degraded is how a program gets over an outage: only --strict takes it for wrong."""
    url, answers = pages
    answers[HEALTH] = (
        503 if health == "unhealthy" else 200,
        {"health": {**HEALTHY, "overall_health": health}},
    )
    told = shockproof("health", "--url", url, *words)
    assert (told.code, told.err) == (code, "")
    assert told.out.startswith(f"{health}: 1 service, 0 errors")


@pytest.mark.parametrize(("count", "said"), [(1, "1 error "), (999, "999 errors "), (1000, "1,000+ errors ")])
def test_a_count_of_errors_that_the_memory_ends_is_told_as_the_least(
    shockproof: Run, pages: Pages, count: int, said: str
) -> None:
    """The last thousand are in memory: in an outage there were more."""
    url, answers = pages
    answers[HEALTH] = told_in({**HEALTHY, "recent_error_count": count})
    assert f", {said}in the last 5 min" in shockproof("health", "--url", url).out


class Narrow(Screen):
    width = 80


def test_a_terminal_has_no_columns_that_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """Eighty of them are enough for the last error then; into a pipe the columns are always the same."""
    service = {"name": "market", "status": "degraded", "circuit": "closed", "retries": 3}
    status: dict[str, Any] = {"services": [{**service, "last_error": "ConnectionError: reset by peer"}]}
    show_services(status, Narrow(), rates={})
    assert capsys.readouterr().out.splitlines() == [
        "SERVICE  STATUS    CIRCUIT  CALLS/S  FAILED/S  RETRIES  LAST ERROR",
        "market   degraded  closed   0.0      0.0       3        ConnectionError: reset …",
    ]
    show_services(status, Screen(), rates={})
    assert "REFUSED  IN FLIGHT  LAST ERROR" in capsys.readouterr().out


def test_on_a_narrow_terminal_the_last_error_goes_before_what_tells_less(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Filled columns are left out, too, but only as many as it takes."""
    venue = {"name": "market_data", "status": "unavailable", "circuit": "open", "retry_after": 57.0}
    numbers = {"retries": 12, "rejections": 3, "in_flight": 2, "max_concurrent": 8}
    status: dict[str, Any] = {
        "services": [{**venue, **numbers, "last_error": "ConnectionError: reset by peer"}]
    }
    show_services(status, Narrow(), rates={})
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1] == "LAST ERROR"
    assert "ConnectionError: reset" in row
    status = {"services": [{"name": "venue", "status": "operational", "circuit": "closed", **numbers}]}
    show_services(status, Narrow(), rates={})
    assert "REFUSED  IN FLIGHT  LAST ERROR" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["", "/", "/health", "/status", "/status.json"])
def test_the_url_is_that_of_the_server_or_of_a_page(shockproof: Run, pages: Pages, page: str) -> None:
    """People copy what stands in the browser; and it may be mounted somewhere."""
    url, answers = pages
    answers["/shockproof/status.json"] = (200, HEALTHY)
    assert shockproof("health", "--url", f"{url}/shockproof{page}").code == 0


def test_what_is_wrong_beside_the_services_is_told_and_texts_of_others_do_nothing_to_the_terminal(
    shockproof: Run, pages: Pages
) -> None:
    """A halt, a disk that refuses, lost records; and a name with control characters."""
    url, answers = pages
    answers[HEALTH] = told_in(
        {
            **HEALTHY,
            "services": {"\x1b[2Jvenue": {"status": "operational", "circuit": "open", "retry_after": "soon"}},
            "halted": True,
            "halt": {"reason": "lost the risk feed"},
            "error_log": {"state": "failing", "last_error": "no space", "dropped": 3},
            "journal": {
                "state": "failing",
                "last_error": "no space",
                "incomplete": "it was removed",
                "owned_elsewhere": "the account was owned by another",
            },
            "kept_sends": {"state": "degraded", "last_error": "the disk has not answered for 10 s"},
            "errors": [{"error_message": "\x1b]0;x\x07"}, "not one"],
            "pending": [{"key": "\x1b[31m"}, 7],
            "pending_in_state": {"first": [{"operation": "\x1b[31m"}, 7]},
        }
    )
    told = shockproof("top", "--once", "--every", "0.1", "--url", url)
    assert told.code == 0
    for line in (
        "HALTED: lost the risk feed",
        "error log: failing: no space",
        "journal: failing: no space",
        "journal: something is missing: it was removed",
        "journal: the account was owned by another",
        "kept sends: degraded: the disk has not answered for 10 s",
        "error log: 3 records were dropped",
    ):
        assert line in told.out.splitlines()
    assert "\x1b" not in told.out


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>hello</html>"),
        (200, []),
        (200, HEALTHY),
        (200, {"health": {"services": "all"}}),
        (200, {"health": {"services": [{"name": 7}], "overall_health": "healthy"}}),
        (500, {"health": HEALTHY}),
        (200, b"[" * 100_000),
    ],
)
def test_an_answer_of_something_else_is_one_line(
    shockproof: Run, pages: Pages, answer: tuple[int, object]
) -> None:
    """Some other program has that port."""
    url, answers = pages
    answers[HEALTH] = answer
    told = shockproof("health", "--url", url)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert "no health of shockproof" in told.err


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9090", "ftp://bot", "http://", "http://bot:port", "http://me:pw@bot", "http://[::1"]
)
def test_what_is_no_url_is_told(shockproof: Run, url: str) -> None:
    """With one that is."""
    told = shockproof("health", "--url", url)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "http://127.0.0.1:9090" in told.err


@pytest.mark.parametrize("odd", ["1e999", "NaN", str(10**400), '"soon"', "[]", "{}", "null", "true"])
def test_numbers_that_are_none_are_shown_as_nothing_or_as_they_are(
    shockproof: Run, pages: Pages, odd: str
) -> None:
    """A program of another version may tell anything: that is no bug of this one."""
    url, answers = pages
    service = '{"name": "venue", "status": ODD, "circuit": "open", "retry_after": ODD, "successes": ODD, "failures": ODD}'
    body = (
        f'{{"overall_health": "healthy", "services": [{service}], "recent_error_count": ODD, "counts": ODD, "pid": ODD,'
        ' "errors": [{"at": ODD}], "pending": [{"since": ODD}], "pending_in_state": {"first": ODD}, "halt": ODD, "error_log": {"dropped": ODD}}'
    )
    answers["/status.json"] = (200, body.replace("ODD", odd).encode())
    for command in (("health",), ("top", "--every", "0.1")):
        told = shockproof(*command, "--url", url)
        assert (told.code, told.err) == (0, "")
        assert "venue" in told.out


def test_nobody_there_and_nobody_answering_are_told_apart(shockproof: Run, tmp_path: Path) -> None:
    """The one is started, the other looked at."""
    missing = shockproof("health", "--state-dir", tmp_path)
    assert missing.code == 3
    assert "async with serve_socket(recovery):" in missing.err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert shockproof("top", "--url", url).code == 3
        taken.listen()
        silent = shockproof("health", "--url", url, "--timeout", "0.1")
        assert silent.code == 2
        assert "has not answered within 0.1 s: its event loop may stand still" in silent.err
        plain = shockproof("health", "--url", url.replace("http:", "https:"), "--timeout", "0.1")
        assert plain.code == 2
        assert "has not answered with TLS within 0.1 s: it may speak plain HTTP" in plain.err
    long = shockproof("health", "--socket", tmp_path / ("x" * 200))
    assert (long.code, long.err.count("\n")) == (2, 1)
    assert "too long" in long.err


@pytest.mark.parametrize("head", [b"Content-Length: 100000\r\n", b""], ids=["length", "no length"])
def test_the_time_limit_is_that_of_the_whole_answer(shockproof: Run, head: bytes) -> None:
    """A server that sends a byte now and then holds nobody up: each byte is in time, the whole never is."""

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
            while not left.wait(0.02):
                connection.sendall(b" ")

    left = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        told = shockproof("health", "--url", url, "--timeout", "0.3")
        left.set()
        thread.join()
    assert (told.code, told.out) == (2, "")
    assert "has not answered within 0.3 s" in told.err


def test_a_file_that_is_no_socket_is_told(shockproof: Run, tmp_path: Path) -> None:
    """And not taken for one that a program has left."""
    (tmp_path / "notes").write_text("hello")
    told = shockproof("health", "--socket", tmp_path / "notes")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "is no socket" in told.err


def test_where_nobody_may_look_nothing_is_said_to_be_there(
    shockproof: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory of another user there may be a socket or none."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")  # root, as which the tests may run, is refused nothing

    monkeypatch.setattr("socket.socket.connect", refuse)
    told = shockproof("health", "--state-dir", tmp_path)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "no permission to reach" in told.err
    assert "belongs" not in told.err


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@bot/", "http://bot:port/?token=hunter2", "http://h@bot?hunter2"]
)
def test_secrets_of_a_url_are_not_repeated(shockproof: Run, url: str) -> None:
    """What is printed ends up in the logs of whoever runs it."""
    told = shockproof("health", "--url", url)
    assert told.code == 2
    assert "hunter2" not in told.err


def test_the_query_of_a_url_is_not_repeated_beside_the_health(shockproof: Run, pages: Pages) -> None:
    """A token of a proxy in front of it, say."""
    url, answers = pages
    answers[HEALTH] = told_in(HEALTHY)
    told = shockproof("health", "--url", f"{url}/health?token=hunter2")
    assert told.code == 0
    assert "hunter2" not in told.out


def test_something_that_does_not_speak_http_is_told(shockproof: Run) -> None:
    """A port that is another program's."""

    def answer() -> None:
        connection, _ = listening.accept()
        connection.sendall(b"-ERR unknown command\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer)
        thread.start()
        told = shockproof("health", "--url", f"http://127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert told.code == 2
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--every", "0"), ("--timeout", "-1"), ("--url", "http://a", "--socket", "b")]
)
def test_arguments_that_make_no_sense_are_one_line(shockproof: Run, words: tuple[str, ...]) -> None:
    """As for every command."""
    told = shockproof("top", *words)
    assert (told.code, told.err.count("\n")) == (2, 1)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of 80 columns and 24 lines; top is left after its first picture."""

    def leave(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "is_terminal", property(lambda screen: True))
    monkeypatch.setattr(time, "sleep", leave)
    for name, value in (("COLUMNS", "80"), ("LINES", "24"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)


def many_services(number: int) -> dict[str, Any]:
    one = HEALTHY["services"]["venue"]
    return {f"service {place}": one for place in range(number)}


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("number", "errors", "shown"), [(9, 8, 9), (10, 8, 10), (11, 8, 9), (30, 0, 19), (30, 8, 9)]
)
def test_services_have_the_room_that_errors_and_pending_operations_leave(
    shockproof: Run, pages: Pages, number: int, errors: int, shown: int
) -> None:
    """No line is kept free for what is not there, and the picture is no longer than the terminal."""
    url, answers = pages
    error = {"at": 1.0, "severity": "low", "error_type": "OSError"}
    answers["/status.json"] = (
        200,
        {**HEALTHY, "services": many_services(number), "errors": [error] * errors},
    )
    picture = shockproof("top", "--url", url).out
    assert picture.count("operational") == shown
    assert picture.count("OSError") == errors
    assert (f"and {number - shown} more" in picture) == (number > shown)
    assert picture.count("\n") <= 23


@pytest.mark.usefixtures("terminal")
def test_what_the_restored_state_has_as_pending_stands_below_what_the_journal_has(
    shockproof: Run, pages: Pages
) -> None:
    """So what the original program left shows here, too; the picture is no longer than the terminal for it."""
    url, answers = pages
    left = {"operation": "fetch_data", "key": None, "kind": "saved", "progress": '{"symbol": "AAPL"}'}
    status = {**HEALTHY, "services": many_services(30), "pending": [{"operation": "rebalance", "key": "1"}]}
    answers["/status.json"] = (200, {**status, "pending_in_state": {"count": 1, "first": [left]}})
    picture = shockproof("top", "--url", url).out
    rows = [line.split() for line in picture.splitlines()]
    journal, state = (next(row for row in rows if name in row) for name in ("rebalance", "fetch_data"))
    assert rows.index(journal) < rows.index(state)
    assert "saved" in state
    assert picture.count("\n") <= 23


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("command", ["health", "top"])
def test_a_long_name_leaves_what_is_said_of_the_services_on_the_screen(
    shockproof: Run, pages: Pages, command: str
) -> None:
    """Into a pipe it is whole."""
    url, answers = pages
    long = {"n" * 200: HEALTHY["services"]["venue"]}
    answers[HEALTH] = told_in({**HEALTHY, "services": {**HEALTHY["services"], **long}})
    rows = [line.split() for line in shockproof(command, "--url", url).out.splitlines()]
    assert ["venue", "operational", "closed"] in [row[:3] for row in rows]
    assert [f"{'n' * 25}…", "operational", "closed"] in [row[:3] for row in rows]


def test_rates_are_what_was_counted_since_and_none_where_it_began_anew() -> None:
    """A restarted program, and a service that was not there before, have no rate yet."""

    def at(**counts: tuple[int, int]) -> dict[str, Any]:
        return {
            "services": [
                {"name": name, "successes": fine, "failures": failed}
                for name, (fine, failed) in counts.items()
            ]
        }

    rates = Rates()
    assert rates.of(at(venue=(10, 2)), 100.0) == {}
    assert rates.of(at(venue=(30, 3), news=(1, 0)), 110.0) == {"venue": (2.1, 0.1)}
    assert rates.of(at(venue=(1, 0), news=(1, 0)), 120.0) == {"venue": (0.0, 0.0), "news": (0.0, 0.0)}
