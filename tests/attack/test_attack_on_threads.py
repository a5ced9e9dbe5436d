"""Several threads at one service and at the process's service."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shockproof import ErrorRecoveryService, set_error_recovery_service, with_error_recovery


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def _beside(work: threading.Thread, action: "list[Exception]", attempt: object) -> None:
    work.start()
    while work.is_alive():
        try:
            attempt()  # type: ignore[operator]  # a function of the test's own
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            action.append(error)
    work.join()


@pytest.mark.usefixtures("hasty_threads")
def test_configuring_while_another_thread_calls_never_fails(tmp_path: Path) -> None:
    """configure() follows every handle, also while others come and go in other threads."""
    recovery = ErrorRecoveryService(tmp_path / "state", tmp_path / "errors")
    errors: list[Exception] = []
    handles = [recovery.service("a").using(max_retries=0) for _ in range(2_000)]

    async def answers() -> int:
        return 1

    async def main() -> None:
        for _ in range(3_000):
            await recovery.with_fallback(answers, 2, service_name="a")

    _beside(
        threading.Thread(target=lambda: asyncio.run(main())),
        errors,
        lambda: recovery.configure(max_retries=1),
    )
    assert handles
    assert errors == []


@pytest.mark.usefixtures("hasty_threads")
def test_replacing_the_process_wide_service_while_functions_are_decorated_never_fails(tmp_path: Path) -> None:
    """Every function follows, also while another thread decorates more."""
    services = [ErrorRecoveryService(tmp_path / name, tmp_path / "errors") for name in "ab"]
    errors: list[Exception] = []

    def decorate() -> None:
        for _ in range(6_000):

            @with_error_recovery("a")
            async def answers() -> int:
                return 1

    def replace() -> None:
        for service in services:
            set_error_recovery_service(service)

    try:
        _beside(threading.Thread(target=decorate), errors, replace)
    finally:
        set_error_recovery_service(None)
    assert errors == []
