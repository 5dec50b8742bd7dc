"""A user's own network, checkpoint and data, given by names in a suite, without writing a plugin.

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

``batches`` must give a fresh iterator each call. Sensitivities take the first training examples: where these are stored
by class, source or time, shuffle them without a seed, too.

A batch is (inputs, labels), where several inputs are a tuple or a dict, or a single dict that contains ``labels``. The
outputs are ``.logits`` of the returned object, the only tensor of a dict, or the first of a tuple. The loss is
cross-entropy and the metric top-1 accuracy, unless ``loss`` (outputs, batch -> a loss per example) and ``score``
(module, batches -> {name: value}) name functions of yours. With either of them outputs (N, T, classes) are sequences
whose classes are on the last axis, where agreement and divergence look for them. For other forms of batches or outputs,
name a function ``outputs`` (module, batch -> outputs).

The checkpoint is a state dict as frameworks write it: .safetensors, a PyTorch file (.pt, .pth, .ckpt, .bin; read with
weights_only), an index of shards, a folder in Hugging Face's layout, a .gguf file. Prefixes that wrappers add to the
names are removed if all names then fit; a note says so.

Instead of a function, ``network`` may be a TorchScript or torch.export file (with a dynamic batch size:
``dynamic_shapes``). A TorchScript file is a program that can write files (``torch.from_file``): use none from an
untrusted source. The layers of such a network are not accessible, so that ``hessian`` and ``fisher`` take one backward
pass per sample, as for embeddings and norms. For Hugging Face models use the model ``hf``.
"""

from __future__ import annotations

import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from nqbench.api import (
    BadInput,
    Batch,
    DataMissing,
    Evaluation,
    Metric,
    Note,
    PerExample,
    Split,
    as_outputs,
    device_of,
    to_device,
)
from nqbench.api.evaluation import AGREEMENT, DIVERGENCE, rises
from nqbench.api.modules import check_materialized
from nqbench.api.outputs import check_top1, rows_of_classes
from nqbench.api.toolkit.download import digest_of
from nqbench.api.toolkit.judging import named, outputs_seen
from nqbench.api.toolkit.paths import in_suite_folder
from nqbench_models.batches import called, fresh, labels_of, told
from nqbench_models.checkpoint import averaged_entries, files_of, read_state, tensor_bytes
from nqbench_models.chosen import Chosen
from nqbench_models.contents import content
from nqbench_models.fitting import fill
from nqbench_models.imports import forget_edited, imported


