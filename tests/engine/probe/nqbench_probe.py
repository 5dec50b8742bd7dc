"""A distribution for the tests of the pipeline and the engine: tiny networks, methods that cost nothing, and methods
that misbehave in every way a stranger's might.

Every call that tests count is a line in the file that NQBENCH_PROBE_LOG names. What misbehaves does so while the file
that NQBENCH_PROBE_TROUBLE names exists (or always, where that variable is not set).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from nqbench.api import (
    Batch,
    Codec,
    Coder,
    CorruptFile,
    Encoded,
    Knob,
    Metric,
    Model,
    Plugin,
    Positions,
    Pruned,
    Pruner,
    Quantized,
    QuantizedModel,
    Quantizer,
    Sensitivity,
    Source,
    Split,
    Stream,
    StreamSpec,
    Task,
    Training,
    begin,
    hookimpl,
)

PACE = 0.08
"""Seconds: long beside the time for which a sleeper may wait for a core where all are busy (25 ms were seen)."""


def note(word: str) -> None:
    path = os.environ.get("NQBENCH_PROBE_LOG")
    if path:
        with open(path, "a") as file:
            file.write(f"{word} {os.getpid()}\n")


def in_trouble() -> bool:
    path = os.environ.get("NQBENCH_PROBE_TROUBLE")
    return path is None or Path(path).exists()


class Mlp(nn.Module):
    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class Conv(nn.Module):
    """Two convolutions with a batch norm each, on (3, 6, 6) inputs, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.first(x)))
        return self.last(torch.relu(self.norm2(self.second(x))).flatten(1))


class Tied(nn.Module):
    """An encoder and a decoder that share one square matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(7, 7), nn.Linear(7, 7)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("shift", torch.linspace(-1, 1, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.relu(self.encoder(x) + self.shift))


class Probe(Model, name="probe"):
    """A tiny network with fixed random weights; labels are its own answers, some of them changed."""

    net: Literal["mlp", "conv", "tied"] = "mlp"
    sizes: tuple[int, ...] = (20, 16, 5)
    data: bool = True
    examples: int = Field(200, ge=1)
    missing: bool = False
    version: int = 1
    holdout: bool = False
    """Whether there is a validation split."""

    def prepare(self) -> None:
        if self.missing:
            from nqbench.api import DataMissing

            raise DataMissing("probe needs probe.bin in /nowhere")

    def fingerprint(self) -> str:
        return f"probe {self.version}"

    def load(self, device: torch.device) -> nn.Module:
        note("load")
        generator = torch.Generator().manual_seed(self.version)
        module: nn.Module = {"conv": Conv, "tied": Tied}[self.net]() if self.net != "mlp" else Mlp(self.sizes)
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if tensor.is_floating_point() and name != "shift":
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
                if name.endswith("running_var"):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        return module.eval().to(device)

    def metric(self) -> Metric | None:
        return Metric() if self.data else None

    def has_split(self, split: Split) -> bool:
        return split != "validation" or self.holdout

    def _inputs(self, split: Split) -> Tensor:
        generator = torch.Generator().manual_seed({"train": 1, "validation": 2, "test": 3}[split])
        shape = {"conv": (3, 6, 6), "tied": (7,), "mlp": (self.sizes[0],)}[self.net]
        return torch.randn((self.examples, *shape), generator=generator)

    def batches(self, split: Split, *, batch_size: int = 256, shuffle: int | None = None) -> Iterator[Batch]:
        x = self._inputs(split)
        with torch.no_grad():
            y = self.load(torch.device("cpu"))(x).argmax(-1)
        y[::10] = 0
        for at in range(0, len(x), batch_size):
            yield x[at : at + batch_size], y[at : at + batch_size]

    def evaluate(self, module: nn.Module, split: Split = "test") -> Any:
        note("evaluate")
        return super().evaluate(module, split)


class Levels(Quantizer, name="levels"):
    """k levels, evenly spaced between the extreme weights."""

    takes = frozenset({"none", "diagonal"})
    k: int = Field(5, ge=1)

    def quantize(self, source: Source) -> Quantized:
        note("quantize")
        low, high = source.weights.aminmax()
        codebook = torch.linspace(float(low), float(high), self.k)
        return Quantized.nearest(source, codebook, statistics={"calls": 1.0})

    def knob(self, source: Source) -> Knob:
        return Knob("k", 2, 64, integer=True)


class Steady(Levels, name="steady"):
    """As ``levels``, but takes ``PACE`` whatever else the machine does."""

    def quantize(self, source: Source) -> Quantized:
        time.sleep(PACE)
        return super().quantize(source)


class Priced(Levels, name="priced"):
    """As ``levels``, but declares that it reads the coder's rate."""

    def uses_rate(self) -> bool:
        return True


