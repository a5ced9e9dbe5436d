"""What one process makes of what the fleet knows about a circuit, and what it tells."""

from __future__ import annotations

import json

import pytest

from shockproof.policies.circuit_breaker import Circuit
from shockproof.policies.fleet_circuit import (
    NOTHING_KNOWN,
    FleetCircuit,
    FleetRecord,
    ProbePermit,
    Vote,
    Wanted,
)
from shockproof.policies.saved_circuit import SavedCircuit
from shockproof.policies.trip_rates import Rates
from tests.policies.told import Told

OPEN = SavedCircuit(remaining=30.0, openings=2, last_error="ConnectionError: reset")


def by(*processes: str) -> tuple[Vote, ...]:
    """Their votes; ``b@one`` runs on the machine ``one``, and where no machine is named, each on one of its own."""
    return tuple(
        Vote(name, machine or name) for name, _, machine in (one.partition("@") for one in processes)
    )


def of(process: str, quorum: int) -> FleetCircuit:
    """What that process knows."""
    return FleetCircuit(*by(process), quorum)


def test_the_first_vote_opens_nobody_elses_and_the_quorum_all() -> None:
    """One may be wrong; so many are not."""
    first, second = of("a", 2), of("b", 2)
    vote = first.opened(OPEN, by_a_probe=False)
    assert vote is not None
    assert vote == (FleetRecord(is_open=False, votes=by("a"), circuit=OPEN), 0)
    first.announced(vote, 7)
    assert not first.suspicious, "that it voted itself is no news to it"
    assert second.learned(vote.record, 7) == "nothing"
    assert second.suspicious == {"a"}
    quorum = second.opened(OPEN, by_a_probe=False)
    assert quorum is not None
    assert quorum == (FleetRecord(is_open=True, votes=by("a", "b"), circuit=OPEN), 7)
    second.announced(quorum, 8)
    assert (second.record.is_open, second.version) == (True, 8)
    assert not second.suspicious
    assert first.learned(quorum.record, 8) == "open"


def test_a_machine_opens_its_own_and_only_another_machine_those_of_all() -> None:
    """However many processes a bad one has; and the others suspect it."""
    first, second, third = (of(f"{name}@bad", 2) for name in "abc")
    elsewhere = of("d@good", 2)
    record, version = NOTHING_KNOWN, 0
    for voter in (first, second):
        voter.learned(record, version)
        vote = voter.opened(OPEN, by_a_probe=False)
        assert vote is not None
        record, version = vote.record, version + 1
        voter.announced(vote, version)
    assert not record.is_open
    assert (third.learned(record, version), third.open_for) == ("open", "machine")
    assert third.opened(OPEN, by_a_probe=False) is None, "it is open already"
    assert (elsewhere.learned(record, version), elsewhere.open_for) == ("nothing", "nobody")
    assert (elsewhere.suspicious, third.suspicious) == ({"bad"}, frozenset())
    both = elsewhere.opened(OPEN, by_a_probe=False)
    assert both is not None
    assert both.record.is_open
    assert third.learned(both.record, 3) == "open"


def test_who_is_well_again_closes_for_its_machine_and_leaves_the_others_votes() -> None:
    """Nobody there needs a probe of his own, and nobody elsewhere has closed by it."""
    record = FleetRecord(votes=by("a@bad", "b@bad", "d@good"), circuit=OPEN)
    prober, follower, elsewhere = of("a@bad", 2), of("c@bad", 2), of("e@good", 3)
    for one in (prober, follower, elsewhere):
        one.learned(record._replace(votes=record.votes[:2]), 4)
        one.learned(record, 5)
    news = prober.closed()
    assert news == (FleetRecord(votes=by("d@good"), circuit=OPEN), 5)
    assert follower.learned(news.record, 6) == "close"
    assert elsewhere.learned(news.record, 6) == "nothing"
    assert elsewhere.suspicious == {"good"}


def test_a_probe_that_fails_keeps_a_machine_open_whoever_has_gone_meanwhile() -> None:
    """Those that follow would wait for nobody's probe."""
    prober, follower = of("b@bad", 2), of("c@bad", 2)
    record = FleetRecord(votes=by("a@bad", "b@bad"), circuit=OPEN)
    for one in (prober, follower):
        one.learned(record, 5)
    news = prober.opened(OPEN, by_a_probe=True, gone={"a@bad", "a"})
    assert news is not None
    assert follower.learned(news.record, 6) == "open"


