"""A seeded loop of SGD or Adam that can be interrupted after any epoch and resumes with bitwise equal results.

Everything random in an epoch (order, augmentation, dropout) is drawn from a seed made of the recipe's and the epoch's
number, so a resumed run equals an uninterrupted one. Checkpoints are safetensors: the tensors that move, the
optimizer's own, and whatever else the caller names (batch-norm statistics).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.masters import Masters, sums_of
from nqbench.api.toolkit.progress import quiet, tell
from nqbench.api.toolkit.replayed import Replayed
from nqbench.api.toolkit.sealed import seal, unseal


class Steps(BaseModel):
    """How parameters are updated, without the seed. Learning rates follow ``lr * factor(epoch)``, ``factor`` by the
    schedule.

    Plugins that train have these fields by inheriting from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(ge=0)
    """Passes over the training data."""
    steps: int | None = Field(None, ge=1)
    """Steps per epoch, each on a batch of newly shuffled data; none: an epoch is all of the data."""
    lr: float = Field(gt=0)
    """Learning rate in the first epoch."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """``adam`` is AdamW (decoupled weight decay)."""
    batch_size: int = Field(128, ge=1)
    """Number of examples per step."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD's momentum (Nesterov's if positive)."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay, of all tensors that are trained."""
    schedule: Literal["constant", "cosine", "exponential", "steps", "one-cycle"] = "constant"
    """``cosine`` to zero over the epochs; ``exponential``: times gamma an epoch; ``steps``: at 1/2 and 3/4 of them;
    ``one-cycle``: up to lr over the first fifth of the epochs, then down to zero, both in a line
    (arXiv:1708.07120)."""
    gamma: float = Field(0.1, gt=0, le=1)
    """The factor of ``exponential`` and ``steps``."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: the loss is computed under autocast, parameters and updates are float32; at least twice as fast on
    GPUs and CPUs with native support, slower on others."""


class Recipe(Steps):
    """How parameters are updated, with the seed."""

    seed: int = Field(0, ge=0)
    """Seed of order, augmentation and dropout."""

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        if self.schedule == "exponential":
            return self.lr * self.gamma**epoch
        if self.schedule == "steps":
            return self.lr * self.gamma ** sum(epoch >= part * self.epochs for part in (0.5, 0.75))
        if self.schedule == "one-cycle":
            middle, peak = (epoch + 0.5) / self.epochs, 0.2  # of the epoch, and of the cycle
            return self.lr * min(middle / peak, (1 - middle) / (1 - peak))
        return self.lr

    def epoch_seed(self, epoch: int) -> int:
        return (self.seed * 1_000_003 + epoch) % 2**31


def fit(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    batches: Callable[[int], Iterable[Any]],
    loss: Callable[[Any], Tensor],
    *,
    state: Mapping[str, Tensor] | None = None,
    before_step: Callable[[], None] | None = None,
    after_step: Callable[[], None] | None = None,
    between_steps: Callable[[], None] | None = None,
    before_epoch: Callable[[int], None] | None = None,
    checkpoint: Path | None = None,
    second_moments: bool = True,
    replay: bool = False,
) -> dict[str, Tensor]:
    """Train ``parameters`` (leaf tensors, in place) to lower ``loss(batch)``. Returns their second moments.

    Parameters in half precision are moved by way of copies in float32 (``Masters``); in between they are those rounded.
    batches: an epoch's seed -> its batches. state: further tensors that change in place meanwhile and belong into a
    checkpoint. before_step: between gradients and update (average, mask or clip gradients). after_step: after the
    update (hold a mask). between_steps: after all of a step, never replayed: where tensors that steps read are changed
    in place, by a count or a draw. before_epoch: with the epoch's number (ramp a sparsity); it runs again for the epoch
    at which a run resumes. checkpoint: a file, rewritten after each epoch; one of another recipe is ignored. replay: on
    a GPU a step is recorded anew for each epoch and replayed (``Replayed``): for a loss, ``before_step`` and
    ``after_step`` that do the same in all steps of an epoch, on the same tensors. On the CPU it changes nothing.
    Returned moments: Adam's recurrence v <- 0.999 v + 0.001 g^2 over all steps, bias-corrected, whatever the optimizer,
    float32 at least; nothing where ``second_moments`` is off, which saves two passes over the weights in each step.
    """
    moved = list(parameters.values())
    replay = replay and any(p.is_cuda for p in moved)
    masters = Masters(parameters)
    steered = masters.moved()
    optimizer = _optimizer(recipe, steered, capturable=replay)
    tracker = _Moments(parameters if second_moments else {})
    epoch = 0
    keep = {
        **{f"parameter/{k}": v for k, v in parameters.items()},
        **{f"master/{k}": v for k, v in masters.copies.items()},
        **{f"state/{k}": v for k, v in (state or {}).items()},
    }
    if checkpoint is not None and checkpoint.exists():
        epoch = _resume(checkpoint, recipe, keep, optimizer, steered, tracker)

    def step(batch: Any) -> None:
        for p in moved:  # what zero_grad does, without its bookkeeping
            p.grad = None
        with computing(recipe.precision, moved[0].device):
            value = loss(batch)
        value.backward(inputs=moved)  # type: ignore[no-untyped-call]
        total.add_(value.detach())
        tracker.update()
        if before_step is not None:
            before_step()
        masters.follow()  # once a step, last: who masks weights may show the optimizer whole ones
        masters.take_gradients()
        optimizer.step()
        masters.lead()
        if after_step is not None:
            after_step()

    steps = _Progress(recipe.epochs)
    total = torch.zeros((), device=moved[0].device)
    replayed = Replayed(step, moved[0].device) if replay else None
    take = step if replayed is None else replayed
    while epoch < recipe.epochs:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        if before_epoch is not None:
            before_epoch(epoch)
        if replayed is not None:
            replayed.renew()
        total.zero_()
        taken = 0
        with seeded(recipe.epoch_seed(epoch)), searching(replay):
            for batch in islice(batches(recipe.epoch_seed(epoch)), recipe.steps):
                with quiet():  # what quantizes in each step would say so
                    take(batch)
                    if between_steps is not None:
                        between_steps()
                taken += 1
                tracker.steps += 1
                steps.say(epoch, taken)
        if not all(bool(torch.isfinite(p).all()) for p in parameters.values()):
            raise BadInput(f"training diverged in epoch {epoch + 1}: use a learning rate below {recipe.lr:g}")
        epoch += 1
        steps.done(epoch, float(total) / max(1, taken))
        if checkpoint is not None:
            _save(checkpoint, recipe, epoch, keep, optimizer, steered, tracker)
    for p in moved:
        p.grad = None
    return tracker.corrected()


class _Progress:
    """Says the epoch and the loss of the last one, and in an epoch of more than a second how many steps are done."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.loss = ""
        self.next = monotonic() + 1

    def say(self, epoch: int, taken: int) -> None:
        if monotonic() > self.next:
            tell(f"epoch {epoch + 1} of {self.epochs}, step {taken}{self.loss}")
            self.next = monotonic() + 1

    def done(self, epoch: int, loss: float) -> None:
        self.loss = f", loss {loss:.4g} before"
        tell(f"epoch {epoch} of {self.epochs}, loss {loss:.4g}")


