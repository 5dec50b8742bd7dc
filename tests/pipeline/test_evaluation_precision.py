"""An evaluation is in float32 on every device: no TF32 while it runs, and the caller's settings after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from nqbench.api import Evaluation, Split
from nqbench.pipeline.evaluating import evaluated
from nqbench.testing.tiny import TinyNet


def _settings() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def _set(*allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed[0], allowed[-1]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Not by monkeypatch, which cannot undo what is no plain attribute."""
    before = _settings()
    yield
    _set(*before)


class Watching(TinyNet, name="watching"):
    """Says what it was evaluated in, or fails."""

    fails: bool = False

    def evaluate(self, module: torch.nn.Module, split: Split = "test") -> Evaluation:
        if self.fails:
            raise ZeroDivisionError
        return Evaluation({"tf32": float(any(_settings()))})


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_no_tf32_while_a_network_is_evaluated(before: bool, fails: bool) -> None:
    _set(before)
    model = Watching(fails=fails)
    module = model.load(torch.device("cpu"))
    if fails:
        with pytest.raises(ZeroDivisionError):
            evaluated(model, module, "test")
    else:
        assert evaluated(model, module, "test")["metrics"] == {"tf32": 0.0}
    assert _settings() == (before, before)
