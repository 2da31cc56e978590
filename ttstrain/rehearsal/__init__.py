"""A training step on a GPU that is not there: its memory, its host waits, and whether devices and types agree."""
