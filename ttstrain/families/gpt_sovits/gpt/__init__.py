"""The GPT: a language model that continues phonemes with semantic tokens (upstream's "s1")."""
