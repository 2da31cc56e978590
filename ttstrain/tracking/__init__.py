"""Trackers: they write a run's numbers, samples and warnings to files, to the screen and to services."""
