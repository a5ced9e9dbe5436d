"""How processes divide a rate limit: one process's view of the record, without any store."""

from __future__ import annotations

import pytest

from shockproof.policies.fleet_limit import Demand, FleetLimit, LimitMember, LimitRecord, OtherRate

KEY = "weight/60"
OTHER_IN_NEED = LimitMember(1, {}, {KEY: 90}, {KEY: 90})
IDLE = Demand({KEY: 0}, {}, {})


def test_a_lowering_of_which_nobody_knows_whether_it_was_done_holds_until_that_is_known() -> None:
    """It may still be on its way: who used the old share again would have sent what is another's a moment later."""
    fleet = FleetLimit("me", {KEY: 100})
    record = LimitRecord({"me": LimitMember(2, {KEY: 100}), "other": OTHER_IN_NEED}, 3)
    fleet.learned(record, 7)
    assert fleet.granted == {KEY: 100}
    plan = fleet.plan(IDLE)
    assert plan.allowed == {KEY: 5}
    fleet.putting(plan)
    assert fleet.granted == {KEY: 5}
    fleet.learned(record, 7)
    assert fleet.granted == {KEY: 5}, "it stands as before, and that may change"
    other_plan = fleet.plan(Demand({KEY: 5}, {}, {KEY: 50}))
    assert other_plan.record is None or other_plan.allowed[KEY] <= 5
    fleet.learned(record, 8)
    assert fleet.granted == {KEY: 100}, "somebody has changed the record: what followed version 7 is refused"


def test_a_share_is_lowered_to_no_less_than_what_was_sent_under_it() -> None:
    """What was sent is in the window still; nothing more is sent meanwhile."""
    fleet = FleetLimit("me", {KEY: 100})
    fleet.learned(LimitRecord({"me": LimitMember(2, {KEY: 100}), "other": OTHER_IN_NEED}, 3), 7)
    plan = fleet.plan(Demand({KEY: 60}, {}, {}))
    assert plan.record is not None
    assert plan.record.members["me"].shares == {KEY: 60}
    assert plan.allowed == {KEY: 10}
    assert plan.gives_later


def test_nobody_takes_more_than_what_is_left() -> None:
    """However much it wants, and however little the others need it."""
    fleet = FleetLimit("me", {KEY: 100})
    fleet.learned(LimitRecord({"other": LimitMember(1, {KEY: 70}, {}, {KEY: 5})}, 3), 7)
    plan = fleet.plan(Demand({KEY: 0}, {KEY: 1}, {KEY: 500}))
    assert plan.record is not None
    assert plan.record.members["me"].shares == {KEY: 30}
    assert plan.allowed == {KEY: 0}, "not before the store has said so"
    fleet.putting(plan)
    fleet.put(plan, 8)
    assert fleet.granted == {KEY: 30}


@pytest.mark.parametrize(
    "nonsense",
    [
        b"", b"7", b"{}", b"[" * 100_000, b'{"next_ticket": 1, "members": []}',
        b'{"next_ticket": 1, "members": {"a": [1, {"k": -5}, {}, {}, {}]}}',
        b'{"next_ticket": 1, "members": {"a": [1, {"k": 1.5}, {}, {}, {}]}}',
        b'{"next_ticket": true, "members": {}}', b'{"next_ticket": 1, "members": {"a": [1, {}]}}',
    ],
)  # fmt: skip
def test_what_is_no_record_is_told_as_such(nonsense: bytes) -> None:
    """Somebody else may write under the same key."""
    with pytest.raises(ValueError, match=r"."):
        LimitRecord.from_bytes(nonsense)


def test_a_record_reads_as_it_was_written() -> None:
    """By whatever process."""
    record = LimitRecord(
        {"a": LimitMember(1, {KEY: 5}, {KEY: 1}, {KEY: 9}, {KEY: 10}), "b": LimitMember()}, 4
    )
    assert LimitRecord.from_bytes(record.to_bytes()) == record


def test_of_several_limits_the_lowest_holds_and_who_was_told_another_one_is_named() -> None:
    """More than that is given back by whoever has it; who has gone, or stands for others, is not asked."""
    members = {"me": LimitMember(1, {KEY: 15}, {}, {KEY: 15}), "low": LimitMember(2, {}, {}, {}, {KEY: 10})}
    fleet = FleetLimit("me", {KEY: 20})
    fleet.learned(LimitRecord(members, 3), 7)
    plan = fleet.plan(Demand({KEY: 12}, {}, {KEY: 20}))
    assert (plan.limits, plan.other) == ({KEY: 10}, OtherRate("low", KEY, 10, 20))
    assert plan.allowed == {KEY: 10}
    assert plan.record is not None
    assert plan.record.members["me"].shares == {KEY: 12}, "what was sent is in the window still"
    assert plan.record.members["me"].limits == {KEY: 20}
    alone = fleet.plan(Demand({KEY: 12}, {}, {KEY: 20}), {"low"})
    assert (alone.limits, alone.other) == ({KEY: 20}, None)
    fleet.learned(LimitRecord({**members, "low": LimitMember(0, {KEY: 5})}, 3), 8)
    assert fleet.plan(IDLE).other is None


def test_a_rate_that_only_one_of_them_was_told_is_named() -> None:
    """From both sides."""
    other = LimitMember(2, {}, {}, {}, {KEY: 10, "orders/1": 5})
    fleet = FleetLimit("me", {KEY: 10})
    fleet.learned(LimitRecord({"other": other}, 3), 7)
    plan = fleet.plan(IDLE)
    assert (plan.limits, plan.other) == ({KEY: 10}, OtherRate("other", "orders/1", 5, None))
    fleet = FleetLimit("me", {KEY: 10, "orders/1": 5})
    fleet.learned(LimitRecord({"other": other._replace(limits={KEY: 10})}, 3), 7)
    assert fleet.plan(IDLE).other == OtherRate("other", "orders/1", None, 5)


def test_other_limits_of_the_own_process_are_told_to_the_others() -> None:
    """With `configure`, while nothing else has changed."""
    fleet = FleetLimit("me", {KEY: 100})
    first = fleet.plan(IDLE)
    assert first.record is not None
    fleet.put(first, 7)
    assert fleet.plan(IDLE).record is None
    fleet.limits = {KEY: 50}
    changed = fleet.plan(IDLE)
    assert changed.record is not None
    assert changed.record.members["me"].limits == {KEY: 50}
