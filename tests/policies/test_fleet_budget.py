"""How processes share a retry budget: one process's view of the record, without any store."""

from __future__ import annotations

import pytest

from shockproof.policies.fleet_budget import (
    BudgetMember,
    BudgetPlan,
    BudgetRecord,
    FleetBudget,
    InHand,
    OtherCapacity,
    Settled,
)

NOTHING = InHand(0.0)


def budget(record: BudgetRecord, version: int = 7, *, me: str = "me", capacity: float = 10.0) -> FleetBudget:
    fleet = FleetBudget(me, capacity)
    fleet.learned(record, version)
    return fleet


def test_who_joins_takes_a_block_ahead_of_need() -> None:
    """A twentieth of the capacity, one retry at least; what nobody has becomes so much less."""
    plan = budget(BudgetRecord({}, 10.0)).plan(NOTHING, is_round=True)
    assert plan.record == BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0, 1)}, 9.0)
    assert (plan.out, plan.brought, plan.gain) == (0.0, 0.0, 1.0)
    plan = budget(BudgetRecord({}, 100.0), capacity=100.0).plan(NOTHING, is_round=True)
    assert plan.gain == 5.0


def test_who_retries_fetches_more_ahead() -> None:
    """As much as it has spent in the last round, and a block."""
    fleet = budget(BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0)}, 9.0))
    assert fleet.plan(InHand(0.5, spent=0.5)).gain == 1.0
    assert fleet.plan(InHand(0.0, spent=4.0)).gain == 5.0
    fleet = budget(BudgetRecord({"me": BudgetMember(4.0, 0.0, 10.0)}, 6.0))
    assert fleet.plan(InHand(3.0, spent=3.0)).record is None, (
        "between two rounds nobody asks for what is enough"
    )


def test_what_was_refused_is_fetched_where_it_is_there_and_told_where_it_is_not() -> None:
    """With its whole cost: a timeout may cost two."""
    member = BudgetMember(1.0, 0.0, 10.0)
    fleet = budget(BudgetRecord({"me": member, "other": member}, 8.0))
    plan = fleet.plan(InHand(1.0, refused=2.0))
    assert plan.record is not None
    assert (plan.gain, plan.record.tokens) == (1.0, 7.0)
    fleet = budget(BudgetRecord({"me": member, "other": member}, 0.5))
    plan = fleet.plan(InHand(1.0, refused=2.0))
    assert plan.record is not None
    assert plan.record.members["me"] == BudgetMember(1.0, 1.0, 10.0, 1)
    assert (plan.gain, plan.record.tokens) == (0.0, 0.5), "half a retry is none"
    plan = fleet.plan(InHand(1.0, refused=1.3))
    assert (plan.gain, plan.record and plan.record.members["me"].lacks) == (pytest.approx(0.3), 0.0)


def test_what_another_one_lacks_is_brought_in_but_not_what_is_needed_here() -> None:
    """Who retries, too, keeps a block; who does not gives as much as it takes, and no more."""
    record = BudgetRecord({"me": BudgetMember(3.0, 0.0, 10.0), "other": BudgetMember(0.0, 2.0, 10.0)}, 0.5)
    plan = budget(record).plan(InHand(3.0))
    assert (plan.out, plan.gain) == (1.5, 0.0)
    assert plan.record is not None
    assert plan.record.tokens == 2.0
    assert plan.record.members["me"].has == 1.5
    assert budget(record).plan(InHand(2.0, spent=1.0)).out == 1.0
    assert budget(record).plan(InHand(0.5)).record is None, "less than a retry is not worth a step"
    assert budget(record).plan(InHand(0.5, earned=1.5)).brought == 1.5
    assert budget(record._replace(tokens=2.0)).plan(InHand(3.0)).record is None, "it is there already"


