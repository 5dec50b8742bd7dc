"""JSON that somebody else may have written."""

from __future__ import annotations

import json
import re
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Where half of a surrogate pair may be written, with or without the other."""


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text stands for. Raises ValueError where it is none, is nested deeper than any of ours, or
    holds half of a surrogate pair: no file can be written of that."""
    text = text if isinstance(text, str) else text.decode("utf-8-sig")
    try:
        found = json.loads(text)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is no text") from None
    return found
