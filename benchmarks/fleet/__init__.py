"""What `benchmarks/fleet.py` measures, a file for each question."""
