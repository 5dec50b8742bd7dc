"""``nqbench compress``: the shipped suite ``compress`` on a model of the user's, and the smallest file that holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nqbench import printable
from nqbench.cli.options import engine_options

if TYPE_CHECKING:
    from nqbench.api import Metric, Split
    from nqbench.engine import RunResult
    from nqbench.registry import Registry
    from nqbench.results.record import Record

SUITE = "compress"


@click.command("compress")
@click.option(
    "--model", required=True, metavar="NAME[:VALUE]", help="A model plugin; VALUE is a parameter: nqbench show NAME."
)
@click.option("--data", help="The model's parameter `data`.")
@click.option("--checkpoint", help="The model's parameter `checkpoint`.")
@click.option("--task", help="The model's parameter `task`.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Compress only the tensors that match. Repeatable.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Do not compress the tensors that match. Repeatable.")
@click.option("--with", "others", multiple=True, metavar="KEY=VALUE", help="Any parameter of the model. Repeatable.")
@click.option(
    "--max-drop",
    metavar="POINTS|SHARE%",
    help="Largest loss of the metric: 0.5 (points) or 1% (of the float network's metric).  [default: 0.5, or 1% of a "
    "metric that is not in percent]",
)
@click.option("--min-metric", type=float, help="Value that the metric must reach (or stay below, if lower is better).")
@click.option(
    "--max-divergence",
    type=click.FloatRange(min=0),
    help="Largest divergence of the outputs from the float network's: mean KL divergence, nats.",
)
@click.option(
    "--metric",
    metavar="NAME",
    help="The metric that decides, one of those that the model gives. Of a `score` of yours, what is called loss, nll, "
    "perplexity, error, mse and the like is better the lower, anything else the higher, unless you say --with "
    "higher_is_better=true or false. Beside --max-divergence: which metric of `score` is told.",
)
@click.option("--max-bytes", help="Largest file (200k, 1M): find the best metric within this size.")
@click.option("--budget", help="Time limit of the search (90s, 10m, 2h); its result is the best file found by then.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="The file.  [default: NAME.nqz]")
@click.option(
    "--work",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the search.  [default: reports/compress]",
)
@click.option("--trials", type=click.IntRange(min=1), help="Files to try per method, at most.  [default: the suite's]")
@click.option("--suite", default=SUITE, show_default=True, help="Suite with a target that lists the methods to try.")
@engine_options
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--nonfinite",
    default="refuse",
    show_default=True,
    type=click.Choice(["refuse", "store"]),
    help="Where tensors that are not quantized hold nan or inf: refuse the network, or store them as they are.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(
    model: str,
    data: str | None,
    checkpoint: str | None,
    task: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    others: tuple[str, ...],
    max_drop: str | None,
    min_metric: float | None,
    max_divergence: float | None,
    metric: str | None,
    max_bytes: str | None,
    budget: str | None,
    output: Path | None,
    work: Path | None,
    trials: int | None,
    suite: str,
    jobs: int | None,
    engine: str | None,
    device: str,
    nonfinite: str,
    force: bool,
) -> None:
    """Compress a trained network into one .nqz file: the smallest found whose metric falls by at most --max-drop.

    Nothing is retrained. For a network of your own, write --model module:mine:network --checkpoint mine.safetensors
    --data mine:batches --with folder=. (see `nqbench show module`). The search compares files on the validation split
    if the model has one, else on a part of the training data that was not used for calibration: what follows the first
    2,048 examples, or the second half of fewer than 4,096 (of fewer than 1,024, calibration sees some of it). A network
    does better on its training data than on any other, so there a classifier's outputs are also held near the float
    network's (by their divergence). The test split is evaluated only once, for the final file; where that
    fails, the file stays, and the command ends with exit code 2. When the --budget is spent, or at Ctrl-C, the best
    file so far is the result. Intermediate results stay in the --work folder, so that the same command resumes.

    How tensors are stored: weights (parameters with two or more dimensions, also frozen ones) are quantized and coded.
    Other float32 parameters (biases, norms) are rounded to float16, and batch norms are folded into them. Buffers, and
    numbers wider than float32, are stored exactly. A suite of your own (--suite) can change this with the keys
    `unquantized` and `fold_batchnorm`.
    """
    # the imports below take seconds
    click.echo(f"{model}: reading the network and its data", err=True)
    from nqbench.api.errors import BadInput
    from nqbench.api.toolkit.paths import writable
    from nqbench.cli import INTERRUPTED, TRIALS_FAILED
    from nqbench.cli.progress import shown
    from nqbench.engine import FILES, run_suite
    from nqbench.pipeline.files import file_of, put_file
    from nqbench.registry import registry
    from nqbench.suite.guard import allowed_loss, usual_loss
    from nqbench.suite.suite import load

    name = model.partition(":")[0]
    goal = _goal(max_drop, min_metric, max_bytes, max_divergence)
    seconds = None if budget is None else _seconds(budget)
    named: dict[str, object] = {"data": data, "checkpoint": checkpoint, "task": task}
    named |= {"include": list(include) or None, "exclude": list(exclude) or None}
    parameters = _parameters(registry(), model, named, others)
    split, report, judged_by, deciding = _looked_at(registry(), name, parameters, metric, max_divergence is not None)
    if metric is not None:
        click.echo(f"{deciding.name}: the {'higher' if deciding.higher_is_better else 'lower'} the better", err=True)
    if not goal:
        goal = dict(allowed_loss(max_drop := usual_loss(deciding)))
    if judged_by is None and max_drop is not None:
        goal |= _beside(registry(), name, parameters, split, max_drop)
    target = output or Path(f"{name}.nqz")
    if target.exists() and not force:
        raise BadInput(f"{target} is there already: choose another --output, or replace it with --force")
    writable(target)
    sets = [f"models=[{json.dumps({name: parameters})}]", "target.drop=null", f"target.split={split}"]
    sets += [f"target.{field}={value}" for field, value in goal.items()]
    sets += [f"target.report={report}"]
    sets += [] if trials is None else [f"target.trials={trials}"]
    sets += [f"nonfinite={nonfinite}"] + ([] if judged_by is None else [f"judged_by={json.dumps(judged_by)}"])
    folder = work or Path("reports") / SUITE / target.stem
    # paths on the command line are relative to where it is run, whatever the suite
    loaded = load(suite, sets=sets, folder=Path.cwd())
    result = run_suite(loaded, folder, jobs=jobs, engine=engine, device=device, progress=shown(), budget=seconds)
    interrupted = result.outcome == "interrupted"
    best = _best(result, max_bytes is not None)
    if best is not None:
        put_file(file_of(best.key, folder / FILES).read_bytes(), target)
        click.echo(_told(best, target))
    if interrupted:
        click.echo(f"interrupted{': the best so far' if best else ''}; the same command resumes", err=True)
        click.get_current_context().exit(INTERRUPTED)
    if best is None:
        raise BadInput(_why_not(result.records, goal, split))
    if untested := result.untested(best):
        click.echo(printable.line(untested), err=True)
        click.get_current_context().exit(TRIALS_FAILED)


def _goal(
    max_drop: str | None, min_metric: float | None, max_bytes: str | None, max_divergence: float | None = None
) -> dict[str, object]:
    """What is to be held, in a target's fields; nothing where nothing was said. Raises BadInput where that is nothing
    sensible, or more than one."""
    from nqbench.api.errors import BadInput
    from nqbench.pipeline.cache import parse_size
    from nqbench.suite.guard import allowed_loss

    given: dict[str, object] = {"--max-drop": max_drop, "--min-metric": min_metric, "--max-bytes": max_bytes}
    given["--max-divergence"] = max_divergence
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise BadInput(f"{' and '.join(named)} cannot be used together: give one of them")
    for option, value in (("--min-metric", min_metric), ("--max-divergence", max_divergence)):
        if value is not None and not math.isfinite(value):
            raise BadInput(f"{option} {value}: write a number")
    if min_metric is not None or max_divergence is not None:
        return {"metric": min_metric if max_divergence is None else max_divergence}
    if max_bytes is not None:
        size = parse_size(max_bytes)
        if size < 1:
            raise BadInput(f"--max-bytes {max_bytes}: no file is that small")
        return {"bytes": size}
    try:
        return {} if max_drop is None else dict(allowed_loss(max_drop))
    except BadInput as error:
        raise BadInput(f"--max-drop {error}") from None


def _beside(
    known: Registry, name: str, parameters: Mapping[str, object], split: str, max_drop: str
) -> dict[str, object]:
    """What is held besides, in a target's fields, where the search can look at training data alone."""
    from nqbench.api import Model
    from nqbench.suite.guard import divergence_beside

    model = known.make("model", name, parameters)
    assert isinstance(model, Model)
    nats = divergence_beside(model, split, max_drop)  # type: ignore[arg-type]
    return {} if nats is None else {"divergence": nats}