def test_what_was_earned_is_brought_in_as_far_as_there_is_room() -> None:
    """All together never have more than the capacity."""
    record = BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0), "other": BudgetMember(4.0, 0.0, 10.0)}, 3.0)
    plan = budget(record).plan(InHand(1.0, earned=9.0), is_round=True)
    assert plan.record is not None
    assert (plan.brought, plan.gain, plan.record.tokens) == (2.0, 0.0, 5.0)
    assert budget(record).plan(InHand(1.0, earned=0.9)).record is None, "that is for the next round"
    full = record._replace(tokens=5.0)
    assert budget(full).plan(InHand(1.0, earned=9.0), is_round=True).record is None


def test_what_was_spent_leaves_room_for_others_with_the_next_round() -> None:
    """What stands in the record is the most that it may have; nobody else could earn that."""
    record = BudgetRecord({"me": BudgetMember(4.0, 0.0, 10.0), "other": BudgetMember(6.0, 0.0, 10.0)}, 0.0)
    fleet = budget(record)
    assert fleet.plan(InHand(1.0, spent=3.0)).record is None
    plan = fleet.plan(InHand(1.0, spent=3.0), is_round=True)
    assert plan.record is not None
    assert plan.record.members["me"].has == 1.0


def test_what_the_dead_had_is_lost_and_their_room_is_free() -> None:
    """They may have spent it."""
    record = BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0), "dead": BudgetMember(6.0, 2.0, 10.0)}, 3.0)
    plan = budget(record).plan(InHand(1.0, earned=9.0), ("dead",), is_round=True)
    assert plan.record is not None
    assert plan.record.members.keys() == {"me"}
    assert plan.record.tokens + plan.record.members["me"].has == 10.0
    plan = budget(record).plan(InHand(1.0), ("dead",), is_round=True)
    assert plan.record is not None
    assert plan.record.tokens == 3.0


def test_what_a_store_had_forgotten_is_there_when_those_from_before_are_over() -> None:
    """Not before; and what the members have by then is theirs."""
    record = BudgetRecord(
        {"me": BudgetMember(1.0, 0.0, 10.0), "other": BudgetMember(2.0, 0.0, 10.0)}, 0.0, "past"
    )
    assert budget(record).plan(InHand(1.0), is_round=True).record is None
    plan = budget(record).plan(InHand(1.0), ("past",), is_round=True)
    assert plan.record is not None
    assert plan.record.earlier is None
    assert plan.record.tokens == 7.0


def test_a_put_whose_answer_was_lost_counts_for_the_less_until_it_is_known() -> None:
    """Given away is given away; what was to come has not come; the turn in the record tells later."""
    record = BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0)}, 9.0)
    fleet = budget(record)
    plan = fleet.plan(InHand(1.0, refused=3.0))
    assert plan.record is not None
    fleet.putting(plan)
    assert fleet.most == 1.0
    assert fleet.learned(record, 7) == Settled(), "it may be on its way still"
    assert fleet.learned(plan.record, 8) == Settled(gain=2.0)
    assert fleet.most == 3.0

    fleet = budget(
        record._replace(members={**record.members, "other": BudgetMember(0.0, 1.0, 10.0)}, tokens=0.0)
    )
    plan = fleet.plan(InHand(1.0))
    assert plan.record is not None
    assert plan.out == 1.0
    fleet.putting(plan)
    assert fleet.most == 0.0
    assert fleet.learned(record, 9) == Settled(back=1.0), "somebody else was faster: it will never be done"
    assert fleet.most == 1.0
    fleet.putting(plan)
    assert fleet.refused(plan) == Settled(back=1.0)
    assert fleet.most == 1.0


def test_of_several_puts_whose_answers_were_lost_only_one_can_have_been_done() -> None:
    """All of them follow the same version; the others come to nothing, and no turn is given twice."""
    fleet = budget(BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0)}, 7.0))
    first = fleet.plan(InHand(1.0, refused=3.0))
    fleet.putting(first)
    second = fleet.plan(InHand(1.0, earned=1.0, refused=4.0))
    fleet.putting(second)
    assert first.record is not None
    assert second.record is not None
    assert (first.record.members["me"].turn, second.record.members["me"].turn) == (1, 2)
    assert fleet.learned(first.record, 8) == Settled(gain=2.0, back=1.0)


