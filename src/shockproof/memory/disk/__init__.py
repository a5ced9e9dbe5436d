"""The background writer and the files: the only place that touches a disk."""
