"""Makes sure that a network is evaluated in float32, even if the device would use a shorter format by default, and in
PyTorch's usual modes, whatever the process around is at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_PLACES = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
_OLDER = ("cuda.matmul", "cudnn")
"""Where PyTorch before 2.9, which has one switch for each library, keeps it."""


@contextmanager
def whole_float32() -> Iterator[None]:
    """No TF32 and no bfloat16 in place of float32 inside the block; after it everything is set as it was.

    By default a GPU's convolutions are in TF32, with ten bits of a mantissa: ResNet-32's accuracy was then off by up to
    four images in 10,000.
    """
    places, attribute, whole = _named(_PLACES), "fp32_precision", "ieee"
    if not all(hasattr(place, attribute) for place in places):
        places, attribute, whole = _named(_OLDER), "allow_tf32", False  # type: ignore[assignment]
    before = [getattr(place, attribute) for place in places]
    try:
        for place in places:
            setattr(place, attribute, whole)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, attribute, value)


@contextmanager
def usual_modes() -> Iterator[None]:
    """PyTorch's modes inside the block are those of a process that has set none: gradients are recorded, nothing is
    cast, new tensors are float32 on the CPU. A file is a function of its key alone, wherever it is made."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


def _named(names: tuple[str, ...]) -> list[Any]:
    """What has these names in ``torch.backends``; None where nothing has."""
    places = []
    for name in names:
        place: Any = torch.backends
        for part in name.split("."):
            place = getattr(place, part, None)
        places.append(place)
    return places
