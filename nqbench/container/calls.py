"""The plugins that a file names, called so that whatever they do with damaged bytes ends in one line.

A plugin's decoder is third-party code that runs on untrusted bytes: it may raise any exception and return anything.
What comes back from here has the type, shape and range that the container promised, or is a CorruptFile that names the
section.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from nqbench.api import (
    BadInput,
    Codec,
    Coder,
    CorruptFile,
    Encoded,
    NotRegistered,
    Plugin,
    Positions,
    Quantized,
    Quantizer,
    StreamSpec,
)
from nqbench.container.header import Header, PluginRef, PositionsEntry
from nqbench.container.layout import positions_spec
from nqbench.container.memory import ran_out
from nqbench.registry import KINDS, Registry

P = TypeVar("P", bound=Plugin)
_LONGEST = 300  # characters of a stranger's complaint


class Calls:
    """The plugins of one file. seconds: what the coders and the codec took."""

    def __init__(self, header: Header, registry: Registry) -> None:
        self.header = header
        self.registry = registry
        self.seconds = 0.0

    @property
    def coder(self) -> Coder:
        return self._make(self.header.coder, Coder)

    @property
    def positions(self) -> Positions:
        return self._make(self.header.positions, Positions)

    @property
    def positions_coder(self) -> Coder:
        return self._make(self.header.positions_coder, Coder) if self.header.positions_coder.name else self.coder

    def _make(self, ref: PluginRef, cls: type[P]) -> P:
        kind = next(name for name, base in KINDS.items() if base is cls)
        try:
            plugin = self.registry.make(kind, ref.name, ref.json)
        except NotRegistered:
            raise NotRegistered(
                f"needs the {kind} '{ref.name}' of the distribution '{ref.distribution}' {ref.version}, "
                f"which is not installed here: pip install {ref.distribution}"
            ) from None
        except BadInput as error:
            raise CorruptFile(one_line(error), section="header") from None
        assert isinstance(plugin, cls)
        return plugin

    def symbols(
        self, coder: Coder, encoded: Encoded, spec: StreamSpec, section: str, starts: tuple[int, int]
    ) -> np.ndarray:
        """(spec.count,) int32 in [0, spec.alphabet). starts: where table and payload begin within their sections."""
        started = time.perf_counter()
        with _guarded(f"coder '{coder.name}'", section, starts):
            symbols = coder.decode(encoded, spec)
        self.seconds += time.perf_counter() - started
        if not isinstance(symbols, np.ndarray) or symbols.dtype.kind not in "iu":
            raise CorruptFile(f"coder '{coder.name}' did not return an array of integers", section=section)
        if symbols.shape != (spec.count,):
            raise CorruptFile(f"{symbols.size} symbols decoded, {spec.count} expected", section=section)
        if symbols.size and (int(symbols.min()) < 0 or int(symbols.max()) >= spec.alphabet):
            raise CorruptFile(f"a symbol lies outside [0, {spec.alphabet})", section=section)
        return symbols.astype(np.int32, copy=False)

    def masks(self, data: bytes, entry: PositionsEntry, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """A bool array of each of ``shapes``, True where a weight is kept."""
        positions = self.positions
        what = f"positions '{positions.name}'"
        with _guarded(what, "header"):
            most, alphabet = positions.max_count(shapes), positions.alphabet() or entry.alphabet
        if entry.count > most or entry.alphabet != alphabet:
            raise CorruptFile(f"{entry.count} positions of {entry.alphabet} kinds are impossible", section="header")
        encoded = Encoded(data[: entry.table], data[entry.table :])
        spec = positions_spec(entry.count, entry.alphabet, shapes)
        symbols = self.symbols(self.positions_coder, encoded, spec, "positions", (0, entry.table))
        with _guarded(what, "positions"):
            # a copy where the plugin's array is a view of bytes, which nobody may write to
            masks = [
                np.require(mask, dtype=bool, requirements=("C", "W")) for mask in positions.from_stream(symbols, shapes)
            ]
        if [mask.shape for mask in masks] != list(shapes):
            raise CorruptFile("the masks have other shapes than their tensors", section="positions")
        return masks

    def values(self, quantized: Quantized) -> Tensor:
        """(n,) float32 by the base form; only form ``plugin`` needs the quantizer that made it."""
        if quantized.form == "plugin":
            quantizer = self._make(self.header.quantizer, Quantizer)
            with _guarded(f"quantizer '{quantizer.name}'", "codebook"):
                values = quantizer.reconstruct(quantized)
        else:
            with _guarded("reconstruction", "codebook"):
                values = quantized.reconstruct()
        if not isinstance(values, Tensor) or values.shape != (quantized.n,):
            raise CorruptFile(f"the values are not those of {quantized.n} weights", section="codebook")
        return values.detach().to("cpu", torch.float32) + 0.0  # -0 is deployed as +0

    def coded(
        self, data: bytes, shapes: dict[str, tuple[int, ...]], dtypes: dict[str, torch.dtype]
    ) -> dict[str, Tensor]:
        """A codec's tensors, of these shapes and dtypes."""
        codec = self._make(self.header.codec, Codec)
        what = f"codec '{codec.name}'"
        started = time.perf_counter()
        with _guarded(what, "symbols"):
            given = codec.decompress(data, shapes)
            tensors = {name: codec.tensor_of(a, dtypes[name]) for name, a in given.items() if name in shapes}
        self.seconds += time.perf_counter() - started
        for name, shape in shapes.items():
            if name not in tensors or tensors[name].shape != shape:
                raise CorruptFile(f"{what} did not return a tensor '{name}' of the shape {shape}", section="symbols")
        return tensors


@contextmanager
def _guarded(what: str, section: str, starts: tuple[int, int] = (0, 0)) -> Iterator[None]:
    """Turns whatever is raised into a CorruptFile of this section, its offset counted from the section's start."""
    try:
        with np.errstate(all="ignore"):
            yield
    except CorruptFile as error:
        table = error.section == "coder_table"
        place = section if table and section != "symbols" else error.section or section
        offset = None if error.offset is None else error.offset + starts[0 if table else 1]
        raise CorruptFile(one_line(error.reason), section=place, offset=offset) from None
    except (NotRegistered, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a panic in a library in Rust is no Exception
        if ran_out(error):
            raise MemoryError(one_line(error)) from None
        raise CorruptFile(f"{what} failed: {type(error).__name__}: {one_line(error)}", section=section) from error


def one_line(error: BaseException | str) -> str:
    """An error's text without its line breaks, shortened where it is long."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
