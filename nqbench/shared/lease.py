"""Who is at what, among machines: an object that its holder renews while it works, and removes when it is done.

Best effort: two may hold one lease after all (a clock that is wrong, a server without conditional writes, a holder that
slept), and then make the same thing twice, which does no harm. A lease that was not renewed for ``TERM`` has expired:
by its own date, with some mercy for clocks that differ, or because nothing about it has changed for so long under the
eyes of who waits; at once where its holder was a process of this machine that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from types import TracebackType
from typing import Any

from nqbench.shared.objects import Objects

TERM = 60.0
"""Seconds for which a lease holds; it is renewed in a third of that."""
_MERCY = 120.0
"""Seconds by which clocks may differ."""
HERE = platform.node()


class Lease:
    """Held while the context is entered. objects: None for one that keeps nobody away."""

    def __init__(self, objects: Objects | None = None, name: str = "", *, term: float = TERM) -> None:
        self._objects, self._name, self._term = objects, name, term
        self._owner = secrets.token_hex(8)
        self._until = 0.0
        self._stopped = threading.Event()
        self._renewal: threading.Thread | None = None

    def taken(self) -> bool:
        """Take it. Whether nobody had it. Raises what the objects raise."""
        assert self._objects is not None
        return self._objects.create(self._name, self._said())

    def _said(self) -> bytes:
        self._until = time.time() + self._term
        told = {"owner": self._owner, "host": HERE, "pid": os.getpid(), "until": self._until}
        return json.dumps(told).encode()

    def __enter__(self) -> Lease:
        if self._objects is not None:
            self._renewal = threading.Thread(target=self._renew, name="nqbench-lease", daemon=True)
            self._renewal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._objects is None or self._renewal is None:
            return
        self._stopped.set()
        self._renewal.join()
        with contextlib.suppress(*self._objects.errors):
            # another may have taken it where it expired in between
            if time.time() < self._until - self._term / 3 or self._ours():
                self._objects.remove(self._name)

    def _renew(self) -> None:
        assert self._objects is not None
        while not self._stopped.wait(self._term / 3):
            with contextlib.suppress(*self._objects.errors):
                if not self._ours():
                    return
                self._objects.write(self._name, self._said())

    def _ours(self) -> bool:
        assert self._objects is not None
        return _told(self._objects.read(self._name)).get("owner") == self._owner


class Watched:
    """The leases of others that this process has seen, and since when each has looked as it does."""

    def __init__(self, term: float = TERM) -> None:
        self._term = term
        self._seen: dict[str, tuple[bytes, float]] = {}

    def expired(self, name: str, content: bytes) -> bool:
        told = _told(content)
        before, since = self._seen.get(name, (b"", 0.0))
        if before != content:
            self._seen[name] = content, since = content, time.monotonic()
        return (
            float(told.get("until", 0.0)) + _MERCY < time.time()
            or time.monotonic() - since > self._term
            or (told.get("host") == HERE and not _alive(int(told.get("pid", 0))))
        )


def _told(content: bytes) -> dict[str, Any]:
    """What a lease says; nothing where it is no lease."""
    with contextlib.suppress(ValueError, TypeError):
        told = json.loads(content)
        if isinstance(told, dict) and isinstance(told.get("until"), float) and isinstance(told.get("pid"), int):
            return told
    return {}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return pid > 0
    return pid > 0
