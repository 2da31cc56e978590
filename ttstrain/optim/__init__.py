"""Schedules, parameter groups, optimizers and EMA. The package itself imports no torch."""
