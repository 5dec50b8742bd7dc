"""Tensors into a compressed file without any data, and back in Python: alone or in a network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nqbench.api import Coder, Group, Quantizer

STEP = 0.1
"""In standard deviations of each tensor: an error of D^2 / 12, 31 dB below the weights, in about 5.4 bits of a normal
law."""
_STATISTICS = ("running_mean", "running_var")


def save(
    state: Mapping[str, Tensor] | nn.Module,
    path: str | os.PathLike[str],
    *,
    step: float = STEP,
    quantizer: str = "uniform",
    parameters: Mapping[str, Any] | None = None,
    coder: str = "context",
    unquantized: str = "float16",
    tensors: Sequence[str] | None = None,
) -> int:
    """Put a network's tensors into a ``.nqz`` file without looking at any data: rate alone, no metric is held.

    Each tensor of two or more dimensions is quantized by itself and entropy-coded; the others are stored. With data,
    ``nqbench.compress`` makes a far smaller file of the same quality, and knows what it costs.

    Args:
        state: name -> tensor, or a module; on any device. Tensors that share memory are stored once.
        path: the file, replaced where there is one.
        step: distance of the grid's points in standard deviations of a tensor, for ``uniform``.
        quantizer: one that needs no data: ``uniform``, ``rtn``, ``nf4``, ``kmeans`` (``nqbench list quantizer``).
        parameters: of the quantizer, in place of ``step``: ``{"bits": 4, "granularity": "group"}`` for ``rtn``.
        coder: of the symbols (``nqbench list coder``).
        unquantized: how the other parameters are stored: ``float16``, ``float32`` or ``uint8``. Buffers keep every bit,
            unless with ``float16-all`` or ``uint8-all``.
        tensors: the names to quantize. None: every floating-point parameter of two or more dimensions (of a mapping,
            which does not tell parameters from buffers, every such tensor but running statistics).

    Returns:
        The file's bytes.

    Raises:
        BadInput: a name or a parameter is unknown, the quantizer needs data, or a tensor holds nan or inf.

    Example:
        >>> import pathlib, tempfile, torch
        >>> weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "layer.nqz"
        >>> size = save({"weight": weight, "bias": torch.zeros(64)}, path, step=0.5)
        >>> size == path.stat().st_size < 4 * weight.numel() / 8
        True
        >>> back = load(path)
        >>> list(back), bool((back["weight"] - weight).abs().max() <= 0.5)
        (['weight', 'bias'], True)
    """
    from torch import Tensor, nn

    from nqbench.api import BadInput, Coder, Quantizer
    from nqbench.api.toolkit.paths import reason
    from nqbench.container import Contents, write
    from nqbench.pipeline.checks import note_tiny, objection
    from nqbench.pipeline.trial import Unquantized
    from nqbench.registry import registry

    if not isinstance(state, Mapping | nn.Module) or not all(
        isinstance(name, str) and isinstance(t, Tensor) for name, t in _state_of(state).items()
    ):
        raise BadInput(
            f"state is {type(state).__name__}, expected a torch.nn.Module, or a mapping from names to tensors"
        )
    for name, tensor in _state_of(state).items():
        if reason_not := objection(tensor):
            raise BadInput(f"'{name}' {reason_not}")
    if unquantized not in get_args(Unquantized):
        raise BadInput(f"unquantized is '{unquantized}', expected one of {', '.join(get_args(Unquantized))}")
    known = registry()
    options = dict(parameters or ({"granularity": "layer", "step": step} if quantizer == "uniform" else {}))
    method, coding = known.make("quantizer", quantizer, options), known.make("coder", coder, {})
    assert isinstance(method, Quantizer)
    assert isinstance(coding, Coder)
    if "none" not in method.takes:
        raise BadInput(f"quantizer '{quantizer}' needs data to be sensitive to: use nqbench.compress, or uniform here")
    whole, aliases, trained = _taken_apart(state)
    chosen = [n for n in trained if whole[n].dim() >= 2 and whole[n].is_floating_point() and whole[n].numel()]
    if tensors is not None:
        unknown = [name for name in tensors if name not in whole]
        if unknown:
            raise BadInput(f"the state has no tensor '{unknown[0]}'; it has {', '.join(list(whole)[:5])} ...")
        chosen = [name for name in whole if name in set(tensors)]
    note_tiny(whole, chosen)
    contents = Contents(
        order=tuple(whole if not aliases else _state_of(state)),
        shapes={name: tuple(whole[name].shape) for name in chosen},
        dtypes={name: whole[name].dtype for name in chosen},
        raw={name: tensor for name, tensor in whole.items() if name not in set(chosen)},
        parameters=frozenset(trained),
        groups=tuple(_quantized(method, coding, name, whole[name]) for name in chosen),
        aliases=aliases,
        quantizer=method,
        coder=coding,
        unquantized=unquantized,
    )
    try:
        return write(path, contents, known).file_bytes
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({reason(error)}); choose another path") from None


def _state_of(state: Mapping[str, Tensor] | nn.Module) -> Mapping[str, Tensor]:
    return state if isinstance(state, Mapping) else state.state_dict()


def _taken_apart(
    state: Mapping[str, Tensor] | nn.Module,
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The tensors on the CPU, each once; name -> the first name of the same tensor; the names of parameters."""
    from nqbench.api.plain import place

    given = _state_of(state)
    if isinstance(state, Mapping):
        trained = [n for n, t in given.items() if t.is_floating_point() and n.rpartition(".")[2] not in _STATISTICS]
    else:
        trained = [name for name, _ in state.named_parameters(remove_duplicate=False)]
    first: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in given.items():
        if tensor.numel() and (known := first.setdefault(place(tensor), name)) != name:
            aliases[name] = known
    whole = {name: tensor.detach().cpu() for name, tensor in given.items() if name not in aliases}
    return whole, aliases, [name for name in trained if name in whole]


