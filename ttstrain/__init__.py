"""ttstrain fine-tunes text-to-speech models from one YAML recipe."""

__version__ = "0.1.0"