class Knobless(Levels, name="knobless"):
    """As ``levels``, but asked for its knob it raises."""

    def knob(self, source: Source) -> Knob:
        raise RuntimeError("no knob today")


class Drawn(Quantizer, name="drawn"):
    """Levels drawn at random: the trial's seed changes them."""

    k: int = Field(4, ge=1)

    def quantize(self, source: Source) -> Quantized:
        note("quantize")
        return Quantized.nearest(source, torch.randn(self.k, generator=source.generator()))

    def uses_seed(self) -> bool:
        return True


class Panic(BaseException):
    """As what a library in Rust raises (``pyo3_runtime.PanicException``): no Exception."""


class Troubled(Levels, name="troubled"):
    """As ``levels``, unless it misbehaves."""

    how: Literal[
        "raise",
        "panic",
        "interrupt",
        "refuse",
        "sleep",
        "kill",
        "exit",
        "quit",
        "fork",
        "leave",
        "memory",
        "range",
        "short",
        "grow",
        "segfault",
    ] = "raise"
    seconds: float = 60.0

    def quantize(self, source: Source) -> Quantized:
        good = super().quantize(source)
        if not in_trouble():
            return good
        note(self.how)
        if self.how == "raise":
            raise ZeroDivisionError("a bug in a plugin")
        if self.how == "panic":
            raise Panic("index out of bounds")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "refuse":
            from nqbench.api import BadInput

            raise BadInput("these weights will not do")
        if self.how == "sleep":
            time.sleep(self.seconds)
        elif self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "exit":
            os._exit(7)
        elif self.how == "quit":
            os._exit(0)
        elif self.how == "fork":  # as a pool of processes, or a loader of data: its child would outlive it
            if (child := os.fork()) == 0:
                time.sleep(self.seconds)
                os._exit(0)
            Path(os.environ["NQBENCH_PROBE_TROUBLE"]).with_suffix(".child").write_text(str(child))
            time.sleep(self.seconds)
        elif self.how == "leave":
            raise SystemExit(3)
        elif self.how == "memory":
            torch.empty(1 << 60)
        elif self.how == "grow":
            eaten = [torch.ones(1 << 23)]
            while time.sleep(0.05) is None:  # 32 MiB each
                eaten.append(torch.ones(1 << 23))
        elif self.how == "segfault":
            ctypes.string_at(0)
        elif self.how == "short":
            return Quantized(good.symbols[:-1], good.alphabet, (*good.sizes[:-1], good.sizes[-1] - 1), good.parameters)
        symbols = good.symbols.clone()
        symbols[0] = good.alphabet
        return Quantized(symbols, good.alphabet, good.sizes, good.parameters)


class Plain(Coder, name="plain"):
    """Four bytes per symbol. ``held``: encoding does not end while there is trouble."""

    faults: Literal["none", "lost", "changed"] = "none"
    delay: float = 0.0
    held: bool = False

    def encode(self, stream: Stream) -> Encoded:
        note("encode")
        time.sleep(self.delay)
        while self.held and in_trouble():
            time.sleep(0.05)
        symbols = stream.symbols
        if self.faults == "lost":
            symbols = symbols[:-1]
        if self.faults == "changed" and stream.spec.alphabet > 1:
            symbols = symbols.copy()
            symbols[0] = (symbols[0] + 1) % stream.spec.alphabet
        return Encoded(b"", symbols.astype("<i4").tobytes())

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if len(encoded.payload) != 4 * spec.count:
            raise CorruptFile(f"{len(encoded.payload)} bytes for {spec.count} symbols")
        return np.frombuffer(encoded.payload, "<i4").astype(np.int32)


