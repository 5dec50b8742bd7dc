"""A loaded network: its state, which tensors are quantized, and how the others are stored."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from nqbench.api import BadInput, Model, Pruned, QuantizedModel, Quantizer, deployed
from nqbench.api.modules import modes_kept, writable_buffers
from nqbench.api.plain import place, same_numbers
from nqbench.api.toolkit.content import content_hash
from nqbench.api.toolkit.masters import is_half
from nqbench.api.toolkit.store import networks_read
from nqbench.container import as_stored
from nqbench.pipeline.batchnorm import folds
from nqbench.pipeline.checks import Odd, check_state, odd_numbers

_NORMAL = torch.finfo(torch.float16).smallest_normal
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(eq=False)
class Network:
    """module: as the model loaded it, never changed, and never run: a forward pass may leave something behind.

    names: compressible tensors in the state's order, each of which requires a gradient, however it came: what is
    quantized is sensed and tuned. aliases: name -> the earlier name that shares its tensor. parameters: names of the
    float parameters, frozen ones too, aliases left out. moments: second moments of the gradients, where training kept
    them. stored: the networks of the store that it came from (``nqbench.api.Network``). given_bytes: as the model's
    ``stored_bytes`` has them.
    """

    module: nn.Module
    names: tuple[str, ...]
    order: tuple[str, ...]
    aliases: Mapping[str, str]
    parameters: frozenset[str]
    moments: Mapping[str, Tensor] | None = None
    stored: Mapping[str, str] = field(default_factory=dict)
    given_bytes: int | None = None

    @staticmethod
    def load(model: Model, device: torch.device) -> Network:
        """The model's trained network, with its moments. Raises what the model raises, or BadInput."""
        with networks_read() as stored:
            module = model.load(device).eval()
            check_state(model.name, module)
            moments = model.moments(device)
        return replace(Network.of(model, module), moments=moments, stored=stored)

    @staticmethod
    def of(model: Model, module: nn.Module) -> Network:
        tie(module, module)
        state = module.state_dict(keep_vars=True)
        first: dict[tuple[object, ...], str] = {}
        aliases = {}
        for name, tensor in state.items():
            # a buffer in a parameter's memory is stored for itself
            at = (isinstance(tensor, nn.Parameter), *place(tensor))
            if tensor.numel() and first.setdefault(at, name) != name:
                aliases[name] = first[at]
        chosen = {aliases.get(name, name) for name in model.compressible(module)}
        unknown = chosen - set(state)
        if unknown or not chosen:
            raise BadInput(f"model '{model.name}' has no compressible tensor {', '.join(sorted(unknown)) or 'at all'}")
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for name in chosen & set(parameters):
            parameters[name].requires_grad_()
        return Network(
            module,
            tuple(name for name in state if name in chosen),
            tuple(state),
            aliases,
            frozenset(n for n, p in parameters.items() if p.is_floating_point() and n not in aliases),
            given_bytes=model.stored_bytes(),
        )

    @cached_property
    def sha256(self) -> str:
        """Of the whole state in its order, as ``content_hash`` gives it of what a file decodes to."""
        return content_hash(self.module.state_dict())

    @cached_property
    def unpruned(self) -> Pruned:
        return Pruned(self.state, {}, self.moments)

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The trained state, aliases left out (not copies: do not write to them)."""
        return {n: t for n, t in self.module.state_dict().items() if n not in self.aliases}

    @cached_property
    def odd(self) -> tuple[Odd, ...]:
        return odd_numbers(self.state, self.names)

    @property
    def raw(self) -> list[str]:
        """The tensors that are not quantized, aliases left out."""
        return [name for name in self.order if name not in self.names and name not in self.aliases]

    def parameter_count(self) -> int:
        """Float parameters: N of the published ratios."""
        return sum(self.state[name].numel() for name in self.parameters)

    def float_bytes(self) -> int:
        """The state as float32: 4 bytes a number of a float tensor, other tensors as they are."""
        return sum(t.numel() * (4 if t.is_floating_point() else t.dtype.itemsize) for t in self.state.values())

    def decoded_bytes(self) -> int:
        """What a file of this network stands for, as its header counts it (``nqbench.container.header``)."""
        return sum(t.numel() * max(t.dtype.itemsize, 4) for t in self.state.values())

    def own_bytes(self) -> int:
        """The state in its own dtypes, or the file that it came in, where that is smaller."""
        own = sum(t.numel() * t.dtype.itemsize for t in self.state.values())
        return min(self.given_bytes or own, own)

    def variant(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A fresh copy of the network with another state, or with its own: for whoever runs it. Raises BadInput where
        it cannot be copied, or the state does not reach it."""
        module = copied(self.module)
        fill(module, state)
        return module

    @cached_property
    def statistics(self) -> frozenset[str]:
        """Names of batch norms' statistics, which published ratios do not count."""
        modules = self.module.named_modules(remove_duplicate=False)
        norms = {name for name, module in modules if _is_batchnorm(module)}
        parts = ((name, *name.rpartition(".")) for name in self.order)
        return frozenset(name for name, owner, _, last in parts if owner in norms and last in _STATISTICS)

    def batchnorms(self) -> list[tuple[str, nn.modules.batchnorm._BatchNorm]]:
        """(prefix, module) of every batch norm that has both a scale and statistics."""
        found = []
        for name, module in self.module.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and module.track_running_stats:
                found.append((f"{name}." if name else "", module))
        return found


