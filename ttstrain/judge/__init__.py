"""Judging what a trained model does: scores of transcripts, probes, and blends of raw and EMA weights."""
