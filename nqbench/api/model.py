"""The contract of a model: a trained network, its data, its loss, its metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from nqbench.api.batches import Batch, Split, between, count, to_device
from nqbench.api.evaluation import AGREEMENT, DIVERGENCE, Evaluation, Metric, PerExample
from nqbench.api.outputs import as_outputs, hits
from nqbench.api.plugin import Plugin
from nqbench.api.prefetch import prefetched
from nqbench.api.toolkit.judging import judged

_CALIBRATED, _EXAMINED = 2048, 5_120
"""Number of training examples that sensitivities may read, and that an evaluation on training data reads."""


class Model(Plugin):
    """A trained network with its data. ``module`` below is always the network that ``load`` returned.

    ``uses_seed`` says whether the trial's seed changes the network (training from scratch); most models fix their own.
    A model without data (rate and distortion only) has a ``metric`` of None and needs only ``fingerprint`` and
    ``load``.

    Example:
        >>> class Line(Model, name="line"):
        ...     def fingerprint(self):
        ...         return "line 1"
        ...     def load(self, device):
        ...         return nn.Linear(3, 2).to(device).eval()
        ...     def metric(self):
        ...         return None
        >>> Line().compressible(Line().load(torch.device("cpu")))
        ('weight',)
    """

    kind: ClassVar[str] = "model"
    evaluation_batch: ClassVar[int] = 512
    """Batch size in ``evaluate``, unless another one is faster (``nqbench.api.toolkit.pace``)."""
    replays: ClassVar[bool] = False
    """Whether ``predict`` and ``losses`` do the same, kernel by kernel, for all batches of one shape, so that a GPU may
    record a training step and repeat it: nothing is decided in Python by a draw, a count or the data."""

    def prepare(self) -> None:
        """Find data and weights, or download them. Called once before the first trial of a run; must not train.

        Raises DataMissing: one line that says which file is missing and where to put it.
        """

    def fingerprint(self) -> str:
        """Text that changes whenever weights, data or recipe change. Must be cheap: it may not load or train."""
        raise NotImplementedError

    def foreign_code(self) -> tuple[str, ...]:
        """The parameters that name code outside the plugin which runs when the network is used: functions to import,
        TorchScript files (which can write files). ``nqbench verify`` refuses such models unless the user says that the
        author of the records is trusted."""
        return ()

    def load(self, device: torch.device) -> nn.Module:
        """The trained network in evaluation mode.

        If the network has to be trained, the first call trains it and stores it (``nqbench.api.toolkit.store``).

        Args:
            device: the device for parameters and buffers.

        Returns:
            The network; every call returns one with the same weights.

        Raises:
            DataMissing: weights or data are missing.
        """
        raise NotImplementedError

    def moments(self, device: torch.device) -> Mapping[str, Tensor] | None:
        """Second moments of the gradients by parameter name, if training kept them (Adam's v); else None."""
        return None

    def stored_bytes(self) -> int | None:
        """Bytes of the file that the network was loaded from (a checkpoint of half precision, a GGUF file that is
        quantized already); ``own_ratio`` compares with it where it is smaller than the state. None: compare with the
        state in its own dtypes."""
        return None

    def compressible(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the tensors to quantize, in the order of the state: by default every float parameter of two or more
        dimensions (weights of linear and convolution layers, embeddings), frozen ones too, unless it has no entries."""
        floats = ((name, p) for name, p in module.named_parameters() if p.is_floating_point() and p.numel())
        return tuple(name for name, p in floats if p.dim() >= 2)

    def metric(self) -> Metric | None:
        """The headline metric; None for a model without data."""
        return Metric()

    def has_split(self, split: Split) -> bool:
        """Whether the model has this split. ``validation`` must not have been used to train the network."""
        return split in ("train", "test")

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        """The examples of a split, in batches, on the CPU.

        Args:
            split: ``train``, ``validation`` or ``test``.
            batch_size: number of examples in a batch; the last batch may be smaller.
            shuffle: a seed for order and augmentation; None: a fixed order, no augmentation. Sensitivities take the
                first examples of ``train``: where they are stored by class, source or time, that order must be a
                shuffle.

        Returns:
            Batches that ``predict`` and ``losses`` accept; by default pairs (inputs (B, ...), labels (B,)).
        """
        raise NotImplementedError

    def batches_on(self, device: torch.device, split: Split, *, batch_size: int = 256, shuffle: int) -> Iterator[Batch]:
        """``batches`` in random order on a device: the same examples with the same augmentation, up to rounding.

        By default, a thread prepares the next batches for a GPU while the caller works on the current one, since
        augmenting a batch on the CPU takes as long as a training step on a GPU.
        """
        batches = self.batches(split, batch_size=batch_size, shuffle=shuffle)
        for batch in batches if device.type == "cpu" else prefetched(batches):
            yield to_device(batch, device)

    def teacher(self, device: torch.device) -> nn.Module:
        """The teacher for distillation, with outputs of the same shape. Default: the trained network itself."""
        return self.load(device)

    def untaught(self) -> Self:
        """The same model, taught by the trained network itself: its fingerprint names no teacher. To be overridden with
        ``teacher``."""
        return self

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        """The outputs (logits) of the network for a batch.

        Args:
            module: the network.
            batch: on the module's device.

        Returns:
            (B, ...) outputs, float; what ``losses`` takes.
        """
        return as_outputs(module(batch[0]))

    def attention_mask(self, batch: Batch) -> Tensor | None:
        """Where a batch's sequences hold tokens and no padding, so that second moments are those of tokens alone.

        Args:
            batch: on the module's device.

        Returns:
            (N, T) bool, its places in the order in which ``predict`` gives them to layers; None: there is no padding.
            Default: ``attention_mask`` of a batch, or of its inputs, that is a mapping, as Hugging Face's are.
        """
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss of each example. Default: cross-entropy of the logits with ``batch[1]``.

        Args:
            outputs: what ``predict`` gave.
            batch: on the same device.

        Returns:
            (B,) float, in nats for a cross-entropy.
        """
        return nn.functional.cross_entropy(outputs, self.labels(batch), reduction="none")

    def labels(self, batch: Batch) -> Tensor:
        """(B,) the labels of a batch, for the default loss and metric: ``batch[1]``."""
        wanted: Tensor = batch[1]
        return wanted

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        """The distribution of which ``losses`` is the negative log-likelihood; Gauss-Newton sensitivities need it."""
        return "categorical"

    def metrics(self) -> tuple[Metric, ...]:
        """What a search may hold and a leaderboard rank by, the headline metric first; nothing for a model without
        data. Default: with agreement and divergence, where outputs are compared with the float network's."""
        headline = self.metric()
        if headline is None:
            return ()
        beside = {"categorical": (AGREEMENT, DIVERGENCE), "gaussian": (DIVERGENCE,), "other": ()}[self.outputs_are()]
        return (headline, *(metric for metric in beside if metric.name != headline.name))

    def outputs_are(self) -> Literal["categorical", "gaussian", "other"]:
        """What ``logits`` gives parameters of; agreement with the float network and the divergence from it follow.
        Default: what ``losses`` are the likelihood of."""
        return self.likelihood()

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What the float network's outputs are compared with, a row for each distribution.

        Args:
            outputs: what ``predict`` gave.
            batch: on the same device.

        Returns:
            (n, classes) logits, or (n, ...) means where outputs are gaussian; n a multiple of the examples, those of
                the first example first. Default: classes along axis 1, as the default loss has them.
        """
        if self.outputs_are() == "categorical" and outputs.dim() > 1:
            return outputs.movedim(1, -1).flatten(0, -2)
        return outputs

    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, PerExample]:
        """A batch's examples judged: metric's name -> values. Default: whether the first choice is right, and the loss.

        Args:
            outputs: what ``predict`` gave.
            batch: on the same device.

        Returns:
            The metrics of ``evaluate``, each with a value for every example of the batch.
        """
        found = {"accuracy": PerExample(hits(outputs, self.labels(batch)), "share")}
        if outputs.dim() == 2:
            found["loss"] = PerExample(self.losses(outputs, batch))
        return found

    def examined(self, split: Split, batch_size: int | None = None) -> Iterator[Batch]:
        """The batches that an evaluation on a split reads, in stored order.

        All of ``test`` and ``validation``. Of ``train``, up to 5,120 examples after the first 2,048, because those are
        used by sensitivities; of fewer than 4,096 examples the second half (from 2,048 on, then what is before).
        """
        size = self.evaluation_batch if batch_size is None else batch_size
        if split != "train":
            yield from self.batches(split, batch_size=size)
            return
        there = 0
        for batch in self.batches(split, batch_size=size):
            yield from between(iter([batch]), _CALIBRATED - there, _CALIBRATED + _EXAMINED - there)
            there += count(batch)
            if there >= _CALIBRATED + _EXAMINED:
                return
        if there < 2 * _CALIBRATED:
            stop = min(there, _CALIBRATED)
            yield from between(self.batches(split, batch_size=size), there // 2, stop)

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        """The metrics of the network on the ``examined`` batches of a split. Default: those of ``scores``, in batches
        of the size that is fastest here.

        Args:
            module: the network; its training mode is restored afterwards.
            split: the split to evaluate on.

        Returns:
            The metrics, the headline one under ``metric().name``.
        """
        return judged(self, module, split)
