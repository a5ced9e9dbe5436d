"""Copies of a large dict share what has not changed, however its keys come and go, and the difference makes the next of the one before."""

from __future__ import annotations

import marshal
import random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shockproof.memory.disk.pacing import Pace
from shockproof.memory.state import packed
from shockproof.memory.state.packed import Packed, Packer, frozen_entry, let_go_packed
from shockproof.memory.state.secrets import SecretNames
from shockproof.memory.state.state_capture import SecretCollector, StateSecrets
from shockproof.memory.state.state_changes import _PARTS_BETWEEN_PAUSES, _difference, changes_between

PATH = ("cached_data",)


def pack(state: dict[str, Any], before: Packed | None = None) -> Packed:
    packer = Packer(SecretCollector(StateSecrets(SecretNames())), {} if before is None else {PATH: before})
    found = Packed()
    for _ in packer.steps(PATH, state.copy(), found):
        pass
    return found


def content(found: Packed) -> list[tuple[str, Any]]:
    return [(key, frozen_entry(entry)) for key, entry in found.items()]


def applied(before: Packed, now: Packed) -> list[tuple[str, Any]]:
    """The copy before, with what is told to have changed."""
    removed, added = _difference(before, now, Pace())
    entries = dict(before.items())
    for key in removed:
        del entries[key]
    entries.update(added)
    return list(entries.items())


