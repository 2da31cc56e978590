"""Generating speech with a loaded model: samples, previews, voices."""
