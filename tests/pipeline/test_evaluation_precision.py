"""An evaluation is in float32 on every device: nothing less while it runs, and the caller's settings after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from nqbench.api import Evaluation, Split
from nqbench.pipeline import precision
from nqbench.pipeline.evaluating import evaluated
from nqbench.testing.tiny import TinyNet

NEW = pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch before 2.9")


def _settings() -> list[str]:
    return [place.fp32_precision for place in precision._named(precision._PLACES)]


class Watching(TinyNet, name="watching"):
    """Tells what it was evaluated in, or fails."""

    fails: bool = False

    def evaluate(self, module: torch.nn.Module, split: Split = "test") -> Evaluation:
        if self.fails:
            raise ZeroDivisionError
        return Evaluation({"less": float(sum(setting != "ieee" for setting in _settings()))})


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Not by monkeypatch, which cannot undo what is no plain attribute."""
    places = precision._named(precision._PLACES)
    before = [place.fp32_precision for place in places]
    yield
    torch.backends.fp32_precision = "none"
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value


def _convolutions_exact() -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def _all_tf32() -> None:
    torch.backends.fp32_precision = "tf32"


@NEW
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "set_before",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        _convolutions_exact,
        _all_tf32,
    ],
    ids=["default", "high", "medium", "exact", "tf32"],
)
def test_nothing_less_than_float32_while_a_network_is_evaluated(set_before: Callable[[], None], fails: bool) -> None:
    set_before()
    before = _settings()
    model = Watching(fails=fails)
    module = model.load(torch.device("cpu"))
    if fails:
        with pytest.raises(ZeroDivisionError):
            evaluated(model, module, "test")
    else:
        assert evaluated(model, module, "test")["metrics"] == {"less": 0.0}
    assert _settings() == before
    assert "ieee" in before or set_before is not _convolutions_exact


def test_an_older_pytorch_s_switches_serve_where_there_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = SimpleNamespace(allow_tf32=False), SimpleNamespace(allow_tf32=True)
    older = SimpleNamespace(backends=SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn))
    monkeypatch.setattr(precision, "torch", older)
    with precision.whole_float32():
        assert not matmul.allow_tf32
        assert not cudnn.allow_tf32
    assert not matmul.allow_tf32
    assert cudnn.allow_tf32
