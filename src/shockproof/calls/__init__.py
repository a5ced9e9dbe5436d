"""The only place that awaits: a call on its way through the policies."""
