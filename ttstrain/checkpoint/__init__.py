"""Checkpoints of runs: saving, loading, merging and inspecting them, and opening those of other trainers."""
