"""What is known of several traders of one account: made from their reports, read by the view and the summary."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shockproof.demo.scoreboard import Happening
from shockproof.demo.verdict import Life

__all__ = ["FleetBoard", "Member"]

COUNTS = ("successes", "failures", "retries", "fallbacks", "rejections", "circuit_trips", "timeouts")


@dataclass(slots=True)
class Member:
    """One life of one trader."""

    life: int
    name: str
    role: Literal["starting", "standby", "owner", "gone"] = "starting"
    has_owned: bool = False
    """Whether it has ever owned the account."""
    written: int | None = None
    """Error records, as it said at its end; None: it has not come to that."""
    snapshot: dict[str, Any] = field(default_factory=dict)  # Any: the trader's JSON

    @property
    def store(self) -> str:
        """Whether it reaches the store."""
        shared: Mapping[str, Any] | None = self.snapshot.get("shared")  # Any: the trader's JSON
        return "unused" if shared is None else str(shared["state"])

    def count(self, name: str) -> int:
        """One of the services' counts, over all of them."""
        return sum(int(service[name]) for service in self.snapshot.get("services", {}).values())


@dataclass(slots=True)
class FleetBoard:
    """Read by views, written by the session."""

    seconds: float
    elapsed: float = 0.0
    """Since the demo was started."""
    members: dict[int, Member] = field(default_factory=dict[int, Member])
    """All lives, by their numbers."""
    happenings: deque[Happening] = field(default_factory=lambda: deque[Happening](maxlen=200))
    outcomes: dict[str, str] = field(default_factory=dict[str, str])
    """Of each order whose outcome was ever unknown, how it was settled; or ``"unknown"``."""
    pending_at_take_over: int = 0

    def happened(self, text: str, tone: str = "plain") -> Happening:
        happening = Happening(self.elapsed, text, tone)
        self.happenings.append(happening)
        return happening

    def report(self, member: Member, line: Mapping[str, Any]) -> Happening | None:  # Any: the trader's JSON
        """One line from one of them; what it means for people, if anything."""
        match line.get("kind"):
            case "up":
                return self._owns(member, line)
            case "snapshot":
                member.snapshot = dict(line)
                if member.role == "starting":
                    member.role = "standby"
            case "end":
                member.written = line["error_log"]["written"]
            case "outcome":
                self.outcomes[line["order"]] = line["how"]
            case "circuit":
                return self.happened(f"{member.name}: {_circuit(line)}", _TONES[line["state"]])
            case "note":
                return self.happened(f"{member.name}: {line['text']}")
            case _:
                pass
        return None

    def _owns(self, member: Member, line: Mapping[str, Any]) -> Happening:  # Any: the trader's JSON
        member.role, member.has_owned = "owner", True
        if not line["restored"]:
            return self.happened(f"{member.name} owns the account, and is the first", "good")
        self.pending_at_take_over += line["pending"]
        return self.happened(
            f"{member.name} owns the account now, and takes over: {line['orders']} orders, "
            f"{line['pending']} of them pending",
            "good",
        )

    @property
    def owner(self) -> Member | None:
        """Who owns the account, as far as is known."""
        return next((one for one in self.members.values() if one.role == "owner"), None)

    def lives(self) -> list[Life]:
        """What each life said last about its error log."""
        return [
            Life(
                one.life,
                one.snapshot.get("error_log", {}).get("written", 0) if one.written is None else one.written,
                one.written is None,
            )
            for one in self.members.values()
        ]

    def sum_of(self, count: str) -> int:
        """One of the services' counts, over all services of all lives."""
        return sum(one.count(count) for one in self.members.values())

    @property
    def calls(self) -> int:
        """Attempts that were made, and calls that an open circuit refused."""
        return self.sum_of("successes") + self.sum_of("failures") + self.sum_of("rejections")

    @property
    def dropped(self) -> int:
        """Error records lost because a queue was full."""
        return sum(one.snapshot.get("error_log", {}).get("dropped", 0) for one in self.members.values())

    @property
    def worst_lag(self) -> float:
        return max((one.snapshot.get("worst_lag", 0.0) for one in self.members.values()), default=0.0)

    def settled(self, way: str) -> int:
        """How many orders of unknown outcome were settled in that way: ``look-up``, ``reconcile``."""
        return sum(how == way for how in self.outcomes.values())

    def status_line(self) -> str:
        """How everything stands, in one line."""
        living = [one for one in self.members.values() if one.role != "gone"]
        roles = ", ".join(f"{one.name} {one.role}" for one in living)
        owner = self.owner
        orders: Counter[str] = Counter({} if owner is None else owner.snapshot.get("orders", {}))
        shown = ", ".join(f"{count} {state}" for state, count in orders.items()) or "none yet"
        stores = sorted({one.store for one in living if one.snapshot}) or ["unused"]
        return (
            f"{roles} | orders: {shown} | calls {self.calls}, failed {self.sum_of('failures')} | "
            f"store {', '.join(stores)}"
        )


_TONES = {"open": "bad", "half-open": "plain", "closed": "good"}


def _circuit(line: Mapping[str, Any]) -> str:  # Any: the trader's JSON
    if line["state"] == "open":
        return f"circuit {line['service']} is open ({line['why'] or 'others have opened it'})"
    return f"circuit {line['service']} {line['state']}"
