"""Commands and paths that can be pasted into a shell: whatever prints one takes its words from here."""

from __future__ import annotations

import shlex

from ttstrain.terminal import on_one_line


def quoted(*words: object) -> str:
    """Join words, each in quotes where a shell would read it otherwise; the whole stays on one line."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    """Quote one word: what would not be shown as it is gets the escapes of bash and zsh, as in `$'a\\x0ab'`."""
    if on_one_line(word) == word:
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if on_one_line(character) == character:
        return character
    byte_of_a_name = "\udc80" <= character <= "\udcff"  # one that is no UTF-8, as Python reads it
    spelled = character.encode(errors="surrogateescape" if byte_of_a_name else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in spelled)
