"""A trading session against a venue that misbehaves: ``python -m shockproof demo``."""
