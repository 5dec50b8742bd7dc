"""Sums over samples of squared per-sample gradients, without a loop over samples where the layers are known.

For one sample a linear layer's weight gradient is the outer product g x^T of its output's gradient and its input, a
convolution's the product of the output's gradient (O, L) with the unfolded input (K, L) over its L places. Where a
layer sees one vector per sample, the sum of squares is (g^2)^T x^2 and the per-sample gradients are never formed.
Parameters of other layers (embeddings, norms, a layer of one's own), and networks that do not show their layers
(TorchScript, torch.export), take one backward pass per sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nqbench.api.errors import BadInput
from nqbench.api.toolkit.masters import sums_of, widened
from nqbench.api.toolkit.windows import rows_of, vectors


class Squares(Protocol):
    """What both ways of summing squares offer, inside a ``with`` block around the forward pass."""

    batch: int
    """Samples that a pass should hold."""

    def squared(self, outputs: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
        """name -> sum over samples n of (J_n^T v_n)^2, of the parameter's shape.

        outputs: (B, ...) of the forward pass. cotangent: the same shape, v_n in row n; samples must not mix in the
        network (batch norm in evaluation mode). May be called again on the same pass.
        """
        ...

    def forget(self) -> None:
        """Drop what is kept of the last batch."""
        ...


@contextmanager
def squares(module: nn.Module, names: Sequence[str]) -> Iterator[Squares]:
    """The quicker way that serves all of these parameters."""
    try:
        tape = Tape(module, names)
    except BadInput:
        yield OneByOne(module, names)
        return
    with tape:
        yield tape


class OneByOne:
    """Per-sample gradients by one backward pass per sample: for every kind of parameter, and slow."""

    # a pass goes through the whole batch each time, so it is small; more than one, since an exported network with a
    # free batch size takes 2 and up
    batch = 2

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        parameters = dict(module.named_parameters())
        self.parameters = {name: parameters[name] for name in names}

    def forget(self) -> None:
        """Nothing is kept."""

    def squared(self, outputs: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
        total = {name: sums_of(p) for name, p in self.parameters.items()}
        for row, v in zip(outputs, cotangent, strict=True):
            found = gradients(row, list(self.parameters.values()), v, retain_graph=True)
            for name, g in zip(self.parameters, found, strict=True):
                total[name].addcmul_(widened(g), widened(g))
        return total


class Tape:
    """Inside the block, records what goes in and out of the layers that own the parameters ``names``.

    Linear and 1-, 2-dimensional convolution layers (zero padding) are known; any other owner is refused with BadInput.
    """

    # unfolded inputs of a whole batch are held at once
    batch = 50

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.module = module
        self.owners = {name: owner(module, name) for name in names}
        self.calls: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        self._columns: dict[nn.Module, list[Tensor]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Tape:
        for layer in {id(layer): layer for layer in self.owners.values()}.values():
            self._handles.append(layer.register_forward_hook(self._record))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _record(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        self.calls.setdefault(layer, []).append((inputs[0].detach(), output))
        # the network may go on in place, on this copy
        return output.clone()

    def forget(self) -> None:
        """Drop the records of the last batch."""
        self.calls.clear()
        self._columns.clear()

    def squared(self, outputs: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
        """See ``Squares.squared``; the pass is the recorded one."""
        by_layer = self._output_gradients(outputs, cotangent)
        elsewhere = self._elsewhere(outputs, by_layer)
        found = OneByOne(self.module, elsewhere).squared(outputs, cotangent) if elsewhere else {}
        for name, layer in self.owners.items():
            if name not in found:
                found[name] = self._one(name, layer, by_layer.get(layer, []))
        return found

    def output_gradients(self, outputs: Tensor, cotangent: Tensor) -> dict[str, list[Tensor]]:
        """name -> per call of its layer, (B, O, L): J_n^T v_n for the layer's outputs at L places; see ``squared``.

        Raises:
            BadInput: a parameter is used without a call of its layer.
        """
        by_layer = self._output_gradients(outputs, cotangent)
        for name in self._elsewhere(outputs, by_layer):
            raise BadInput(f"'{name}' is used without a call of its {type(self.owners[name]).__name__}")
        return {name: [rows_of(layer, g) for g in by_layer.get(layer, [])] for name, layer in self.owners.items()}

    def _output_gradients(self, outputs: Tensor, cotangent: Tensor) -> dict[nn.Module, list[Tensor]]:
        flat = [call for calls in self.calls.values() for call in calls]
        found = gradients(outputs, [out for _, out in flat], cotangent, retain_graph=True)
        by_layer: dict[nn.Module, list[Tensor]] = {}
        position = 0
        for layer, calls in self.calls.items():
            by_layer[layer] = [widened(each) for each in found[position : position + len(calls)]]
            position += len(calls)
        return by_layer

    def _elsewhere(self, outputs: Tensor, by_layer: Mapping[nn.Module, Sequence[Tensor]]) -> list[str]:
        """Parameters on which the outputs depend although the network did not call their layer: it may hand them to
        ``functional.linear`` itself, as attention does that puts three biases together."""
        parameters = dict(self.module.named_parameters())
        uncalled = [name for name, layer in self.owners.items() if not by_layer.get(layer)]
        uncalled = [name for name in uncalled if name in parameters and parameters[name].requires_grad]
        if not uncalled or not outputs.requires_grad:
            return []
        found = torch.autograd.grad(
            outputs.sum(), [parameters[name] for name in uncalled], retain_graph=True, allow_unused=True
        )
        return [name for name, gradient in zip(uncalled, found, strict=True) if gradient is not None]

    def _one(self, name: str, layer: nn.Module, gradients: list[Tensor]) -> Tensor:
        if not gradients:  # the network has not called it
            return sums_of(layer.get_parameter(name.rpartition(".")[2]))
        if name.rpartition(".")[2] == "bias":
            return _sum_bias(layer, gradients).square_().sum(0)
        if layer not in self._columns:
            self._columns[layer] = [vectors(layer, widened(x)) for x, _ in self.calls[layer]]
        inputs = self._columns[layer]
        groups = int(getattr(layer, "groups", 1))
        rows = [rows_of(layer, g) for g in gradients]
        shape = layer.get_parameter("weight").shape
        if len(rows) == 1 and groups == 1 and rows[0].shape[-1] == 1:
            return (rows[0][..., 0].square().T @ inputs[0][..., 0].square()).reshape(shape)
        total: Tensor | None = None
        for g, x in zip(rows, inputs, strict=True):
            count, wide, places = x.shape
            left = g.reshape(count * groups, -1, places)
            product = torch.bmm(left, x.reshape(count * groups, wide // groups, places).transpose(1, 2))
            total = product if total is None else total.add_(product)
        assert total is not None
        return total.square_().reshape(-1, *shape).sum(0)


def gradients(
    outputs: Tensor,
    inputs: Sequence[Tensor],
    cotangent: Tensor | None = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``, with zeros for what the outputs do not depend on: a network may have layers that it does
    not call, or whose results it drops."""
    if not inputs or not outputs.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(
        outputs,
        inputs,
        cotangent,
        create_graph=create_graph,
        retain_graph=retain_graph,
        allow_unused=True,
        materialize_grads=True,
    )


