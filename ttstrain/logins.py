"""Names and passwords in addresses, such as `http://me:secret@host`: what a run writes and prints leaves them out."""

from __future__ import annotations

import re

# `hf://owner/repo@revision` names a branch, not a login
_LOGIN = re.compile(r"(?<=://)(?<!hf://)[^\s/?#\"'<>`]*@")


def without_logins(text: str) -> str:
    """Return a text whose addresses hold no name and no password."""
    return _LOGIN.sub("", text)
