"""Checks of quantizers: that results are valid, and that they depend only on the source and the parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqbench.api import BadInput, Diagonal, Quantized, Quantizer, SecondMoments, Source
from nqbench.container.forms import check_form
from nqbench.testing.check import check, require
from nqbench.testing.other_process import call_in_other_process
from nqbench.testing.sources import FORMS, Part, laplace, one, pruned, source_of, typical

MAX_ALPHABET = 1 << 24  # StreamSpec's


def sound(quantizer: Quantizer, source: Source, of: str = "") -> tuple[Quantized, Tensor]:
    """(quantized, reconstruction) of a source, once everything that the contract says of them is made sure of."""
    q = quantizer.quantize(source)
    where = f"{of}: " if of else ""
    require(isinstance(q, Quantized), f"{where}quantize returns {type(q).__name__}, not Quantized")
    require(tuple(q.sizes) == source.sizes, f"{where}sizes {q.sizes}, where the source has {source.sizes}")
    _sound_symbols(q, source, where)
    _sound_extras(q, source, where)
    values = quantizer.reconstruct(q)
    require(values.shape == (source.n,), f"{where}reconstructs the shape {tuple(values.shape)}, not ({source.n},)")
    require(values.dtype == torch.float32, f"{where}reconstructs {values.dtype}, not torch.float32")
    require(values.device == source.device, f"{where}reconstructs on {values.device}, not on {source.device}")
    require(torch.isfinite(values).all(), f"{where}reconstructs values that are not finite")
    return q, values.detach()


def _sound_symbols(q: Quantized, source: Source, where: str) -> None:
    m = math.ceil(source.n / q.dimension)
    if q.structure is not None:
        _sound_structure(q, source, where)
        m = sum(q.structure.symbols(q.books))
    require(q.symbols.dtype == torch.int32, f"{where}symbols are {q.symbols.dtype}, not torch.int32")
    require(q.symbols.shape == (m,), f"{where}symbols have the shape {tuple(q.symbols.shape)}, not ({m},)")
    require(q.symbols.device == source.device, f"{where}symbols are on {q.symbols.device}, not on {source.device}")
    require(
        isinstance(q.alphabet, int) and 1 <= q.alphabet <= MAX_ALPHABET,
        f"{where}the alphabet is {q.alphabet!r}: an int from 1 to 2^24 is needed; refuse the source with BadInput",
    )
    low, high = int(q.symbols.min()), int(q.symbols.max())
    require(low >= 0 and high < q.alphabet, f"{where}symbols from {low} to {high} in an alphabet of {q.alphabet}")


def _sound_structure(q: Quantized, source: Source, where: str) -> None:
    """Of the source's tensors; and of no form that a file could not hold."""
    assert q.structure is not None
    shapes = tuple(tuple(t.shape) for t in source.tensors)
    require(q.structure.shapes == shapes, f"{where}a structure of the shapes {q.structure.shapes}, not {shapes}")
    for placed, tensor in zip(q.structure.tensors, source.tensors, strict=True):
        if placed.mask is None or tensor.mask is None:
            same = placed.mask is tensor.mask
        else:
            same = torch.equal(placed.mask, tensor.mask)
        require(same, f"{where}the structure has another mask of '{tensor.name}': take Structure.of(source)")
    try:
        check_form(q, len(source.tensors))
    except BadInput as error:
        require(False, f"{where}no file can hold it: {error}")


def _sound_extras(q: Quantized, source: Source, where: str) -> None:
    for name, value in q.parameters.items():
        require(isinstance(value, Tensor), f"{where}parameter '{name}' is {type(value).__name__}, not a tensor")
        require(value.dtype == torch.float32, f"{where}parameter '{name}' is {value.dtype}, not torch.float32")
        require(value.device == source.device, f"{where}parameter '{name}' is on {value.device}, not {source.device}")
        require(not value.requires_grad, f"{where}parameter '{name}' requires a gradient: detach it")
        require(torch.isfinite(value).all(), f"{where}parameter '{name}' has entries that are not finite")
    for name, side in q.side.items():
        kind = type(side).__name__
        require(isinstance(side, Tensor | int | float), f"{where}side '{name}' is {kind}, not int, float or tensor")
        if isinstance(side, int):
            require(-(1 << 63) <= side < 1 << 63, f"{where}side '{name}' does not fit 64 bits")
        elif isinstance(side, float):
            require(math.isfinite(side), f"{where}side '{name}' is {side}")
    for name, held in q.held.items():
        require(name in q.parameters, f"{where}held '{name}' is no parameter")
        good = held.dtype == torch.bool and held.shape == q.parameters[name].shape
        require(good, f"{where}held '{name}' is not a bool tensor of its parameter's shape")
    for name, figure in q.statistics.items():
        finite = isinstance(figure, int | float) and math.isfinite(figure)
        require(finite, f"{where}statistic '{name}' is {figure!r}, not a finite number")


