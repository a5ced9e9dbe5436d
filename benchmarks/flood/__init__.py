"""What `benchmarks/errors.py` compares: a workload, contenders that log it, disks that misbehave."""