def _seconds(text: str) -> float:
    """'10m' -> 600.0. Raises BadInput."""
    from nqbench.api.errors import BadInput

    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:].lower())
    try:
        seconds = float(text[:-1] if factor else text) * (factor or 1)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise BadInput(f"--budget {text}: write seconds, minutes or hours, as in 90s, 10m or 2h")
    return seconds


def _best(result: RunResult, largest: bool) -> Record | None:
    """The answer of the method that did best; None where no method has one."""
    held = [record for record in result.chosen if record.file_bytes]
    if largest:
        sign = 1.0 if not held or held[0].metric_higher_is_better else -1.0
        return max(held, key=lambda r: sign * (r.metric_where_selected or 0.0), default=None)
    return min(held, key=lambda r: r.file_bytes or 0, default=None)


def _why_not(records: Sequence[Record], goal: dict[str, object], split: str) -> str:
    """Why there is no file: what failed, or how near the others come."""
    from nqbench.suite.search import lacks
    from nqbench.suite.spec import Target

    finished = [record for record in records if record.ok]
    if not finished:
        return f"no file could be made: {(records[0].error or '').splitlines()[0] if records else 'no trial ended'}"
    target = Target(split=split, **goal)  # type: ignore[arg-type]
    missing, size = min((lacks(target, record.to_dict()) or 0.0, record.file_bytes or 0) for record in finished)
    wanted = "another goal" if target.metric is not None else "a larger --max-drop"
    if target.bytes is not None:
        return f"no file of at most {target.bytes:,} bytes was found: the smallest has {size:,}; allow more --max-bytes"
    return (
        f"no file is good enough: wanted is {target.goal}, and the nearest, of {size:,} bytes, misses it by "
        f"{missing:.4g} on the {split} split; allow {wanted}"
    )


