"""Proof, before a run, that the nets that are trained are the nets that speak."""
