"""What several processes share: one small interface, and what stands behind it without another program."""
