"""What other people's clients need: one file for each, named after it and loaded by nobody but its users."""
