"""A sound quantizer, and copies of it that break the contract in one way each."""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from nqbench.api import BadInput, Knob, Quantized, Quantizer, SensitivityForm, Source


class Sound(Quantizer, name="sound"):
    """A b-bit uniform grid between the extreme weights."""

    bits: int = Field(3, ge=1, le=12)
    """Bits per weight."""

    def quantize(self, source: Source) -> Quantized:
        low, high = (float(value) for value in source.weights.aminmax())
        return Quantized.nearest(source, torch.linspace(low, high, 2**self.bits))

    def knob(self, source: Source) -> Knob | None:
        return Knob("bits", 1, 8, scale="linear", integer=True)


class MutatesWeights(Sound, name="mutates-weights"):
    """Clips the source in place."""

    def quantize(self, source: Source) -> Quantized:
        result = super().quantize(source)
        source.weights.clamp_(-0.1, 0.1)
        return result


class DrawsFromTheGlobalGenerator(Sound, name="draws-globally"):
    """Adds noise that no seed holds."""

    def quantize(self, source: Source) -> Quantized:
        return super().quantize(source.with_(weights=source.weights + 0.1 * torch.randn(source.n)))


class HidesItsSeed(Sound, name="hides-its-seed"):
    """Uses the seed and says that it does not."""

    def quantize(self, source: Source) -> Quantized:
        noise = torch.randn(source.n, generator=source.generator())
        return super().quantize(source.with_(weights=source.weights + 0.1 * noise))


class NeedsTwoAxes(Sound, name="needs-two-axes"):
    """Looks at each tensor's columns."""

    def quantize(self, source: Source) -> Quantized:
        assert all(part.shape[1] for part in source.tensors)
        return super().quantize(source)


class RefusesOddShapes(Sound, name="refuses-odd-shapes"):
    """Looks at each tensor's columns, and says where there are none."""

    def quantize(self, source: Source) -> Quantized:
        for part in source.tensors:
            if len(part.shape) < 2:
                raise BadInput(f"{part.name} has the shape {part.shape}; expected a matrix")
        return super().quantize(source)


class OneCodewordTooMany(Sound, name="one-codeword-too-many"):
    """Its table has an entry that no symbol stands for."""

    def quantize(self, source: Source) -> Quantized:
        q = super().quantize(source)
        return replace(q, parameters={"codebook": torch.cat([q.parameters["codebook"], torch.full((1,), 9.0)])})


class ComplexSide(Sound, name="complex-side"):
    """Has a side tensor of a dtype that no file knows."""

    def quantize(self, source: Source) -> Quantized:
        return replace(super().quantize(source), side={"phase": torch.zeros(2, dtype=torch.complex64)})


class DependsOnTheProcess(Sound, name="depends-on-the-process"):
    """Its result has the process's number in it."""

    def quantize(self, source: Source) -> Quantized:
        return replace(super().quantize(source), side={"process": os.getpid()})


class LongSymbols(Sound, name="long-symbols"):
    """Gives int64 symbols."""

    def quantize(self, source: Source) -> Quantized:
        q = super().quantize(source)
        return replace(q, symbols=q.symbols.long())


class AlphabetTooSmall(Sound, name="alphabet-too-small"):
    """Its largest symbol is not in the alphabet."""

    def quantize(self, source: Source) -> Quantized:
        q = super().quantize(source)
        return replace(q, alphabet=max(1, int(q.symbols.max())))


class LosesSizes(Sound, name="loses-sizes"):
    """Forgets which tensor has how many weights."""

    def quantize(self, source: Source) -> Quantized:
        return replace(super().quantize(source), sizes=(source.n,))


class DividesByTheSpread(Sound, name="divides-by-the-spread"):
    """0 / 0 where all weights are equal."""

    def quantize(self, source: Source) -> Quantized:
        low, high = source.weights.aminmax()
        unit = (source.weights - low) / (high - low)
        step = ((high - low) / (2**self.bits - 1)).reshape(1)
        symbols = torch.round(unit * (2**self.bits - 1)).to(torch.int32)
        return Quantized(symbols, 2**self.bits, source.sizes, {"step": step}, {"offset": 0.0}, "grid")


