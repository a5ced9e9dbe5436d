"""
A program that dies again and again on a simulated disk, and every state in which it can find the disk then.

A `Subject` is what is tried: how it lives, what it knows after each step of the disk, and what is wrong with a
disk for who knew that. `crash_everywhere` lets it die after each step of its first life, looks at every state in which the
disk can be then, and lets it live on from some of them, to die again.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from tests.memory.disk.simulated_disk import Files, SimulatedDisk, crash_states

__all__ = ["Findings", "Known", "MakeDisk", "Subject", "complaints_where_calls_fail", "crash_everywhere"]

Facts = TypeVar("Facts", bound=Hashable)
MakeDisk = Callable[[Files], SimulatedDisk]

_COUNTED = re.compile(r"\.\d+[.-]\d+\.tmp$")
"""Temporary names hold a counter: two states that differ in that only are the same."""


@dataclass
class Known(Generic[Facts]):
    """What a program knew, and from which step of the disk on."""

    disk: SimulatedDisk
    facts: Facts
    all: list[tuple[int, Facts]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now(self.facts)

    def now(self, facts: Facts) -> None:
        """From here on it knows this."""
        self.facts = facts
        self.all.append((len(self.disk.steps), facts))

    def at(self, steps: int) -> list[Facts]:
        """What it knew while so many steps were done and no more: it may have learned meanwhile, and begun what is next."""
        before = [facts for at, facts in self.all if at < steps][-1:]
        return list(dict.fromkeys(before + [facts for at, facts in self.all if at == steps]))


class Subject(Protocol[Facts]):
    """What is tried."""

    @property
    def at_first(self) -> Facts:
        """What is known of an empty disk."""
        ...

    def live(self, disk: SimulatedDisk, facts: Facts, life: int) -> Known[Facts]:
        """Live for the *life*-th time, from 1 on, on what an earlier life has left, knowing *facts*."""
        ...

    def complaint(self, disk: SimulatedDisk, facts: Facts) -> str | None:
        """What is wrong with the disk for who knew *facts* at the crash; None if nothing is."""
        ...


@dataclass
class Findings:
    """How many different states there were, each with what was known in it; and what was wrong in which."""

    states: int = 0
    second_crashes: int = 0
    """How many of them were left by a second crash."""
    wrong: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return f"{self.states:,} different states, {self.second_crashes:,} of them left by a second crash"


def crash_everywhere(
    subject: Subject[Facts],
    make_disk: MakeDisk = SimulatedDisk,
    *,
    second_life_each: int,
    most: int | None = None,
) -> Findings:
    """
    Crash after every step, and look at every state of the disk.

    Each *second_life_each*-th state gets a second life, with a second crash after every step. With *most*,
    end after so many wrong ones.
    """
    findings = Findings()
    seen: set[int] = set()

    def look(known: Known[Facts], history: str, life: int) -> None:
        for steps in range(len(known.disk.steps) + 1):
            for files, facts in itertools.product(crash_states(known.disk, steps), known.at(steps)):
                key = hash((frozenset((_COUNTED.sub("", str(path)), files[path]) for path in files), facts))
                if key in seen:
                    continue
                seen.add(key)
                findings.states += 1
                findings.second_crashes += life > 1
                where = f"{history}after step {steps}"
                complaint = subject.complaint(make_disk(files), facts)
                if complaint is not None:
                    findings.wrong.append(f"{where}: {complaint}")
                elif life == 1 and findings.states % second_life_each == 0:
                    look(subject.live(make_disk(files), facts, 2), f"{where}, and then ", 2)
                if most is not None and len(findings.wrong) >= most:
                    return

    look(subject.live(make_disk({}), subject.at_first, 1), "", 1)
    return findings


def complaints_where_calls_fail(
    subject: Subject[Facts], failure: int, *, is_lasting: bool, make_disk: MakeDisk = SimulatedDisk
) -> tuple[int, list[str]]:
    """
    Let the Nth call of the disk fail in a first life, for every N until it is not reached, and cut the power at its end.

    Returns how many calls there were, and what was wrong. *is_lasting*: all calls from the Nth on fail.
    """
    found: list[str] = []
    number = 0
    while True:
        number += 1
        disk = make_disk({})
        disk.failure = failure
        disk.fails = lambda call, what, number=number: call >= number if is_lasting else call == number
        known = subject.live(disk, subject.at_first, 1)
        for files in crash_states(disk, len(disk.steps)):
            complaint = subject.complaint(make_disk(files), known.facts)
            if complaint is not None:
                found.append(f"call {number} fails: {complaint}")
                break
        if disk.calls < number:
            return number - 1, found
