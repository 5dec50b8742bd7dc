"""What nobody but its owner should read: passwords in URLs, and credentials of the environment, out of every text that
is kept or shown."""

from __future__ import annotations

import os
import re

MASK = "***"
_USER = re.compile(r"(?<=://)[^\s'\"]*@")
"""User and password of a URL; greedy, since a password that was not escaped may hold "/" and "@"."""
_QUERY = re.compile(r"(?i)(?<=[?&\s])((?:ssl)?password|passwd|pwd|secret|token)=[^&\s'\"]*")
_NAMES = re.compile(r"(?i)SECRET|TOKEN|PASSWORD|PGPASSWORD|ACCESS_KEY")
_SHORTEST = 6
"""Characters of a value of the environment that is hidden: shorter ones are parts of words."""


def masked(text: str) -> str:
    """A text without the credentials in it: ``postgresql://ann:pw@host/db`` is ``postgresql://***@host/db``."""
    if "://" in text:
        text = _USER.sub(f"{MASK}@", text)
    text = _QUERY.sub(rf"\1={MASK}", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _NAMES.search(name):
            text = text.replace(value, MASK)
    return text
