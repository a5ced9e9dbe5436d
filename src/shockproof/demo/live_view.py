"""The session as a picture on a terminal: services, orders, the loop, what happens, what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from shockproof.demo.scoreboard import Happening, Scoreboard
from shockproof.demo.venue.fault_plan import FaultKind, FaultPlan

__all__ = ["LiveView", "picture"]

_TONES = {"plain": "", "good": "green", "bad": "red", "weather": "yellow", "title": "bold"}
_STATUS = {"operational": "green", "degraded": "yellow", "unavailable": "red"}
_CIRCUIT = {"closed": "green", "half-open": "yellow", "open": "bold red"}
_ORDERS = {
    "pending": "bold yellow",
    "open": "cyan",
    "filled": "green",
    "canceled": "blue",
    "expired": "blue",
    "rejected": "magenta",
    "not sent": "dim",
}
_SPARKS = "▁▂▃▄▅▆▇█"

# How much each fault hurts, for its colour in the timeline: the worst one of a moment is shown.
_COLOURS = {
    FaultKind.OUTAGE: "red",
    FaultKind.SLOW_DISK: "cyan",
    FaultKind.ERROR_AFTER: "magenta",
    FaultKind.CUT_AFTER: "magenta",
    FaultKind.LATE: "magenta",
    FaultKind.BOOKED_LATER: "magenta",
    FaultKind.RATE_LIMIT: "blue",
    FaultKind.CUT_BEFORE: "yellow",
    FaultKind.ERROR_BEFORE: "yellow",
    FaultKind.REFERENCE_OUTAGE: "red",
    FaultKind.LATENCY: "bright_black",
}


class LiveView:
    """Draws on the whole terminal while the session runs, and leaves it as it was."""

    def __init__(self, title: str, plan: FaultPlan) -> None:
        self._console = Console(highlight=False)
        self._title = title
        self._plan = plan
        self._live: Live | None = None
        self.on_broken: Callable[[], None] | None = None

    def line(self, text: str, tone: str = "plain") -> None:
        """One line, on the terminal itself."""
        try:
            self._console.print(Text(text, style=_TONES[tone]))
        except OSError:
            self._broke()

    def shown(self, seconds: float) -> AbstractContextManager[object]:
        """For the time of the session."""
        self._live = Live(
            picture(Scoreboard(seconds), self._title, self._plan, self._console.width, self._console.height),
            console=self._console,
            screen=True,
            auto_refresh=False,
        )
        return self._live

    def happened(self, happening: Happening) -> None:
        """Nothing to do: the next picture shows it."""

    def refresh(self, board: Scoreboard) -> None:
        if self._live is None:
            return
        size = self._console.size
        try:
            self._live.update(picture(board, self._title, self._plan, size.width, size.height), refresh=True)
        except OSError:
            self._broke()

    def _broke(self) -> None:
        self._live = None  # the terminal is gone
        if self.on_broken is not None:
            self.on_broken()


def picture(board: Scoreboard, title: str, plan: FaultPlan, width: int, height: int) -> RenderableType:
    """Everything, as it fits into *width* columns and *height* rows."""
    rows = len(board.services()) or 1
    rest = height - rows - 7
    is_tall = rest >= 12
    header = [_title(board, title), _bar(board, width), _timeline(board, plan, width), _weather(board)]
    if not is_tall:
        header.append(_in_one_line(board))
        rest -= 1
    parts = [
        Layout(Group(*header), size=len(header)),
        Layout(Panel(_services(board, width), title="services", border_style="dim"), size=rows + 3),
    ]
    if is_tall:
        middle = Layout(size=7)
        middle.split_row(
            Layout(Panel(_orders(board, width // 2 - 4), title="orders", border_style="dim")),
            Layout(Panel(_loop(board, width // 2 - 4), title="event loop, disk, prices", border_style="dim")),
        )
        parts.append(middle)
        rest -= 7
    if rest >= 3:
        parts.append(_news(board, width, rest))
    layout = Layout()
    layout.split_column(*parts)
    return layout


def _title(board: Scoreboard, title: str) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right", no_wrap=True)
    shown = max(0.0, min(board.elapsed, board.seconds))
    line.add_row(
        Text(title, style="bold", no_wrap=True, overflow="ellipsis"),
        Text(f" {board.phase}  {shown:5.1f} / {board.seconds:g} s", style="bold"),
    )
    return line


def _weather(board: Scoreboard) -> Text:
    now = Text("now: ", style="dim", no_wrap=True, overflow="ellipsis")
    return now.append(", ".join(name.replace("_", " ") for name in board.weather) or "calm", style="yellow")


def _in_one_line(board: Scoreboard) -> Text:
    """What a small terminal has no panels for."""
    orders = ", ".join(f"{count} {state}" for state, count in board.orders().items()) or "none yet"
    return Text.assemble(
        ("orders: ", "dim"),
        orders,
        ("  worst loop lag: ", "dim"),
        f"{1000 * board.worst_lag:.0f} ms",
        no_wrap=True,
        overflow="ellipsis",
    )


def _bar(board: Scoreboard, width: int) -> Text:
    done = round(max(0.0, min(1.0, board.elapsed / board.seconds)) * width)
    return Text.assemble(("━" * done, "green"), ("━" * (width - done), "bright_black"))


def _timeline(board: Scoreboard, plan: FaultPlan, width: int) -> Text:
    """The fault plan under the progress bar, in the same scale."""
    text = Text()
    kill_columns = {int(kill.start / board.seconds * width) for kill in plan.of_kind(FaultKind.KILL)}
    cuts = {int(cut.start / board.seconds * width) for cut in plan.of_kind(FaultKind.STREAM_CUT)}
    for column in range(width):
        moment = (column + 0.5) / width * board.seconds
        kinds = {window.kind for window in plan.active(moment)}
        if column in kill_columns:
            text.append("✖", "bold red")
            continue
        worst = next((kind for kind in _COLOURS if kind in kinds), None)
        if worst is not None:
            text.append("▀", _COLOURS[worst])
        else:
            text.append("╵" if column in cuts else " ", "yellow")
    return text


def _services(board: Scoreboard, width: int) -> RenderableType:
    is_wide, is_narrow = width >= 100, width < 76
    table = Table(expand=True, box=None, padding=(0, 1) if is_wide else (0, 1, 0, 0), header_style="dim")
    table.add_column("service", no_wrap=True)
    table.add_column("" if is_narrow else "status", no_wrap=True)
    table.add_column("circuit", no_wrap=True)
    long = ("calls", "failed", "retried", "fell back", "refused", "latency")
    short = ("calls", "fail", "retry", "fallb", "refus", "ms")
    for name in long if is_wide else short:
        table.add_column(name, justify="right", no_wrap=True)
    latencies: dict[str, float] = board.snapshot.get("latency_ms", {})
    for name, row in board.services().items():
        circuit = row.circuit if row.circuit != "open" else f"open {row.retry_after:.1f} s"
        counts = row.counts
        latency = latencies.get(name)
        table.add_row(
            name,
            Text.assemble(("● ", _STATUS[row.status]), "" if is_narrow else row.status),
            Text(circuit, style=_CIRCUIT[row.circuit]),
            str(row.calls),
            _count(counts["failures"], "red"),
            _count(counts["retries"], "yellow"),
            _count(counts["fallbacks"], "yellow"),
            _count(counts["rejections"], "red"),
            "" if latency is None else f"{latency:.1f} ms" if is_wide else f"{latency:.1f}",
        )
    if not board.services():
        table.add_row(Text("none yet", style="dim"), *[""] * 8)
    return table


def _count(count: int, style: str) -> Text:
    return Text(str(count), style=style if count else "dim")


def _orders(board: Scoreboard, width: int) -> RenderableType:
    counts = board.orders()
    total = max(1, sum(counts.values()))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    room = max(4, width - 16)
    shown = sorted(counts, key=lambda state: (state not in ("pending", "filled"), -counts[state]))[:4]
    for state in shown:
        style = _ORDERS.get(state, "")
        grid.add_row(
            Text(state, style=style),
            str(counts[state]),
            Text("█" * max(1, round(counts[state] / total * room)), style=style),
        )
    others = {state: count for state, count in counts.items() if state not in shown}
    settled = board.settled("look-up", "reconcile")
    equity = board.snapshot.get("equity")
    last = [f"{count} {state}" for state, count in others.items()]
    last += [f"{settled} of {len(board.outcomes)} unknown settled"] if board.outcomes else []
    last += [f"worth {equity:,.0f} USDT"] if equity else []
    return Group(grid, Text(", ".join(last), style="dim", no_wrap=True, overflow="ellipsis"))


def _loop(board: Scoreboard, width: int) -> RenderableType:
    lag = board.lag_history[-1] if board.lag_history else 0.0
    now = Text.assemble(
        ("lag ", "dim"), f"{1000 * lag:.0f} ms", ("  worst ", "dim"), f"{1000 * board.worst_lag:.0f} ms"
    )
    if "slow_disk" in board.weather:
        now.append("  the disk is slow", "cyan")
    log = board.error_log
    written = Text.assemble(
        ("error log ", "dim"),
        f"{board.written} written",
        (f", {log.get('queued', 0)} waiting, {board.dropped} dropped", "dim"),
    )
    prices = ", ".join(f"{count} {name}" for name, count in board.priced_by().items()) or "none yet"
    return Group(
        now,
        _sparks(list(board.lag_history)[-max(8, width - 2) :]),
        written,
        Text.assemble(("prices from ", "dim"), prices, no_wrap=True, overflow="ellipsis"),
        Text(f"{board.total('ticks')} ticks from the price stream", style="dim"),
    )


def _sparks(lags: Sequence[float]) -> Text:
    text = Text(no_wrap=True)
    for lag in lags:
        # 1 ms and less is the lowest, 100 ms and more the highest: each step is about twice the one before.
        step = min(len(_SPARKS) - 1, max(0, (int(1000 * lag)).bit_length()))
        text.append(_SPARKS[step], "green" if lag < 0.02 else "yellow" if lag < 0.1 else "red")
    return text


def _news(board: Scoreboard, width: int, height: int) -> Layout:
    happenings = Text(no_wrap=True, overflow="ellipsis")
    for happening in list(board.happenings)[-(height - 2) :]:
        happenings.append(f"{happening.elapsed:5.1f} s  ", "dim")
        happenings.append(happening.text + "\n", _TONES[happening.tone])
    news = Layout()
    panels = [Layout(Panel(happenings, title="what happens", border_style="dim"), ratio=3)]
    if width >= 110:
        panels.append(
            Layout(Panel(_errors(board, height - 2), title="last errors", border_style="dim"), ratio=2)
        )
        news.split_row(*panels)
    elif height >= 9:
        errors = 3 if height >= 12 else 2
        panels.append(
            Layout(Panel(_errors(board, errors), title="last errors", border_style="dim"), size=errors + 2)
        )
        news.split_column(*panels)
    else:
        news.split_row(*panels)
    return news


def _errors(board: Scoreboard, most: int) -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    for error in list(board.errors)[-most:]:
        text.append(f"{error['timestamp'][11:19]} ", "dim")
        text.append(f"{error['service_name']} ")
        text.append(error["error_type"], "red")
        text.append(f" {' '.join(error['error_message'].split())[:200]}\n", "dim")
    return text if board.errors else Text("none", style="dim")