def owner(module: nn.Module, name: str) -> nn.Module:
    """The layer that owns a parameter, if it is of a kind whose gradients are known here."""
    if isinstance(module, torch.jit.ScriptModule):
        raise BadInput(f"'{name}' belongs to a TorchScript file, which does not show its layers")
    layer = module.get_submodule(name.rpartition(".")[0])
    known = isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv1d | nn.Conv2d)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
    if known and not called_alone(module, name):
        raise BadInput(f"'{name}' is used by more than the call of its {type(layer).__name__}")
    if not known or name.rpartition(".")[2] not in ("weight", "bias"):
        raise BadInput(
            f"'{name}' belongs to a {type(layer).__name__}: only linear and convolution layers are known here; "
            "take another sensitivity, or leave it out of the model's compressible tensors"
        )
    return layer


def called_alone(module: nn.Module, name: str) -> bool:
    """Whether all uses of a parameter are its layer's calls: not where it is tied to another's, or where attention
    takes the weight from its output layer without calling that."""
    parent = module.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return False
    mine = module.get_parameter(name)
    return sum(p is mine for _, p in module.named_parameters(remove_duplicate=False)) == 1


def _sum_bias(layer: nn.Module, gradients: Sequence[Tensor]) -> Tensor:
    """(B, O) per-sample gradients of a bias, summed over places and calls."""
    return torch.stack([rows_of(layer, g).sum(-1) for g in gradients]).sum(0)


def accumulate(total: dict[str, Tensor], part: Mapping[str, Tensor]) -> None:
    """total += part, in float64 so that the order of batches hardly matters."""
    for name, value in part.items():
        total[name] = total[name] + value.double() if name in total else value.double()
