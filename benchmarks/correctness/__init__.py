"""The parts of the scoreboard; ``benchmarks/correctness.py`` runs them."""
