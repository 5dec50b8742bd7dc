"""PyTorch's kernels of elementary functions are chosen before several threads may ask for them.

On a CPU ``torch.tanh`` and its like are oneMKL's vector functions (``ATen/cpu/vml.h``), and oneMKL chooses the kernel
of each at that function's first call. Where that call is made by several threads at once, one of them may compute its
whole part by a kernel of half the digits (https://github.com/pytorch/pytorch/issues/188792): of 1,500 processes on two
cores that evaluated a LeNet-300-100, 9 had other outputs than the rest. A call on one thread chooses for all.
"""

from __future__ import annotations

import torch

FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin", "sqrt", "tan",
    "tanh", "trunc",
)  # fmt: skip
"""The functions that PyTorch takes from oneMKL, all of one argument."""


def choose_kernels() -> None:
    """Call each function once in each precision, on one value and hence one thread. Takes two milliseconds."""
    with torch.inference_mode():
        for dtype in (torch.float32, torch.float64):
            value = torch.full((1,), 0.5, dtype=dtype, device="cpu")
            for name in FUNCTIONS:
                getattr(torch, name)(value)
