"""Peak memory of a piece of work: resident memory on the CPU, allocated memory on a GPU."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


class Peak:
    """Starts when made. On Linux the kernel's high-water mark is reset, so that the peak is this stretch's own;
    elsewhere it is the process's so far."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int:
        """Resident bytes at the peak, plus what torch had allocated on the GPU at its own."""
        extra = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return _high_water() + extra


def _high_water() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
