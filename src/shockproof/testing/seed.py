"""
Where random numbers in tests come from: one seed, fixed unless somebody asks for another.
"""

from __future__ import annotations

import os
import random
from typing import Final

__all__ = ["DEFAULT_SEED", "SEED_VARIABLE", "seed_from"]

DEFAULT_SEED: Final = 7

SEED_VARIABLE: Final = "SHOCKPROOF_SEED"
"""The environment variable that sets another seed, or ``random`` for a fresh one."""


def seed_from(given: str | None) -> int:
    """
    The seed that *given* names: a whole number, or ``"random"`` for a fresh one.

    None: what the environment variable ``SHOCKPROOF_SEED`` names, else 7, so that a test repeats.

    Raises:
        ValueError: it names neither.
    """
    source, text = "seed", given
    if text is None:
        source, text = SEED_VARIABLE, os.environ.get(SEED_VARIABLE)
    if not text:
        return DEFAULT_SEED
    if text == "random":
        return random.SystemRandom().randrange(2**32)
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{source} must be a whole number or 'random', got {text!r}") from None
