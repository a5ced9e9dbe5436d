"""Which of two saved states is the newer one, and whether it may take the other's place."""

from __future__ import annotations

import pytest

from shockproof.policies.state_publication import Lineage, Save, StateHead, follows, lineage_of


def head(token: int, save: int) -> StateHead:
    return StateHead(Lineage(token, save), 1.5, 3, "digest", 1, 2)


def test_a_later_owner_is_newer_whatever_it_has_saved_and_of_one_owner_the_later_save() -> None:
    """No clock is asked."""
    assert Lineage(2, 1) > Lineage(1, 99) > Lineage(1, 98)


@pytest.mark.parametrize(
    ("before", "after", "was_seen", "own", "verdict"),
    [
        (None, (2, 7), False, set(), "yes"),
        (None, (0, 0), False, set(), "yes"),
        (head(1, 5), (2, 7), True, set(), "yes"),
        (head(1, 5), (1, 5), True, set(), "yes"),
        (head(1, 5), (1, 4), True, set(), "older"),
        (head(1, 5), (1, 4), False, set(), "unseen"),
        (head(1, 5), (2, 7), False, set(), "unseen"),
        (head(1, 5), (0, 0), False, {1}, "yes"),
        (head(2, 7), (2, 7), True, {2}, "older"),
        (head(2, 8), (2, 7), True, {2}, "older"),
        (head(3, 1), (2, 7), False, {2}, "older"),
    ],
)
def test_a_state_takes_the_place_of_an_older_one_that_its_owner_has_seen(
    before: StateHead | None, after: tuple[int, int], was_seen: bool, own: set[int], verdict: str
) -> None:
    """Restored, put, or put without hearing of it; the same state again is no news, and what was saved before that is old."""
    assert follows(Save(Lineage(2, 7), Lineage(*after)), before, was_seen=was_seen, own=own) == verdict


def test_a_state_on_disk_says_which_save_it_is_or_is_older_than_all() -> None:
    """One of another account, of before, or one that somebody has edited."""
    assert lineage_of({"name": "account 7", "token": 3, "save": 4}, "account 7") == Lineage(3, 4)
    early = {"name": "account 7", "token": 3, "save": 4, "after": [2, 9]}
    assert lineage_of(early, "account 7") == Lineage(2, 9), "saved before its owner had restored"
    for other in (
        None,
        {"name": "account 7", "token": 3, "save": 4, "after": 7},
        {"name": "account 7", "token": 3, "save": 4, "after": [1, 2, 3]},
        {"name": "account 8", "token": 3, "save": 4},
        {"name": "account 7"},
        {"name": "account 7", "token": -3, "save": "4"},
    ):
        assert lineage_of(other, "account 7") == Lineage(0, 0)


def test_a_head_comes_back_as_it_was_with_what_stands_behind_it() -> None:
    """Also bytes that look like the end of it."""
    assert StateHead.from_bytes(head(3, 4).to_bytes(b"a\nb\n")) == (head(3, 4), b"a\nb\n")
