"""A network judged on a split: the metrics of its examples, and how far its outputs are from the float network's.

Counting right answers is noisy: on 1,000 images half a point is five of them. Agreement with the float network and the
Kullback-Leibler divergence of the outputs, sum p (log p - log q) with p the float network's distribution, say far more
of the same images. The float network's outputs are kept when it is evaluated, and never computed again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from nqbench.api.batches import Batch, Split, count, to_device
from nqbench.api.errors import BadInput
from nqbench.api.evaluation import AGREEMENT, DIVERGENCE, Evaluation, Metric, PerExample
from nqbench.api.modules import device_of, evaluating
from nqbench.api.outputs import as_outputs, hits
from nqbench.api.toolkit.pace import Pace, Paced, pace_of
from nqbench.api.toolkit.progress import tell

LIMIT = 1 << 31
"""Bytes of the float network's outputs that are kept, at most; with more there is no comparison."""
_WIDE = 4096
"""Classes from which on outputs are kept as log-probabilities in float16."""


@dataclass(eq=False)
class Judgement:
    """What an evaluation is given, and what it leaves. reference: the float network's outputs, or None: this is the
    float network. pace: as which batches, or None: the fastest. outputs: what was kept of the float network's."""

    reference: Tensor | None = None
    pace: Pace | None = None
    outputs: Tensor | None = None
    compares: bool = False
    """Whether it is a compressed network: without a reference nothing is compared, nor kept."""


class Judgeable(Paced, Protocol):
    """What is asked of a model."""

    def load(self, device: torch.device) -> nn.Module: ...

    def metric(self) -> Metric | None: ...

    def outputs_are(self) -> Literal["categorical", "gaussian", "other"]: ...

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor: ...

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]: ...

    def examined(self, split: Split, batch_size: int | None = None) -> Iterator[Batch]: ...


_under_way: ContextVar[Judgement | None] = ContextVar("judgement", default=None)


@contextmanager
def judging(
    reference: Tensor | None = None, pace: Pace | None = None, *, compares: bool = False
) -> Iterator[Judgement]:
    """Inside the block, evaluations keep the float network's outputs or, where it ``compares``, are of a compressed
    network beside those."""
    judgement = Judgement(reference, pace, compares=compares)
    token = _under_way.set(judgement)
    try:
        yield judgement
    finally:
        _under_way.reset(token)


def under_way() -> Judgement | None:
    """Of the ``judging`` around this."""
    return _under_way.get()


def judged(model: Judgeable, module: nn.Module, split: Split) -> Evaluation:
    """``model.scores`` over the examined batches of a split; inside ``judging``, with agreement and divergence."""
    judgement = _under_way.get() or _own(model, module, split)
    pace = (judgement.pace if judgement else None) or pace_of(model, module, split)
    device, beside = device_of(module), Beside.of(model, judgement)
    found: dict[str, list[PerExample]] = defaultdict(list)
    with evaluating(module), torch.inference_mode():
        done = 0
        for batch in model.examined(split, pace.batch_size):
            batch = pace.prepared(to_device(batch, device))
            outputs = model.predict(module, batch)
            for name, part in model.scores(outputs, batch).items():
                found[name].append(PerExample(part.values.cpu(), part.statistic))
            if beside is not None:
                beside.add(model.logits(outputs, batch), count(batch))
            done += count(batch)
            tell(f"{done} examples")
    if judgement is not None:
        judgement.pace = pace
    examples = {name: _joined(parts) for name, parts in found.items()}
    return evaluation(model, examples | (beside.finished() if beside else {}))


def _own(model: Judgeable, module: nn.Module, split: Split) -> Judgement | None:
    """Where the headline metric is a comparison and nobody gave the float network's outputs: those of the model's."""
    headline = model.metric()
    if headline is None or headline.name not in (AGREEMENT.name, DIVERGENCE.name):
        return None
    with judging() as judgement:
        judged(model, model.load(device_of(module)), split)
    return Judgement(judgement.outputs, judgement.pace, compares=True)


def evaluation(model: Judgeable, examples: Mapping[str, PerExample]) -> Evaluation:
    """What follows from the examples' values."""
    headline = model.metric()
    values = examples.get(headline.name) if headline else None
    correct = values.values if values is not None and values.statistic == "share" else None
    return Evaluation({name: part.metric() for name, part in examples.items()}, correct, examples)


def named(values: Mapping[str, float | Tensor | PerExample]) -> tuple[dict[str, float], dict[str, PerExample]]:
    """Metrics and examples of what a user's function gives by name: a figure, (N,) values whose mean it is, or
    ``PerExample``. Raises BadInput for anything else."""
    metrics, examples = dict[str, float](), dict[str, PerExample]()
    for name, value in values.items():
        if isinstance(value, Tensor) and value.dim() == 1:
            value = PerExample(value.detach().cpu(), "share" if value.dtype == torch.bool else "mean")
        if isinstance(value, PerExample):
            examples[str(name)] = value
        try:
            metrics[str(name)] = value.metric() if isinstance(value, PerExample) else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise BadInput(
                f"'{name}' is {type(value).__name__}: give a number, a tensor of a value an example, or PerExample"
            ) from None
    return metrics, examples


