"""When a feed has been silent for too long: a state machine on bare numbers."""

from __future__ import annotations

from shockproof.policies.silence import Silence


def looks(
    silence: Silence, begin: float, end: float, *, deaf: tuple[float, float] = (0.0, 0.0)
) -> float | None:
    """Ask as often as it says, as a timer would, except while deaf: when it was silent, or None."""
    now = begin
    while now < end:
        wait = silence.look(now)
        if wait is None:
            return now
        now += wait
        if deaf[0] < now < deaf[1]:
            now = deaf[1]
    return None


def test_silence_is_noticed_exactly_when_its_time_is_up() -> None:
    """Not at the next of some coarse looks: the last look is set to the very moment."""
    silence = Silence(5.0, 100.0)
    silence.waits_since = 100.3
    assert looks(silence, 100.0, 200.0) == 105.3


def test_the_time_in_which_nobody_waits_is_no_silence() -> None:
    """A consumer that is busy for an hour has no verdict to give on the feed."""
    silence = Silence(5.0, 100.0)
    assert looks(silence, 100.0, 3_700.0) is None
    silence.waits_since = 3_700.0
    found = looks(silence, 3_700.0, 4_000.0)
    assert found == 3_705.0


def test_each_wait_begins_a_silence_of_its_own() -> None:
    """Items in time, however many, add up to nothing."""
    silence, now = Silence(5.0, 0.0), 0.0
    for _ in range(100):
        silence.waits_since = now
        assert looks(silence, now, now + 4.9) is None
        now += 4.9


def test_a_stall_of_our_own_loop_begins_the_silence_anew() -> None:
    """What was sent while we were deaf may wait in the socket: it is read before anybody judges."""
    silence = Silence(4.0, 0.0)
    silence.waits_since = 0.0
    assert looks(silence, 0.0, 100.0, deaf=(1.5, 30.0)) == 34.0


def test_there_is_a_last_look_one_turn_of_the_loop_later() -> None:
    """An item that arrived in the same turn is on its way to its reader, and comes first."""
    silence = Silence(4.0, 0.0)
    silence.waits_since = 0.0
    now = 0.0
    while wait := silence.look(now):
        now += wait
    assert (now, wait) == (4.0, 0.0)
    assert silence.look(now) is None


def test_an_item_after_the_last_look_was_announced_is_an_item() -> None:
    """The next wait is another one, although it begins at the same moment as a suspicion ends."""
    silence = Silence(4.0, 0.0)
    silence.waits_since = 0.0
    now = 0.0
    while wait := silence.look(now):
        now += wait
    silence.waits_since = now
    assert silence.look(now) == 1.0


def test_it_looks_at_least_four_times_in_the_limit() -> None:
    """Else a stall between two looks would go unseen."""
    silence = Silence(8.0, 0.0)
    silence.waits_since = 0.0
    assert silence.look(0.0) == 2.0
