"""Checks of positions: masks are restored exactly, and any symbols give masks or an error."""

from __future__ import annotations

import numpy as np

from nqbench.api import CorruptFile, Positions, Stream
from nqbench.testing.check import Failed, check, require
from nqbench.testing.other_process import call_in_other_process

Shapes = list[tuple[int, ...]]


def mask_sets() -> dict[str, list[np.ndarray]]:
    """Masks by name, True where a weight is kept."""
    rng = np.random.default_rng(0)
    sparse = np.zeros((40, 50), dtype=bool)
    sparse.reshape(-1)[[0, 1, 777, 1999]] = True
    far = np.zeros((300, 400), dtype=bool)
    far[-1, -1] = True
    shapes = ((8, 4, 3, 3), (16, 24), (7,))
    return {
        "all kept": [np.ones(shape, dtype=bool) for shape in shapes],
        "none kept": [np.zeros(shape, dtype=bool) for shape in shapes],
        "one place, kept": [np.ones((1, 1), dtype=bool)],
        "one place, pruned": [np.zeros((1, 1), dtype=bool)],
        "half": [rng.random(shape) < 0.5 for shape in shapes],
        "a tenth": [rng.random(shape) < 0.1 for shape in shapes],
        "nine tenths": [rng.random(shape) < 0.9 for shape in shapes],
        "first and last": [sparse],
        "a gap of 120,000": [far],
        "an empty tensor between": [rng.random((5, 5)) < 0.5, np.zeros((0, 4), dtype=bool), rng.random((3, 3)) < 0.5],
        "a transposed view": [(rng.random((12, 9)) < 0.3).T],
        "no tensor": [],
    }


def _shapes(masks: list[np.ndarray]) -> Shapes:
    return [tuple(mask.shape) for mask in masks]


def _writes(positions: Positions) -> bool:
    return not positions.merges


@check("positions", when=_writes)
def masks_round_trip(positions: Positions) -> None:
    """from_stream(to_stream(masks)) == masks, from none kept to all kept."""
    for name, masks in mask_sets().items():
        back = positions.from_stream(positions.to_stream(masks).symbols, _shapes(masks))
        _are_masks(back, _shapes(masks), name)
        require(all(map(np.array_equal, back, masks)), f"{name}: the masks come back wrong")


def _are_masks(back: list[np.ndarray], shapes: Shapes, of: str) -> None:
    require(len(back) == len(shapes), f"{of}: {len(back)} masks where {len(shapes)} were expected")
    for mask, shape in zip(back, shapes, strict=True):
        require(isinstance(mask, np.ndarray) and mask.dtype == np.bool_, f"{of}: a mask is not a bool array")
        require(mask.shape == shape, f"{of}: a mask of the shape {mask.shape}, not {shape}")


@check("positions", when=_writes)
def limits(positions: Positions) -> None:
    """max_count bounds every stream, and a stated alphabet is the stream's."""
    for name, masks in mask_sets().items():
        stream = positions.to_stream(masks)
        most = positions.max_count(_shapes(masks))
        require(isinstance(stream, Stream), f"{name}: to_stream returns {type(stream).__name__}, not Stream")
        require(stream.spec.count <= most, f"{name}: {stream.spec.count} symbols, where max_count says {most}")
        stated = positions.alphabet()
        good = stated is None or stated == stream.spec.alphabet
        require(good, f"{name}: alphabet() says {stated}, the stream has {stream.spec.alphabet}")


@check("positions", when=_writes)
def writing_is_pure(positions: Positions) -> None:
    """Writing twice gives the same symbols, and leaves the masks untouched."""
    for name, masks in mask_sets().items():
        before = [mask.copy() for mask in masks]
        first, second = positions.to_stream(masks), positions.to_stream(masks)
        require(np.array_equal(first.symbols, second.symbols), f"{name}: a second stream is different")
        same = (first.spec.count, first.spec.alphabet) == (second.spec.count, second.spec.alphabet)
        require(same, f"{name}: a second stream has another count or alphabet")
        require(all(map(np.array_equal, masks, before)), f"{name}: writing changes the masks in place")


@check("positions", when=_writes)
def corrupt_positions(positions: Positions) -> None:
    """Symbols cut short, prolonged or changed give masks of the right shapes or CorruptFile, nothing else."""
    rng = np.random.default_rng(1)
    for name, masks in mask_sets().items():
        stream = positions.to_stream(masks)
        symbols, top = stream.symbols, stream.spec.alphabet
        changed = symbols.copy()
        if changed.size:
            changed[rng.integers(0, changed.size, 3)] = rng.integers(0, top, 3)
        tries = [symbols[:-1], symbols[: symbols.size // 2], np.append(symbols, symbols[:1]), changed]
        tries += [rng.integers(0, top, size) for size in (0, 1, symbols.size, 3 * symbols.size)]
        tries += [np.full(symbols.size + 3, value) for value in (0, top - 1)]
        for number, bad in enumerate(tries):
            _survives(positions, bad.astype(np.int32), _shapes(masks), f"{name}, corrupt stream {number}")


def _survives(positions: Positions, symbols: np.ndarray, shapes: Shapes, of: str) -> None:
    try:
        back = positions.from_stream(symbols, shapes)
    except CorruptFile:
        return
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Failed(f"{of}: raises {type(error).__name__} ({error}), not CorruptFile") from error
    _are_masks(back, shapes, of)


@check("positions", when=_writes)
def read_elsewhere(positions: Positions) -> None:
    """Another process reads the same masks from the symbols and the shapes alone."""
    sets = mask_sets()
    jobs = [(positions.to_stream(masks).symbols, _shapes(masks)) for masks in sets.values()]
    theirs = call_in_other_process(_read, positions, jobs)
    for (name, masks), back in zip(sets.items(), theirs, strict=True):
        require(all(map(np.array_equal, back, masks)), f"{name}: another process reads other masks")


def _read(positions: Positions, jobs: list[tuple[np.ndarray, Shapes]]) -> list[list[np.ndarray]]:
    return [positions.from_stream(symbols, shapes) for symbols, shapes in jobs]
