"""What there is to tell of the caches, and plugins' notes in a run's workers: in a run kept for the driver, which says
each thing once, else a note."""

from __future__ import annotations

import warnings
from typing import Any

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


def listen_to_notes() -> None:
    """From now on, notes of this process are kept for ``heard`` too; other warnings are shown as they were."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, Note):
            _heard.append((str(message), str(message)))
        else:
            shown(message, category, *rest, **named)

    warnings.showwarning = show


def heard() -> list[tuple[str, str]]:
    """What there was to tell since the last call: about what, and the line."""
    found = list(_heard)
    _heard.clear()
    return found
