"""What moves the weights: schedules, named groups, optimizers and the average. The package itself imports no torch."""
