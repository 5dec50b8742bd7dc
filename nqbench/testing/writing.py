"""Checks that the result of a quantizer can be written to a file and decodes to the quantizer's own reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from nqbench.api import (
    Coder,
    CorruptFile,
    Encoded,
    Group,
    Plugin,
    Positions,
    Quantizer,
    SensitivityForm,
    Stream,
    StreamSpec,
    check_decoded,
)
from nqbench.container import Contents, decode, encode, sections_of
from nqbench.registry import Registered, Registry, registry
from nqbench.testing import sources
from nqbench.testing.check import check, require
from nqbench.testing.quantizers import refused, sound
from nqbench.testing.sources import Part, pruned, source_of, typical


class _Symbols(Coder, name="symbols-for-checks"):
    """Four bytes per symbol."""

    def encode(self, stream: Stream) -> Encoded:
        return Encoded(b"", stream.symbols.astype("<i4").tobytes())

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if len(encoded.payload) != 4 * spec.count:
            raise CorruptFile("not four bytes per symbol")
        return check_decoded(np.frombuffer(encoded.payload, "<i4"), spec)


class _Places(Positions, name="places-for-checks"):
    """One bit per place."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        return Stream.of(np.concatenate([mask.reshape(-1) for mask in masks]).astype(np.int32), 2)

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        parts = np.split(symbols.astype(bool), cuts)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def alphabet(self) -> int:
        return 2


class _Merging(Positions, name="merging-for-checks"):
    """Pruned weights are one more symbol."""

    merges = True


@check("quantizer")
def written(quantizer: Quantizer) -> None:
    """Results on one tensor, on several, and on pruned ones are written, and read back bit for bit."""
    gone = Part("gone.weight", torch.ones(4, 3), torch.zeros(4, 3, dtype=torch.bool))
    for of, parts in (
        ("one tensor", typical()[:1]),
        ("two tensors", typical()),
        ("pruned tensors", pruned()),
        ("a wholly pruned tensor between others", [pruned()[0], gone, pruned()[1]]),
    ):
        _written(quantizer, parts, of)


@check("quantizer")
def odd_shapes(quantizer: Quantizer) -> None:
    """Tensors without places, of no axis and of one axis are written and read back, or refused with BadInput."""
    for masked in (False, True):
        parts = sources.odd_shapes(masked)
        for form in sorted(quantizer.takes):
            if not refused(quantizer, source_of(quantizer, parts, form=form, seed=5)):
                _written(quantizer, parts, f"odd shapes{', pruned' if masked else ''}, sensitivity '{form}'", form)


def _written(quantizer: Quantizer, parts: Sequence[Part], of: str, form: SensitivityForm | None = None) -> None:
    q, values = sound(quantizer, source_of(quantizer, parts, form=form, seed=5), of)
    masks = {part.name: part.mask for part in parts if part.mask is not None}
    ways: list[Positions] = [_Places()]
    if q.dimension == q.books == 1:
        ways.append(_Merging())
    for positions in ways:
        known = _with(quantizer, _Symbols(), *ways)
        data, _ = encode(
            Contents(
                order=tuple(part.name for part in parts),
                shapes={part.name: tuple(part.value.shape) for part in parts},
                dtypes={part.name: torch.float32 for part in parts},
                raw={},
                parameters=frozenset(),
                groups=(Group(tuple(part.name for part in parts), q),),
                masks=masks,
                quantizer=quantizer,
                coder=_Symbols(),
                positions=positions,
            ),
            known,
        )
        found = decode(sections_of(data), known).tensors
        start = 0
        for part in parts:
            size = part.kept.numel()
            wanted = torch.zeros(part.value.shape)
            wanted[torch.ones_like(wanted, dtype=torch.bool) if part.mask is None else part.mask] = (
                values[start : start + size] + 0.0
            )
            start += size
            same = torch.equal(found[part.name], wanted)
            require(same, f"{of}: '{part.name}' is read back from a file as other values than it deploys")


def _with(*plugins: Plugin) -> Registry:
    """The installed plugins and these."""
    known = registry()
    own = {(p.kind, p.name): Registered(type(p), "checks", "0") for p in plugins}
    return replace(known, found={**known.found, **own})
