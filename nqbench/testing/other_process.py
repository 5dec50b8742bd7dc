"""A second process for the checks that need one: spawned once a session, kept, and replaced if it dies.

It starts with nothing of this process but its import path (spawn, never fork), so that what comes back from it depends
on the plugin, its parameters and the bytes it was given alone. Importing torch makes it cost seconds, hence one.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from nqbench.testing.check import Failed, one_line

DEADLINE = 120.0
"""Seconds that one call may take in the other process."""

_pool: ProcessPoolExecutor | None = None


def call_in_other_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` as the other process computes it. Raises Failed if it dies, is late or raises."""
    global _pool
    try:
        # by value: torch's own pickling across processes would share memory
        job = pickle.dumps((function, arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Failed(f"cannot be sent to another process: {error}") from error
    if _pool is None:
        _pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        answer = _pool.submit(_work, list(sys.path), torch.get_num_threads(), job).result(DEADLINE)
    except (BrokenProcessPool, TimeoutError) as error:
        _pool.shutdown(wait=False, cancel_futures=True)
        _pool = None
        died = isinstance(error, BrokenProcessPool)
        raise Failed("ends the process that it runs in" if died else f"takes over {DEADLINE:g} s") from error
    problem, result = pickle.loads(answer)
    if problem:
        raise Failed(problem)
    return result


def _work(path: list[str], threads: int, job: bytes) -> bytes:
    """Runs in the other process."""
    sys.path += [entry for entry in path if entry not in sys.path]
    torch.set_num_threads(threads)
    try:
        function, arguments = pickle.loads(job)
        return pickle.dumps(("", function(*arguments)))
    except Failed as error:
        return pickle.dumps((str(error), None))
    except BaseException as error:  # noqa: BLE001 - whatever a plugin raises is told to the process that asked
        return pickle.dumps((f"in another process: {one_line(error)}", None))
