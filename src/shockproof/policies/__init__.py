"""What to do about a failure: pure state machines, told what happened and when; no await, no I/O."""