def test_who_ends_leaves_what_it_has_unless_it_may_have_given_that_already() -> None:
    """As far as there is room."""
    record = BudgetRecord({"me": BudgetMember(2.0, 0.0, 10.0), "other": BudgetMember(6.0, 0.0, 10.0)}, 1.0)
    fleet = budget(record)
    left = fleet.leaving(InHand(2.0, earned=5.0))
    assert (left.tokens, left.members.keys()) == (4.0, {"other"})
    fleet.putting(fleet.plan(InHand(2.0, refused=3.0)))
    assert fleet.leaving(InHand(2.0)).tokens == 1.0


def test_of_several_capacities_the_lowest_holds_and_the_other_is_named() -> None:
    """What is above it is gone."""
    record = BudgetRecord({"me": BudgetMember(2.0, 0.0, 10.0), "other": BudgetMember(1.0, 0.0, 4.0)}, 7.0)
    plan = budget(record).plan(InHand(2.0), is_round=True)
    assert (plan.capacity, plan.other) == (4.0, OtherCapacity("other", 4.0))
    assert plan.record is not None
    assert plan.record.tokens + sum(one.has for one in plan.record.members.values()) <= 4.0
    assert budget(record, capacity=4.0).plan(InHand(2.0)).other is None


def test_a_record_comes_back_as_it_was() -> None:
    """What one process puts another one reads."""
    record = BudgetRecord({"a": BudgetMember(1.5, 0.5, 10.0, 3), "b": BudgetMember()}, 2.25, "past")
    assert BudgetRecord.from_bytes(record.to_bytes()) == record


def test_what_changes_nothing_is_not_put() -> None:
    """And moves nothing; what holds is told all the same."""
    record = BudgetRecord({"me": BudgetMember(1.0, 0.0, 10.0), "other": BudgetMember(1.0, 0.0, 4.0)}, 2.0)
    assert budget(record).plan(InHand(1.0)) == BudgetPlan(
        None, 0.0, 0.0, 0.0, 4.0, OtherCapacity("other", 4.0)
    )
    assert budget(record).plan(InHand(1.0), is_round=True).record is None
    assert budget(record).plan(InHand(1.0, refused=1.0)).record is None, "it is there by now"


@pytest.mark.parametrize(
    ("record", "capacity", "dead"),
    [
        (BudgetRecord({"me": BudgetMember(1.0, 0.5, 10.0)}, 9.0), 10.0, ()),
        (BudgetRecord({"me": BudgetMember(1.0, 0.0, 12.0)}, 9.0), 10.0, ()),
        (BudgetRecord({"me": BudgetMember(10.0, 0.0, 10.0)}, 0.0, "past"), 10.0, ("past",)),
        (BudgetRecord({"other": BudgetMember(10.0, 0.0, 10.0)}, 0.0), 10.0, ()),
    ],
)
def test_each_piece_of_news_is_told_for_itself(
    record: BudgetRecord, capacity: float, dead: tuple[str, ...]
) -> None:
    """That nothing lacks any more, another capacity, that the forgotten are over, that somebody is there."""
    plan = budget(record, capacity=capacity).plan(InHand(record.members.get("me", BudgetMember()).has), dead)
    assert plan.record is not None
    assert plan.record.members["me"].lacks == 0.0
    assert plan.record.members["me"].capacity == 10.0
    assert plan.record.tokens == record.tokens
    assert plan.record.earlier is None


