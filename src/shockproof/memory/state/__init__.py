"""From the state of a program to its files, and back."""
