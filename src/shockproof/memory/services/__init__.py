"""The services of a program, how they are doing, and who is told."""