def same(a: Quantized, b: Quantized) -> str:
    """What differs between two results, to the bit; empty if nothing does. Statistics are left out."""
    if a.symbols.shape != b.symbols.shape or not torch.equal(a.symbols, b.symbols):
        return "the symbols differ"
    if (a.alphabet, a.sizes, a.form) != (b.alphabet, b.sizes, b.form):
        return "alphabet, sizes or form differ"
    for what, mine, others in (("parameter", a.parameters, b.parameters), ("side", a.side, b.side)):
        if list(mine) != list(others):
            return f"the {what} names differ"
        for name, value in mine.items():
            other = others[name]
            equal = torch.equal(value, torch.as_tensor(other)) if isinstance(value, Tensor) else value == other
            if not equal:
                return f"{what} '{name}' differs"
    return ""


def needs_moments(quantizer: Quantizer) -> bool:
    """Whether it works on X X^T alone, which ties it to the tensors' shapes."""
    return quantizer.takes == frozenset({"second-moments"})


@check("quantizer")
def round_trip(quantizer: Quantizer) -> None:
    """Symbols, parameters, side and reconstruction keep the contract: types, shapes, ranges, sizes."""
    require(bool(quantizer.takes) and quantizer.takes <= set(FORMS), f"takes {set(quantizer.takes)}, not of {FORMS}")
    q, _ = sound(quantizer, source_of(quantizer, typical()))
    stated = quantizer.dimension()
    require(q.dimension == stated, f"dimension() says {stated} weights per symbol, its codebook {q.dimension}")


@check("quantizer")
def pruned_tensors(quantizer: Quantizer) -> None:
    """Several tensors, pruned in part, down to a single weight."""
    sound(quantizer, source_of(quantizer, pruned()))


@check("quantizer")
def wholly_pruned_tensor(quantizer: Quantizer) -> None:
    """A tensor of which nothing is kept, between others."""
    first, last = typical()
    gone = Part("gone.weight", laplace(6, 5, seed=3), torch.zeros(6, 5, dtype=torch.bool))
    sound(quantizer, source_of(quantizer, [first, gone, last]))


@check("quantizer")
def one_weight(quantizer: Quantizer) -> None:
    """A source of one weight: positive, negative, zero."""
    for value in (0.3, -0.3, 0.0):
        sound(quantizer, source_of(quantizer, one(torch.full((1, 1), value))), f"one weight of {value}")


@check("quantizer")
def few_weights(quantizer: Quantizer) -> None:
    """Sources of 2 to 9 weights: fewer than codewords, and no multiple of a vector's dimension."""
    for n in range(2, 10):
        sound(quantizer, source_of(quantizer, one(laplace(1, n, seed=n))), f"{n} weights")


@check("quantizer")
def all_equal(quantizer: Quantizer) -> None:
    """Weights that are all equal: 0, positive, negative."""
    for value in (0.0, 0.25, -0.1):
        sound(quantizer, source_of(quantizer, one(torch.full((8, 16), value))), f"all weights {value}")


@check("quantizer")
def two_distinct_values(quantizer: Quantizer) -> None:
    """Weights of two distinct values."""
    value = torch.where(laplace(8, 16) > 0, 0.25, -0.1)
    sound(quantizer, source_of(quantizer, one(value)))


@check("quantizer")
def outlier(quantizer: Quantizer) -> None:
    """One weight a thousand times larger than the rest."""
    value = laplace(16, 16)
    value[3, 4] = 50.0
    _sound_or_refused(quantizer, source_of(quantizer, one(value)), "an outlier")


