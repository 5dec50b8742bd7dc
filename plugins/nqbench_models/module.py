"""A user's own network, checkpoint and data, by names alone: no plugin to write.

A complete example. ``mine.py``, beside the suite::

    import torch
    from torch import nn

    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def batches(split, batch_size, shuffle):            # split: train, test (or validation)
        x, y = torch.load(f"{split}.pt", weights_only=True)
        order = torch.arange(len(x))
        if shuffle is not None:                         # a seed
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(shuffle))
        for chosen in order.split(batch_size):
            yield x[chosen], y[chosen]

and in the suite::

    models:
      - module: {folder: ., network: "mine:network", checkpoint: mine.safetensors, data: "mine:batches"}

The loss is cross-entropy and the metric top-1 accuracy, unless ``loss`` (outputs, batch -> a loss per example) and
``score`` (module, batches -> {name: value}) name functions of yours. ``outputs`` (module, batch -> outputs) is for
batches that are not (inputs, labels).

A TorchScript or torch.export file (with a free batch size: ``dynamic_shapes``) serves as a function does, but keeps its
layers to itself: ``hessian`` and ``fisher`` then take a backward pass a sample, as for embeddings and norms, and
methods with error feedback (``second-moments``) do not take it. A Hugging Face model is a network function of one line,
``return AutoModelForSequenceClassification.from_pretrained(...)``, an ``outputs`` of one line,
``return module(**batch[0]).logits``, and no checkpoint.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from nqbench.api import BadInput, Batch, DataMissing, Evaluation, Metric, Model, Split, device_of, to_device
from nqbench.api.toolkit.download import digest_of
from nqbench_models.checkpoint import fill, read_state


def _named(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ValueError(f"'{text}' names no function; write package.module:function")
    return text


Function = Annotated[str, AfterValidator(_named)]


class Module(Model, name="module"):
    """Your own network: a function or an exported file that builds it, a checkpoint, functions for data and metric."""

    network: str
    """``package.module:function`` that returns the network; or a TorchScript (.pt) or torch.export (.pt2) file."""
    checkpoint: str | None = None
    """A state dict: .safetensors, or a PyTorch file of tensors only, alone or under ``state_dict``. None: the network
    comes with its weights."""
    data: Function | None = None
    """``package.module:function`` (split, batch_size, shuffle) -> batches. None: no data, rate and distortion only."""
    score: Function | None = None
    """``package.module:function`` (module, batches) -> {name: value}, the headline first. None: top-1 accuracy in %."""
    metric_name: str = "accuracy"
    """The headline's name among what the metric function gives."""
    higher_is_better: bool = True
    """Which way the headline goes."""
    loss: Function | None = None
    """``package.module:function`` (outputs, batch) -> (B,) losses. None: cross-entropy with ``batch[1]``."""
    loss_is: Literal["categorical", "gaussian", "other"] = "categorical"
    """What the loss is the negative log-likelihood of."""
    outputs: Function | None = None
    """``package.module:function`` (module, batch) -> outputs. None: ``module(batch[0])``."""
    splits: tuple[Split, ...] = ("train", "test")
    """What the batches function knows."""
    tensors: tuple[str, ...] = ()
    """Parameters to compress; none: every one of two or more dimensions."""
    folder: str = ""
    """A folder to import from and to look for files in; none: as Python is set up, and the working folder."""
    version: str = ""
    """Any text; change it when data or an imported module behind your functions changed, and nothing is reused."""

    # -- the contract -----------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        for path in self._files():
            if not path.exists():
                raise DataMissing(f"model 'module': there is no file {path}; folder is '{self.folder or '.'}'")
        for text in (self.network, self.data, self.score, self.loss, self.outputs):
            if text is not None and not self._is_file(text):
                self._function(text)

    def fingerprint(self) -> str:
        """The parameters, the files' hashes, and those of the modules that the functions are defined in."""
        parts = [f"module 1 {self.canonical_json()}"]
        for text in (self.network, self.data, self.score, self.loss, self.outputs):
            if text is not None and not self._is_file(text):
                source = sys.modules[self._function(text).__module__].__file__
                parts += [digest_of(Path(source), "sha256")] if source else []
        return " ".join([*parts, *(digest_of(path, "sha256") for path in self._files())])

    def load(self, device: torch.device) -> nn.Module:
        module = self._build()
        if self.checkpoint is not None:
            path = self._path(self.checkpoint)
            fill(module, read_state(path), path)
        return module.to(device).eval()

    def compressible(self, module: nn.Module) -> tuple[str, ...]:
        if not self.tensors:
            return super().compressible(module)
        known = [name for name, _ in module.named_parameters()]
        unknown = set(self.tensors) - set(known)
        if unknown:
            raise BadInput(f"model 'module': no parameter '{min(unknown)}'; there are {', '.join(known)}")
        return tuple(name for name in known if name in self.tensors)

    def metric(self) -> Metric | None:
        if self.data is None:
            return None
        return Metric(self.metric_name, "%" if self.score is None else "", self.higher_is_better)

    def has_split(self, split: Split) -> bool:
        return self.data is not None and split in self.splits

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        if self.data is None:
            raise BadInput("model 'module' was given no data: name a function that gives batches")
        yield from self._function(self.data)(split, batch_size, shuffle)

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        if self.outputs is None:
            return super().predict(module, batch)
        result: Tensor = self._function(self.outputs)(module, batch)
        return result

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        if self.loss is None:
            return super().losses(outputs, batch)
        result: Tensor = self._function(self.loss)(outputs, batch)
        return result

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        return self.loss_is

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        if self.data is None:
            return Evaluation()
        if self.score is None:
            return super().evaluate(module, split)
        device = device_of(module)
        batches = (to_device(batch, device) for batch in self.batches(split))
        with torch.no_grad():
            values = self._function(self.score)(module, batches)
        return Evaluation({str(name): float(value) for name, value in values.items()})

    # -- names to things ----------------------------------------------------------------------------------------------
    def _build(self) -> nn.Module:
        if not self._is_file(self.network):
            module = self._function(self.network)()
            if not isinstance(module, nn.Module):
                raise BadInput(f"model 'module': {self.network} returns {type(module).__name__}, not a torch.nn.Module")
            return module
        path = self._path(self.network)
        if path.suffix == ".pt2":
            program = torch.export.load(path)
            if self.data is not None:
                _check_batch(program, path)
            return _with_modes(program.module())
        scripted: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return scripted

    def _files(self) -> list[Path]:
        names = [self.network] if self._is_file(self.network) else []
        return [self._path(name) for name in (*names, *([self.checkpoint] if self.checkpoint else []))]

    @staticmethod
    def _is_file(text: str) -> bool:
        return text.endswith((".pt", ".pt2"))

    def _path(self, name: str) -> Path:
        return Path(self.folder).expanduser() / Path(name).expanduser()

    def _function(self, text: str) -> Callable[..., Any]:
        return _import(text, str(Path(self.folder).expanduser().resolve()))