def test_the_machine_that_has_had_its_say_lets_the_others_probe_first() -> None:
    """At first that is the one that voted first, then the one whose probe failed last, and all of its processes."""
    first, other = of("a@bad", 2), of("d@good", 2)
    record = FleetRecord(is_open=True, votes=by("a@bad", "b@bad", "c@good"), circuit=OPEN)
    for one in (first, other):
        one.learned(record, 5)
    assert (first.lets_others_probe, other.lets_others_probe) == (True, False)
    failed = other.opened(OPEN, by_a_probe=True)
    assert failed is not None
    assert failed.record.votes == by("d@good", "a@bad", "b@bad", "c@good")
    other.announced(failed, 6)
    first.learned(failed.record, 6)
    assert (first.lets_others_probe, other.lets_others_probe) == (False, True)
    first.learned(record._replace(is_open=False), 7)
    assert not first.lets_others_probe, "there is nobody else who is to probe"


def test_processes_of_one_name_are_one_vote_on_however_many_machines() -> None:
    """Who gives one name says that their fate is one."""
    fleet = of("desk@one", 2)
    fleet.learned(FleetRecord(votes=by("desk@two"), circuit=OPEN), 3)
    assert fleet.opened(OPEN, by_a_probe=False) == (FleetRecord(votes=by("desk@two"), circuit=OPEN), 3)


def test_votes_without_machines_each_count_as_one() -> None:
    """Of a program of before: it is read, and what it does not know it leaves out."""
    value = FleetRecord(votes=by("a@one", "b@one"), circuit=OPEN).to_bytes()
    earlier = {name: field for name, field in json.loads(value).items() if name != "machines"}
    assert FleetRecord.from_bytes(json.dumps(earlier).encode()).votes == by("a", "b")


def test_what_one_machine_was_told_to_wait_is_for_its_own_processes_until_another_one_is_told_so_too() -> (
    None
):
    """It may be that machine's address, and nobody else's, that has to wait."""
    told, beside, elsewhere, another = of("b@bad", 2), of("c@bad", 2), of("d@good", 2), of("e@fine", 2)
    pause = SavedCircuit(remaining=3600.0, is_paused=True)
    told.learned(FleetRecord(votes=by("a@good"), circuit=OPEN), 5)
    vote = told.opened(pause, by_a_probe=False)
    assert vote is not None
    assert (vote.record.is_open, vote.record.told_to_wait) == (True, ("bad",))
    assert FleetRecord.from_bytes(vote.record.to_bytes()) == vote.record
    for one in (beside, elsewhere, another):
        assert one.learned(vote.record, 6) == "open"
    assert beside.to_follow == pause
    assert elsewhere.to_follow == pause._replace(is_paused=False)
    probe = elsewhere.opened(pause._replace(remaining=90.0), by_a_probe=True)
    assert probe is not None
    another.learned(probe.record, 7)
    assert another.to_follow == SavedCircuit(remaining=90.0, is_paused=True)
    trouble = elsewhere.opened(OPEN, by_a_probe=True)
    assert trouble is not None
    assert trouble.record.told_to_wait == ("bad",)


def test_who_votes_again_counts_once() -> None:
    """A process that fails on and on is one process."""
    fleet = of("a", 2)
    fleet.learned(FleetRecord(votes=by("a"), circuit=OPEN), 3)
    again = fleet.opened(OPEN._replace(openings=3), by_a_probe=True)
    assert again is not None
    assert again == (FleetRecord(is_open=False, votes=by("a"), circuit=OPEN._replace(openings=3)), 3)


def test_the_votes_of_those_that_are_gone_count_no_longer_when_another_one_votes() -> None:
    """One bad machine on which a process is started again and again is one."""
    fleet = of("host:2", 2)
    fleet.learned(FleetRecord(votes=by("host:1"), circuit=OPEN), 3)
    vote = fleet.opened(OPEN, by_a_probe=False, gone={"host:1"})
    assert vote == (FleetRecord(is_open=False, votes=by("host:2"), circuit=OPEN), 3)


def test_more_votes_than_are_worth_keeping_are_not_kept() -> None:
    """A record stays small, however large the fleet and its quorum."""
    fleet = of("me", 1000)
    fleet.learned(FleetRecord(votes=by(*map(str, range(64))), circuit=OPEN), 3)
    vote = fleet.opened(OPEN, by_a_probe=False)
    assert vote is not None
    assert (len(vote.record.votes), *vote.record.votes[::63]) == (64, *by("1", "me"))