class NanStatistic(Sound, name="nan-statistic"):
    """Reports a figure that is not a number."""

    def quantize(self, source: Source) -> Quantized:
        return replace(super().quantize(source), statistics={"gain": math.nan})


class OwnReconstruction(Sound, name="own-reconstruction"):
    """Reads a base form in a way of its own."""

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        return quantized.reconstruct(parameters) * 1.001


class DetachedParameters(Sound, name="detached-parameters"):
    """No gradient reaches the codebook."""

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        given = None if parameters is None else {name: value.detach() for name, value in parameters.items()}
        return quantized.reconstruct(given)


class WrongGradient(Sound, name="wrong-gradient"):
    """Half of the value is hidden from the gradient."""

    def reconstruct(self, quantized: Quantized, parameters: dict[str, Tensor] | None = None) -> Tensor:
        values = quantized.reconstruct(parameters)
        return (values + values.detach()) / 2


class DeadParameter(Sound, name="dead-parameter"):
    """Declares a parameter that nothing depends on."""

    def quantize(self, source: Source) -> Quantized:
        q = super().quantize(source)
        return replace(q, parameters={**q.parameters, "bias": torch.zeros(1)})


class KnobTheWrongWay(Sound, name="knob-the-wrong-way"):
    """Says that more bits give fewer bytes."""

    def knob(self, source: Source) -> Knob | None:
        return Knob("bits", 1, 8, scale="linear", integer=True, more_bytes="down")


class KnobOutOfRange(Sound, name="knob-out-of-range"):
    """Its knob goes where its parameter may not."""

    def knob(self, source: Source) -> Knob | None:
        return Knob("bits", 1, 40, scale="linear", integer=True)


class LyingAboutSensitivity(Sound, name="lying-about-sensitivity"):
    """Takes a diagonal, and fails on it."""

    takes: ClassVar[frozenset[SensitivityForm]] = frozenset({"none", "diagonal"})

    def quantize(self, source: Source) -> Quantized:
        if source.h is not None:
            raise NotImplementedError
        return super().quantize(source)


class SumsSensitivity(Sound, name="sums-sensitivity"):
    """Scales its codebook with h, so that h = 1 is not the unweighted case."""

    takes: ClassVar[frozenset[SensitivityForm]] = frozenset({"none", "diagonal"})

    def quantize(self, source: Source) -> Quantized:
        q = super().quantize(source)
        return q if source.h is None else replace(q, parameters={"codebook": q.parameters["codebook"] * 0.9})


class FailsWhenWarm(Sound, name="fails-when-warm"):
    """Expects the previous result to have another form."""

    def quantize(self, source: Source) -> Quantized:
        if source.previous is not None:
            return replace(source.previous, parameters={"step": source.previous.parameters["step"]})
        return super().quantize(source)


class CrowdedAlphabet(Sound, name="crowded-alphabet"):
    """A fixed step, whatever the weights: a table of millions of levels for large ones."""

    def quantize(self, source: Source) -> Quantized:
        low = torch.round(source.weights.min() / 0.01)
        symbols = (torch.round(source.weights / 0.01) - low).to(torch.int32)
        fields = {"step": torch.full((1,), 0.01)}, {"offset": float(low)}
        return Quantized(symbols, int(symbols.max()) + 1, source.sizes, *fields, "grid")


class Undescribed(Sound, name="undescribed"):
    """Has a parameter without a word about it."""

    speed: float = 1.0


class Thawed(Sound, name="thawed"):
    """Can be changed after it was made."""

    model_config = ConfigDict(frozen=False)


class LosesItsJson(Sound, name="loses-its-json"):
    """Its JSON holds no parameters."""

    def canonical_json(self) -> str:
        return f'{{"bits":{random.randrange(1, 12)}}}'


def local_class() -> type[Quantizer]:
    """A class that no other process can find."""

    class Local(Sound, name="local"):
        """Defined inside a function."""

    return Local