def shared(before: Packed, now: Packed) -> float:
    """Which share of the parts is the same in both."""
    known = {id(part) for part in before.parts}
    return sum(id(part) in known for part in now.parts) / len(now.parts)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few entries are many parts."""
    monkeypatch.setattr(packed, "_SIZE", 4)
    monkeypatch.setattr(packed, "_LEAST", 2)
    monkeypatch.setattr(packed, "_MOST", 8)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "remove", "move", "in place", "insert"]),
        st.integers(0, 40),
        st.integers(0, 3) | st.just([1]) | st.just((1,)),
    ),
    max_size=6,
)


@pytest.mark.usefixtures("small_parts")
@given(size=st.integers(0, 40), saves=st.lists(CHANGES, min_size=1, max_size=6))
def test_every_copy_is_what_a_first_one_would_be(size: int, saves: list[Any]) -> None:
    """And the difference to any earlier copy is complete, keys and places included."""
    state: dict[str, Any] = {f"key {number}": [number, {"a": number}] for number in range(size)}
    copies = [pack(state)]
    for changes in saves:
        for what, number, value in changes:
            key = f"key {number}"
            if what == "remove":
                state.pop(key, None)
            elif what == "move" and key in state:
                state[key] = state.pop(key)
            elif what == "in place" and isinstance(state.get(key), list) and len(state[key]) == 2:
                state[key][1]["a"] = value
            elif what == "insert":  # a dict that was made anew, in the order of its keys
                state = dict(sorted({**state, key: value}.items()))
            else:
                state[key] = value
        now = pack(state, copies[-1])

        assert content(now) == content(pack(state))
        assert len(now) == len(state)
        for before in copies:
            assert applied(before, now) == list(now.items())
        copies.append(now)


def test_one_change_leaves_all_other_parts_shared() -> None:
    """Also when a key goes, comes or moves: else each of these would be looked through entry by entry."""
    rng = random.Random(1)
    state: dict[str, Any] = {f"key {number}": {"a": number, "b": [1.5]} for number in range(2_000)}
    before = pack(state)
    assert shared(before, pack(state, before)) == 1

    for number in range(300):
        key = rng.choice(list(state))
        if number % 4 == 0:
            state[key]["b"].append(number)
        elif number % 4 == 1:
            del state[key]
        elif number % 4 == 2:
            state[key] = state.pop(key)
        else:
            state[f"new {number}"] = {"a": number, "b": []}
        now = pack(state, before)
        assert content(now) == content(pack(state))
        assert shared(before, now) > 0.85
        before = now
    assert len(before.parts) < 2 * len(state) / packed._SIZE


def test_what_has_changed_is_found_without_looking_at_the_rest() -> None:
    """Where the keys are the same, each part knows what is new in it since the last copy, and only since that."""
    state = {f"key {number}": [number] for number in range(500)}
    first = pack(state)
    state["key 7"].append(1)
    second = pack(state, first)
    state["key 8"].append(2)
    third = pack(state, second)

    assert _difference(second, third, Pace()) == ([], {"key 8": dict(third.items())["key 8"]})
    assert list(_difference(first, third, Pace())[1]) == ["key 7", "key 8"]


def test_search_for_changes_ends_where_there_are_too_many() -> None:
    """The whole is written then; and to throw away all that was found, in one go, would take 20 ms for 50 MB."""
    state = {f"key {number}": [number] for number in range(6_000)}
    first = pack(state)
    for entry in state.values():
        entry.append(0)
    second = pack(state, first)
    most = len(second.parts) / _PARTS_BETWEEN_PAUSES
    pace = CountedPace()

    assert changes_between({"cached_data": first}, {"cached_data": second}, pace) is None
    assert 0 < pace.count < 0.5 * most


class CountedPace(Pace):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def keep(self) -> None:
        self.count += 1


def test_copy_that_is_let_go_takes_nothing_from_the_others() -> None:
    """What they share stays."""
    state = {f"key {number}": [number] for number in range(500)}
    first = pack(state)
    second = pack(state, first)
    parts = [first]
    let_go_packed(parts, Pace())

    assert parts == []
    assert content(second) == content(pack(state))


def test_value_that_somebody_else_holds_is_still_the_same() -> None:
    """Who keeps a price of a quote has not changed the quote, though the parts are told apart by a form that shows it."""
    state: dict[str, Any] = {f"key {number}": [number + 0.5, {"a": number / 3}] for number in range(200)}
    before = pack(state)
    sights = [part.sight for part in before.parts]

    held = [value[1]["a"] for value in state.values()]
    now = pack(state, before)
    assert [part.sight for part in now.parts] != sights
    assert shared(before, now) == 1

    held.clear()
    assert shared(before, pack(state, now)) == 1


def test_what_another_thread_changes_between_two_looks_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered as seen is what was copied: else a value that is put back would pass for the copied one."""
    state = {f"key {number}": [number] for number in range(40)}
    before = pack(state)
    state["key 7"][0] = 1_000
    looks = 0

    def dumps_and_then_another_thread(value: Any, form: int) -> bytes:
        nonlocal looks
        found = marshal.dumps(value, form)
        if form == packed._SIGHT and state["key 7"] in value:
            looks += 1
            if looks == 1:
                state["key 7"][0] = 2_000
        return found

    with monkeypatch.context() as patch:
        patch.setattr(packed, "marshal", SimpleNamespace(dumps=dumps_and_then_another_thread))
        during = pack(state, before)
    assert looks == 2
    assert dict(content(during))["key 7"] == [2_000]

    state["key 7"][0] = 1_000
    assert dict(content(pack(state, during)))["key 7"] == [1_000]


def test_many_changes_at_once_are_plain_although_one_entry_may_not_have_so_many_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are looked at together: that together they are many costs none of the parts around them its sharing."""
    monkeypatch.setattr(packed, "_MOST_VALUES", 50)
    monkeypatch.setattr(packed, "_STEP", 60.0)
    state: dict[str, Any] = {f"key {number}": [float(place) for place in range(10)] for number in range(400)}
    before = pack(state)
    for number in range(0, 400, 50):
        state[f"key {number}"][0] += 1
    now = pack(state, before)

    assert content(now) == content(pack(state))
    assert shared(before, now) == 1 - 8 / len(now.parts)
    state["key 150"][1] = (1, 2)
    after = pack(state, now)
    assert content(after) == content(pack(state))
    assert [part.is_plain for part in after.parts].count(False) == 1