@cache
def _import(text: str, folder: str) -> Callable[..., Any]:
    name, _, attribute = text.partition(":")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"model 'module': {text} cannot be imported from {folder}: {reason}") from None
    if not callable(found):
        raise BadInput(f"model 'module': {text} is not a function")
    checked: Callable[..., Any] = found
    return checked


def _check_batch(program: torch.export.ExportedProgram, path: Path) -> None:
    """BadInput where the program takes batches of one size alone: a benchmark's have many."""
    inputs = set(program.graph_signature.user_inputs)
    placeholders = (n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs)
    values = [node.meta.get("val") for node in placeholders]
    sizes = [value.shape[0] for value in values if isinstance(value, Tensor) and value.ndim]
    # an input that is no batch, the same for every one, may be of a fixed size
    if sizes and all(isinstance(size, int) for size in sizes):
        raise BadInput(
            f"model 'module': {path} takes batches of exactly {sizes[0]}, expected any size: export it with "
            f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)"
        )


def _with_modes(module: nn.Module) -> nn.Module:
    """An exported network, whose mode was fixed when it was exported: train and eval leave it as it is."""

    def same(self: nn.Module, mode: bool = True) -> nn.Module:
        return self

    module.train = types.MethodType(same, module)  # type: ignore[method-assign]
    module.eval = types.MethodType(same, module)  # type: ignore[method-assign]
    for part in module.modules():
        part.training = False
    return module
