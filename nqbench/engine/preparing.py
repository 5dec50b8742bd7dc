"""Before a suite's first trial: data and weights of its models are there, and a search can use them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nqbench.api.errors import BadInput, NqbenchError
from nqbench.api.model import Model
from nqbench.api.toolkit.paths import suite_folder
from nqbench.pipeline.evaluating import chosen_metric
from nqbench.pipeline.keys import KeyMaker
from nqbench.suite import Choice, Suite, Target


def prepare(models: Iterable[Choice], suite: Suite, maker: KeyMaker) -> None:
    """Find data and weights of the models, and check that each has the metrics that its trials are judged by.

    Raises DataMissing, and BadInput where a model cannot be prepared or lacks a metric or a split that is asked for.
    """
    for choice in models:
        model = maker.plugin(choice)
        assert isinstance(model, Model)
        _prepared(model)
        for name in {trial.judged_by for trial in suite.all_trials if trial.model == choice}:
            chosen_metric(model.metrics(), name, model.name)
        if suite.target is not None:
            _check_target(model, suite, suite.target)


def report_settings(suite: Suite, folder: Path) -> dict[str, Any]:
    """What the reports and comparisons of a run into ``folder`` need to know of its suite, beside the records."""
    settings: dict[str, Any] = {"published": [asdict(row) for row in suite.published]}
    if suite.thresholds is not None:
        settings["thresholds"] = suite.thresholds.as_settings()
    where = suite_folder()
    if where is not None:
        # where verify finds what the suite names by a relative path
        settings["suite_folder"] = os.path.relpath(where, folder)
    target = suite.target
    if target is not None:
        settings |= {"target": target.model_dump(), "baseline": target.baseline}
        settings |= {} if target.drop is None else {"drop": target.drop}
    return settings


def _prepared(model: Model) -> None:
    """Prepare a model. Whatever the user's code raises becomes a BadInput that names the line."""
    try:
        model.prepare()
    except (NqbenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        raise BadInput(
            f"model '{model.name}' cannot be prepared: {type(error).__name__}: {text} "
            f"({Path(last.filename).name}, line {last.lineno})"
        ) from error


def _check_target(model: Model, suite: Suite, target: Target) -> None:
    """Raises BadInput if the model lacks the metric or the split that the search needs."""
    if model.metric() is None:
        raise BadInput(f"{suite.path}: target: model '{model.name}' has no metric, so there is nothing to search by")
    if not model.has_split(target.split):
        raise BadInput(
            f"{suite.path}: target.split: model '{model.name}' has no {target.split} split; "
            "choose another split, or a model that was trained without one (nqbench show model NAME)"
        )