def test_where_it_is_open_for_all_only_a_probe_has_news() -> None:
    """Ten thousand that open at the same moment write nothing; who asked for all tells all."""
    fleet = of("a", 2)
    assert fleet.learned(FleetRecord(is_open=True, votes=by("b", "c"), circuit=OPEN), 5) == "open"
    assert fleet.opened(OPEN, by_a_probe=False) is None
    news = fleet.opened(OPEN, by_a_probe=True)
    assert news is not None
    assert (news.record.is_open, news.expect) == (True, 5)


def test_a_record_that_is_known_already_changes_nothing() -> None:
    """Everything may be told twice: what was decided since stands."""
    fleet = of("a", 2)
    record = FleetRecord(is_open=True, votes=by("b", "c"), circuit=OPEN)
    assert [fleet.learned(record, 5), fleet.learned(record, 5), fleet.learned(record, 6)] == [
        "open",
        "nothing",
        "open",
    ]


def test_what_the_store_has_forgotten_closes_nothing_and_frees_from_suspicion() -> None:
    """Its time was over, or it has lost its data: nobody has decided anything."""
    fleet = of("a", 2)
    fleet.learned(FleetRecord(votes=by("b"), circuit=OPEN), 5)
    assert fleet.suspicious
    assert fleet.learned(None, 0) == "nothing"
    assert not fleet.suspicious
    fleet.learned(FleetRecord(is_open=True, votes=by("b", "c"), circuit=OPEN), 6)
    assert fleet.learned(None, 0) == "nothing"
    vote = fleet.opened(OPEN, by_a_probe=False)
    assert vote is not None
    assert vote.expect == 0


def test_a_success_closes_for_all_what_was_open_for_all() -> None:
    """And only that: a circuit that one has opened for itself is its own affair."""
    fleet, other = of("a", 2), of("b", 2)
    for one in (fleet, other):
        one.learned(FleetRecord(is_open=True, votes=by("b", "c"), circuit=OPEN), 5)
    news = fleet.closed()
    assert news == (NOTHING_KNOWN, 5)
    assert other.learned(NOTHING_KNOWN, 6) == "close"
    other.learned(FleetRecord(votes=by("b"), circuit=OPEN), 7)
    assert other.learned(NOTHING_KNOWN, 8) == "nothing"


def test_a_success_closes_for_all_also_when_the_store_has_forgotten_that_it_was_open() -> None:
    """A probe may come so late: those who opened with the fleet close with it, and nobody is opened by what is forgotten."""
    fleet, other = of("a", 2), of("b", 2)
    for one in (fleet, other):
        one.learned(FleetRecord(is_open=True, votes=by("b", "c"), circuit=OPEN), 5)
        one.learned(None, 0)
    news = fleet.closed()
    assert news == (NOTHING_KNOWN, 0)
    fleet.announced(news, 9)
    assert other.learned(NOTHING_KNOWN, 9) == "close"
    assert other.learned(None, 0) == "nothing"
    assert fleet.closed() is None
    assert other.closed() is None
    fleet.learned(FleetRecord(is_open=True, votes=by("b", "c"), circuit=OPEN), 10)
    fleet.learned(None, 0)
    failed = fleet.opened(OPEN, by_a_probe=True)
    assert failed is not None
    assert not failed.record.is_open, "others may have closed meanwhile: it is one vote"


def test_who_is_well_again_takes_its_own_vote_back_and_nobody_elses() -> None:
    """The others' evidence stays."""
    fleet = of("a", 3)
    assert fleet.closed() is None
    fleet.learned(FleetRecord(votes=by("b"), circuit=OPEN), 5)
    assert fleet.closed() is None
    fleet.learned(FleetRecord(votes=by("a", "b"), circuit=OPEN), 6)
    assert fleet.closed() == (FleetRecord(votes=by("b"), circuit=OPEN), 6)


def test_votes_that_follow_a_closing_at_once_do_not_close() -> None:
    """Who missed the closing and sees new votes waits for its own probe."""
    fleet = of("a", 3)
    fleet.learned(FleetRecord(is_open=True, votes=by("b", "c", "d"), circuit=OPEN), 5)
    assert fleet.learned(FleetRecord(votes=by("b"), circuit=OPEN), 7) == "nothing"


