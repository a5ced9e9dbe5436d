"""An owner that is stopped as by a debugger, and still has the journal that the next one on this machine needs: real processes."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from shockproof import NOT_FOUND, ErrorRecoveryService, FileStore, HaltedError, LookUp
from shockproof.command_line.journal_owner import owner_of
from shockproof.memory.fleet import ownership

PATIENCE = 120.0  # real seconds: processes know no other
PROCESSES = multiprocessing.get_context("spawn")
LEASE = 1.5

pytestmark = pytest.mark.timeout(PATIENCE + 30)


def trade(name: str, place: Path, wire: Connection) -> None:
    """Own the account, tell what stands in the way of that, and send an order; again when it was lost."""
    ownership._LENGTH = LEASE  # type: ignore[misc]  # nobody wants to wait for fifteen seconds
    asyncio.run(_trade(name, place, wire))


async def _trade(name: str, place: Path, wire: Connection) -> None:
    async with ErrorRecoveryService(
        place / "state",
        place / name,
        store=FileStore(place / "shared.db"),
        owns="account 7",
        process_name=name,
    ) as recovery:
        orders = recovery.service("orders", max_retries=0)
        for number in itertools.count():
            hindered = asyncio.ensure_future(_tell_what_hinders(recovery, wire))
            await recovery.reconcile()
            hindered.cancel()
            try:
                await orders.once(f"{name}-{number}", confirm=nowhere, settle=0.0).call(send)
            except HaltedError:
                continue  # it lost the account in this moment, on a slow machine
            wire.send("sent")
            while _is_owner(recovery):  # noqa: ASYNC110 - its end is no event: it comes with time
                await asyncio.sleep(0.02)


def _is_owner(recovery: ErrorRecoveryService) -> bool:
    is_owner: bool = recovery.get_health_status()["shared"]["owns"]["is_owner"]
    return is_owner


async def _tell_what_hinders(recovery: ErrorRecoveryService, wire: Connection) -> None:
    told = None
    while True:
        shared = recovery.get_health_status()["shared"]
        if _is_owner(recovery) and shared["trouble"] not in (None, told):
            wire.send(told := shared["trouble"])
        await asyncio.sleep(0.02)


async def send() -> str:
    return "sent"


async def nowhere(key: str) -> LookUp[str]:
    return NOT_FOUND


class Trader:
    """A process of its own."""

    def __init__(self, name: str, place: Path) -> None:
        self.wire, end = PROCESSES.Pipe(duplex=False)
        self.process: SpawnProcess = PROCESSES.Process(target=trade, args=(name, place, end), daemon=True)
        self.process.start()
        end.close()
        assert self.process.pid is not None
        self.pid = self.process.pid


class Pair:
    """Two of them, over one state directory; whichever owns the account sends an order then."""

    def __init__(self, place: Path) -> None:
        self._journal = place / "state" / "journal"
        self._store = place / "shared.db"
        self._traders = [Trader(name, place) for name in ("trader-1", "trader-2")]

    def hears(self, *words: str) -> Trader:
        """Wait until one of them says something with all *words* in it."""
        wires = {trader.wire: trader for trader in self._traders}
        while ready := wait(list(wires), PATIENCE):
            for wire in ready:
                assert isinstance(wire, Connection)
                try:
                    said: str = wire.recv()
                except EOFError:  # it was killed
                    del wires[wire]
                    continue
                if all(word in said for word in words):
                    return wires[wire]
        raise TimeoutError(f"{words} was not heard within {PATIENCE:g} s")

    def stop_who_has_the_journal(self) -> Trader:
        """As a debugger does. On a slow machine the account may have gone to the other one in that moment: then that one."""
        trader = self.hears("sent")
        while True:
            os.kill(trader.pid, signal.SIGSTOP)
            _, status = os.waitpid(trader.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            owner = owner_of(self._journal)
            is_owner = owner.pid == trader.pid and owner.is_owned is not False
            if is_owner and self._store_is_free():
                return trader
            os.kill(trader.pid, signal.SIGCONT)
            if not is_owner:
                trader = self.hears("sent")

    def _store_is_free(self) -> bool:
        """Whether it was not stopped in the middle of a step, with the file that the other one needs."""
        with closing(sqlite3.connect(self._store, timeout=0.0)) as store:
            try:
                store.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                return False
            store.rollback()
            return True

    def end(self) -> None:
        for trader in self._traders:
            trader.process.kill()
            trader.process.join()
            trader.wire.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    both = Pair(tmp_path)
    yield both
    both.end()


def test_a_stopped_owner_keeps_the_journal_and_the_next_one_says_what_to_do_and_goes_on_after_it(
    pair: Pair,
) -> None:
    """It may be about to send, so it is waited for; continued, it gives the journal up without being closed."""
    for end in (signal.SIGCONT, signal.SIGKILL):
        stopped = pair.stop_who_has_the_journal()

        pair.hears(
            "this process owns 'account 7' and cannot send: the journal in ",
            f"belongs to process {stopped.pid}, which is stopped and may be about to send: ",
            f"kill -KILL {stopped.pid} ends it, kill -CONT {stopped.pid} lets it go on",
        )

        os.kill(stopped.pid, end)
    pair.hears("sent")
