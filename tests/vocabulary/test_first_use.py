"""Parts that are made when somebody first asks for them."""

from __future__ import annotations

import threading

from shockproof.vocabulary.first_use import made_at_first_use


class House:
    """With a part that says how often it was made."""

    def __init__(self) -> None:
        self.made = 0
        self.gate: threading.Barrier | None = None

    @made_at_first_use
    def part(self) -> list[int]:
        """What it is."""
        self.made += 1
        if self.gate is not None:
            self.gate.wait(60)
        return [self.made]


def test_part_is_made_when_it_is_first_read_and_kept() -> None:
    """Who never asks for it pays nothing, and who asks again gets the same."""
    house = House()
    assert "part" not in vars(house)
    first = house.part
    assert house.part is first
    assert (house.made, vars(house)["part"]) == (1, first)
    assert House().part is not first


def test_threads_that_ask_at_the_same_moment_get_the_same_part() -> None:
    """What is kept in it must not be lost with one that only one thread knows."""
    house = House()
    house.gate = threading.Barrier(2)
    got: list[list[int]] = []
    threads = [threading.Thread(target=lambda: got.append(house.part)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert house.made == 2
    assert got[0] is got[1] is house.part


def test_class_shows_what_makes_the_part() -> None:
    """Tools that look at a class, such as mocks with its form, find a documented attribute."""
    assert House.part.__doc__ == "What it is."
