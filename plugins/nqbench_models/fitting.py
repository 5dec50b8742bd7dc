"""Loading a checkpoint's tensors into a network: names are matched after prefixes that frameworks add are removed.

Networks may be saved from inside wrappers (``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` of
a trainer), with tied weights under only one of their names, and with old batch norms that lack a counter. None of this
changes the network. Any other difference is reported in one line, with the names in the file and those that the network
expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from nqbench.api import BadInput
from nqbench_models.checkpoint import some

_COMPILED = "_orig_mod."
_DEPTH = 4  # wrappers around wrappers
_COUNTER = "num_batches_tracked"

Say = Callable[[str], None]


def fill(
    module: nn.Module, state: Mapping[str, Tensor], path: Path, *, assign: bool = False, say: Say | None = None
) -> None:
    """A strict ``load_state_dict`` after renaming. say: called with a description of the renaming.

    Raises BadInput with the first name, shape or kind of number that does not fit.
    """
    own = module.state_dict(keep_vars=True)
    _check_kinds(path, state, own)
    try:
        module.load_state_dict(state, assign=assign)
        return
    except (RuntimeError, AttributeError, TypeError) as error:
        refusal = " ".join(str(error).split())
    fits = [Fit.of(own, renamed, how) for renamed, how in _renamings(state, own)]
    best = min(fits, key=lambda fit: fit.faults)
    if best.faults:
        raise BadInput(f"{path}{best.told(own)}")
    _check_kinds(path, best.state, own)
    try:
        module.load_state_dict(best.state, assign=assign)
    except RuntimeError:
        raise BadInput(f"{path} does not fit the network: {refusal[:200]}") from None
    if best.how and say is not None:
        say(f"{path}: {best.how}")


def _check_kinds(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """PyTorch would drop imaginary parts without an error, and take the codes of quantized weights for weights."""
    for name, tensor in state.items():
        wanted = own.get(name)
        if wanted is None or not isinstance(tensor, Tensor) or not wanted.is_floating_point():
            continue
        if not tensor.is_floating_point():
            kinds = [str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted.dtype)]
            what = "" if tensor.is_complex() else " (codes, whose scales are elsewhere?)"
            raise BadInput(f"{path}: '{name}' is {kinds[0]}{what}, and {kinds[1]} in the network: convert it first")


@dataclass(frozen=True)
class Fit:
    """How a renamed state dict fits a network. state: the tensors to load. held: the names in the file. how: a
    description of the renaming."""

    state: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    misshapen: tuple[str, ...]
    held: tuple[str, ...]
    how: str

    @staticmethod
    def of(own: Mapping[str, Tensor], state: Mapping[str, Tensor], how: str) -> Fit:
        """Tied weights are found under any of their names; for a missing counter the network's own value is kept."""
        whole = dict(state)
        firsts: dict[int, str] = {}
        for name in own:
            if name in state:
                firsts.setdefault(id(own[name]), name)
        for name, tensor in own.items():
            if name not in whole and id(tensor) in firsts:
                whole[name] = state[firsts[id(tensor)]]
            elif name not in whole and name.rpartition(".")[2] == _COUNTER:
                whole[name] = tensor.detach()
        wrong = (name for name in own if name in whole and not _same_shape(whole[name], own[name]))
        return Fit(
            whole,
            tuple(name for name in own if name not in whole and not name.endswith("_extra_state")),
            tuple(sorted(set(state) - set(own))),
            tuple(wrong),
            tuple(state),
            how,
        )

    @property
    def faults(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.misshapen)

    def told(self, own: Mapping[str, Tensor]) -> str:
        """The end of a message that begins with the file's name."""
        if self.missing:
            name = self.missing[0]
            text = f" has no '{name}', which the network has{_more(self.missing)}; it holds {some(list(self.held))}"
            return text if set(self.held) & set(own) else f"{text} where the network wants {some(list(own))}"
        if self.misshapen:
            name = self.misshapen[0]
            shapes = f"{tuple(self.state[name].shape)}, not {tuple(own[name].shape)} as in the network"
            return f": '{name}' has the shape {shapes}{_more(self.misshapen)}"
        name = self.unknown[0]
        return f" holds '{name}', which the network does not have{_more(self.unknown)}; it has {some(list(own))}"


def _same_shape(one: Tensor, other: Tensor) -> bool:
    # older versions of PyTorch saved scalars as vectors of length 1
    return one.shape == other.shape or (one.numel() == other.numel() == 1 and one.dim() + other.dim() == 1)


def _more(names: tuple[str, ...]) -> str:
    return f" (nor {len(names) - 1} more)" if len(names) > 1 else ""


def _renamings(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[tuple[Mapping[str, Tensor], str]]:
    """The state under all renamings that undo or add a wrapper's prefix, unchanged first; each with a description."""
    yield state, ""
    plain = {name.replace(_COMPILED, ""): tensor for name, tensor in state.items()}
    marked = f"'{_COMPILED}' removed from the names" if len(plain) == len(state) and set(plain) != set(state) else ""
    if marked:
        yield plain, marked
    else:
        plain = dict(state)
    taken = ""
    for _ in range(_DEPTH):
        first = _common(plain)
        if not first:
            break
        taken += first
        plain = {name.removeprefix(first): tensor for name, tensor in plain.items()}
        yield plain, f"'{taken}' removed from the names" + (f", {marked}" if marked else "")
    added, wanted = "", dict(own)
    for _ in range(_DEPTH):
        first = _common(wanted)
        if not first:
            break
        added += first
        wanted = {name.removeprefix(first): tensor for name, tensor in wanted.items()}
        yield {added + name: tensor for name, tensor in state.items()}, f"'{added}' added before the names"


def _common(state: Mapping[str, object]) -> str:
    """The first part of the names, with its dot, if it is the same for all names and not the whole of any; otherwise
    empty."""
    firsts = {name.partition(".")[0] for name in state if "." in name}
    whole = all("." in name for name in state)
    return f"{next(iter(firsts))}." if whole and len(firsts) == 1 else ""
