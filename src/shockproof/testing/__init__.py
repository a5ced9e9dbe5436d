"""
What tests of programs that use shockproof need: time that passes when you say so.
"""

from shockproof.testing.virtual_time import VirtualClock, VirtualTimeLoop

__all__ = ["VirtualClock", "VirtualTimeLoop"]
