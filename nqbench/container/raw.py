"""Tensors that are not quantized by a method: how ``unquantized`` stores them, and how they are read back.

``float16`` halves float32 parameters. ``uint8`` stores them as eight-bit codes, half as much again. Buffers (running
statistics, constants, positions), and floats wider than float32, keep every bit: float16 stands for one of them only
where it holds each of its numbers exactly. With ``-all`` they are rounded too, to float16, and float64 parameters as
float32 ones are. What a format cannot hold stays as it is.

Codes divide the range of signed square roots, u = sign(x) sqrt|x|, into 255 steps: where the values of a tensor are of
one size that is as fine as 255 steps of x, and where they are not the many small ones are not rounded by what the
largest need. (A folded batch norm has a scale g / sigma a channel: one whose inputs hardly vary has a huge one.)
An error is at most |u| s + s^2 / 4, s being the step, and what float16 rounds of the range's ends. Older files divide
the range of x itself; they are read.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nqbench.api.plain import plain
from nqbench.container.header import BUFFER, CODES, CONSTANT, PARAMETER, Header, TensorEntry

_ALL = "-all"
ENDS = 4
"""Bytes before the codes of a float tensor that is stored as codes: low and step, float16."""
_HIGHEST = 255
_LEAST_STEP = 2.0**-23
"""float16's numbers are 2^-24 apart there: a smaller step is rounded to far larger ones, or to 0."""


def is_codes(stored: torch.dtype, deployed: torch.dtype) -> bool:
    """Whether a tensor is floats, stored as codes between two ends."""
    return stored in (CODES, torch.uint8) and deployed.is_floating_point


def is_raw(entry: TensorEntry) -> bool:
    return entry.kind & ~CONSTANT in (PARAMETER, BUFFER)


def raw_bytes(entry: TensorEntry) -> int:
    """What a raw tensor takes in its section."""
    if is_codes(entry.stored, entry.dtype):
        return ENDS + entry.numel
    return entry.stored.itemsize * (1 if entry.kind & CONSTANT else entry.numel)


def buffers_of(header: Header) -> dict[str, int]:
    """The bytes of each raw buffer by its name; they sum to the section ``raw_buffers``."""
    return {entry.name: raw_bytes(entry) for entry in header.tensors if entry.kind & ~CONSTANT == BUFFER}


def as_stored(tensor: Tensor, unquantized: str, *, parameter: bool) -> Tensor:
    """The tensor as a decoder gives it back, on the CPU."""
    stored, data = written(tensor, unquantized, parameter=parameter)
    return read_back(data, stored, tensor.dtype, tuple(tensor.shape))


def written(tensor: Tensor, unquantized: str, *, parameter: bool) -> tuple[torch.dtype, bytes]:
    """The dtype in which it is stored, and its bytes, little-endian and row-major."""
    tensor = tensor.detach().cpu()
    if unquantized == "float32" or tensor.dtype not in (torch.float32, torch.float64):
        return tensor.dtype, tensor_bytes(tensor)
    rounded = unquantized.endswith(_ALL) or (parameter and tensor.dtype == torch.float32)
    if unquantized.removesuffix(_ALL) == "uint8" and parameter and rounded:
        codes = _codes(tensor)
        if codes is not None:
            return CODES, codes
    stored = torch.float16 if (_fits(tensor) if rounded else _exact(tensor)) else tensor.dtype
    return stored, tensor_bytes(tensor.to(stored))


def read_back(data: bytes, stored: torch.dtype, deployed: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """What ``written`` wrote, in its deployed dtype."""
    if is_codes(stored, deployed):
        low, step = (torch.from_numpy(np.frombuffer(data[:ENDS], "<f2").astype(np.float32))).unbind()
        codes = torch.frombuffer(bytearray(data[ENDS:]), dtype=torch.uint8).to(torch.float32)
        u = low + step * codes
        return (u * u.abs() if stored == CODES else u).to(deployed).reshape(shape)
    if not data:
        return torch.empty(shape, dtype=stored).to(deployed)
    return torch.frombuffer(bytearray(data), dtype=stored).reshape(shape).to(deployed)


def tensor_bytes(tensor: Tensor) -> bytes:
    """Row-major little-endian bytes."""
    flat = plain(tensor.detach().cpu()).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _fits(tensor: Tensor) -> bool:
    """Whether float16 stands for its numbers: none overflows, and the largest is not below its normal numbers.

    Where the largest is normal, no number errs by more than 2^-11 of it: float16 errs by 2^-25 at most below 2^-14.
    Where it is not, all of them lose digits or vanish, as a batch norm's folded scales do beside huge variances."""
    if not tensor.numel():
        return True
    largest, limits = float(tensor.abs().max()), torch.finfo(torch.float16)
    return limits.smallest_normal <= largest <= limits.max or _exact(tensor)


def _exact(tensor: Tensor) -> bool:
    """Whether float16 holds all of its numbers as they are; a nan, of which there are many, counts as one it does not.
    (A folded batch norm's statistics are 0 and 1.)"""
    return torch.equal(tensor.half().to(tensor.dtype), tensor)


def _codes(tensor: Tensor) -> bytes | None:
    """Low, step and codes; None where that is no shorter than float16, or float16 does not hold the ends or the
    step."""
    x = tensor.double().reshape(-1).numpy()
    u: np.ndarray = np.sign(x) * np.sqrt(np.abs(x))
    if u.size <= ENDS or not np.isfinite(u).all() or np.abs(u).max() > np.finfo(np.float16).max:
        return None
    low = np.float16(u.min())
    if low > u.min():
        low = np.nextafter(low, np.float16(-np.inf))
    step = np.float16((u.max() - float(low)) / _HIGHEST)
    if float(low) + _HIGHEST * float(step) < u.max():
        step = np.nextafter(step, np.float16(np.inf))
    if not (np.isfinite(low) and np.isfinite(step)) or u.min() == u.max() or step < _LEAST_STEP:
        return None
    codes = np.rint((u - float(low)) / float(step)).clip(0, _HIGHEST).astype(np.uint8)
    return np.array([low, step], dtype="<f2").tobytes() + codes.tobytes()
