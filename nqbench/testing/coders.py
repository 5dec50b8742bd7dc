"""Checks of coders: lossless for every stream, pure functions, and robust against any bytes.

Damaged bytes are decoded in the other process: a library in C may answer them by ending the process that it runs in.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np

from nqbench.api import BadInput, Coder, CorruptFile, Encoded, Stream, StreamSpec
from nqbench.testing.check import Failed, check, require
from nqbench.testing.other_process import call_in_other_process
from nqbench.testing.streams import streams

PROMISED = 1 << 16  # the alphabet that every coder must serve; beyond it, it may refuse with BadInput


def encoded_streams(coder: Coder, *, small: bool = False) -> Iterator[tuple[str, Stream, Encoded]]:
    """(name, stream, encoding) of each check stream, without those beyond 2^16 that the coder refuses.

    small: only those of 1 to 3,000 symbols, which a check may decode a hundred times.
    """
    for name, stream in streams().items():
        if small and not (0 < stream.symbols.size <= 3000 and stream.spec.alphabet > 1):
            continue
        try:
            yield name, stream, coder.encode(stream)
        except BadInput as error:
            if stream.spec.alphabet <= PROMISED:
                raise Failed(f"{name}: refused: {error}") from error


@check("coder")
def lossless(coder: Coder) -> None:
    """decode(encode(x)) == x, from the empty stream to every symbol of an alphabet of 2^16."""
    for name, stream, encoded in encoded_streams(coder):
        _is_sound(coder.decode(encoded, stream.spec), stream.spec, name)
        wrong = np.flatnonzero(coder.decode(encoded, stream.spec) != stream.symbols)
        require(
            not wrong.size, f"{name}: symbol {wrong[0] if wrong.size else 0} of {stream.spec.count} comes back wrong"
        )


def _is_sound(symbols: object, spec: StreamSpec, name: str) -> None:
    if not isinstance(symbols, np.ndarray):
        raise Failed(f"{name}: decode returns {type(symbols).__name__}, not an array")
    require(symbols.dtype == np.int32, f"{name}: decodes to {symbols.dtype}, not int32")
    require(symbols.shape == (spec.count,), f"{name}: decodes to the shape {symbols.shape}, not ({spec.count},)")
    inside = not symbols.size or (symbols.min() >= 0 and symbols.max() < spec.alphabet)
    require(inside, f"{name}: decodes to symbols outside [0, {spec.alphabet})")


@check("coder")
def encoding_is_bytes(coder: Coder) -> None:
    """Table and payload are bytes, and an empty stream takes only a few bytes."""
    for name, stream, encoded in encoded_streams(coder):
        require(isinstance(encoded, Encoded), f"{name}: encode returns {type(encoded).__name__}, not Encoded")
        good = isinstance(encoded.table, bytes) and isinstance(encoded.payload, bytes)
        require(good, f"{name}: table and payload must be bytes")
        if not stream.symbols.size:
            size = len(encoded.table) + len(encoded.payload)
            require(size <= 64, f"{name}: costs {size} bytes")


@check("coder")
def encoding_is_pure(coder: Coder) -> None:
    """Encoding twice gives the same bytes, and leaves the symbols untouched."""
    untouched = streams()
    for name, stream, encoded in encoded_streams(coder):
        same = np.array_equal(stream.symbols, untouched[name].symbols)
        require(same, f"{name}: encoding changes the symbols in place")
        require(coder.encode(stream) == encoded, f"{name}: a second encoding has other bytes")


@check("coder")
def encodes_read_only_symbols(coder: Coder) -> None:
    """Symbols in read-only memory can be encoded and decoded."""
    symbols = streams()["skewed"].symbols.copy()
    symbols.flags.writeable = False
    stream = Stream.of(symbols, 32)
    stream.symbols.flags.writeable = False
    require(np.array_equal(coder.decode(coder.encode(stream), stream.spec), symbols), "comes back wrong")


@check("coder")
def decoding_is_pure(coder: Coder) -> None:
    """Decoding twice gives the same symbols, also after other streams in between."""
    chosen = list(encoded_streams(coder, small=True))
    first = [coder.decode(encoded, stream.spec).copy() for _, stream, encoded in chosen]
    for (name, stream, encoded), before in zip(reversed(chosen), reversed(first), strict=True):
        require(np.array_equal(coder.decode(encoded, stream.spec), before), f"{name}: a second decoding is different")


@check("coder")
def decodes_elsewhere(coder: Coder) -> None:
    """Another process decodes the same symbols from the bytes and the parameters alone."""
    chosen = list(encoded_streams(coder, small=True))
    theirs = call_in_other_process(_decode, coder, [(encoded, stream.spec) for _, stream, encoded in chosen])
    for (name, stream, _), symbols in zip(chosen, theirs, strict=True):
        require(np.array_equal(symbols, stream.symbols), f"{name}: another process decodes other symbols")


def _decode(coder: Coder, jobs: list[tuple[Encoded, StreamSpec]]) -> list[np.ndarray]:
    return [coder.decode(encoded, spec) for encoded, spec in jobs]


@check("coder")
def truncation(coder: Coder) -> None:
    """A payload or table cut short decodes to the right shape or raises CorruptFile, nothing else."""
    call_in_other_process(_truncation, coder)


def _truncation(coder: Coder) -> None:
    for name, stream, encoded in encoded_streams(coder, small=True):
        for keep in (0.0, 0.5, 0.97):
            for part in ("table", "payload"):
                whole = getattr(encoded, part)
                cut = whole[: min(int(keep * len(whole)), max(len(whole) - 1, 0))]
                _survives(coder, _with(encoded, part, cut), stream.spec, f"{name}, {part} cut to {len(cut)} bytes")


@check("coder")
def flipped_bits(coder: Coder) -> None:
    """Flipped bits decode to the right shape or raise CorruptFile, nothing else."""
    call_in_other_process(_flipped_bits, coder)


def _flipped_bits(coder: Coder) -> None:
    rng = np.random.default_rng(3)
    for name, stream, encoded in encoded_streams(coder, small=True):
        for part in ("table", "payload"):
            whole = getattr(encoded, part)
            # the first bytes hold what a decoder trusts most
            places = {*range(min(4, len(whole))), *rng.integers(0, max(len(whole), 1), 6).tolist()}
            for place in sorted(places & set(range(len(whole)))):
                bit = int(rng.integers(0, 8))
                flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
                of = f"{name}, bit {bit} of {part} byte {place} flipped"
                _survives(coder, _with(encoded, part, flipped), stream.spec, of)


@check("coder")
def garbage(coder: Coder) -> None:
    """Random bytes, zeros, ones, and another stream's bytes: the right shape or CorruptFile, nothing else."""
    call_in_other_process(_garbage, coder)


