"""When an incident begins and when it is over, case by case and for any sequence of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.alerts import AlertRules, Incident
from shockproof.alerts.ledger import Ledger
from shockproof.alerts.rules import Watch
from shockproof.vocabulary.events import AttemptFailed, CallFailed, CircuitOpened
from shockproof.vocabulary.outcomes import Outcome


def of_service(
    status: str = "operational",
    circuit: str = "closed",
    *,
    critical: bool = False,
    by_hand: str | None = None,
) -> dict[str, Any]:
    mode = "normal" if by_hand is None else "forced-open"
    return {
        "status": status,
        "circuit": circuit,
        "critical": critical,
        "circuit_mode": mode,
        "circuit_mode_reason": by_hand,
    }


DOWN = of_service("unavailable", "open")


def health(
    dropped: int = 0,
    log: str = "ok",
    journal: str = "open",
    kept_sends: str = "ok",
    halt: str | None = None,
    **services: dict[str, Any],
) -> dict[str, Any]:
    return {
        "services": services,
        "error_log": {"state": log, "dropped": dropped, "last_error": "ENOSPC"},
        "journal": {"state": journal, "pending": 0, "last_error": "EIO"},
        "kept_sends": {"state": kept_sends, "last_error": "the disk has not answered for 10 s"},
        "halt": {"last_error": halt},
    }


def failed(name: str = "broker", outcome: Outcome = Outcome.FAILURE, text: str = "reset") -> AttemptFailed:
    return AttemptFailed(
        service_name=name,
        at=0.0,
        function_name="fetch",
        attempt=1,
        error_type="ConnectionError",
        error_message=text,
        outcome=outcome,
        duration=0.1,
    )


def call_failed(name: str = "broker", outcome: Outcome = Outcome.FAILURE) -> CallFailed:
    return CallFailed(
        service_name=name,
        at=0.0,
        function_name="fetch",
        attempts=4,
        error_type="ConnectionError",
        reason="",
        outcome=outcome,
    )


class Watched:
    """A `Watch`, looked at in seconds since its beginning."""

    def __init__(self, rules: AlertRules | None = None, **options: Any) -> None:
        self.watch = Watch(AlertRules() if rules is None else rules, **options)
        self.at(0.0)

    def at(self, now: float, **given: Any) -> list[str]:
        return list(self.look(now, **given))

    def look(self, now: float, **given: Any) -> dict[str, Incident]:
        return self.watch.look(health(**given), 1000.0 + now, 5000.0 + now)


def test_an_open_circuit_is_an_incident_at_once_that_names_the_last_error() -> None:
    """The person who reads it knows what to look for."""
    watched = Watched()
    watched.watch.note(failed())
    incident = watched.look(1, broker=DOWN)["service:broker"]
    assert incident.summary == "broker: circuit open: ConnectionError: reset"
    assert (incident.rule, incident.severity, incident.opened_at) == ("circuit_opened", "error", 5001.0)


def test_an_open_circuit_and_an_unavailable_service_are_one_incident() -> None:
    """One outage pages once, also when it was unavailable first and its circuit opened later."""
    watched = Watched()
    away = of_service("unavailable")
    assert watched.at(1, broker=away) == []
    assert watched.at(61, broker=away) == ["service:broker"]
    assert watched.at(62, broker=DOWN) == ["service:broker"]
    assert watched.look(63, broker=away)["service:broker"].rule == "service_unavailable"


def test_a_service_that_is_back_before_its_time_is_no_incident() -> None:
    """The time counts anew with each outage."""
    watched = Watched()
    away = of_service("unavailable")
    for now in range(0, 300, 50):
        assert watched.at(now + 1, broker=away) == watched.at(now + 45, broker=away) == []
        assert watched.at(now + 46, broker=of_service()) == []


def test_a_circuit_that_flaps_is_one_incident_until_it_was_quiet() -> None:
    """It is over when nothing was seen for resolve_after; half-open keeps it, and begins none."""
    watched = Watched(AlertRules(resolve_after=60))
    half_open = of_service("degraded", "half-open")
    assert watched.at(1, broker=half_open) == []
    for now in (10, 60, 110):
        assert watched.at(now, broker=DOWN) == ["service:broker"]
        assert watched.at(now + 20, broker=of_service()) == ["service:broker"]
        assert watched.at(now + 30, broker=half_open) == ["service:broker"]
    assert watched.at(199, broker=of_service()) == ["service:broker"]
    assert watched.at(200, broker=of_service()) == []


def test_a_circuit_that_opened_and_closed_between_two_looks_is_not_missed() -> None:
    """The event tells of it."""
    watched = Watched()
    watched.watch.note(CircuitOpened(service_name="broker", at=0.0, last_error=None, retry_after=1.0))
    assert watched.at(5, broker=of_service()) == ["service:broker"]


def test_a_circuit_held_open_by_hand_says_so() -> None:
    """Nobody looks for an outage where there is none."""
    held = of_service("unavailable", "open", by_hand="maintenance")
    assert Watched().look(1, broker=held)["service:broker"].summary == (
        "broker: circuit held open by hand: maintenance"
    )


def test_a_failed_call_is_a_critical_error_only_where_the_service_is_critical() -> None:
    """Several between two looks are one incident with their number."""
    watched = Watched()
    for event in (failed(), call_failed(), call_failed()):
        watched.watch.note(event)
    assert watched.at(1, broker=of_service()) == []
    for event in (call_failed(), call_failed()):
        watched.watch.note(event)
    found = watched.look(2, broker=of_service(critical=True))
    assert found["service:broker"].summary == (
        "broker: 2 calls to a critical service failed for good: ConnectionError: reset"
    )
    assert watched.at(61, broker=of_service(critical=True)) == ["service:broker"]
    assert watched.at(62, broker=of_service(critical=True)) == []


@pytest.mark.parametrize("circuit_opened", [0.0, None])
def test_an_outage_of_a_critical_service_is_one_incident_however_many_probes_fail(
    circuit_opened: float | None,
) -> None:
    """It begins with a failed call, goes on while its circuit rests, and is over when that is closed and quiet."""
    watched = Watched(AlertRules(circuit_opened=circuit_opened, service_unavailable=None))
    down = of_service("unavailable", "open", critical=True)
    half_open = of_service("degraded", "half-open", critical=True)
    fine = of_service(critical=True)
    watched.watch.note(call_failed())
    (first,) = watched.look(1, broker=fine).values()
    assert first.rule == "critical_error"
    for probe in range(100, 1000, 100):  # longer apart than resolve_after
        assert list(watched.look(probe, broker=down).values()) == [first]
        assert list(watched.look(probe + 80, broker=half_open).values()) == [first]
        watched.watch.note(call_failed())
    assert list(watched.look(1000, broker=down).values()) == [first]
    assert watched.at(1059, broker=fine) == ["service:broker"]
    assert watched.at(1060, broker=fine) == []


def test_a_critical_circuit_that_is_half_open_begins_no_incident() -> None:
    """Only what failed begins one."""
    assert Watched().at(1, broker=of_service("degraded", "half-open", critical=True)) == []


def test_an_unknown_outcome_is_left_to_a_person_and_the_next_one_is_a_new_incident() -> None:
    """A key of its own, so that it is no repetition of the one that nobody has resolved yet."""
    watched = Watched()
    watched.watch.note(failed("orders", Outcome.UNKNOWN, "timed out"))
    assert watched.at(0.5, orders=of_service()) == []  # an attempt, which may be looked up
    watched.watch.note(call_failed("orders", Outcome.UNKNOWN))
    (first,) = watched.look(1, orders=of_service()).values()
    assert (first.resolves, first.severity) == (False, "critical")
    assert first.summary == "orders: nobody knows what a call did: ConnectionError: timed out"
    assert watched.at(61, orders=of_service()) == []
    watched.watch.note(call_failed("orders", Outcome.UNKNOWN))
    (second,) = watched.look(62, orders=of_service()).values()
    assert second.key != first.key


def test_only_records_that_are_dropped_from_now_on_are_told() -> None:
    """What was dropped before the first look is not news."""
    watch = Watch(AlertRules())
    assert watch.look(health(dropped=7), 1.0, 1.0) == {}
    assert watch.look(health(dropped=7), 2.0, 2.0) == {}
    found = watch.look(health(dropped=10), 3.0, 3.0)
    assert found["records_dropped"].summary == "the error log lost 3 records"
    assert found["records_dropped"].severity == "warning"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"log": "degraded"}, "the error log is not written (degraded): ENOSPC"),
        ({"journal": "no space"}, "the journal is not written (no space): EIO"),
        ({"journal": "locked"}, "the journal is not written (locked): EIO"),
        ({"journal": "failed"}, "the journal is not written (failed): EIO"),
        (
            {"kept_sends": "degraded"},
            "the file of what is sent under rate limits is not written (degraded): the disk has not answered for 10 s",
        ),
        ({"halt": "EROFS"}, "the halt is not written: EROFS"),
    ],
)
def test_a_disk_that_fails_for_ten_seconds_is_an_incident(given: dict[str, Any], said: str) -> None:
    """Whichever part of it notices."""
    watched = Watched()
    assert watched.at(1, **given) == watched.at(10.9, **given) == []
    assert watched.look(11, **given)["disk_failing"].summary == said


def test_a_rule_that_is_off_finds_nothing() -> None:
    """Each of them."""
    off = AlertRules(
        circuit_opened=None,
        service_unavailable=None,
        critical_error=None,
        outcome_unknown=None,
        records_dropped=None,
        disk_failing=None,
    )
    watched = Watched(off)
    for now in (1, 100, 200):
        watched.watch.note(call_failed(outcome=Outcome.UNKNOWN))
        everything = of_service("unavailable", "open", critical=True)
        assert watched.at(now, dropped=now, log="degraded", broker=everything) == []


def test_the_services_that_send_are_ignored() -> None:
    """An alert that could not be sent is no reason for an alert."""
    watched = Watched(ignored=["alerts.slack"])
    watched.watch.note(call_failed("alerts.slack", Outcome.UNKNOWN))
    assert watched.at(100, **{"alerts.slack": of_service("unavailable", "open", critical=True)}) == []


def test_a_summary_is_one_line_without_secrets_and_of_bounded_length() -> None:
    """It is redacted before it is cut, so that no half of a secret is left."""
    watched = Watched(redact=lambda text: text.replace("s3cret", "***"))
    filler = "x" * (300 - len("broker: circuit open: ConnectionError: ") - 3)
    watched.watch.note(failed(text=f"{filler}s3cret\nand more"))
    summary = watched.look(1, broker=DOWN)["service:broker"].summary
    assert len(summary) == 300
    assert summary.endswith("x***")
    watched.watch.note(failed("other", text="first\nsecond"))
    assert watched.look(2, other=DOWN)["service:other"].summary.endswith("first second")


def test_a_retired_service_is_forgotten() -> None:
    """Its incident ends, and nothing of it stays in memory."""
    watched = Watched()
    watched.watch.note(failed())
    assert watched.at(1, broker=DOWN) == ["service:broker"]
    assert watched.at(61) == []
    assert watched.watch._last_error == watched.watch._since == watched.watch._open == {}


@pytest.mark.parametrize("value", [-1, float("nan"), "5", True])
def test_a_rule_that_is_no_number_of_seconds_is_refused_by_name(value: object) -> None:
    """The name and the value are in the error."""
    with pytest.raises((TypeError, ValueError), match="disk_failing must be seconds"):
        AlertRules(disk_failing=value)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="resolve_after"):
        AlertRules(resolve_after=None)  # type: ignore[arg-type]  # as above


# -- the ledger ------------------------------------------------------------------------------------------


def incident(key: str, severity: Any = "error", at: float = 0.0, *, resolves: bool = True) -> Incident:
    return Incident(
        key=key,
        rule="circuit_opened",
        service_name=key,
        severity=severity,
        summary=key,
        opened_at=at,
        began=at,
        resolves=resolves,
    )


def open_now(*incidents: Incident) -> dict[str, Incident]:
    return {one.key: one for one in incidents}


class Told:
    """A `Ledger`, and short words for what it gives."""

    def __init__(self, max_per_minute: int = 20) -> None:
        self.ledger = Ledger(source="bot", max_per_minute=max_per_minute)

    def due(self, now: float, *incidents: Incident) -> list[str]:
        return [f"{one.kind} {one.incident.key}" for one in self.ledger.due(open_now(*incidents), now, now)]

    def tell(self, now: float, *incidents: Incident, taken: bool = True) -> list[str]:
        notices = self.ledger.due(open_now(*incidents), now, now)
        self.ledger.sending(notices, now)
        if taken:
            self.ledger.delivered(notices)
        return [f"{one.kind} {one.incident.key}" for one in notices]


def test_an_incident_is_told_once_when_it_opens_and_once_when_it_is_over() -> None:
    """However often somebody looks."""
    told, broker = Told(), incident("broker")
    assert told.tell(1, broker) == ["opened broker"]
    assert told.tell(2, broker) == []
    assert told.tell(3) == ["resolved broker"]
    assert told.tell(4) == []
    assert told.tell(5, broker) == ["opened broker"]


def test_what_was_not_taken_is_due_again_while_it_is_true() -> None:
    """One that may have arrived is also told to be over; one that was never sent is not."""
    told, broker = Told(), incident("broker")
    assert told.tell(1, broker, taken=False) == ["opened broker"]
    assert told.due(2, broker) == ["opened broker"]
    assert told.due(3) == ["resolved broker"]
    assert Told().due(3) == []


def test_an_incident_that_is_over_and_back_before_anybody_was_told_goes_on() -> None:
    """While the target was away."""
    told, broker = Told(), incident("broker")
    told.tell(1, broker)
    told.tell(2, taken=False)
    assert told.due(3, incident("broker", at=3)) == []


def test_the_limit_lets_the_worst_go_first_and_the_others_wait() -> None:
    """At most so many in any minute; none is lost that is still true."""
    told = Told(max_per_minute=2)
    many = [
        incident("a", "warning"),
        incident("b", "error"),
        incident("c", "critical"),
        incident("d", "error", -1),
    ]
    assert [one.waiting for one in told.ledger.due(open_now(*many), 0, 0)] == [0, 2]
    assert told.tell(0, *many) == ["opened c", "opened d"]
    assert told.tell(59.9, *many) == []
    assert told.tell(60, *many[:2]) == ["opened b", "opened a"]
    assert told.tell(120) == ["resolved c", "resolved d"]


def test_the_end_of_what_only_a_person_resolves_is_not_told() -> None:
    """And it is forgotten."""
    told = Told()
    told.tell(1, incident("orders", resolves=False))
    assert told.ledger.untold({}, 2, 2) == []
    assert told.due(2) == []
    assert told.ledger._told == {}


STEPS = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sets(st.sampled_from("abcdef")),
        st.sampled_from(["taken", "refused", "away"]),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 4))
def test_whatever_happens_each_incident_is_told_once_and_resolved_once_within_the_limit(
    steps: list[tuple[float, set[str], str]], limit: int
) -> None:
    """Services that come and go, a target that takes, refuses or is away."""
    watched, ledger = Watched(AlertRules(resolve_after=30)), Ledger(source="bot", max_per_minute=limit)
    now = 0.0
    is_told: dict[str, bool] = {}
    tried: set[str] = set()
    sent: list[float] = []
    # In the end everything is well, and the target takes what it is told.
    for passed, down, target in [*steps, *[(61.0, set[str](), "taken")] * 10]:
        now += passed
        incidents = watched.look(now, **{name: DOWN if name in down else of_service() for name in "abcdef"})
        assert {f"service:{name}" for name in down} <= incidents.keys()
        notices = ledger.due(incidents, now, now)
        if target == "away":
            continue
        ledger.sending(notices, now)
        sent += [now] * len(notices)
        for notice in notices:
            key = notice.incident.key
            if notice.kind == "opened":
                assert not is_told.get(key)
                assert key in incidents
                tried.add(key)
            else:
                assert key in tried
                assert key not in incidents
        if target == "taken":
            ledger.delivered(notices)
            for notice in notices:
                is_told[notice.incident.key] = notice.kind == "opened"
                if notice.kind == "resolved":
                    tried.discard(notice.incident.key)
    assert not any(is_told.values())
    assert ledger._told == {}
    for at in sent:
        assert sum(at <= other < at + 60 for other in sent) <= limit