def _quantized(quantizer: Quantizer, coder: Coder, name: str, tensor: Tensor) -> Group:
    import torch

    from nqbench.api import BadInput, Group, Source, SourceTensor, deployed
    from nqbench.api.toolkit.masters import is_half
    from nqbench.pipeline.network import in_dtype

    if not bool(torch.isfinite(tensor).all()):
        raise BadInput(f"'{name}' holds nan or inf, which no grid stands for: leave it out of `tensors`")
    values = tensor.to(torch.float32).reshape(-1)
    rate = coder.rate if quantizer.uses_rate() else None
    part = SourceTensor(name, tuple(tensor.shape), 0, values.numel(), None, 1)
    found = quantizer.quantize(Source(values, (part,), rate=rate))
    if is_half(tensor):
        in_dtype(name, deployed(quantizer, found), tensor.dtype)
    return Group((name,), found)


def load(path: str | os.PathLike[str], *, limit: int | None = None) -> dict[str, Tensor]:
    """The state that a ``.nqz`` file stands for: every tensor under its name, on the CPU, in the state's order.

    The file alone is needed, and the plugins that ``nqbench inspect`` names.

    Args:
        path: the compressed file.
        limit: bytes of tensors that it may stand for. None: a tenth of this machine's memory, which decoding may take
            ten times of; of a file that you trust and have tried, more.

    Returns:
        name -> tensor of the shape and dtype that the network had; tied tensors stand under each of their names.

    Raises:
        CorruptFile: the file is damaged, and where, or stands for more than the limit. NotRegistered: it needs a
        plugin that is not installed. BadInput: there is no such file, or too little memory for what it stands for.
    """
    from nqbench.container import read
    from nqbench.registry import registry

    return read(path, registry(), limit=limit).tensors


def load_into(module: nn.Module, path: str | os.PathLike[str], *, limit: int | None = None) -> nn.Module:
    """Put the tensors of a ``.nqz`` file into a network of the architecture that was compressed, in place.

    Args:
        module: the network, on any device but meta. Tensors keep its dtypes; lazy layers take the file's shapes.
        path: the compressed file.
        limit: see ``load``.

    Returns:
        The module.

    Raises:
        What ``load`` raises. BadInput: names or shapes do not fit, or the module is on the device meta; the module is
        as it was.
    """
    from torch.nn.parameter import is_lazy

    from nqbench.api.errors import BadInput
    from nqbench.api.modules import writable_buffers

    tensors, wanted = load(path, limit=limit), module.state_dict()
    absent = [name for name in wanted if name not in tensors]
    odd = [name for name in tensors if name not in wanted]
    # ``load_state_dict`` gives lazy tensors the shapes of what it loads
    shaped = [n for n, t in wanted.items() if n in tensors and not is_lazy(t) and tensors[n].shape != t.shape]
    for names, what in ((absent, "lacks"), (odd, "has"), (shaped, "has another shape for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise BadInput(f"{os.fspath(path)} {what} '{names[0]}'{more}: it is of another network than this module")
    meta = [name for name, tensor in wanted.items() if tensor.device.type == "meta"]
    if meta:
        raise BadInput(
            f"'{meta[0]}' of the module is on the device meta, which holds no numbers: build the module on the CPU or "
            "a GPU, and load the file into that"
        )
    writable_buffers(module).load_state_dict(tensors)
    return module
