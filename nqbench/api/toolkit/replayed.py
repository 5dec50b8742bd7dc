"""A training step that a GPU repeats by itself: recorded once as a CUDA graph, then replayed for every batch.

A step of a small network is hundreds of kernels of a few microseconds each; called one by one from Python they take
five to ten times as long. What is recorded is the step as it stood: numbers that Python holds (the learning rate) and
the tensors it reads are those of the recording, so the owner says ``renew`` whenever they may have changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Any], None]
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes what a step does, with its batch in place, and returns what repeats it."""

WARM = 3
"""Steps that are taken one kernel at a time before the first recording: libraries choose algorithms in them, optimizers
make their state."""


class Replayed:
    """``step(batch)``, called as often as one likes; batches of the first one's shape are replayed.

    Others (an epoch's last, smaller one) are taken one kernel at a time, and so are all of them, after one warning,
    where the step cannot be recorded: its code asks the GPU for a number, say.
    """

    def __init__(self, step: Step, on: torch.device | Record) -> None:
        """on: a CUDA device, or what records in place of one."""
        self._step = step
        self._graph = Graphs(on) if isinstance(on, torch.device) else None
        self._record: Record = on if self._graph is None else self._graph.record  # type: ignore[assignment]
        self._shape: tuple[object, ...] | None = None
        self._warm = 0
        self._able = True
        self._held: Any = None
        self._replay: Callable[[], None] | None = None
        self._stale = True

    def renew(self) -> None:
        """Record anew at the next batch: the learning rate, masks or the like are others now."""
        self._stale = True

    def __call__(self, batch: Any) -> None:
        shape = tuple(_said(leaf) for leaf in leaves(batch))
        if self._shape is None:
            self._shape = shape
        if shape != self._shape or not self._able or self._warm < WARM:
            self._warm += shape == self._shape
            self._alone(batch)
            return
        if self._stale and not self._recorded(batch):
            self._alone(batch)
            return
        for held, new in zip(leaves(self._held), leaves(batch), strict=True):
            if isinstance(held, Tensor):
                held.copy_(new)
        assert self._replay is not None
        self._replay()

    def _alone(self, batch: Any) -> None:
        if self._graph is None:
            self._step(batch)
        else:
            self._graph.aside(lambda: self._step(batch))

    def _recorded(self, batch: Any) -> bool:
        """Record the step for batches like this one; whether that succeeded."""
        held = cloned(batch)
        try:
            replay = self._record(lambda: self._step(held))
        except RuntimeError as error:
            self._able, self._replay, self._held = False, None, None
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            warnings.warn(f"training steps are not replayed as a CUDA graph, which is slower: {reason}", stacklevel=4)
            return False
        self._held, self._replay, self._stale = held, replay, False
        return True


class Graphs:
    """Recording on a CUDA device, on a stream of its own as graphs demand; the memory is shared by all recordings."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graph: torch.cuda.CUDAGraph | None = None

    def aside(self, work: Callable[[], None]) -> None:
        """Do it now, on the stream that recordings are made on, in order with all that is done before and after."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._stream.device)
        with torch.cuda.stream(self._stream):  # which makes its device the current one
            # only what this thread does is recorded: others prepare batches meanwhile
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        torch.cuda.synchronize(self._stream.device)
        # the one before goes only now: its memory is what this one took over
        self._graph = graph
        return graph.replay


def leaves(batch: Any) -> list[Any]:
    """What a batch (nested tuples, lists, dicts) is made of, in order."""
    if isinstance(batch, Mapping):
        return [leaf for value in batch.values() for leaf in leaves(value)]
    if isinstance(batch, tuple | list):
        return [leaf for value in batch for leaf in leaves(value)]
    return [batch]


def cloned(batch: Any) -> Any:
    """The same with tensors of its own, of the same strides."""
    if isinstance(batch, Mapping):
        return {key: cloned(value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(cloned(value) for value in batch)
    return batch.clone() if isinstance(batch, Tensor) else batch


def _said(leaf: Any) -> object:
    """What must be the same for a recording to serve."""
    return (tuple(leaf.shape), leaf.dtype, leaf.device, leaf.stride()) if isinstance(leaf, Tensor) else leaf
