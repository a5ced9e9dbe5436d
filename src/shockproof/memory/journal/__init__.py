"""The operation journal: what is under way is known after a crash."""
