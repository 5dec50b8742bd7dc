"""What there is to tell of the caches: in a run kept for the driver, which says each thing once, else a note."""

from __future__ import annotations

import warnings

from nqbench.api.errors import Note

_listening: list[bool] = []
_heard: list[tuple[str, str]] = []


def tell(about: str, text: str) -> None:
    """A line for the user, about something that a run mentions once, whichever of its processes finds it first."""
    if _listening:
        _heard.append((about, text))
    else:
        warnings.warn(text, Note, stacklevel=3)


def listen(on: bool = True) -> None:
    """From now on, in this process, what there is to tell is kept for ``heard``; if not ``on``, it is a note."""
    _listening[:] = [True] if on else []


def heard() -> list[tuple[str, str]]:
    """What there was to tell since the last call: about what, and the line."""
    found = list(_heard)
    _heard.clear()
    return found
