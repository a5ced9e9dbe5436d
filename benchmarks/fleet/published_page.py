"""What was found, as the tables of a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from published import SECTIONS, table

from fleet import load, orders, trouble, venue
from fleet.load import Outage, Shared
from fleet.trouble import HUNDRED, LARGE, LARGE_BYTES, ONE, PUT, RENEW, TAKEN, Outcome

SECTION = SECTIONS["fleet"]
PAGE = f"docs/{SECTION.page}"
SIZES = (10, 100, 1_000, 10_000)
CANNOT_TELL = (
    "what a network between machines adds to each step; what a server does that has other work, replicas or a slow disk: "
    "etcd ran alone and without waiting for its disk; and processes that are really ten thousand. The processes, the "
    "store and the venue share the processors named above, so that times are rather too long."
)


@dataclass
class Found:
    """Everything that was measured."""

    troubles: list[Outcome] = field(default_factory=list[Outcome])
    orders: orders.Outcome | None = None
    cost: dict[str, float] = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list[Outage])
    limits: list[Shared] = field(default_factory=list[Shared])

    @property
    def complaints(self) -> list[str]:
        """What is not as promised."""
        told = [what for one in self.troubles for what in one.complaints]
        told += [] if self.orders is None else self.orders.complaints
        told += [
            f"load: of {one.processes} circuits {one.processes - one.closed} stayed open"
            for one in self.outages
            if one.closed != one.processes
        ]
        return told


def write(found: Found, rounds: int) -> None:
    assert found.orders is not None
    SECTION.write(
        "\n\n".join(
            [
                "### In trouble",
                troubles_table(found.troubles),
                "### Orders of an account, in trouble",
                orders_table(found.orders),
                "### A call",
                cost_table(found.cost),
                "### The store, with more processes",
                outages_table(found),
                limits_table(found),
            ]
        ),
        method=f"{rounds} outages until all know; processes cut off by {found.troubles[0].network}.",
        cannot_tell=CANNOT_TELL,
        versions=("redis", "httpx2", "ccxt"),
    )


# -- in trouble ------------------------------------------------------------------------------------------------------


def troubles_table(outcomes: list[Outcome]) -> str:
    def row(name: str, cell: Callable[[Outcome], object]) -> list[object]:
        return [name, *(cell(one) for one in outcomes)]

    rows = [
        row(
            "until another process knows that the circuit is open, p50, p99",
            lambda one: f"{1000 * one.p50:.0f} ms, {1000 * one.p99:.0f} ms",
        )
    ]
    rows.append(row("a call in calm, p50, p99", lambda one: trouble.in_us(one.call_in_calm)))
    for number, first in enumerate(outcomes[0].troubles):
        rows += [
            row(
                f"{first.name}, {first.ended - first.begun:.0f} s: sent meanwhile",
                lambda one, number=number: f"{one.sent_during(one.troubles[number]):,}",  # type: ignore[misc]  # bound early
            ),
            row(
                "a call meanwhile, p50, p99",
                lambda one, number=number: trouble.in_us(one.troubles[number].call),  # type: ignore[misc]  # as above
            ),
            row(
                "afterwards, until all have the store again",
                lambda one, number=number: f"{one.troubles[number].back:.1f} s",  # type: ignore[misc]  # as above
            ),
            row(
                "until all may send of their share again",
                lambda one, number=number: f"{one.troubles[number].sends:.1f} s",  # type: ignore[misc]  # as above
            ),
        ]
    rows += [
        row("calls", lambda one: f"{one.calls:,}"),
        row("of them failed because of the store", lambda one: one.failed),
        row("requests that the venue counted", lambda one: f"{len(one.ledger.requests):,}"),
        row(
            f"most in any {venue.WINDOW:g} s, of {venue.LIMIT}",
            lambda one: one.ledger.most_in(venue.WINDOW),
        ),
        row("windows above the limit", lambda one: one.windows_above),
        row("of the limit, used in calm", lambda one: f"{100 * one.used_in_calm:.0f} %"),
        row("a request was on its way for at most", lambda one: f"{1000 * one.ledger.slowest:.0f} ms"),
    ]
    return table(
        [f"{trouble.PROCESSES} processes", *(one.name for one in outcomes)],
        rows,
    )


# -- orders and calls ------------------------------------------------------------------------------------------------


def orders_table(outcome: orders.Outcome) -> str:
    took = sorted(outcome.hand_overs)
    return table(
        ["one account", f"{orders.FLEET} processes"],
        [
            ("orders", f"{outcome.orders:,}"),
            ("of them met a fault of the venue", outcome.faults),
            ("owners killed in the middle (SIGKILL)", outcome.kills),
            ("owners stopped for longer than their lease, and woken (SIGSTOP)", outcome.stops),
            (
                "until another one owned it, median, at most",
                f"{took[len(took) // 2]:.1f} s, {took[-1]:.1f} s",
            ),
            ("the store stood still for longer than the lease, in the middle (SIGSTOP)", outcome.stood),
            ("it was killed in the middle, and came back empty", outcome.emptied),
            ("from then until orders went on, at most", f"{max(outcome.gaps, default=0.0):.1f} s"),
            (
                "half of the processes cut off from the store, the owner among them, until another one had sent orders",
                outcome.cuts,
            ),
            ("orders meanwhile", f"{outcome.sent_in_cuts:,}"),
            ("doubled", outcome.doubled),
            ("lost", outcome.lost),
            ("of which somebody said what the venue's ledger does not", outcome.wrong),
            ("left pending", outcome.pending),
            ("requests to place an order that the venue counted", f"{len(outcome.requests):,}"),
            (f"most in any {venue.WINDOW:g} s, of {orders.LIMIT}", outcome.most_in_a_window),
            ("windows above the limit", outcome.windows_above),
        ],
    )


def cost_table(cost: Mapping[str, float]) -> str:
    return table(
        ["a healthy call", "sharing on, to sharing off"],
        [(f"with a {name}", f"{ratio:.2f}") for name, ratio in cost.items()],
    )


# -- load ------------------------------------------------------------------------------------------------------------


def load_lines(found: Found, largest: int, live: int) -> Iterator[str]:
    """Simulate, and tell as it goes."""
    for size in SIZES:
        if size <= largest:
            found.outages.append(load.an_outage(size))
            yield f"an outage: {found.outages[-1]}"
    for size in SIZES:
        for wanted in (0.5, 2.0):
            if size <= largest and (wanted <= 1.0 or size <= load.MOST_IN_WANT):
                found.limits.append(load.a_limit(size, wanted, live))
                yield f"a rate limit: {found.limits[-1]}"
    if found.troubles:
        yield outages_table(found)
        yield limits_table(found)


def _core(one: Outcome, limit: Shared) -> float:
    """The part of one processor that the store needs for it."""
    costs = one.steps
    each_value = max(0.0, (costs[HUNDRED] - costs[ONE]) / 100)
    each_byte = max(0.0, (costs[LARGE] - costs[ONE]) / LARGE_BYTES)
    kinds = {"get": ONE, "entries": ONE, "put": PUT, "renew": RENEW, "delete": PUT}
    steps = sum(costs[kinds[kind]] * count for kind, count in limit.steps.items())
    return steps + each_value * limit.values + each_byte * limit.bytes


def outages_table(found: Found) -> str:
    heads = [
        "processes, circuits",
        "steps/s in calm",
        "most steps in a second of an outage",
        *(f"that second, of a core of {one.name}" for one in found.troubles),
        "calls that met the outage",
        "closed after it",
    ]
    return table(
        heads,
        [
            (
                f"{one.processes:,}",
                f"{one.calm:,.0f}",
                f"{one.peak:,}",
                *(_part(one.peak * outcome.steps[TAKEN]) for outcome in found.troubles),
                one.met,
                f"{one.closed:,}",
            )
            for one in found.outages
        ],
    )


def limits_table(found: Found) -> str:
    heads = [
        "processes, a rate limit",
        "they want of it",
        "steps/s",
        "read and written, kB/s",
        "its record, kB",
        *(f"of a core of {one.name}" for one in found.troubles),
    ]
    return table(
        heads,
        [
            (
                f"{one.processes:,}",
                f"{100 * one.wanted:.0f} %",
                f"{one.total:,.0f}",
                f"{one.bytes / 1e3:,.0f}",
                f"{one.record / 1e3:,.0f}",
                *(_part(_core(outcome, one)) for outcome in found.troubles),
            )
            for one in found.limits
        ],
    )


def _part(cores: float) -> str:
    return f"{100 * cores:,.1f} %" if cores < 10 else f"{cores:,.0f} cores"