def test_a_record_comes_back_from_its_bytes_and_lives_longer_than_the_circuit() -> None:
    """Long texts are cut: they are repeated to everybody."""
    record = FleetRecord(is_open=True, votes=by("a@one", "b"), circuit=OPEN)
    assert FleetRecord.from_bytes(record.to_bytes()) == record
    assert record.life == 120.0
    long = record._replace(circuit=OPEN._replace(last_error="x" * 10_000))
    assert FleetRecord.from_bytes(long.to_bytes()).circuit.last_error == "x" * 300
    assert FleetRecord.from_bytes(NOTHING_KNOWN.to_bytes()) == NOTHING_KNOWN


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff", b"7", b"[]", b"{}", b"[" * 100_000, b'{"is_open": true, "votes": ["a"]}',
     b'{"is_open": true, "votes": [7], "circuit": {}}', b'{"is_open": true, "votes": "a", "circuit": {}}',
     b'{"is_open": true, "votes": [], "circuit": {"remaining": -1}}',
     b'{"is_open": true, "votes": ["a"], "machines": [], "circuit": {}}',
     b'{"is_open": true, "votes": ["a"], "machines": [7], "circuit": {}}',
     b'{"is_open": true, "votes": ["a"], "circuit": {}, "told_to_wait": [7]}'],
)  # fmt: skip
def test_what_is_no_record_is_refused(value: bytes) -> None:
    """Whoever wrote it, it opens nothing."""
    with pytest.raises(ValueError, match=r"\S"):
        FleetRecord.from_bytes(value)


def test_without_the_lease_a_probe_is_refused_and_the_lease_is_wanted() -> None:
    """Half of it is for the probe to begin, so that it has ended before another process's can begin."""
    permit = ProbePermit(is_alone=False)
    assert permit.length_to_ask_for(0.0) is None
    assert not permit.may_probe(0.0, 4.0)
    assert permit.length_to_ask_for(0.0) == 9.0
    permit.granted(until=8.0)
    assert permit.length_to_ask_for(0.0) is None
    assert permit.may_probe(4.0, 4.0)
    assert not permit.may_probe(4.1, 4.0)


def test_alone_every_process_has_its_own_probes() -> None:
    """Nobody can be asked, and somebody has to find out."""
    assert ProbePermit().may_probe(0.0, 1e9)
    permit = ProbePermit(is_alone=True)
    assert permit.length_to_ask_for(0.0) is None


def test_who_was_refused_the_lease_asks_again_soon_and_then_when_it_may_be_free() -> None:
    """Ten thousand do not ask all the time; the end of the round is a reason to."""
    permit = ProbePermit(is_alone=False)
    permit.may_probe(10.0, 4.0)
    for at, again in ((10.0, 12.0), (12.0, 14.0), (14.0, 18.5), (18.5, 23.0)):
        assert permit.length_to_ask_for(at) == 9.0
        assert permit.refused(at, 9.0, spread=1.0) is None, "one call alone may be the last for long"
        assert permit.length_to_ask_for(again - 0.1) is None
    permit.may_probe(20.0, 4.0)
    assert permit.refused(23.0, 9.0, spread=0.5) == 2.25
    assert permit.ask_from == 25.25
    permit.over()
    assert permit.length_to_ask_for(26.0) is None, "nobody wants to probe any more"
    permit.may_probe(26.0, 4.0)
    assert permit.length_to_ask_for(26.0) == 9.0
    assert permit.refused(26.0, 9.0, spread=1.0) is None
    assert permit.ask_from == 28.0


def test_who_stands_back_says_at_once_when_it_asks_again() -> None:
    """So that whoever has the lease keeps it until then, and no longer."""
    permit = ProbePermit(is_alone=False)
    permit.may_probe(10.0, 4.0)
    assert permit.refused(10.0, 9.0, spread=1.0, stands_back=60.0) == 60.0
    assert permit.length_to_ask_for(69.9) is None


def test_a_lease_that_is_not_used_is_kept_until_somebody_else_asks_for_it() -> None:
    """Who gives way lets the other one come first, and wants it again with its next call."""
    permit = ProbePermit(is_alone=False)
    permit.granted(until=55.0)
    assert not permit.looked(0.0, 61.0, None)
    assert permit.looks_at == 2.0
    assert not permit.looked(2.0, 61.0, 60.0)
    assert not permit.looked(4.0, 61.0, None), "it was overtaken by what another one said, or is over"
    assert permit.may_probe(50.0, 4.0)
    assert not permit.looked(59.0, 61.0, None)
    assert permit.looks_at == 60.0
    assert permit.looked(60.0, 61.0, None)
    assert not permit.may_probe(60.5, 4.0)
    assert permit.length_to_ask_for(63.9) is None
    assert permit.length_to_ask_for(64.0) == 9.0
    permit.granted(until=120.0)
    assert permit.looked(66.0, 61.0, 1.5), "it asks before it would be looked again"