def _joined(parts: Sequence[PerExample]) -> PerExample:
    return PerExample(torch.cat([part.values for part in parts]), parts[0].statistic)


@contextmanager
def outputs_seen(model: Judgeable, module: nn.Module) -> Iterator[dict[str, PerExample]]:
    """Inside ``judging``, whatever code calls the module: agreement and divergence of the outputs of its calls, an
    example each, filled in at the end; nothing where outputs are not a classifier's."""
    beside, found = Beside.of(model, _under_way.get()), dict[str, PerExample]()
    if beside is None:
        yield found
        return

    def see(layer: nn.Module, given: object, returned: object) -> None:
        with suppress(BadInput):  # what is not one output an example, or not as often as the float network's
            outputs = as_outputs(returned)
            beside.add(model.logits(outputs.detach(), None), len(outputs))
            return
        beside.broken = True

    hook = module.register_forward_hook(see)
    try:
        yield found
    finally:
        hook.remove()
    found |= beside.finished()


class Beside:
    """Outputs beside the float network's, a batch at a time; without those, they are kept for others."""

    def __init__(self, judgement: Judgement, categorical: bool) -> None:
        self.judgement, self.categorical = judgement, categorical
        self.kept: list[Tensor] | None = [] if judgement.reference is None else None
        self.bytes, self.rows = 0, 0
        self.broken = False
        self.agrees: list[Tensor] = []
        self.apart: list[Tensor] = []

    @staticmethod
    def of(model: Judgeable, judgement: Judgement | None) -> Beside | None:
        kind = model.outputs_are()
        if judgement is None or kind == "other" or (judgement.compares and judgement.reference is None):
            return None
        return Beside(judgement, kind == "categorical")

    def add(self, logits: Tensor, examples: int) -> None:
        """logits: (n, classes), those of the first example first."""
        if not logits.is_floating_point() or (self.categorical and (logits.dim() != 2 or logits.shape[1] < 2)):
            return
        logits = logits.reshape(len(logits), -1).cpu()
        if self.kept is not None:
            self._keep(logits)
            agrees, apart = torch.ones(len(logits)), torch.zeros(len(logits))
        else:
            assert self.judgement.reference is not None
            theirs = self.judgement.reference[self.rows : self.rows + len(logits)]
            if theirs.shape != logits.shape:
                raise BadInput(
                    f"the compressed network gives outputs {tuple(logits.shape)} where the float network gave "
                    f"{tuple(theirs.shape)}: examples must come in a fixed order"
                )
            agrees, apart = _compared(logits, theirs, self.categorical)
        self.rows += len(logits)
        self.agrees.append(agrees.reshape(examples, -1).mean(1))
        self.apart.append(apart.reshape(examples, -1).mean(1))

    def _keep(self, logits: Tensor) -> None:
        assert self.kept is not None
        if self.categorical and logits.shape[1] >= _WIDE:
            logits = logits.float().log_softmax(1).half()
        self.bytes += logits.numel() * logits.element_size()
        if self.bytes <= LIMIT:
            self.kept.append(logits.clone())

    def finished(self) -> dict[str, PerExample]:
        """Agreement and divergence; the float network's outputs are left where others find them."""
        if self.broken or not self.agrees or self.bytes > LIMIT:
            return {}
        if self.kept is not None:
            self.judgement.outputs = torch.cat(self.kept)
        agrees, apart = torch.cat(self.agrees), torch.cat(self.apart)
        found = {DIVERGENCE.name: PerExample(apart)}
        if self.categorical:
            whole = bool(((agrees == 0) | (agrees == 1)).all())
            # of several outputs an example, the share that agrees
            share = PerExample(agrees.bool(), "share") if whole else PerExample(100 * agrees)
            found = {AGREEMENT.name: share, **found}
        return found


def _compared(mine: Tensor, theirs: Tensor, categorical: bool) -> tuple[Tensor, Tensor]:
    """(n,) whether the first choice is theirs, and (n,) KL from their distribution to mine, nats; of gaussians of
    variance 1 half the squared distance of the means. In pieces: a language model's logits are large in float64."""
    agrees, apart = [], []
    for ours, wanted in zip(torch.split(mine, 256), torch.split(theirs, 256), strict=True):
        p, q = wanted.double(), ours.double()
        if categorical:
            agrees.append(hits(ours, wanted.argmax(1)).double())
            if wanted.shape[1] >= _WIDE:  # six digits of each are enough, and half the time
                p, q = wanted.float(), ours.float()
            p, q = p.log_softmax(1), q.log_softmax(1)
            # what is impossible to both, or to the float network, tells nothing
            parts = torch.where(p > -torch.inf, p.exp() * (p - q), 0.0)
            apart.append(parts.double().sum(1))
        else:
            agrees.append(torch.ones(len(ours), dtype=torch.float64))
            apart.append((p - q).square().sum(1) / 2)
    return torch.cat(agrees), torch.cat(apart)
