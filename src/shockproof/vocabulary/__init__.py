"""The words every other layer uses: errors, statuses, outcomes, clock, events, models."""
