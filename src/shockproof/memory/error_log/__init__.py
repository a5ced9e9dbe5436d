"""From an error in memory to a line on disk, and back."""