@check("quantizer")
def extreme_scales(quantizer: Quantizer) -> None:
    """Weights of the order 1e-8 and 1e6: a sound result, or BadInput."""
    for scale in (1e-8, 1e6):
        _sound_or_refused(quantizer, source_of(quantizer, one(laplace(16, 16, scale=scale))), f"weights near {scale:g}")


def _sound_or_refused(quantizer: Quantizer, source: Source, of: str) -> None:
    try:
        sound(quantizer, source, of)
    except BadInput:
        return  # a step too fine for such weights may be refused, in words


def _in_one_line(error: BadInput) -> None:
    require(str(error).strip() and "\n" not in str(error), "BadInput without a one-line reason")


def refused(quantizer: Quantizer, source: Source) -> bool:
    """Whether a quantizer refuses a source, which it has to do in one line."""
    try:
        quantizer.quantize(source)
    except BadInput as error:
        _in_one_line(error)
        return True
    return False


@check("quantizer")
def deterministic(quantizer: Quantizer) -> None:
    """The same source and seed give the same bits; shared views change nothing."""
    source = source_of(quantizer, typical(), seed=7)
    first, _ = sound(quantizer, source)
    difference = same(first, quantizer.quantize(source_of(quantizer, typical(), seed=7)))
    require(not difference, f"a second run on the same source is different: {difference}")
    difference = same(first, quantizer.quantize(source.with_(seed=7)))
    require(not difference, f"with the views that the first run left, the second is different: {difference}")
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what a plugin must not draw from
    difference = same(first, quantizer.quantize(source_of(quantizer, typical(), seed=7)))
    require(not difference, f"draws from a global generator: {difference}")


@check("quantizer", when=lambda quantizer: not quantizer.uses_seed())
def seed_declared(quantizer: Quantizer) -> None:
    """If the quantizer says that it uses no seed, the result is the same for every seed."""
    first = quantizer.quantize(source_of(quantizer, typical(), seed=1))
    difference = same(first, quantizer.quantize(source_of(quantizer, typical(), seed=2)))
    require(not difference, f"uses_seed() says no, yet another seed gives another result: {difference}")


@check("quantizer")
def inputs_untouched(quantizer: Quantizer) -> None:
    """Weights, masks, sensitivities and the previous result are not changed."""
    for form in sorted(quantizer.takes):
        source = source_of(quantizer, pruned(), form=form)
        # the first run too: what it changes, a second may leave alone
        warm = source.with_(previous=_leaving_untouched(quantizer, source))
        _leaving_untouched(quantizer, warm)


def _leaving_untouched(quantizer: Quantizer, source: Source) -> Quantized:
    tensors = _tensors_of(source)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    result = quantizer.quantize(source)
    quantizer.reconstruct(result)
    for name, tensor in tensors.items():
        require(torch.equal(tensor, before[name]), f"changes its input in place: {name}")
    return result


def _tensors_of(source: Source) -> dict[str, Tensor]:
    found = {"weights": source.weights}
    found |= {f"the mask of {t.name}": t.mask for t in source.tensors if t.mask is not None}
    if isinstance(source.sensitivity, Diagonal):
        found["the sensitivity"] = source.sensitivity.values
    if isinstance(source.sensitivity, SecondMoments):
        found |= {f"second moments {i}": matrix for i, matrix in enumerate(source.sensitivity.matrices)}
    if source.previous is not None:
        found["the previous symbols"] = source.previous.symbols
        found |= {f"the previous {name}": value for name, value in source.previous.parameters.items()}
    return found


@check("quantizer")
def other_memory_layouts(quantizer: Quantizer) -> None:
    """A transposed view, float16 and float64 give what their float32 copies give."""
    value = laplace(24, 16)
    wide = torch.zeros(16, 48)
    wide[:, ::2] = value.t()
    half = value.half()
    for what, odd, plain in (
        ("a transposed, strided view", wide[:, ::2].t(), value),
        ("float16", half, half.float()),
        ("float64", value.double(), value),
    ):
        expected, _ = sound(quantizer, source_of(quantizer, one(plain)))
        got, _ = sound(quantizer, source_of(quantizer, one(odd)), what)
        difference = same(expected, got)
        require(not difference, f"{what} gives another result than its float32 copy: {difference}")