def test_what_stands_for_the_forgotten_stays_until_it_is_over() -> None:
    """Whoever joins meanwhile."""
    plan = budget(BudgetRecord({}, 0.0, "past")).plan(NOTHING, is_round=True)
    assert plan.record == BudgetRecord({"me": BudgetMember(0.0, 0.0, 10.0, 1)}, 0.0, "past")


def test_ahead_of_need_nobody_takes_what_another_one_lacks() -> None:
    """What is there is enough for that one."""
    members = {"me": BudgetMember(0.0, 0.0, 10.0), "other": BudgetMember(1.0, 2.0, 10.0)}
    assert budget(BudgetRecord(members, 2.5)).plan(NOTHING).record is None
    assert budget(BudgetRecord(members, 3.0)).plan(NOTHING).gain == 1.0


def test_what_was_earned_is_brought_in_at_once_where_that_makes_the_retry() -> None:
    """Exactly enough is enough."""
    record = BudgetRecord({"me": BudgetMember(0.5, 0.0, 10.0)}, 0.0)
    plan = budget(record).plan(InHand(0.5, earned=0.5, refused=1.0))
    assert (plan.brought, plan.gain) == (0.5, 0.5)
    assert plan.record is not None
    assert plan.record.members["me"] == BudgetMember(1.0, 0.0, 10.0, 1)


def test_what_is_above_the_capacity_is_gone_and_nothing_comes_instead() -> None:
    """Where the others have all of it, nobody else has any."""
    full = BudgetRecord({"other": BudgetMember(10.0, 0.0, 10.0)}, 3.0)
    plan = budget(full).plan(InHand(2.0, earned=3.0), is_round=True)
    assert plan.record is not None
    assert (plan.record.tokens, plan.record.members["me"].has, plan.out) == (0.0, 0.0, 2.0)
    gone = BudgetRecord({"me": BudgetMember(4.0, 0.0, 10.0), "other": BudgetMember(6.0, 0.0, 10.0)}, 0.0)
    assert budget(gone._replace(earlier="past")).plan(
        InHand(4.0, spent=9.0), ("past",)
    ).record == BudgetRecord({"other": gone.members["other"], "me": BudgetMember(4.0, 0.0, 10.0, 1)})
    over = BudgetRecord({"me": BudgetMember(0.5, 0.0, 10.0), "other": BudgetMember(9.0, 0.0, 10.0)}, 1.0)
    assert budget(over).leaving(InHand(0.5, earned=0.5)).tokens == 1.0


def test_what_several_refused_puts_took_comes_back_from_each() -> None:
    """Also what was earned."""
    fleet = budget(
        BudgetRecord({"me": BudgetMember(3.0, 0.0, 10.0), "other": BudgetMember(0.0, 5.0, 10.0)}, 0.0)
    )
    first = fleet.plan(InHand(1.0, earned=1.0))
    fleet.putting(first)
    second = fleet.plan(InHand(1.0))
    fleet.putting(second)
    assert fleet.learned(fleet.record, 9) == Settled(back=3.0)
    fleet.putting(first)
    assert fleet.refused(first) == Settled(back=2.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (b"{", "Expecting"),
        (b"7", "^TypeError: "),
        (b"{}", "^KeyError: 'members'"),
        (b'{"members": {"a": [1]}, "tokens": 0, "earlier": null}', "not enough values"),
        (b'{"members": {"a": [1, 0, 0, 0.5]}, "tokens": 0, "earlier": null}', "^0.5 is no count"),
        (b'{"members": {}, "tokens": Infinity, "earlier": null}', "^inf is no amount"),
        (b'{"members": {}, "tokens": true, "earlier": null}', "^True is no amount"),
        (b'{"members": {}, "tokens": 0, "earlier": []}', r"^\[\] is no lease"),
    ],
)
def test_what_is_no_record_is_refused(wrong: bytes, told: str) -> None:
    """One kind of error, whatever somebody has put there."""
    with pytest.raises(ValueError, match=told):
        BudgetRecord.from_bytes(wrong)