class Paced(Plain, name="paced"):
    """As ``plain``, but decoding takes ``PACE`` whatever else the machine does."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        time.sleep(PACE)
        return super().decode(encoded, spec)


class Bytewise(Plain, name="bytewise"):
    """One byte a symbol."""

    def encode(self, stream: Stream) -> Encoded:
        note("encode")
        return Encoded(b"", stream.symbols.astype("u1").tobytes())

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        return np.frombuffer(encoded.payload, "u1").astype(np.int32)


class Places(Positions, name="places"):
    """One symbol a weight: 1 where it is kept."""

    def to_stream(self, masks: Sequence[np.ndarray]) -> Stream:
        return Stream.of(np.concatenate([mask.reshape(-1) for mask in masks]), 2)

    def from_stream(self, symbols: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        parts = np.split(symbols.astype(bool), ends)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class Smallest(Pruner, name="smallest"):
    """Prunes a share of each tensor's weights, the smallest; one tensor as a whole if ``empty`` names it."""

    share: float = Field(0.5, ge=0, le=1)
    sloppy: bool = False
    empty: str = ""

    def prune(self, task: Task) -> Pruned:
        note("prune")
        state = {name: tensor.detach().clone() for name, tensor in task.module.state_dict().items()}
        masks = {}
        for name in task.names:
            size = state[name].abs()
            mask = size > torch.quantile(size, self.share) if name != self.empty else torch.zeros_like(size) > 1
            masks[name] = mask
            if not self.sloppy:
                state[name][~mask] = 0.0
        return Pruned(state, masks)


class Squares(Sensitivity, name="squares"):
    """h = 1 + w^2."""

    def sense(self, task: Task, names: Sequence[str]) -> Mapping[str, Tensor]:
        note("sense")
        return {name: 1 + task.parameter(name).detach().square() for name in names}


class Shifted(Training, name="shifted"):
    """Direct compression, and a constant added to every unquantized parameter; ``faults``: what it forgets."""

    by: float = 0.0
    faults: Literal["none", "group", "raw", "shape"] = "none"

    def train(self, task: Task, start: QuantizedModel | None) -> QuantizedModel:
        note("train")
        model = begin(task, start)
        raw = {n: t + self.by if t.is_floating_point() else t for n, t in model.raw_state.items()}
        groups = model.groups
        if self.faults == "group":
            groups = groups[:-1]
        elif self.faults == "raw":
            raw.pop(next(iter(raw)))
        elif self.faults == "shape":
            name = next(iter(raw))
            raw[name] = raw[name][:-1]
        return QuantizedModel(groups, raw)


class Halves(Codec, name="halves"):
    """Two bytes a number."""

    alone: bool = False

    def weights_alone(self) -> bool:
        return self.alone

    def compress(self, tensors: Mapping[str, np.ndarray], seed: int) -> bytes:
        note("compress")
        parts = []
        for name, array in tensors.items():
            shape = ",".join(str(s) for s in array.shape)
            parts.append(f"{name} {shape}\n".encode() + array.astype("<f2").tobytes())
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    def decompress(self, data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, np.ndarray]:
        found = {}
        while data:
            size = int.from_bytes(data[:4], "little")
            head, _, body = data[4 : 4 + size].partition(b"\n")
            name, shape = head.decode().split(" ")
            sizes = [int(s) for s in shape.split(",") if s]
            found[name] = np.frombuffer(body, "<f2").astype(np.float32).reshape(sizes)
            data = data[4 + size :]
        return found


@hookimpl
def nqbench_plugins() -> list[type[Plugin]]:
    quantizers: list[type[Plugin]] = [Levels, Steady, Priced, Knobless, Drawn, Troubled]
    return [Probe, *quantizers, Plain, Paced, Bytewise, Places, Smallest, Squares, Shifted, Halves]
