"""`calls.witness`: one attempt's end is told to exactly one, however late it comes."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import pytest

from shockproof.calls.callables import is_async
from shockproof.calls.witness import Witness, witnessed
from shockproof.vocabulary.look_up import Found


def none() -> None:
    """Nothing is refused."""


class Told:
    """A witness, and what it tells, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.witness = Witness(lambda found, error: self.told.append(error if found is None else found))

    def leave(self) -> None:
        self.told.append("left behind")


def test_end_that_came_just_before_it_was_given_up_is_told_to_whoever_gives_up() -> None:
    """The answer is there although the caller was cancelled first."""
    one = Told()
    one.witness.begins()
    one.witness.returns("the order")

    assert one.witness.give_up(one.leave) == Found("the order")
    assert one.told == []


@pytest.mark.parametrize("began", [True, False])
def test_attempt_that_failed_or_never_began_is_over(began: bool) -> None:
    """Nothing of it is left behind, and nothing comes later."""
    one = Told()
    if began:
        one.witness.begins()
        one.witness.raises(OSError())

    assert one.witness.give_up(one.leave) == "over"
    assert one.told == []


def test_what_was_left_behind_is_on_record_before_its_end_is_told() -> None:
    """Or else it would seem to run for ever."""
    one, error = Told(), OSError()
    one.witness.begins()

    assert one.witness.give_up(one.leave) == "left behind"
    one.witness.raises(error)

    assert one.told == ["left behind", error]


@pytest.mark.usefixtures("_eager_switching")
def test_end_and_giving_up_at_the_same_moment_tell_it_once() -> None:
    """In whatever order two threads come."""
    for _ in range(200):
        one = Told()
        one.witness.begins()
        thread = threading.Thread(target=one.witness.returns, args=(7,))
        thread.start()
        given_up = one.witness.give_up(one.leave)
        thread.join()
        assert (given_up, one.told) in [(Found(7), []), ("left behind", ["left behind", Found(7)])]


@pytest.mark.asyncio
async def test_result_that_still_has_to_be_awaited_is_no_answer() -> None:
    """The caller awaits it, and can leave nothing behind."""
    one = Told()

    async def submit() -> int:
        return 7

    def plain() -> Any:
        return submit()

    coroutine = witnessed(
        plain,
        lambda: one.witness,
        refusal=none,
        order="bot-1",
        now=time.monotonic,
        has_own_task=False,
        result_may_refuse=False,
    )()
    assert one.witness.give_up(one.leave) == "over"
    assert await coroutine == 7


def test_function_stays_what_it_is() -> None:
    """Its kind decides who runs it, and its name is on record."""

    async def submit() -> None: ...

    def plain() -> None: ...

    by = Told
    for has_own_task in (False, True):
        seen = witnessed(
            partial(submit),
            lambda: by().witness,
            refusal=none,
            order="bot-1",
            now=time.monotonic,
            has_own_task=has_own_task,
            result_may_refuse=False,
        )
        assert (is_async(seen), seen.__name__) == (True, "submit")
    seen = witnessed(
        plain,
        lambda: by().witness,
        refusal=none,
        order="bot-1",
        now=time.monotonic,
        has_own_task=True,
        result_may_refuse=False,
    )
    assert (is_async(seen), seen.__name__) == (False, "plain")


def test_attempt_that_is_refused_at_its_beginning_does_not_run_and_tells_so_late() -> None:
    """It was given up while somebody was asked, and its end is told like any other."""
    one, ran = Told(), list[str]()

    def refuses() -> Exception:
        assert one.witness.give_up(one.leave) == "left behind"
        return refusal

    refusal = LookupError()
    seen = witnessed(
        lambda: ran.append("ran"),
        lambda: one.witness,
        refusal=refuses,
        order="bot-1",
        now=time.monotonic,
        has_own_task=False,
        result_may_refuse=False,
    )

    with pytest.raises(LookupError):
        seen()
    assert one.told == ["left behind", refusal]
    assert ran == []
