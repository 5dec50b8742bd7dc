"""The path that other devices take, on the CPU: for tests without such a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from nqbench.api import chunks


@contextmanager
def torch_everywhere() -> Iterator[None]:
    """While it lasts, what asks ``chunks.on_torch`` takes torch operations on the CPU too, not the compiled loops."""
    with mock.patch.object(chunks, "on_torch", return_value=True):
        yield