def _garbage(coder: Coder) -> None:
    rng = np.random.default_rng(4)
    chosen = list(encoded_streams(coder, small=True))
    junk = [b"", b"\x00" * 40, b"\xff" * 40, rng.bytes(1), rng.bytes(33), rng.bytes(3000)]
    for index, (name, stream, encoded) in enumerate(chosen):
        other = chosen[index - 1][2]
        tries = [Encoded(encoded.table, bad) for bad in junk] + [Encoded(bad, encoded.payload) for bad in junk]
        tries += [Encoded(bad, bad) for bad in junk] + [other, Encoded(encoded.table, other.payload)]
        for number, bad in enumerate(tries):
            _survives(coder, bad, stream.spec, f"{name}, garbage {number}")


@check("coder")
def wrong_specification(coder: Coder) -> None:
    """More symbols, fewer, or a smaller alphabet than were encoded: the right shape or CorruptFile."""
    call_in_other_process(_wrong_specification, coder)


def _wrong_specification(coder: Coder) -> None:
    for name, stream, encoded in encoded_streams(coder, small=True):
        count, alphabet = stream.spec.count, stream.spec.alphabet
        counts = [(count + 1, alphabet), (count - 1, alphabet), (10 * count, alphabet)]
        for wrong, of in [*counts, (count, 1), (count, max(1, alphabet // 2))]:
            changed = StreamSpec(wrong, of, stream.spec.ordered)
            _survives(coder, encoded, changed, f"{name} as {wrong} symbols of {of}")


def _with(encoded: Encoded, part: str, data: bytes) -> Encoded:
    return Encoded(data, encoded.payload) if part == "table" else Encoded(encoded.table, data)


def _survives(coder: Coder, encoded: Encoded, spec: StreamSpec, of: str) -> None:
    try:
        symbols = coder.decode(encoded, spec)
    except CorruptFile:
        return
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise Failed(f"{of}: raises {type(error).__name__} ({error}), not CorruptFile") from error
    _is_sound(symbols, spec, of)


@check("coder")
def bounded_memory(coder: Coder) -> None:
    """A payload that unfolds to more symbols than were announced does not fill the memory."""
    stream = Stream.of(np.zeros(1 << 22, dtype=np.int32), 4)
    encoded = coder.encode(stream)
    tracemalloc.start()
    try:
        _survives(coder, encoded, StreamSpec(16, 4), "2^22 symbols announced as 16")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 2 MiB: a decoder's tables may have 2^16 entries and more
    require(peak <= len(encoded.payload) + (2 << 20), f"takes {peak / 2**20:.0f} MiB to decode 16 announced symbols")


@check("coder")
def rate(coder: Coder) -> None:
    """rate(counts) is finite, not negative, one figure a symbol, and positive where there are several."""
    rng = np.random.default_rng(5)
    for counts in (
        np.array([1, 1]),
        np.array([0, 7, 0, 93]),
        rng.integers(0, 50, 256),
        np.array([5, 0, 0]),
        np.array([9]),
    ):
        before = counts.copy()
        bits = np.asarray(coder.rate(counts))
        require(bits.shape == counts.shape, f"rate of {counts.size} counts has the shape {bits.shape}")
        require(bits.dtype == np.float64, f"rate is {bits.dtype}, not float64")
        require(np.isfinite(bits).all() and (bits >= 0).all(), "a rate is negative or not finite")
        several = np.count_nonzero(counts) > 1
        require(not several or (bits > 0).all(), "a rate is 0 where several symbols occur")
        require(np.array_equal(counts, before), "rate changes the counts in place")


@check("coder")
def rate_tells_the_bytes(coder: Coder) -> None:
    """rate(counts) times the counts predicts the payload of a memoryless stream within a factor of two."""
    stream = streams()["skewed"]
    predicted = float(coder.rate(stream.counts) @ stream.counts) / 8
    measured = len(coder.encode(stream).payload)
    require(0.5 <= measured / predicted <= 2, f"rate says {predicted:.0f} bytes, the payload has {measured}")
