"""A network that only this process has, compressed as ``nqbench compress`` compresses one of a file."""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, Engine, Evaluation, Metric, Model, Note, Split, device_of, to_device
from nqbench.api.batches import tensors_of
from nqbench.api.evaluation import rises
from nqbench.api.modules import call
from nqbench.api.outputs import as_outputs, check_top1, rows_of_classes
from nqbench.api.plain import same_numbers
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.judging import named, outputs_seen
from nqbench.api.toolkit.paths import writable
from nqbench.engine import FILES, run_suite
from nqbench.engine.choose import chosen
from nqbench.files import load
from nqbench.pipeline.checks import check_state
from nqbench.pipeline.files import file_of, put_file
from nqbench.pipeline.network import copied
from nqbench.pipeline.precision import usual_modes
from nqbench.registry import Registered, registry
from nqbench.results.record import Record
from nqbench.suite.guard import allowed_loss, divergence_beside, usual_loss
from nqbench.version import __version__

Batches = Iterable[Batch] | Mapping[str, Iterable[Batch]] | Callable[[str], Iterable[Batch]]
Score = Callable[[nn.Module, Iterator[Batch]], float | Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Compressed:
    """file: the ``.nqz`` file. figures: the answer's record (bytes by part, metrics before and after, ...)."""

    file: Path
    figures: Record

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors that the file stands for, read from it."""
        return load(self.file)


@usual_modes()
def compress(
    module: nn.Module,
    batches: Batches,
    *,
    max_drop: float | str | None = None,
    max_divergence: float | None = None,
    score: Score | None = None,
    higher_is_better: bool | None = None,
    output: str | Path = "network.nqz",
    trials: int | None = None,
    budget: float | None = None,
    suite: str | Path = "compress",
    device: str | None = None,
    engine: str | Engine | None = None,
) -> Compressed:
    """The smallest file of a trained network whose metric falls by at most ``max_drop``; nothing is retrained.

    Everything is computed in PyTorch's usual modes: an ``autocast``, ``no_grad`` or default dtype around the call
    changes nothing.

    Args:
        module: the trained network; it is copied, and stays as it is.
        batches: pairs (x, y) to calibrate and to evaluate on, in a fixed order: a list or a data loader that can be
            read again and again; or ``{"train": ..., "validation": ..., "test": ...}``, of which the search looks at
            the validation or else the training data, and which are evaluated on the test data if there are any; or a
            function of the split's name. Several inputs are a tuple or a dict x.
        max_drop: points, or a share of the float network's metric as ``"1%"``. None: 0.5 points of accuracy, 1 % of a
            ``score``.
        max_divergence: in place of ``max_drop``: how far outputs may be from the network's own, mean KL divergence in
            nats.
        score: ``(module, batches) -> value`` (or a dictionary, the one that decides first); by default top-1 accuracy
            in percent. Outputs (N, T, classes) need one; their classes are on the last axis, those of images
            (N, classes, H, W) on the second.
        higher_is_better: which way the score goes. None: the higher the better, unless its name (that of the function,
            or the first of the dictionary) is an error's, of which this must be said.
        output: the file, replaced where there is one.
        trials: points of the search, at most; default: the suite's.
        budget: seconds that the search may take.
        suite: the methods that are tried, a suite with a target.
        device: ``cpu``, ``cuda``, ``cuda:N``; default: the module's.
        engine: ``local``: the network is in this process alone, and no other engine can reach it.

    Returns:
        The file with its figures. A note (``nqbench.api.Note``) says where the evaluation on the test data failed.

    Raises:
        BadInput: nothing holds, and how near the search came; or data or network cannot be used, and why.
    """
    if chosen(engine).away:
        raise BadInput(
            f"engine '{engine}' cannot reach a network of this process; put it into a file, and run nqbench compress "
            f"--model module:MODULE:FUNCTION --checkpoint FILE --engine {engine}"
        )
    if not isinstance(module, nn.Module):
        raise BadInput(f"module is {type(module).__name__}, expected a torch.nn.Module; `nqbench.save` takes a state")
    check_state(InMemory.name, module)
    if max_drop is not None and max_divergence is not None:
        raise BadInput("max_drop and max_divergence cannot be used together: give one of them")
    if max_divergence is not None and not 0 <= max_divergence < math.inf:
        raise BadInput(f"max_divergence {max_divergence}: write nats, as in 0.02")
    if score is not None:
        _check_direction(getattr(score, "__name__", ""), higher_is_better)
    if max_drop is None:
        max_drop = usual_loss(_metric(score, higher_is_better))
    try:
        allowed = allowed_loss(max_drop)
    except BadInput as error:
        raise BadInput(f"max_drop {error}") from None
    target = Path(output)
    writable(target)
    names = _splits(batches)
    held = _Held(copied(module).eval(), batches, names, score, higher_is_better)
    key = content_hash({name: t.detach().cpu() for name, t in module.state_dict().items()})[:32]
    _HELD[key] = held
    known = registry()
    known.found["model", InMemory.name] = Registered(InMemory, "nqbench", __version__)
    splits: tuple[Split, ...] = ("validation", "train")
    split: Split = next((s for s in splits if s in names), "test")
    goal = ["target.drop=null", *(f"target.{field}={value}" for field, value in allowed.items())]
    beside = divergence_beside(InMemory(network=key), split, max_drop)
    goal += [] if beside is None else [f"target.divergence={beside}"]
    if max_divergence is not None:
        goal = ["target.drop=null", f"target.metric={max_divergence}", "judged_by=divergence"]
    sets = [f"models=[{json.dumps({InMemory.name: {'network': key}})}]", *goal, f"target.split={split}"]
    sets += [] if trials is None else [f"target.trials={trials}"]
    sets += [] if split == "test" else [f"target.report={'chosen' if 'test' in names else 'none'}"]
    try:
        with tempfile.TemporaryDirectory(prefix="nqbench-compress-") as folder:
            where = device or str(device_of(module))
            result = run_suite(suite, folder, sets=sets, jobs=0, device=where, cached=False, budget=budget)
            best = min(result.chosen, key=lambda record: record.file_bytes or 0, default=None)
            if best is None:
                errors = [record.error or "" for record in result.records if not record.ok]
                wanted = f"a drop of {max_drop}" if max_divergence is None else f"a divergence of {max_divergence}"
                ended = any(record.ok for record in result.records)
                why = f"no file stays within {wanted}" if ended else "no trial ended"
                why = errors[0].partition("\n")[0] if errors else why
                raise BadInput(f"nothing was compressed: {why}")
            put_file(file_of(best.key, Path(folder) / FILES).read_bytes(), target)
    finally:
        del _HELD[key]
        del known.found["model", InMemory.name]
    if untested := result.untested(best):
        warnings.warn(untested, Note, stacklevel=4)  # where nqbench.compress was called, past the modes
    return Compressed(target, best)


@dataclass(frozen=True, eq=False)
class _Held:
    """What ``compress`` was given, and the names of the splits."""

    module: nn.Module
    batches: Batches
    names: tuple[str, ...]
    score: Score | None
    higher_is_better: bool | None


_HELD: dict[str, _Held] = {}
"""What ``compress`` is at, by content: a plugin's parameters are JSON, so that it finds its network here."""


class InMemory(Model, name="in-memory"):
    """The network that ``nqbench.compress`` was given."""

    network: str
    """A hash of its tensors."""

    @property
    def _held(self) -> _Held:
        return _HELD[self.network]

    def fingerprint(self) -> str:
        return f"in memory {self.network}"

    def prepare(self) -> None:
        for split in self._held.names:
            given = self._batches(split)
            # of a generator that is read twice, the second reading goes on where the first stopped
            once = isinstance(given, Iterator) and self._batches(split) is given
            firsts = [next(iter(self._batches(split)), None) for _ in range(2)]
            if once or any(batch is None for batch in firsts):
                raise BadInput(
                    f"batches: {split} gives nothing, or nothing the second time: give what can be read again, "
                    "such as a list or a data loader"
                )
            for batch in firsts:
                assert batch is not None
                self._check(split, batch)
            if not _alike(*firsts):
                raise BadInput(
                    f"batches: {split} begins with other examples the second time, and the outputs of two networks are "
                    "compared example by example: give a fixed order (a data loader without shuffle), unaugmented"
                )

    def _check(self, split: str, batch: Batch) -> None:
        """A tensor has a first and a second entry as well, and would pass for a pair."""
        judged = self._held.score is not None
        if not isinstance(batch, tuple | list) or len(batch) < (1 if judged else 2):
            wanted = "a tuple that begins with the network's input" if judged else "a pair (x, y)"
            raise BadInput(f"batches: {split} gives {type(batch).__name__}, expected {wanted}")
        labels = None if judged else batch[1]
        if not judged and not (isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point()):
            shape = f" of {tuple(labels.shape)}" if isinstance(labels, Tensor) else ""
            raise BadInput(
                f"batches: the labels of {split} are {type(labels).__name__}{shape}, expected one class number for "
                "each example: give those, or a `score` that judges them"
            )
        if not judged:
            try:
                check_top1(self._rehearsed(batch), batch[1])
            except BadInput as error:
                raise BadInput(f"batches: {split}: {error}") from None

    def _rehearsed(self, batch: Batch) -> Tensor:
        """The network's outputs for one batch, before anything is searched."""
        module = self._held.module
        try:
            # of a copy: a forward pass may leave something behind
            with torch.no_grad():
                return self.predict(copied(module), to_device(batch, device_of(module)))
        except BadInput:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:240]
            raise BadInput(f"the network cannot take such a batch: {type(error).__name__}: {reason}") from error

    def load(self, device: torch.device) -> nn.Module:
        return copied(self._held.module).to(device)

    def metric(self) -> Metric:
        return _metric(self._held.score, self._held.higher_is_better)

    def has_split(self, split: Split) -> bool:
        return split in self._held.names

    def _batches(self, split: str) -> Iterable[Batch]:
        given = self._held.batches
        if callable(given):
            return given(split)
        return given[split] if isinstance(given, Mapping) else given

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        """As they were given, whatever size is asked for."""
        yield from self._batches(split if split in self._held.names else self._held.names[0])

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        return as_outputs(call(module, batch[0]))

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Three axes are those of sequences, which a ``score`` alone judges: no loss says where classes are."""
        sequences = self._held.score is not None and outputs.dim() == 3
        return rows_of_classes(outputs) if sequences else super().logits(outputs, batch)

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        if self._held.score is None:
            return super().evaluate(module, split)
        device = device_of(module)
        with torch.no_grad(), outputs_seen(self, module) as beside:
            found = self._held.score(module, (to_device(batch, device) for batch in self.examined(split)))
        metrics, examples = named(found if isinstance(found, Mapping) else {"score": found})
        first = next(iter(metrics), None)
        if first is None:
            raise BadInput("score gives an empty dictionary, expected the value that decides")
        if isinstance(found, Mapping):
            _check_direction(first, self._held.higher_is_better)
        metrics |= {"score": metrics[first]} | {n: part.metric() for n, part in beside.items() if n not in metrics}
        examples |= {"score": examples[first]} if first in examples else {}
        return Evaluation(metrics, None, {**beside, **examples})


def _metric(score: Score | None, higher_is_better: bool | None) -> Metric:
    return Metric() if score is None else Metric("score", "", higher_is_better is not False)


def _check_direction(name: str, higher_is_better: bool | None) -> None:
    """Of a loss taken for an accuracy any file would hold, the worst soonest."""
    if higher_is_better is None and not rises(name):
        raise BadInput(f"score: is '{name}' better the lower? Say so: higher_is_better=False (or True)")


def _splits(batches: Batches) -> tuple[str, ...]:
    """The names of the splits. Raises BadInput for others, which nobody would read."""
    if not isinstance(batches, Mapping):
        return ("train", "test")
    known = get_args(Split)
    odd = [str(name) for name in batches if name not in known]
    if odd or "train" not in batches:
        wanted = "one 'train' at least, and 'validation' and 'test' where there are any"
        raise BadInput(
            f"batches: expected {wanted}; found {', '.join(odd) if odd else ', '.join(batches) or 'nothing'}"
        )
    return tuple(batches)


def _alike(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same tensors."""
    pairs = list(zip_longest(tensors_of(one), tensors_of(other)))
    return all(a is not None and b is not None and same_numbers(a, b) for a, b in pairs)
