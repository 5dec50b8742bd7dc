"""Texts of other people on a terminal: names and errors can hold control codes, which it would obey."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")
"""Control codes, halves of surrogate pairs, and marks that turn the direction of what follows."""


def plain(text: str) -> str:
    """Without control codes, which a terminal obeys and XML cannot hold. Tabs and line ends stay."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def line(text: str) -> str:
    """``plain``, on one line."""
    return plain(" ".join(text.split()))
