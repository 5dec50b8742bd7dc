"""``nqbench compress``: the shipped suite ``compress`` on a model of the user's, and the smallest file that holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.registry import Registry
    from nqbench.results.record import Record

SUITE = "compress"


@click.command("compress")
@click.option(
    "--model", required=True, metavar="NAME[:VALUE]", help="A model plugin; VALUE is a parameter: nqbench show NAME."
)
@click.option("--data", help="The model's parameter `data`.")
@click.option("--checkpoint", help="The model's parameter `checkpoint`.")
@click.option("--with", "others", multiple=True, metavar="KEY=VALUE", help="Any parameter of the model. Repeatable.")
@click.option(
    "--max-drop", default=0.5, show_default=True, type=click.FloatRange(min=0), help="Points that the metric may lose."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: NAME.nqz]")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the search.  [default: reports/compress]",
)
@click.option("--trials", type=click.IntRange(min=1), help="Points of the search, at most.  [default: the suite's]")
@click.option("--suite", default=SUITE, show_default=True, help="The methods that are tried: a suite with a target.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Worker processes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    model: str,
    data: str | None,
    checkpoint: str | None,
    others: tuple[str, ...],
    max_drop: float,
    output: Path | None,
    work: Path | None,
    trials: int | None,
    suite: str,
    jobs: int,
    device: str,
    force: bool,
) -> None:
    """Compress a trained network into one .nqz file: the smallest found whose metric falls by at most --max-drop.

    Nothing is retrained. A network of your own: --model module:mine:network --checkpoint mine.safetensors
    --data mine:batches --with folder=. (see `nqbench show module`). The search looks at the validation split where the
    model has one, else at the test split. What was computed stays in the --work folder: the same command resumes.

    What is stored how: weights (parameters of two dimensions or more, frozen ones too) are quantized and coded; other
    float32 parameters (biases, norms) are rounded to float16, batch norms folded into them; buffers, and numbers wider
    than float32, keep every bit. A suite of your own (--suite) says otherwise: see `others` and `fold_batchnorm`.
    """
    from nqbench.api.errors import BadInput
    from nqbench.cli.run import Bar, Lines
    from nqbench.engine import FILES, run_suite
    from nqbench.pipeline.workbench import file_name, place
    from nqbench.registry import registry

    name = model.partition(":")[0]
    parameters = _parameters(registry(), model, {"data": data, "checkpoint": checkpoint}, others)
    split = _split(registry(), name, parameters)
    target = output or Path(f"{name}.nqz")
    if target.exists() and not force:
        raise BadInput(f"{target} is there already: choose another --output, or replace it with --force")
    sets = [f"models=[{json.dumps({name: parameters})}]", "target.metric=null", f"target.drop={max_drop}"]
    sets += [f"target.split={split}", *([] if trials is None else [f"target.trials={trials}"])]
    folder = work or Path("reports") / SUITE / target.stem
    progress = Bar() if sys.stderr.isatty() else Lines()
    result = run_suite(suite, folder, sets=sets, jobs=jobs, device=device, progress=progress)
    if result.outcome == "interrupted":
        click.echo("interrupted: the same command resumes", err=True)
        from nqbench.cli import INTERRUPTED

        click.get_current_context().exit(INTERRUPTED)
    best = _smallest(result.records, max_drop)
    place((folder / FILES / file_name(best.key)).read_bytes(), target)
    click.echo(_told(best, target))


def _parameters(known: Registry, model: str, named: dict[str, str | None], others: Sequence[str]) -> dict[str, object]:
    """The model's parameters from the command line. Raises BadInput for one that it does not have."""
    from nqbench.api.errors import BadInput
    from nqbench.cli._describe import shorthand
    from nqbench.registry import did_you_mean
    from nqbench.suite.document import SuiteError, parse

    name, colon, first = model.partition(":")
    cls = known.get("model", name)
    fields, short = list(cls.model_fields), shorthand(cls)
    given: dict[str, object] = {}
    if colon:
        if short is None:
            raise BadInput(f"model '{name}' has no parameters: write --model {name}")
        given[short] = first
    given |= {key: value for key, value in named.items() if value is not None}
    for text in others:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--with {text}: must be key=value")
        try:
            given[key] = parse(value, "value").data
        except SuiteError as error:
            raise BadInput(f"--with {text}: {error}") from None
    for key in given:
        if key not in fields:
            raise BadInput(f"model '{name}' has no parameter '{key}'{did_you_mean(key, fields)}")
    return given


def _split(known: Registry, name: str, parameters: dict[str, object]) -> str:
    """What the search looks at. Raises BadInput for parameters that are not valid, or where there is no metric."""
    from nqbench.api import Model
    from nqbench.api.errors import BadInput

    model = known.make("model", name, parameters)
    assert isinstance(model, Model)
    if model.metric() is None:
        raise BadInput(f"model '{name}' has no metric that could hold: give its --data")
    return "validation" if model.has_split("validation") else "test"


def _smallest(records: Sequence[Record], drop: float) -> Record:
    """The smallest file that loses at most ``drop``. Raises BadInput that tells how near the others come."""
    from nqbench.api.errors import BadInput
    from nqbench.suite.search import lacks
    from nqbench.suite.spec import Target

    finished = [record for record in records if record.ok]
    if not finished:
        raise BadInput(f"no file could be made: {(records[0].error or '').splitlines()[0] if records else 'no trial'}")
    found = []
    for record in finished:
        target = Target(drop=drop, split=record.selected_on or "test")  # type: ignore[arg-type]
        found.append((lacks(target, record.to_dict()) or 0.0, record.file_bytes or 0, record))
    holding = [entry for entry in found if entry[0] <= 1e-9]
    if holding:
        return min(holding, key=lambda entry: entry[1])[2]
    nearest = min(found, key=lambda entry: entry[0])
    raise BadInput(
        f"no file holds a drop of {drop:g}: the nearest loses {drop + nearest[0]:.2f} in {nearest[1]:,} bytes; "
        "allow a larger --max-drop"
    )


def _told(record: Record, target: Path) -> str:
    unit = f" {record.metric_unit}" if record.metric_unit else ""
    ratio, own = record.file_ratio or 0.0, record.own_ratio or record.file_ratio or 0.0
    narrower = "" if abs(own - ratio) < 0.01 * ratio else f", {own:.1f} times than the network as it is"
    lines = [
        f"{target}: {record.file_bytes:,} bytes, {ratio:.1f} times smaller than float32{narrower}",
        f"{record.metric_name}: {record.metric_float:.2f}{unit} before, {record.metric:.2f}{unit} after (test split)",
        f"selected on the {record.selected_on or 'test'} split",
        f"see it: nqbench inspect {target}; get the tensors back: nqbench decompress {target}",
    ]
    return "\n".join(lines)