@pytest.mark.parametrize("value", [b"", b"7", b"{}", b'{"by": "a", "asks_in": []}', b'{"by": "a", "asks_in": 1' + b"0" * 400 + b"}"])  # fmt: skip
def test_what_is_no_word_to_the_holder_is_refused(value: bytes) -> None:
    """Whoever wrote it, nobody gives way to it."""
    assert Wanted.from_bytes(Wanted("a", 2.5).to_bytes()) == Wanted("a", 2.5)
    with pytest.raises(ValueError, match=r"\S"):
        Wanted.from_bytes(value)


# -- the circuit -----------------------------------------------------------------------------------------


def opened_by(circuit: Circuit, now: float) -> None:
    while circuit.state(now) == "closed":
        ticket = circuit.admit(now)
        assert ticket is not None
        ticket.failed(now, "OSError: no")


def test_a_circuit_that_follows_is_open_for_what_the_other_has_left() -> None:
    """Not for longer than its own time; and it says whose error it was."""
    told: list[str] = []
    circuit = Circuit(threshold=3, timeout=60.0)
    circuit.observer = Told(lambda state, now: told.append(state))
    assert circuit.follow(OPEN, 100.0)
    assert circuit.is_following
    assert (circuit.open_for(100.0), circuit.last_error, circuit.trips) == (30.0, "ConnectionError: reset", 1)
    assert circuit.state(130.0) == "half-open"
    assert told == ["open"]
    shorter = Circuit(threshold=3, timeout=10.0)
    shorter.follow(OPEN, 100.0)
    assert shorter.open_for(100.0) == 10.0
    paused = Circuit(threshold=3, timeout=10.0)
    paused.follow(OPEN._replace(is_paused=True), 100.0)
    assert paused.open_for(100.0) == 30.0


def test_a_circuit_that_is_open_does_not_follow_and_a_half_open_one_does() -> None:
    """Its own evidence stands; a probe elsewhere that failed is its own, too."""
    circuit = Circuit(threshold=1, timeout=60.0)
    opened_by(circuit, 100.0)
    assert not circuit.follow(OPEN, 110.0)
    assert not circuit.is_following
    assert circuit.follow(OPEN, 160.0)
    assert (circuit.is_following, circuit.open_for(160.0)) == (True, 30.0)
    probe = circuit.admit(190.0)
    assert probe is not None
    assert circuit.follow(OPEN, 191.0)
    probe.succeeded(192.0)
    assert circuit.state(192.0) == "open", "the round of that probe is over"


@pytest.mark.parametrize("pause", [None, 20.0])
def test_a_circuit_that_is_open_stays_so_for_as_long_as_the_fleet(pause: float | None) -> None:
    """Or it would probe in a round of its own; nobody is told, for nothing has changed."""
    told: list[str] = []
    circuit = Circuit(threshold=1, timeout=60.0)
    opened_by(circuit, 100.0)
    if pause is not None:
        circuit.pause(140.0, pause, "busy")
    circuit.observer = Told(lambda state, now: told.append(state))
    circuit.follow(OPEN._replace(remaining=9.0), 150.0)
    assert circuit.open_for(150.0) == 10.0
    circuit.follow(OPEN, 150.0)
    assert circuit.open_for(150.0) == 30.0
    assert (told, circuit.trips, circuit.is_following) == ([], 1, False)


def test_a_circuit_that_waits_by_itself_for_what_it_was_told_waits_no_longer_for_what_others_were() -> None:
    """Unless the fleet takes their word for everybody."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.pause(100.0, 90.0, "busy")
    circuit.follow(OPEN._replace(remaining=3600.0), 130.0)
    assert circuit.open_for(130.0) == 60.0
    circuit.follow(OPEN._replace(remaining=3600.0, is_paused=True), 130.0)
    assert circuit.open_for(130.0) == 3600.0


def test_a_circuit_that_was_told_to_wait_does_not_close_because_another_one_was_answered() -> None:
    """Not before that time; then it does, and at once where somebody closes it here."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.pause(100.0, 90.0, "busy")
    assert not circuit.follow_closing(150.0)
    assert circuit.open_for(150.0) == 40.0
    assert circuit.follow_closing(190.0)
    circuit.pause(200.0, 90.0, "busy")
    circuit.reset(210.0)
    circuit.follow(OPEN, 220.0)
    assert circuit.follow_closing(230.0), "somebody here knew better"
    restored = Circuit(threshold=1, timeout=60.0)
    restored.restore(OPEN._replace(is_paused=True, remaining=600.0), 300.0, 0.0)
    assert not restored.follow_closing(310.0)