@check("quantizer")
def not_finite_refused(quantizer: Quantizer) -> None:
    """NaN and infinite weights are refused with BadInput."""
    for bad in (math.nan, math.inf, -math.inf):
        value = laplace(8, 8)
        value[2, 3] = bad
        try:
            quantizer.quantize(source_of(quantizer, one(value)))
        except BadInput as error:
            _in_one_line(error)
            continue
        require(False, f"a weight of {bad} is taken")


@check("quantizer")
def sensitivity_forms(quantizer: Quantizer) -> None:
    """Works with each form of sensitivity that it takes."""
    for form in sorted(quantizer.takes):
        sound(quantizer, source_of(quantizer, typical(), form=form), f"sensitivity '{form}'")
        sound(quantizer, source_of(quantizer, pruned(), form=form), f"sensitivity '{form}', pruned")


@check("quantizer", when=lambda quantizer: "diagonal" in quantizer.takes)
def skewed_sensitivity(quantizer: Quantizer) -> None:
    """Sensitivities that are zero, negative or nan in places, or all zero, give a valid result."""
    source = source_of(quantizer, typical())
    h = torch.rand(source.n, generator=torch.Generator().manual_seed(5))
    h[::7], h[1::7], h[2::7] = 0.0, -1.0, math.nan
    h[3::7] *= 1e6
    sound(quantizer, source.with_(sensitivity=Diagonal(h)), "odd sensitivities")
    sound(quantizer, source.with_(sensitivity=Diagonal(torch.zeros(source.n))), "sensitivities of 0")


@check("quantizer", when=lambda quantizer: {"none", "diagonal"} <= quantizer.takes)
def unit_sensitivity(quantizer: Quantizer) -> None:
    """With h = 1 the result is that without a sensitivity, up to rounding."""
    source = source_of(quantizer, typical(), form="none")
    plain = sound(quantizer, source)[1]
    unit = sound(quantizer, source.with_(sensitivity=Diagonal(torch.ones(source.n))), "h = 1")[1]
    spread = float(source.weights.max() - source.weights.min())
    differ = float(((plain - unit).abs() > 1e-4 * spread).double().mean())
    # a weight on a boundary may fall to either side: two roundings of one threshold
    require(differ <= 0.01, f"{100 * differ:.1f} % of the weights are reconstructed otherwise with h = 1")


@check("quantizer")
def warm_start(quantizer: Quantizer) -> None:
    """Takes its own last result as ``previous``, on the same weights and on moved ones."""
    parts = typical()
    source = source_of(quantizer, parts)
    before, _ = sound(quantizer, source)
    sound(quantizer, source.with_(previous=before), "warm start")
    moved = [Part(p.name, p.value * 1.1 + laplace(*p.value.shape, seed=9, scale=0.01)) for p in parts]
    sound(quantizer, source_of(quantizer, moved).with_(previous=before), "warm start on moved weights")


@check("quantizer")
def same_elsewhere(quantizer: Quantizer) -> None:
    """Another process gives the same symbols, parameters and reconstruction, and reads this one's."""
    mine, values = sound(quantizer, source_of(quantizer, typical(), seed=3))
    theirs, their_values, read = call_in_other_process(_quantize_and_read, quantizer, 3, portable(mine))
    difference = same(mine, restored(theirs))
    require(not difference, f"another process gives another result: {difference}")
    require(np.array_equal(values.numpy(), their_values), "another process reconstructs other values from its own")
    require(np.array_equal(values.numpy(), read), "another process reconstructs other values from this one's result")


def portable(q: Quantized) -> Mapping[str, Any]:
    """A result as a decoder gets it, with only what a file holds."""
    return {
        "symbols": q.symbols.cpu(), "alphabet": q.alphabet, "sizes": tuple(q.sizes), "form": q.form,
        "parameters": {name: value.cpu() for name, value in q.parameters.items()}, "side": dict(q.side),
        "structure": q.structure,
    }  # fmt: skip


def restored(fields: Mapping[str, Any]) -> Quantized:
    """The inverse of ``portable``."""
    return Quantized(**fields)


def _quantize_and_read(quantizer: Quantizer, seed: int, given: Mapping[str, Any]) -> Sequence[Any]:
    """Runs in the other process; arrays, so that the answer pickles by value."""
    own = quantizer.quantize(source_of(quantizer, typical(), seed=seed))
    values = quantizer.reconstruct(own).detach().numpy()
    return portable(own), values, quantizer.reconstruct(restored(given)).detach().numpy()
