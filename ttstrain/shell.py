"""Commands and paths that can be pasted into a shell: whatever prints one takes its words from here."""

from __future__ import annotations

import shlex


def quoted(*words: object) -> str:
    """Join words, each in quotes where a shell would read it otherwise."""
    return shlex.join(str(word) for word in words)
