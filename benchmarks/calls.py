"""
What a call costs: by hand, with shockproof, and with other libraries.

    ./run sh python benchmarks/calls.py             # the table, on a terminal
    ./run sh python benchmarks/calls.py --ours      # without the other libraries: half a minute
    ./run bench cost                                # all, into docs/explanation/cost-of-a-call.md

Every contender of a row runs once in each round, all in one process; a figure is the median over the rounds of the
ratio to the bare await (where a row says so: to something else) of the same round. What is measured is the processor time of
the loop's thread, so that other programs on the machine do not count; what another thread does for a call is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType

from cost import by_hand
from cost.ours import Call, Case, Ours
from opentelemetry.trace import NoOpTracerProvider
from published import SECTIONS, Bar, bars, table

from shockproof import CircuitOpenError, ErrorRecoveryService, Event, Handle
from shockproof.integrations.opentelemetry import trace_calls
from shockproof.integrations.prometheus import ShockproofCollector

SECTION = SECTIONS["cost"]
ROUNDS = 11
SAMPLE = 0.02
"""Seconds of processor time that one contender gets in a round, about."""


async def bare(x: int) -> int:
    return x


async def suspended(x: int) -> int:
    await asyncio.sleep(0)
    return x


def repeated(call: Call, errors: tuple[type[Exception], ...] = ()) -> Case:
    async def case(n: int) -> None:
        for _ in range(n):
            await call(1)

    async def catching(n: int) -> None:
        for _ in range(n):
            try:
                await call(1)
            except errors:
                pass

    return catching if errors else case


@dataclass
class Row:
    """One case: what it is, whom it is compared with, and what we aim at."""

    name: str
    ours: Case
    aim: float | None
    by_hand: Case | None = None
    rivals: dict[str, Case] = field(default_factory=dict[str, Case])
    base: Case = field(default_factory=lambda: repeated(bare))


@dataclass
class Figures:
    """The medians of a row."""

    row: Row
    ours: float
    by_hand: float | None
    rivals: dict[str, float]

    @property
    def best_rival(self) -> str:
        if not self.rivals:
            return "-"
        name = min(self.rivals, key=self.rivals.__getitem__)
        return f"{self.rivals[name]:.1f} ({name})"


async def seconds(case: Case, n: int) -> float:
    begun = time.thread_time()
    await case(n)
    return (time.thread_time() - begun) / n


async def measure(row: Row) -> Figures:
    contenders = {"ours": row.ours, **({"by hand": row.by_hand} if row.by_hand else {}), **row.rivals}
    n = {}
    for name, case in {"base": row.base, **contenders}.items():
        await case(100)  # specialise, fill the caches
        n[name] = max(50, min(20_000, int(SAMPLE / max(await seconds(case, 200), 1e-8))))
    ratios: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(ROUNDS):
        random.shuffle(order)
        base = await seconds(row.base, n["base"])
        for name in order:
            ratios[name].append(await seconds(contenders[name], n[name]) / base)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    return Figures(row, medians.pop("ours"), medians.pop("by hand", None), medians)


class FailsFirst:
    """Every other call fails."""

    def __init__(self) -> None:
        self.fails = False

    async def __call__(self, x: int) -> int:
        self.fails = not self.fails
        if self.fails:
            raise OSError(x)
        return x


def fails_first() -> Call:
    one = FailsFirst()

    async def call(x: int) -> int:
        return await one(x)

    return call


async def retried_by_hand(n: int) -> None:
    call = fails_first()
    for _ in range(n):
        try:
            await call(1)
        except OSError:
            await call(1)


async def rows(ours: Ours, watched: Handle, traced: Handle, *, with_rivals: bool) -> list[Row]:
    await ours.open()

    def rivals(kind: str, function: Call = bare, errors: tuple[type[Exception], ...] = ()) -> dict[str, Case]:
        if not with_rivals:
            return {}
        from cost import rivals as others

        wraps: dict[str, Callable[[Call], Call]] = getattr(others, kind)
        return {name: repeated(wrap(function), errors) for name, wrap in wraps.items()}

    async def fails(x: int) -> int:
        raise OSError(x)

    suspending = Ours(ours.recovery, suspended)
    table = [
        Row(
            "healthy: retry, breaker, fallback, health, counters; decorated",
            repeated(ours.decorated),
            3.0,
            repeated(by_hand.one_coroutine(bare)),
            rivals("HEALTHY"),
        ),
        Row("the same, twenty such functions in turn", ours.in_turn, None),
        Row("the same through `call`", ours.called(ours.plain), 4.2),
        Row("the same through `call`, its durations kept for Prometheus", ours.called(watched), None),
        Row("the same through `call`, traced by OpenTelemetry without an SDK", ours.called(traced), None),
        Row(
            "the same with timeout and deadline, handed on to calls inside; decorated",
            repeated(ours.timed_decorated),
            6.2,
            repeated(by_hand.with_timeout(bare)),
            rivals("STACKS"),
        ),
        Row("the same through `call`", ours.called(ours.timed), None),
        Row(
            "the same, decorated, around a call with one real suspension (ratio to that call)",
            repeated(suspending.timed_decorated),
            None,
            repeated(by_hand.with_timeout(suspended)),
            rivals("STACKS", suspended),
            base=repeated(suspended),
        ),
        Row("`guard()` block", ours.guarded(ours.plain), 10.0),
        Row("`guard()` block with timeout", ours.guarded(ours.timed), 13.0),
        Row("`attempts()` block", ours.attempts, 22.0),
        Row(
            "bulkhead with room; decorated",
            repeated(ours.in_places),
            5.0,
            repeated(by_hand.with_places(bare)),
            rivals("PLACES"),
        ),
        Row("the same with timeout", repeated(ours.timed_in_places), None),
        Row("the same as a `guard()` block", ours.guarded(ours.places), None),
        Row(
            "open circuit, the fallback answers",
            repeated(ours.stood_in),
            12.0,
            repeated(by_hand.standing_in(bare)),
            rivals("STANDING_IN", fails),
        ),
        Row(
            "refused by an open circuit; decorated",
            repeated(ours.refused, (CircuitOpenError,)),
            8.0,
            repeated(by_hand.refusing(bare), (by_hand.RefusedError,)),
            rivals("REFUSING", fails, (Exception,)),
        ),
        Row("the same through `call`", ours.refused_through_call, 8.5),
        Row(
            "one failure, then success; recorded, and queued for the disk (ratio to the same by hand)",
            repeated(ours.repeating(fails_first())),
            12.0,
            None,
            rivals("REPEATING", fails_first()),
            base=retried_by_hand,
        ),
    ]
    if with_rivals:
        from cost import rivals as others

        def block(case: Callable[[int, Call], Awaitable[None]]) -> Case:
            return lambda n: case(n, bare)

        table[8].rivals["hyx, breaker"] = block(others.hyx_breaker_block)
        table[9].rivals["hyx, timeout"] = block(others.hyx_timeout_block)
        table[10].rivals["tenacity"] = block(others.tenacity_attempts)
    return table


async def each_policy(ours: Ours, directory: str) -> list[tuple[str, str]]:
    """What a decorated call costs with the defaults and one policy more."""
    heard = ErrorRecoveryService(f"{directory}/heard state", f"{directory}/heard errors")

    async def listener(event: Event) -> None: ...

    heard.on_event(listener)
    watched = ErrorRecoveryService(
        f"{directory}/monitored state", f"{directory}/monitored errors", loop_monitor=True
    )
    calls = {
        "nothing more": ours.plain(bare),
        **ours.policies,
        "a listener to events": heard.service("heard")(bare),
        "the loop monitor": watched.service("monitored")(bare),
    }
    async with heard, watched:
        figures = [await measure(Row(name, repeated(call), None)) for name, call in calls.items()]
    return [(one.row.name, f"{one.ours:.1f}") for one in figures]


# -- what is no ratio to a bare await ------------------------------------------------------------------------------


async def in_flight(recovery: ErrorRecoveryService) -> str:
    """10,000 calls that sleep 10 ms at once, as a ratio to bare tasks."""

    async def nap(x: int) -> int:
        await asyncio.sleep(0.01)
        return x

    guarded = recovery.service("in flight", timeout=5.0, deadline=20.0, fallback=0)(nap)

    async def all_of(call: Call) -> float:
        begun = time.thread_time()
        async with asyncio.TaskGroup() as group:
            for number in range(10_000):
                group.create_task(call(number))  # type: ignore[arg-type]  # both are coroutine functions
        return time.thread_time() - begun

    await all_of(nap)
    await all_of(guarded)
    ratios = []
    for _ in range(7):
        gc.collect()
        base = await all_of(nap)
        gc.collect()
        ratios.append(await all_of(guarded) / base)
    return f"{statistics.median(ratios):.2f} x bare tasks"


async def gap_at_time_out(recovery: ErrorRecoveryService) -> str:
    """
    The longest time the loop stands still while 10,000 calls time out at the same moment.

    Without the collector: the ten thousand errors that the tasks keep would set it off, whoever raised them.
    """

    async def hang(x: int) -> int:
        await asyncio.Event().wait()
        return x

    async def by_hand(x: int) -> int:
        async with asyncio.timeout(0.4):
            return await hang(x)

    async def longest_gap(call: Call) -> float:
        tasks = [asyncio.ensure_future(call(number)) for number in range(10_000)]  # type: ignore[arg-type]  # as above
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        gaps, last = [0.0], time.perf_counter()
        for _ in range(600):
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last - 0.001)
            last = now
        gc.enable()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return max(gaps)

    # A threshold that is not reached: else the first five would keep the others from being called.
    service = recovery.service("gaps", circuit_threshold=10**9)
    ours = service.using(timeout=0.4, max_retries=0)(hang)
    contenders = {"ours": ours, "asyncio.timeout": by_hand, "the ticker with 10,000 idle tasks": hang}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(5):
        for name, call in contenders.items():
            found[name].append(1000 * await longest_gap(call))
    told = {name: f"{statistics.median(gaps):.1f} ms" for name, gaps in found.items()}
    return f"{told.pop('ours')} ({', '.join(f'{name}: {gap}' for name, gap in told.items())})"


def kept_by_a_refusal(ours: Ours) -> str:
    """Bytes that stay after a refusal was caught."""

    async def refusals() -> float:
        case = repeated(ours.refused, (CircuitOpenError,))
        await case(1_000)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await case(5_000)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        return kept / 5_000

    return f"{asyncio.run(refusals()):.2f} B"


async def at_random(calls: Sequence[Call]) -> float:
    """Seconds for 20,000 calls of *calls*, drawn at random."""
    chosen = random.choices(calls, k=20_000)
    begun = time.thread_time()
    for call in chosen:
        await call(1)
    return time.thread_time() - begun


async def many_functions(wrap: Callable[[Call], Call]) -> str:
    """What a call costs among 100,000 functions that *wrap* gives, in random order, against one of them."""
    gc.disable()
    many = [wrap(bare) for _ in range(100_000)]
    for call in many:
        await call(1)
    ratios = []
    for _ in range(ROUNDS):
        one = await at_random(many[:1])
        ratios.append(await at_random(many) / one)
    gc.enable()
    return f"{statistics.median(ratios):.2f} x"


async def many_services(recovery: ErrorRecoveryService) -> list[str]:
    """Memory and time of 100,000 services, and the cost of a call among them against one, decorated and by `call`."""
    alone = recovery.service("alone")
    few = [alone(bare)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    handles = [recovery.service(f"one of many {number}") for number in range(10_000)]
    bytes_each = (tracemalloc.get_traced_memory()[0] - before) / len(handles)
    tracemalloc.stop()
    gc.disable()  # as for all other rows: it looks at every object there is, and by then there are many
    begun = time.thread_time()
    handles += [recovery.service(f"one of many {number}") for number in range(10_000, 100_000)]
    creation = (time.thread_time() - begun) / 90_000
    begun = time.thread_time()
    many = [handle(bare) for handle in handles]
    decoration = (time.thread_time() - begun) / len(many)
    gc.enable()

    async def called(handles: list[Handle]) -> float:
        chosen, function = random.choices(handles, k=20_000), bare
        begun = time.thread_time()
        for handle in chosen:
            await handle.call(function, 1)
        return time.thread_time() - begun

    ratios: tuple[list[float], list[float]] = ([], [])
    for handle, call in zip(handles, many, strict=True):
        await handle.call(bare, 1)
        await call(1)
    for _ in range(ROUNDS):
        one = await at_random(few)
        ratios[0].append(await at_random(many) / one)
        one = await called([alone])
        ratios[1].append(await called(handles) / one)
    return [
        f"{bytes_each:,.0f} B, {1e6 * creation:.1f} us",
        f"{1e6 * decoration:.1f} us",
        *(f"{statistics.median(one):.2f} x one service" for one in ratios),
    ]


def elsewhere(interpreters: Sequence[str]) -> list[tuple[str, ...]]:
    """Some rows under other interpreters, and under uvloop: what they say, and whatever of them is not here is left out."""
    here, source = Path(__file__).with_name("cost") / "elsewhere.py", Path(__file__).parents[1] / "src"
    found: list[tuple[str, ...]] = []
    there = [(one,) for one in interpreters if shutil.which(one) is not None]
    for python, *words in [(sys.executable,), (sys.executable, "uvloop"), *there]:
        command = [python, str(here), str(source), *words]
        answer = subprocess.run(command, capture_output=True, check=False, text=True)  # noqa: S603 - an interpreter
        if answer.returncode:
            print(f"left out: {' '.join([python, *words])}: {answer.stderr.strip().splitlines()[-1:]}")
            continue
        told = json.loads(answer.stdout)
        found.append(
            (" and ".join([told.pop("version"), *words]), *(f"{ratio:.1f}" for ratio in told.values()))
        )
    return found


def start_time(program: str) -> str:
    """Milliseconds of processor time that *program* takes beyond importing asyncio, the bytecode cached."""
    code = f"import time\nimport asyncio\nbegun = time.process_time()\n{program}\nprint(time.process_time() - begun)"
    with tempfile.TemporaryDirectory() as cache:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        command = [sys.executable, "-X", f"pycache_prefix={cache}", "-c", code]

        def run() -> float:
            answer = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)  # noqa: S603 - this interpreter
            return float(answer.stdout)

        run()  # writes the bytecode
        return f"{1000 * statistics.median(run() for _ in range(9)):.1f} ms"


# -- the page --------------------------------------------------------------------------------------------------------


def markdown(
    figures: list[Figures],
    policies: list[tuple[str, str]],
    others: list[tuple[str, str, str]],
    places: list[tuple[str, ...]],
) -> str:
    calls = [
        (
            one.row.name,
            "-" if one.by_hand is None else f"{one.by_hand:.1f}",
            one.best_rival,
            f"{one.ours:.1f}",
            "-" if one.row.aim is None else f"{one.row.aim:g}",
        )
        for one in figures
    ]
    parts = [
        table(["case", "by hand", "best of the others", "shockproof", "aim"], calls),
        table(["healthy and decorated, with the defaults and", "times a bare await"], policies),
        table(["case", "shockproof", "aim"], others),
        table(
            ["CPython", "decorated", "`call`", "timeout and deadline", "`guard()` block", "refused"],
            places,
        ),
    ]
    detailed = [one for one in figures if len(one.rivals) > 1]
    if detailed:
        lines = ["All of the others, row by row:", ""]
        for one in detailed:
            told = ", ".join(
                f"{name} {value:.1f}" for name, value in sorted(one.rivals.items(), key=lambda item: item[1])
            )
            lines.append(f"* {one.row.name}: {told}.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def picture(figures: list[Figures]) -> str:
    """The rows that others have, too."""
    groups: dict[str, list[Bar]] = {}
    for one in figures:
        if not one.rivals:
            continue
        group = [Bar("shockproof", one.ours, is_ours=True)]
        if one.by_hand is not None:
            group.append(Bar("by hand", one.by_hand))
        group += [
            Bar(name, value) for name, value in sorted(one.rivals.items(), key=lambda item: item[1])[:4]
        ]
        groups[one.row.name] = [Bar(bar.name, bar.value, bar.is_ours, f"{bar.value:.1f}") for bar in group]
    return bars("What a call costs", "times a bare await", groups)


async def ratios(
    *, with_rivals: bool
) -> tuple[list[Figures], list[tuple[str, str]], list[tuple[str, str, str]]]:
    with tempfile.TemporaryDirectory() as directory:
        async with ErrorRecoveryService(f"{directory}/state", f"{directory}/errors") as recovery:
            ours = Ours(recovery, bare)
            other = ErrorRecoveryService(f"{directory}/other state", f"{directory}/other errors")
            ShockproofCollector(other, durations=True)
            in_spans = ErrorRecoveryService(f"{directory}/traced state", f"{directory}/traced errors")
            trace_calls(in_spans, tracer_provider=NoOpTracerProvider())
            table = await rows(
                ours, other.service("watched"), in_spans.service("traced"), with_rivals=with_rivals
            )
            gc.collect()
            gc.freeze()
            gc.disable()
            figures = [await measure(row) for row in table]
            policies = await each_policy(ours, directory)
            gc.enable()
            await ours.check_that_timers_are_armed()
            others = [
                (
                    "10,000 calls in flight, each sleeping 10 ms, full stack with timeout",
                    await in_flight(recovery),
                    "1.2",
                ),
                (
                    "10,000 calls that time out at the same moment: longest gap of the loop",
                    await gap_at_time_out(recovery),
                    "5 ms",
                ),
            ]
            copies = await many_functions(lambda function: FunctionType(function.__code__, globals()))
            written = await many_functions(by_hand.one_coroutine)
            services, decoration, many, many_called = await many_services(recovery)
            others += [
                ("a service: bytes, time to make it", services, "1 KiB, 6 us"),
                ("decorating a function", decoration, "30 us"),
                (
                    "a call among 100,000 services, in random order; decorated",
                    f"{many} (by hand: {written} one function; copies of the bare function: {copies} one)",
                    "2",
                ),
                ("the same through `call`", many_called, "2"),
            ]
    return figures, policies, others


def refusals_kept() -> str:
    with tempfile.TemporaryDirectory() as directory:
        recovery = ErrorRecoveryService(f"{directory}/state", f"{directory}/errors")
        ours = Ours(recovery, bare)
        asyncio.run(ours.open())
        asyncio.run(recovery.aclose())  # what the writer's thread allocates would be counted
        return kept_by_a_refusal(ours)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a call costs.")
    parser.add_argument("--ours", action="store_true", help="without the other libraries")
    parser.add_argument("--write", action="store_true", help=f"rewrite the tables of {SECTION.page}")
    parser.add_argument(
        "--python",
        nargs="*",
        default=["python3.12", "python3.13", "python3.14"],
        help="other interpreters, which need nothing installed; those that are not here are left out",
    )
    given = parser.parse_args()
    if given.write and given.ours:
        parser.error("--write needs the other libraries: leave --ours out")
    with_rivals = not given.ours
    figures, policies, others = asyncio.run(ratios(with_rivals=with_rivals))
    others += [
        ("memory kept by a refusal that was caught", refusals_kept(), "0 B"),
        ("`import shockproof`, beyond asyncio", start_time("import shockproof"), "12 ms"),
        (
            "`from shockproof import ErrorRecoveryService`, and making one with a handle",
            start_time(
                "from shockproof import ErrorRecoveryService; ErrorRecoveryService('state', 'errors').service('x')"
            ),
            "12 ms",
        ),
    ]
    if with_rivals:
        others += [
            (f"`import {name}`, beyond asyncio", start_time(f"import {name}"), "-")
            for name in ("nopanic", "resilix")
        ]
    text = markdown(figures, policies, others, elsewhere(given.python))
    print(text)
    if given.write:
        from cost import rivals

        SECTION.write(
            text,
            method=f"{ROUNDS} rounds.",
            versions=rivals.DISTRIBUTIONS,
            pictures={"cost-of-a-call.svg": picture(figures)},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
