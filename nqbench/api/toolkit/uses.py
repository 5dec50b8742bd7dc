"""What a network multiplies its parameters with, seen at the dispatcher, whatever layers or functions it is written in.

Every layer that has a weight comes down to a few operations of PyTorch's: a matrix product (linear layers, attention's
projections, the gates of an LSTM or GRU, ``x @ W``), a convolution of any kind, or a look-up of rows (embeddings). A
``TorchDispatchMode`` sees each with the tensors it gets; one of them that lies in a parameter's storage is that
parameter, or a part of it, or it transposed. So nothing need be known of classes: tied weights, layers used several
times, TorchScript and exported networks show all their uses.

What is computed from a parameter entry by entry (weight and spectral normalization, pruning by a mask, a cast) stands
for it: there the state holds what is normalized, and to first order both change alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nqbench.api.moments import Layout
from nqbench.api.toolkit.windows import Window

aten = torch.ops.aten


@dataclass(frozen=True)
class Geometry:
    """How an operation meets a parameter. window: a convolution's. layout: see ``Moments``."""

    kind: Literal["product", "convolution", "lookup"]
    layout: Layout = 0
    groups: int = 1
    window: Window | None = None


@dataclass(frozen=True, eq=False)
class Use:
    """One operation with a parameter.

    x: what it is multiplied with. A product's: (n, m) vectors, or (G, n, m) where it is G weights; a convolution's
    input (B, channels, ...); the indices that a look-up is given. run: the operation again with another x; None where
    x is not just what the operation gets.
    """

    name: str
    geometry: Geometry
    x: Tensor
    run: Callable[[Tensor], Tensor] | None = None

    def without_padding(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x, this use's or like it, at tokens alone: what padding brings to a layer never reaches the outputs.

        mask: of the batch, where there is padding (``Model.attention_mask``). A use that has not one vector for each
        of its places (a classifier's, of whole sentences) stays as it is.
        """
        if mask is None or self.geometry.kind == "convolution":
            return x
        if self.geometry.kind == "lookup":
            return x.reshape(-1)[mask.reshape(-1)] if x.numel() == mask.numel() else x
        return x[..., mask.reshape(-1), :] if x.shape[-2] == mask.numel() else x


Seen = Callable[[Use], Tensor | None]
"""Called before each use; it may change the parameter in place. What it returns stands for the operation's result."""


@contextmanager
def watching(module: nn.Module, names: Sequence[str], seen: Seen) -> Iterator[None]:
    """Inside the block, ``seen`` is told of each use of the module's parameters of these names. Without gradients.

    Fused operations that would hide uses (attention's fast path, recurrent layers of oneDNN and cuDNN) are taken apart.
    """
    parameters = {name: _walk(module, name) for name in names}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if any("LSTM" in _kind(part) or isinstance(part, nn.RNNBase) for part in module.modules()):
            stack.enter_context(_without_fused_recurrence())
        stack.enter_context(_whole_attention())
        stack.enter_context(_Watch(parameters, seen))
        yield


def _walk(module: nn.Module, name: str) -> Tensor:
    found: Any = module
    for step in name.split("."):
        found = getattr(found, step)
    assert isinstance(found, Tensor)
    return found.detach()


def _kind(part: nn.Module) -> str:
    return str(getattr(part, "original_name", type(part).__name__))


@contextmanager
def _without_fused_recurrence() -> Iterator[None]:
    with torch.backends.cudnn.flags(enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch of oneDNN sets what PyTorch itself has given up
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@contextmanager
def _whole_attention() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@dataclass(frozen=True, eq=False)
class _Held:
    """A stretch of memory that holds a parameter, or (``remake`` set) what was computed from one entry by entry."""

    name: str
    tensor: Tensor
    remake: Callable[[], Tensor] | None = None

    def covers(self, other: Tensor) -> bool:
        start = self.tensor.storage_offset()
        return start <= other.storage_offset() < start + max(self.tensor.numel(), 1)

    def is_whole(self, other: Tensor) -> bool:
        """Whether it is this very tensor, all of it."""
        mine = self.tensor
        return (
            other.shape == mine.shape
            and other.stride() == mine.stride()
            and other.storage_offset() == mine.storage_offset()
        )

    def layout_of(self, part: Tensor) -> Layout | None:
        """How a matrix (a, b) that a product sums over along its first axis lies in the parameter (R, C, all but the
        first axis as one): 0 for rows of it transposed, 1 for columns of it; None for any other part."""
        mine = self.tensor
        outputs = mine.shape[0]
        inputs = mine.numel() // max(outputs, 1)
        if mine.is_contiguous():
            down, right = inputs, 1
        elif mine.dim() == 2:
            down, right = mine.stride()
        else:
            return None
        offset = part.storage_offset() - mine.storage_offset()
        (a, b), (step_a, step_b) = part.shape, part.stride()
        if a == inputs and _steps(a, step_a, right) and _steps(b, step_b, down) and offset % max(down, 1) == 0:
            return 0
        if a == outputs and _steps(a, step_a, down) and _steps(b, step_b, right):
            return 1
        return None

    def stacked_layout(self, part: Tensor) -> Layout | None:
        """As ``layout_of`` for G matrices (G, a, b) that are all of a parameter of three axes or more."""
        mine = self.tensor
        if part.shape[0] != mine.shape[0] or mine.dim() < 3 or not mine.is_contiguous():
            return None
        each = mine.numel() // mine.shape[0]
        if part.stride(0) != each or part.storage_offset() != mine.storage_offset() or part[0].numel() != each:
            return None
        inner = mine[0].numel() // mine.shape[1]
        if part.shape[1] == inner and part.stride()[1:] == (1, inner):
            return 0
        return 2 if part.shape[1] == mine.shape[1] and part.stride()[1:] == (inner, 1) else None


def _steps(length: int, step: int, wanted: int) -> bool:
    return length == 1 or step == wanted


_Found = tuple[Geometry, Tensor, int | None]
"""geometry, x, and which argument of the operation x is (None where it is not just one)."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, parameters: Mapping[str, Tensor], seen: Seen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen
        self.places: dict[int, list[_Held]] = {}
        self.derived: dict[str, list[_Held]] = {}
        for name, tensor in parameters.items():
            if tensor.dim():
                self._hold(_Held(name, tensor))

    def _hold(self, held: _Held) -> None:
        self.places.setdefault(held.tensor.untyped_storage().data_ptr(), []).append(held)

    def held(self, value: object) -> _Held | None:
        """What a tensor lies in."""
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.numel():
            return None
        around = self.places.get(value.untyped_storage().data_ptr(), ())
        return next((held for held in around if held.covers(value)), None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet not in _USES and packet not in _ENTRYWISE and _made_of_others(func):
            with self:  # which autograd would have taken apart
                return func.decompose(*args, **kwargs)
        out = self._told(func, args, kwargs) if packet in _USES else None
        out = func(*args, **kwargs) if out is None else out
        if packet in _ENTRYWISE:
            self._derive(func, args, kwargs, out)
        return out

    def _told(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        found = _USES[func.overloadpacket](self, args)
        if found is None:
            return None
        held, (geometry, x, place) = found
        if held.remake is None and (".parametrizations." in held.name or held.name.endswith("_orig")):
            return None  # what normalizes it, a step of power iteration: its uses are those of what is made from it

        def run(other: Tensor) -> Tensor:
            assert place is not None
            changed = [*args]
            changed[place] = other
            result: Tensor = func(*changed, **kwargs)
            return result

        result = self.seen(Use(held.name, geometry, x, None if place is None else run))
        self._refresh(held.name)
        return result

    def _derive(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Take the result for the parameter it was computed from, if it has that one's shape."""
        result = out[0] if isinstance(out, tuple | list) else out
        for value in args[:2]:
            held = self.held(value)
            if held is None or not held.is_whole(value) or not isinstance(result, Tensor):
                continue
            other = [a for a in args[:2] if isinstance(a, Tensor) and a is not value]
            same = result.shape == value.shape and result.untyped_storage().data_ptr() not in self.places
            if same and (func.overloadpacket is not aten.sub or all(a.numel() < value.numel() for a in other)):

                def remake() -> Tensor:
                    again = func(*args, **kwargs)
                    made: Tensor = again[0] if isinstance(again, tuple | list) else again
                    return made

                derived = _Held(held.name, result, remake)
                self._hold(derived)
                self.derived.setdefault(held.name, []).append(derived)
                return

    def _refresh(self, name: str) -> None:
        """What was computed from a parameter, computed again: ``seen`` may have changed it."""
        for held in self.derived.get(name, ()):
            assert held.remake is not None
            held.tensor.copy_(held.remake())


@cache
def _made_of_others(func: Any) -> bool:
    """Whether an operation is a composition of others, for every device."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _product(watch: _Watch, left: Tensor, right: Tensor, place: int | None) -> tuple[_Held, _Found] | None:
    """A matrix product with a parameter on either side. place: of the left matrix among the arguments,
    where the result's rows are its rows."""
    held = watch.held(right)
    layout = None if held is None else held.layout_of(right)
    if held is not None and layout is not None:
        return held, (Geometry("product", layout), left, place)
    held = watch.held(left)
    layout = None if held is None else held.layout_of(left.t())
    if held is not None and layout is not None:
        return held, (Geometry("product", layout), right.t(), None)
    return None


def _products(watch: _Watch, left: Tensor, right: Tensor) -> tuple[_Held, _Found] | None:
    """A product of each of G pairs of matrices, all with one weight or each with its own."""
    for weight, other in ((right, left), (left.mT, right.mT)):
        held = watch.held(weight)
        if held is None:
            continue
        if len(weight) == 1 or weight.stride(0) == 0:
            layout = held.layout_of(weight[0])
            if layout is not None:
                return held, (Geometry("product", layout), other.reshape(-1, other.shape[-1]), None)
        layout = held.stacked_layout(weight)
        if layout is not None:
            return held, (Geometry("product", layout, len(weight)), other, None)
    return None


def _convolution(watch: _Watch, args: Any) -> tuple[_Held, _Found] | None:
    x, weight, _, stride, padding, dilation, transposed, extra, groups = args
    held = watch.held(weight)
    if held is None or not held.is_whole(weight):
        return None
    window = Window(
        tuple(weight.shape[2:]),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
        tuple(extra) if transposed else None,
    )
    return held, (Geometry("convolution", 1 if transposed else 0, groups, window), x, 0)


def _lookup(watch: _Watch, weight: Tensor, indices: object, place: int | None) -> tuple[_Held, _Found] | None:
    held = watch.held(weight)
    whole = held is not None and held.is_whole(weight)
    if held is None or not whole or not isinstance(indices, Tensor) or indices.dtype not in (torch.int64, torch.int32):
        return None
    return held, (Geometry("lookup", 1), indices, place)


def _index(watch: _Watch, args: Any) -> tuple[_Held, _Found] | None:
    """``weight[indices]``."""
    return _lookup(watch, args[0], args[1][0], None) if len(args[1]) == 1 else None


_USES: dict[Any, Callable[[_Watch, Any], tuple[_Held, _Found] | None]] = {
    aten.mm: lambda watch, a: _product(watch, a[0], a[1], 0),
    aten.addmm: lambda watch, a: _product(watch, a[1], a[2], 1 if a[0].numel() == a[0].shape[-1] else None),
    aten.mv: lambda watch, a: _product(watch, a[0], a[1][:, None], 0),
    aten.addmv: lambda watch, a: _product(watch, a[1], a[2][:, None], 1),
    aten.bmm: lambda watch, a: _products(watch, a[0], a[1]),
    aten.baddbmm: lambda watch, a: _products(watch, a[1], a[2]),
    aten.convolution: _convolution,
    aten.embedding: lambda watch, a: _lookup(watch, a[0], a[1], 1),
    aten._embedding_bag: lambda watch, a: _lookup(watch, a[0], a[1], None),
    aten._embedding_bag_forward_only: lambda watch, a: _lookup(watch, a[0], a[1], None),
    aten.index_select: lambda watch, a: _lookup(watch, a[0], a[2], None) if a[1] == 0 else None,
    aten.index: _index,
}

_ENTRYWISE = {
    aten.mul,
    aten.div,
    aten.sub,
    aten.clone,
    aten._to_copy,
    aten._weight_norm_interface,
}
"""Operations whose result stands for the parameter that goes into them."""
