"""The readers by what they read; each module lists its own in `READERS`."""
