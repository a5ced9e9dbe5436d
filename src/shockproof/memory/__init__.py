"""What is remembered: services and their health, the error log, the state on disk."""
