"""Training a run. Read loop.py first, then step.py."""