def _named(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ValueError(f"'{text}' names no function; write package.module:function")
    return text


Function = Annotated[str, AfterValidator(_named)]


class Module(Chosen, name="module", computes_with=("gguf",)):
    """Your own network: a function or an exported file that builds it, a checkpoint, functions for data and metric."""

    network: str
    """``package.module:function`` that returns the network; or a TorchScript (.pt) or torch.export (.pt2) file. All of
    these are code that is run, and a TorchScript file can write files: use none from an untrusted source."""
    checkpoint: str | None = None
    """A state dict: .safetensors, .gguf, a PyTorch file of tensors, an index of shards, or a folder in Hugging Face's
    layout. None: the network has its weights already."""
    entry: str | None = None
    """The entry of a checkpoint with several networks: ``ema``, ``params_ema``. None: the one without averaged
    weights."""
    data: Function | None = None
    """``package.module:function`` (split, batch_size, shuffle) -> batches. None: no data (rate and distortion only)."""
    score: Function | None = None
    """``package.module:function`` (module, batches) -> {name: value}, the headline metric first; a value is a number,
    or a tensor with one number per example, of which the metric is the mean. None: top-1 accuracy in %."""
    metric_name: str = "accuracy"
    """The name of the headline metric among those that ``score`` returns."""
    higher_is_better: bool | None = None
    """Whether higher values of the headline metric are better. None: so its name says; what is called loss, nll,
    perplexity, error, divergence, mse, rmse, mae and the like is better the lower, anything else the higher."""
    loss: Function | None = None
    """``package.module:function`` (outputs, batch) -> (B,) losses. None: cross-entropy with the labels."""
    loss_is: Literal["categorical", "gaussian", "other"] = "categorical"
    """The distribution of which the loss is the negative log-likelihood."""
    outputs: Function | None = None
    """``package.module:function`` (module, batch) -> outputs. None: the network is called with a batch's inputs."""
    splits: tuple[Split, ...] = ("train", "test")
    """The splits that the function ``data`` can give."""
    tensors: tuple[str, ...] = ()
    """Names of the parameters to compress; none: all with two or more dimensions."""
    folder: str = ""
    """The folder for imports and files, relative to the suite's file; none: the folder of the suite's file."""
    version: str = ""
    """Any text. Change it when your data, or modules that your functions import, have changed, so that no cached
    results are reused."""

    # -- the contract -----------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Errors in files, functions and shapes are found here, by passing one batch through the network."""
        forget_edited(self._place())
        for path in self._files():
            if not path.exists():
                folder = self.folder or "that of the suite, or the working folder"
                raise DataMissing(f"model '{self.name}': there is no file {path}; folder is {folder}")
        for text in self._functions():
            self._function(text)
        module = self._build()
        self._fill(module, self._say)
        check_materialized(self.name, module)
        self.compressible(module)
        if self.data is not None:
            self._rehearse(module.eval())

    def fingerprint(self) -> str:
        """The parameters and the hashes of the files and of the modules that define the functions."""
        forget_edited(self._place())
        parts = [f"module 1 {self.canonical_json()}"]
        for text in self._functions():
            source = inspect.getsourcefile(inspect.unwrap(self._function(text)))
            parts += [digest_of(Path(source), "sha256")] if source else []
        files = [file for path in self._files() for file in files_of(path)]
        return " ".join([*parts, *(content(path) for path in files)])

    def load(self, device: torch.device) -> nn.Module:
        module = self._build()
        self._fill(module)
        return module.to(device).eval()

    def candidates(self, module: nn.Module) -> tuple[str, ...]:
        if not self.tensors:
            return super().candidates(module)
        known = dict(module.named_parameters())
        unknown = set(self.tensors) - set(known)
        if unknown:
            raise BadInput(f"model '{self.name}': no parameter '{min(unknown)}'; there are {', '.join(known)}")
        for name in self.tensors:
            if not known[name].is_floating_point() or not known[name].numel():
                what = str(known[name].dtype).removeprefix("torch.") if known[name].numel() else "empty"
                raise BadInput(
                    f"model '{self.name}': tensors: '{name}' is {what}: leave it out, it cannot be quantized"
                )
        return tuple(name for name in known if name in self.tensors)

    def stored_bytes(self) -> int | None:
        return None if self.checkpoint is None else tensor_bytes(self._path(self.checkpoint), self.entry)

    def metric(self) -> Metric | None:
        if self.data is None:
            return None
        higher = rises(self.metric_name) if self.higher_is_better is None else self.higher_is_better
        if self.score is None:  # what a classifier is judged by has a unit and a direction of its own
            unit = "nats" if self.loss is None else ""
            own = {"loss": Metric("loss", unit, False), AGREEMENT.name: AGREEMENT, DIVERGENCE.name: DIVERGENCE}
            return own.get(self.metric_name, Metric(self.metric_name, "%", higher))
        return Metric(self.metric_name, "", higher)

    def has_split(self, split: Split) -> bool:
        return self.data is not None and split in self.splits

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        if self.data is None:
            raise BadInput(f"model '{self.name}' was given no data: name a function that gives batches")
        give = self._function(self.data)
        with told(f"model '{self.name}': {self.data}", (split, batch_size, shuffle)):
            returned = give(split, batch_size, shuffle)
        yield from fresh(self.data, returned, split)

    def predict(self, module: nn.Module, batch: Batch) -> Tensor:
        call = called(module, batch) if self.outputs is None else partial(self._function(self.outputs), module, batch)
        with told(f"model '{self.name}': {self.outputs or self.network}", batch, module):
            returned = call()
        return as_outputs(returned)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        call = super().losses if self.loss is None else self._function(self.loss)
        with told(f"model '{self.name}': {self.loss or 'cross-entropy'}", (outputs, batch)):
            result: Tensor = call(outputs, batch)
        return result

    def labels(self, batch: Batch) -> Tensor:
        return labels_of(str(self.data), batch)

    def likelihood(self) -> Literal["categorical", "gaussian", "other"]:
        return self.loss_is

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Classes are along axis 1, as for PyTorch's cross-entropy; with a user's loss, along the last axis, as for
        language models, and so where a user's ``score`` alone judges sequences (N, T, classes)."""
        if self.loss_is == "categorical" and (self.loss is not None or (self.score is not None and outputs.dim() == 3)):
            return rows_of_classes(outputs)
        return super().logits(outputs, batch)

    def evaluate(self, module: nn.Module, split: Split = "test") -> Evaluation:
        if self.data is None:
            return Evaluation()
        if self.score is None:
            return super().evaluate(module, split)
        device = device_of(module)
        batches = (to_device(batch, device) for batch in self.examined(split))
        with torch.no_grad(), outputs_seen(self, module) as beside:
            metrics, examples = self._scores(self._function(self.score)(module, batches))
        metrics |= {name: part.metric() for name, part in beside.items() if name not in metrics}
        return Evaluation(metrics, None, {**beside, **examples})

    def _scores(self, values: object) -> tuple[dict[str, float], dict[str, PerExample]]:
        """The values that ``score`` returned, as metrics, and, if it returned tensors, as values per example."""
        if not isinstance(values, Mapping) or self.metric_name not in values:
            given = ", ".join(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise BadInput(
                f"model '{self.name}': {self.score} gives {given or 'nothing'}, not the metric '{self.metric_name}': "
                "say which with `metric_name`"
            )
        try:
            return named(values)
        except BadInput as error:
            raise BadInput(f"model '{self.name}': {self.score} gives {error}") from None

    def _rehearse(self, module: nn.Module) -> None:
        """Pass one batch through the network, its loss and its metric, so that errors are reported at the start."""
        split: Split = "train" if "train" in self.splits else self.splits[0]
        first = next(iter(self.batches(split, batch_size=2)))
        device = device_of(module)
        batch = to_device(first, device)
        with torch.no_grad():
            outputs = self.predict(module, batch)
            if self.score is None:
                self.losses(outputs, batch)
                self._check_accuracy(outputs, batch)
            else:
                judge = self._function(self.score)
                with told(f"model '{self.name}': {self.score}", first, module):
                    values = judge(module, iter([batch]))
                self._scores(values)

    def _check_accuracy(self, outputs: Tensor, batch: Batch) -> None:
        try:
            check_top1(outputs, self.labels(batch))
        except BadInput as error:
            raise BadInput(f"model '{self.name}': {error}") from None
        if bool(outputs.isnan().any()):
            raise BadInput(f"model '{self.name}': outputs hold nan for the first examples that {self.data} gives")

    # -- names to things ----------------------------------------------------------------------------------------------
    def _build(self) -> nn.Module:
        if not self._is_file(self.network):
            module = self._function(self.network)()
            if not isinstance(module, nn.Module):
                raise BadInput(
                    f"model '{self.name}': {self.network} returns {type(module).__name__}, not a torch.nn.Module"
                )
            return module
        path = self._path(self.network)
        if path.suffix == ".pt2":
            program = torch.export.load(path)
            if self.data is not None:
                _check_batch(program, path)
            return _with_modes(program.module())
        scripted: nn.Module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        return scripted

    def _fill(self, module: nn.Module, say: Callable[[str], None] | None = None) -> None:
        """Load the checkpoint into the network. say: called with a description of the renaming and of the file's other
        entries."""
        if self.checkpoint is None:
            return
        path = self._path(self.checkpoint)
        fill(module, read_state(path, self.entry), path, say=say)
        averaged = averaged_entries(path) if say is not None and self.entry is None else ()
        if averaged and say is not None:
            say(f"{path} also holds averaged weights, which were not loaded: to use them, write `entry: {averaged[0]}`")

    def _say(self, text: str) -> None:
        warnings.warn(f"model '{self.name}': {text}", Note, stacklevel=2)

    def _functions(self) -> list[str]:
        named = (*self._network_function(), self.data, self.score, self.loss, self.outputs)
        return [text for text in named if text is not None]

    def _network_function(self) -> tuple[str, ...]:
        return () if self._is_file(self.network) else (self.network,)

    def foreign_code(self) -> tuple[str, ...]:
        named = (self.network, self.data, self.score, self.loss, self.outputs)
        return tuple(f"the file {text}" if self._is_file(text) else text for text in named if text is not None)

    def _files(self) -> list[Path]:
        names = [self.network] if self._is_file(self.network) else []
        return [self._path(name) for name in (*names, *([self.checkpoint] if self.checkpoint else []))]

    @staticmethod
    def _is_file(text: str) -> bool:
        return text.endswith((".pt", ".pt2"))

    def _path(self, name: str) -> Path:
        return in_suite_folder(self.folder or ".") / Path(name).expanduser()

    def _function(self, text: str) -> Callable[..., Any]:
        return imported(text, self._place())

    def _place(self) -> str:
        return str(in_suite_folder(self.folder or ".").resolve())


def _check_batch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Raises BadInput if the program only accepts batches of one size."""
    inputs = set(program.graph_signature.user_inputs)
    placeholders = (n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs)
    values = [node.meta.get("val") for node in placeholders]
    sizes = [value.shape[0] for value in values if isinstance(value, Tensor) and value.ndim]
    # inputs that are not batches, the same for every call, may have a fixed size
    if sizes and all(isinstance(size, int) for size in sizes):
        raise BadInput(
            f"model 'module': {path} takes batches of exactly {sizes[0]}, expected any size: export it with "
            f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)"
        )


def _with_modes(module: nn.Module) -> nn.Module:
    """An exported network, whose mode was fixed at export, with methods train and eval that do nothing."""

    def same(self: nn.Module, mode: bool = True) -> nn.Module:
        return self

    module.train = types.MethodType(same, module)  # type: ignore[method-assign]
    module.eval = types.MethodType(same, module)  # type: ignore[method-assign]
    for part in module.modules():
        part.training = False
    return module
