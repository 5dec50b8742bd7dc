"""A trial's trainings, one after another: each has a folder for its checkpoints, and what it gives is kept until the
last one has ended, so that an interruption does not cost the earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nqbench.api import QuantizedModel, Task, Training
from nqbench.api.toolkit import interrupted

if TYPE_CHECKING:
    from nqbench.pipeline.context import Context


def in_turn(context: Context, task: Task) -> QuantizedModel | None:
    """The result of the trial's trainings, each started from the result of the one before; None where there are none.
    The task's network is left as the last one leaves it."""
    chain, folder = context.trial.training, task.workdir
    done, model = (0, None) if folder is None else _resume(folder, task, len(chain))
    try:
        for number, choice in enumerate(chain[done:], done):
            # two trainings of a chain may give their checkpoints the same name
            task.workdir = None if folder is None else folder / f"{number}-{choice.name}"
            model = context.plugin(choice, Training).train(task, model)
            if folder is not None and number + 1 < len(chain):
                folder.mkdir(parents=True, exist_ok=True)
                _keep(_file(folder, number), task, model)
    finally:
        task.workdir = folder
    return model


def _file(folder: Path, number: int) -> Path:
    """What the training of this number gave."""
    return folder / f"{number}.safetensors"


def _keep(path: Path, task: Task, model: QuantizedModel) -> None:
    raw = {f"raw/{name}": tensor for name, tensor in model.raw_state.items()}
    interrupted.save(path, task, model.groups, raw, model.notes)


def _resume(folder: Path, task: Task, trainings: int) -> tuple[int, QuantizedModel | None]:
    """How many trainings need not be run again, and the result of the last of these, whose network's state is the
    task's again."""
    for number in reversed(range(trainings - 1)):
        found = interrupted.restore(_file(folder, number), task)
        if found is not None:
            groups, tensors, notes = found
            raw = {name.removeprefix("raw/"): t for name, t in tensors.items() if name.startswith("raw/")}
            return number + 1, QuantizedModel(groups, raw, notes)
    return 0, None