def _is_batchnorm(module: nn.Module) -> bool:
    """Exports keep no classes: TorchScript keeps their names, torch.export plain modules, where statistics go by their
    own names."""
    if isinstance(module, torch.jit.ScriptModule):
        return "BatchNorm" in str(module.original_name)
    return isinstance(module, nn.modules.batchnorm._BatchNorm) or type(module) is nn.Module


def copied(module: nn.Module) -> nn.Module:
    """A copy of a network. Of tensors that layers keep from their last forward pass (``torch.nn.utils.weight_norm``
    keeps a whole weight) it has the numbers alone, since tensors with a graph cannot be copied. Raises BadInput where
    something else cannot."""
    # what deepcopy takes for the copies of these
    memo = {id(tensor): tensor.detach().clone() for layer in module.modules() for tensor in _passed(vars(layer))}
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        where = _uncopied(module)
        raise BadInput(f"the network cannot be copied: {where}{type(error).__name__}: {said}") from error
    tie(copied, module)
    return writable_buffers(copied)


def _passed(value: object, depth: int = 4) -> Iterator[Tensor]:
    """The tensors with a graph among a layer's attributes, and in what these hold."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
    elif isinstance(value, Mapping | list | tuple) and depth:
        for inner in list(value.values() if isinstance(value, Mapping) else value):
            yield from _passed(inner, depth - 1)


def _uncopied(module: nn.Module) -> str:
    """The attribute that cannot be copied, as the begin of a reason; empty where none can be blamed alone."""
    every = vars(nn.Module())  # parameters and layers, which are looked at themselves
    for path, layer in module.named_modules():
        for name, value in vars(layer).items():
            if name in every:
                continue
            try:
                copy.deepcopy(value)
            except Exception:  # noqa: BLE001 - whatever the attribute's own copying raises
                return f"'{path}{'.' * bool(path)}{name}' is the reason, "
    return ""


def tie(module: nn.Module, like: nn.Module) -> None:
    """Make those parameters one that are the same numbers in ``like``, a network of the same form: two
    ``nn.Parameter`` of one memory, an older way of tying weights, would be copied apart, and trained and stored as
    two."""
    first: dict[tuple[object, ...], str] = {}
    own = dict(module.named_parameters(remove_duplicate=False))
    for name, parameter in like.named_parameters(remove_duplicate=False):
        known = first.setdefault(place(parameter), name) if parameter.numel() else name
        if own[known] is not own[name]:
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, own[known])


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write a state (aliases may be missing) into a module, in place. Raises BadInput where it does not arrive.

    Layers that keep something derived from their weights (a bias by positions, merged weights) make it anew where they
    go into training mode or out of it, as they do when a network is trained. That may round what they hold, so that the
    state is written once more.
    """
    own = _written(module, state)
    if not module.training and _turned(module):
        own = _written(module, state)
    there = module.state_dict()
    for name in state:
        if place(there[name]) != place(own[name]) and not same_numbers(there[name], own[name]):
            raise BadInput(
                f"'{name}' cannot be written into the network: its state_dict() gives copies (a hook, or a method of "
                "the network's own); let it give the tensors themselves"
            )


