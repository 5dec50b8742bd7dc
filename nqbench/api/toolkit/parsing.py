"""Files and JSON that somebody else may have written."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Where half of a surrogate pair may be written, with or without the other."""


def read_file(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file. Raises OSError, also where it is a device or a pipe, which may have no end, or where it has
    more than ``most`` bytes."""
    with open(path, "rb", opener=_without_waiting) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        if most is not None and found.st_size > most:
            raise OSError(errno.EFBIG, f"has {found.st_size:,} bytes, too many for this machine's memory", str(path))
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
