"""PyTorch's kernels are chosen on one thread: which functions that are, and that it is done before anything else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nqbench.api.dispatch import FUNCTIONS

WATCHED = """
import json
import torch
from torch.utils._python_dispatch import TorchDispatchMode

class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        calls.append([function.overloadpacket.__name__, *((str(t.dtype), t.numel(), str(t.device)) for t in tensors)])
        return function(*args, **(kwargs or {}))

calls = []
torch.set_default_device("meta")  # of whatever the process has set
with Seen():
    import {module}
print(json.dumps(calls))
"""


def test_they_are_those_that_pytorch_takes_from_mkl() -> None:
    header = Path(torch.__file__).parent / "include" / "ATen" / "cpu" / "vml.h"
    if not header.exists():
        pytest.skip("this build of PyTorch comes without its headers")
    taken = re.findall(r"^IMPLEMENT_VML_MKL\((\w+), ", header.read_text(), re.M)
    assert sorted(taken) == sorted(FUNCTIONS)


@pytest.mark.parametrize(
    "module", ["nqbench.in_memory", "nqbench.api.errors", "nqbench.pipeline.evaluating", "nqbench_models.lenet"]
)
def test_whatever_of_nqbench_is_imported_they_are_called_first_and_on_one_value(module: str) -> None:
    script = WATCHED.replace("{module}", module)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    calls = [call for call in json.loads(done.stdout) if call[0] in FUNCTIONS]
    wanted = [[name, [dtype, 1, "cpu"]] for dtype in ("torch.float32", "torch.float64") for name in FUNCTIONS]
    assert calls[: len(wanted)] == wanted
