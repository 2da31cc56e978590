"""Judging what a trained model does: figures for generated speech, scores of transcripts, probes of checkpoints."""
