"""From a recipe to a plan: the run's steps, the origin of each value, memory and disk. Imports no torch."""
