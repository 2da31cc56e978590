"""Trained vocoders, from a mel to a waveform. Imports no torch until one is loaded."""