def _parameters(known: Registry, model: str, named: Mapping[str, object], others: Sequence[str]) -> dict[str, object]:
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


def _looked_at(
    known: Registry, name: str, parameters: dict[str, object], metric: str | None, by_divergence: bool
) -> tuple[str, str, str | None, Metric]:
    """The split that the search looks at; which points are evaluated on the test split; the name of the metric where
    that is not the model's own; and the metric. A metric that the model does not know by itself, but takes by name,
    becomes its parameter. by_divergence: the search goes by the divergence, whatever the metric. Raises BadInput for
    parameters that are not valid, or where there is no metric."""
    from nqbench.api import Model
    from nqbench.api.errors import BadInput
    from nqbench.api.evaluation import DIVERGENCE

    model = known.make("model", name, parameters)
    assert isinstance(model, Model)
    if model.metric() is None:
        model.prepare()  # tells of files that are not there, which come first
        raise BadInput(f"model '{name}' has no metric that could hold: give its --data")
    splits: tuple[Split, ...] = ("validation", "train", "test")
    split = next((split for split in splits if model.has_split(split)), "test")
    report = "all" if split == "test" else "chosen" if model.has_split("test") else "none"
    names = [found.name for found in model.metrics()]
    if metric is not None and metric not in names and "metric_name" in type(model).model_fields:
        parameters["metric_name"] = metric
        model = known.make("model", name, parameters)
        assert isinstance(model, Model)
        names = [found.name for found in model.metrics()]
    for wanted in (metric, DIVERGENCE.name if by_divergence else None):
        if wanted is not None and wanted not in names:
            raise BadInput(f"model '{name}' gives no metric '{wanted}'; it gives {', '.join(names)}")
    if by_divergence:
        if metric not in (None, names[0], DIVERGENCE.name):
            raise BadInput(f"--metric {metric} and --max-divergence cannot be used together: the divergence decides")
        metric = DIVERGENCE.name
    own = metric is None or metric == names[0]
    deciding = next(found for found in model.metrics() if own or found.name == metric)
    return split, report, None if own else metric, deciding


def _told(record: Record, target: Path) -> str:
    from nqbench.results.record import on_split

    unit = f" {record.metric_unit}" if record.metric_unit else ""
    on = record.selected_on or "test"
    ratio, own = record.file_ratio or 0.0, record.own_ratio or record.file_ratio or 0.0
    narrower = "" if abs(own - ratio) < 0.01 * ratio else f", {own:.1f} times than the network as it is"
    lines = [f"{target}: {record.file_bytes:,} bytes, {ratio:.1f} times smaller than float32{narrower}"]
    splits = ["test"] if record.metric is not None else []
    for split in dict.fromkeys([*splits, on]):
        name = on_split(str(record.metric_name), split)
        before, after = record.metrics_float.get(name), record.metrics.get(name)
        if before is not None and after is not None:
            where = f"{split} split{', where the file was chosen' if split == on else ''}"
            lines.append(f"{record.metric_name}: {before:.5g}{unit} before, {after:.5g}{unit} after ({where})")
    beside = [name for name in ("agreement", "divergence") if name in record.metrics and name != record.metric_name]
    if beside:
        told = {"agreement": "{:.2f} % the same first choice", "divergence": "a divergence of {:.4g} nats"}
        lines.append("beside the float network: " + ", ".join(told[n].format(record.metrics[n]) for n in beside))
    lines += [f"{name}: {why}" for name, why in record.notes.items()]
    lines.append(f"see it: nqbench inspect {target}; get the tensors back: nqbench decompress {target}")
    return "\n".join(lines)
