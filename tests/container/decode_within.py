"""``python decode_within.py SMALL BIG BYTES``: decodes SMALL, then BIG with at most BYTES more address space."""

import resource
import sys
from pathlib import Path

import scipy.linalg.cython_lapack  # noqa: F401 - numba imports it at its first loop, and OpenBLAS spins without memory
import torch
from nqz_kit import kit_registry

from nqbench.api import dither
from nqbench.container import read

torch.set_num_threads(1)
small, big, more = sys.argv[1:]
read(small, kit_registry())  # imported, compiled
dither(0, 1.0, 1 << 21)  # long enough for its compiled loop
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + int(more), resource.RLIM_INFINITY))
read(big, kit_registry())
