"""The engine: builds a run from a plan and trains it. Read loop.py first, then step.py."""