def test_what_opens_by_its_own_rules_follows_nobody() -> None:
    """A follower whose own probe fails has evidence of its own."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.follow(OPEN, 100.0)
    probe = circuit.admit(130.0)
    assert probe is not None
    probe.failed(131.0, "OSError: no")
    assert not circuit.is_following


@pytest.mark.parametrize("mode", ["forced-open", "disabled", "shadow"])
def test_a_circuit_in_somebodys_hands_follows_nobody(mode: str) -> None:
    """Whoever set the mode decides here."""
    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.set_mode(mode)  # type: ignore[arg-type]  # one of them
    before = circuit.state(100.0)
    assert not circuit.follow(OPEN, 100.0)
    assert not circuit.follow_closing(100.0)
    assert circuit.state(100.0) == before


def test_a_circuit_without_rules_follows_and_suspects_nobody() -> None:
    """Who switched it off has it off."""
    circuit = Circuit(threshold=None, timeout=60.0)
    assert not circuit.follow(OPEN, 100.0)
    circuit.suspected_at = 0
    ticket = circuit.admit(100.0)
    assert ticket is not None
    ticket.failed(100.0, "OSError: no")
    assert circuit.state(100.0) == "closed"


@pytest.mark.parametrize(("threshold", "rates"), [(5, Rates()), (None, Rates(failure_rate=0.5))])
def test_under_suspicion_two_failures_in_a_row_open_unless_a_call_was_well_since(
    threshold: int | None, rates: Rates
) -> None:
    """However many stray ones there were before it, and after that success."""

    def circuit_after(*are_well: bool) -> Circuit:
        circuit = Circuit(threshold=threshold, timeout=60.0)
        circuit.watch(rates)
        circuit.entrance.successes = 7
        circuit.suspected_at = 7
        for is_well in are_well:
            ticket = circuit.admit(100.0)
            assert ticket is not None
            if is_well:
                ticket.succeeded(100.0)
                circuit.entrance.successes += 1
            else:
                ticket.failed(100.0, "OSError: no")
        return circuit

    assert circuit_after(False).state(100.0) == "closed"
    assert circuit_after(False, False).state(100.0) == "open"
    for before in ((True,), (False, True)):
        assert circuit_after(*before, False, False).state(100.0) == "closed"
    again = circuit_after(True, False)
    again.suspected_at = again.entrance.successes
    ticket = again.admit(100.0)
    assert ticket is not None
    ticket.failed(100.0, "OSError: no")
    assert again.state(100.0) == "open", "what has failed in a row before counts"


def test_a_closing_elsewhere_closes_and_tells_once() -> None:
    """Whoever waits for the circuit is woken."""
    told: list[str] = []
    circuit = Circuit(threshold=1, timeout=60.0)
    assert not circuit.follow_closing(100.0)
    opened_by(circuit, 100.0)
    circuit.observer = Told(lambda state, now: told.append(state))
    assert circuit.follow_closing(110.0)
    assert not circuit.follow_closing(110.0)
    assert (circuit.state(110.0), told) == ("closed", ["closed"])


def test_a_probe_that_may_not_begin_takes_no_place() -> None:
    """Who asks whether it may is asked for each, and told of its lease."""
    asked: list[tuple[float, float]] = []
    allowed = False

    def may_probe(now: float, lease: float) -> bool:
        asked.append((now, lease))
        return allowed

    circuit = Circuit(threshold=1, timeout=60.0)
    circuit.may_probe = may_probe
    opened_by(circuit, 100.0)
    assert circuit.admit(110.0) is None
    assert asked == [], "while it is open nobody need ask"
    assert circuit.admit(160.0, lease=5.0) is None
    assert circuit.probing == 0
    allowed = True
    assert circuit.admit(161.0) is not None
    assert asked == [(160.0, 5.0), (161.0, 60.0)]
    assert circuit.admit(162.0) is None
    assert len(asked) == 2, "there is no place anyway"
