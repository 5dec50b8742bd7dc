"""The import of NNCodec beside torchvisions that fit this torch and that do not: stand-ins, no test needs NNCodec."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FITS = """
import torch
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")  # a second time is an error
"""
DOES_NOT_FIT = """
import torch
for name in ("nms", "qnms"):
    @torch.library.register_fake(f"torchvision::{name}")  # of no operator: RuntimeError, as torchvision's own
    def fake(a, b, c):
        return a
"""


@pytest.mark.parametrize("torchvision", [FITS, DOES_NOT_FIT], ids=["fits", "does not fit"])
def test_torchvision_is_helped_only_where_it_lacks_its_operators(torchvision: str, tmp_path: Path) -> None:
    for package, content in {"torchvision": torchvision, "nncodec": "import torchvision", "nncodec/nnc": ""}.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(content)
    use = "from nqbench_coders.nncodec import _library; print(_library().__name__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", use], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "nncodec.nnc\n", done.stderr