def computing(precision: str, device: torch.device) -> torch.autocast:
    """Inside the block, matrix products and convolutions are computed in ``bfloat16`` if that is the ``precision``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def searching(wanted: bool) -> Iterator[None]:
    """Inside the block, if ``wanted``, cuDNN tries its algorithms for each new shape and uses the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block torch's global generators are seeded; afterwards their states are restored."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread inside the block: sums of floats then do not depend on how many cores a worker was given."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Moments:
    """Adam's second-moment recurrence over the raw gradients."""

    BETA = 0.999
    steps: int
    """Number of updates so far; incremented by the caller."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.steps = 0
        self.values = {name: sums_of(p) for name, p in parameters.items()}

    def update(self) -> None:
        if not self.values:
            return
        known = [(v, p.grad) for v, p in zip(self.values.values(), self.parameters.values(), strict=True)]
        moved = [(v, g) for v, g in known if g is not None]
        values, grads = [v for v, _ in moved], [g.to(v.dtype) for v, g in moved]
        torch._foreach_mul_(values, self.BETA)
        torch._foreach_addcmul_(values, grads, grads, value=1 - self.BETA)

    def corrected(self) -> dict[str, Tensor]:
        scale = 1 - self.BETA**self.steps
        return {name: v / scale if self.steps else v for name, v in self.values.items()}


def _optimizer(recipe: Recipe, parameters: Mapping[str, Tensor], *, capturable: bool = False) -> torch.optim.Optimizer:
    # foreach: the bits of the plain loops, which the CPU would get by default, with less Python around each tensor
    moved = list(parameters.values())
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(
            moved, lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True, capturable=capturable
        )
    return torch.optim.SGD(
        moved,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )


def _save(
    path: Path,
    recipe: Recipe,
    epoch: int,
    keep: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    steered: Mapping[str, Tensor],
    tracker: _Moments,
) -> None:
    """steered: the tensors that the optimizer moves, by name."""
    tensors = {**keep, **{f"moments/{k}": v for k, v in tracker.values.items()}}
    for name, p in steered.items():
        for part, value in optimizer.state[p].items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{name}/{part}"] = value
    seal(path, tensors, {"recipe": recipe.model_dump_json(), "epoch": str(epoch), "steps": str(tracker.steps)})


def _resume(
    path: Path,
    recipe: Recipe,
    keep: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    steered: Mapping[str, Tensor],
    tracker: _Moments,
) -> int:
    """Restore everything in place. Returns the next epoch, 0 if the checkpoint is damaged or of another recipe."""
    try:
        kept, about = unseal(path)
    except BadInput as error:
        warnings.warn(f"{error}; the training starts over", stacklevel=3)
        return 0
    needed = {*keep, *(f"moments/{name}" for name in tracker.values)}
    if json.loads(about.get("recipe", "{}")) != recipe.model_dump(mode="json") or not set(kept) >= needed:
        return 0
    with torch.no_grad():
        for name, tensor in keep.items():
            tensor.copy_(kept[name])
        for name, value in tracker.values.items():
            value.copy_(kept[f"moments/{name}"])
    for key, value in kept.items():
        if key.startswith("optimizer/"):
            name, _, part = key.removeprefix("optimizer/").rpartition("/")
            p = steered[name]
            # Adam's step counter stays on the CPU, but for steps that a GPU repeats by itself
            away = part == "step" and not optimizer.defaults.get("capturable", False)
            optimizer.state[p][part] = value if away else value.to(p.device)
    tracker.steps = int(about["steps"])
    return int(about["epoch"])