def _written(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What it was written into."""
    own = module.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
    return own


def _turned(module: nn.Module) -> bool:
    """Into training mode and out of it, every layer's mode as it was; whether the network takes that."""
    try:
        with modes_kept(module):
            module.train()
            module.eval()
    except Exception:  # noqa: BLE001 - exported networks refuse; whatever a network's own method raises
        return False
    return True


def fold_batchnorms(network: Network, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each batch norm as scale and shift alone: weight s sqrt(1 + eps), bias b - mean s, s = g / sqrt(var + eps).

    Its statistics become constants (mean 0, var 1: numbers that every format holds), which cost two bytes each. One
    that shares a tensor with another layer, or whose tensors are quantized, or stored under other names, stays as it
    is; so does one of another formula, and one of which a channel's scale alone would vanish in float16, divided by a
    huge deviation, although its weight would not.
    """
    folded = dict(raw)
    shared = {*network.aliases, *network.aliases.values()}
    for prefix, module in network.batchnorms():
        own = [f"{prefix}{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if any(name not in raw or name in shared for name in own):
            continue
        weight, bias = raw[f"{prefix}weight"].double(), raw[f"{prefix}bias"].double()
        mean, var = raw[f"{prefix}running_mean"].double(), raw[f"{prefix}running_var"].double()
        scale = weight / torch.sqrt(var + module.eps)
        small = scale.abs() < _NORMAL
        if bool((small & (weight.abs() >= _NORMAL)).any()) and not bool(small.all()):
            continue
        changed = {
            "weight": scale * math.sqrt(1.0 + module.eps),
            "bias": bias - mean * scale,
            "running_mean": torch.zeros_like(mean),
            "running_var": torch.ones_like(var),
        }
        if f"{prefix}num_batches_tracked" in raw:
            changed["num_batches_tracked"] = torch.zeros_like(raw[f"{prefix}num_batches_tracked"])
        before = {name.removeprefix(prefix): t for name, t in raw.items() if name.startswith(prefix)}
        if folds(module, before, {**before, **changed}):
            folded |= {f"{prefix}{part}": t.to(raw[f"{prefix}{part}"].dtype) for part, t in changed.items()}
    return folded


def unquantized(network: Network, raw: Mapping[str, Tensor], *, fold: bool) -> dict[str, Tensor]:
    """The unquantized tensors on the CPU as a file takes them, aliases left out."""
    plain = {name: t.detach().cpu() for name, t in raw.items() if name not in network.aliases}
    return fold_batchnorms(network, plain) if fold else plain


def raw_as_deployed(network: Network, plain: Mapping[str, Tensor], others: str) -> dict[str, Tensor]:
    """``unquantized`` tensors as a decoder will give them back."""
    return {name: as_stored(t, others, parameter=name in network.parameters) for name, t in plain.items()}


def values_of(quantizer: Quantizer, model: QuantizedModel) -> list[Tensor]:
    """The reconstructed weights of each group: (n,) float32 on its device, without -0."""
    return [deployed(quantizer, group.quantized).detach().to(torch.float32) + 0.0 for group in model.groups]


def deployed_weights(
    model: QuantizedModel, values: Sequence[Tensor], masks: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """name -> tensor on the CPU with the dtype and shape of ``like``: pruned places +0. values: ``values_of`` it."""
    deployed = {}
    for group, flat in zip(model.groups, values, strict=True):
        for name, kept in zip(group.names, torch.split(flat, list(group.quantized.sizes)), strict=True):
            shape, dtype = like[name].shape, like[name].dtype
            mask = masks.get(name)
            whole = kept.reshape(shape) if mask is None else torch.zeros(shape).masked_scatter_(mask.cpu(), kept)
            deployed[name] = in_dtype(name, whole, dtype)
    return deployed


def in_dtype(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Decoded weights as the network has them. Raises BadInput where its dtype does not reach as far as a codeword."""
    found = values.to(dtype)
    if is_half(found) and not bool(torch.isfinite(found).all()):
        kind = str(dtype).removeprefix("torch.")
        raise BadInput(
            f"'{name}' has a codeword of {float(values.abs().max()):g}, which is infinite in {kind}, its own dtype: "
            "store the network in float32, or use a quantizer whose values stay within the weights' own"
        )
    return found
