"""An evaluation is in float32 on every device: no TF32 while it runs, and the caller's settings after it."""

from __future__ import annotations

import pytest
import torch

from nqbench.api import Evaluation, Split
from nqbench.pipeline.evaluating import evaluated
from nqbench.testing.tiny import TinyNet


class Watching(TinyNet, name="watching"):
    """Says what it was evaluated in, or fails."""

    fails: bool = False

    def evaluate(self, module: torch.nn.Module, split: Split = "test") -> Evaluation:
        if self.fails:
            raise ZeroDivisionError
        settings = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        return Evaluation({"tf32": float(any(settings))})


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_no_tf32_while_a_network_is_evaluated(before: bool, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", before)
    model = Watching(fails=fails)
    module = model.load(torch.device("cpu"))
    if fails:
        with pytest.raises(ZeroDivisionError):
            evaluated(model, module, "test")
    else:
        assert evaluated(model, module, "test")["metrics"] == {"tf32": 0.0}
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (before, before)
