"""Pairs say the same as the metric does, whichever way round a model counts its examples."""

from __future__ import annotations

import pytest
import torch
from record_factory import make
from torch import nn

from nqbench.api import Evaluation, Metric, Split
from nqbench.pipeline.evaluating import evaluated, paired
from nqbench.results.compare import compare
from nqbench.results.exports import Side
from nqbench.results.record import unpack_correct
from nqbench.testing.tiny import TinyNet

RIGHT = torch.arange(200) >= 50


class Counted(TinyNet, name="counted-tiny"):
    """Judged by its share of right answers, or of wrong ones; ``correct`` says either."""

    error: bool = False
    wrong: bool = False
    """Whether ``correct`` holds wrong answers."""
    more: int = 0
    """Answers that are wrong besides."""

    def metric(self) -> Metric:
        return Metric("error", "%", higher_is_better=False) if self.error else Metric()

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        right = RIGHT & (torch.arange(200) >= 50 + self.more)
        value = 100 * float((~right if self.error else right).double().mean())
        return Evaluation({self.metric().name: value}, correct=~right if self.wrong else right)


def figures(**parameters: object) -> tuple[float, dict[str, object]]:
    model = Counted(**parameters)
    found = evaluated(model, model.load(torch.device("cpu")), "test")
    name = model.metric().name
    return found["metrics"][name], paired(found, name)


@pytest.mark.parametrize(("error", "wrong"), [(False, False), (True, False), (True, True)])
def test_the_share_of_the_examples_is_the_metric(error: bool, wrong: bool) -> None:
    value, kept = figures(error=error, wrong=wrong)
    assert 100 * unpack_correct(str(kept["correct"]), 200).mean() == value == (25.0 if error else 75.0)


@pytest.mark.parametrize(("error", "wrong"), [(False, False), (True, False), (True, True)])
def test_more_wrong_answers_are_worse(error: bool, wrong: bool) -> None:
    name = "error" if error else "accuracy"
    records = []
    for more in (0, 40):
        value, kept = figures(error=error, wrong=wrong, more=more)
        judged = {"metric_name": name, "metric_higher_is_better": not error, "metric": value}
        records.append(make(**judged, metrics={name: value}, **kept))  # type: ignore[arg-type]
    found = compare(Side("a", "s", [records[0]], "r"), Side("b", "s", [records[1]], "r"))
    (change,) = [change for change in found.changes if change.figure == name]
    assert change.verdict == "worse"
    assert change.p is not None
    assert change.p < 0.001
