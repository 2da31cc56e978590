"""Reference curves of the shipped recipes, and how a run's first steps compare with them. Imports no torch."""
