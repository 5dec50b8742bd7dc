"""A coder registered from a distribution of its own: runs of equal symbols, then DEFLATE.

The payload is one zlib stream of little-endian 32-bit words: for each run its symbol, then its length. There is no
table.
"""

import zlib

import numpy as np

from nqbench.api import Coder, CorruptFile, Encoded, Stream, StreamSpec, check_decoded, hookimpl

nqbench_api_version = 1


class RunLength(Coder, name="run-length"):
    """Run lengths, then DEFLATE: for streams that repeat themselves."""

    def encode(self, stream: Stream) -> Encoded:
        symbols = stream.symbols
        starts = np.flatnonzero(np.diff(symbols, prepend=-1))  # no symbol is -1, so the first always starts a run
        runs = np.stack([symbols[starts], np.diff(starts, append=symbols.size)], axis=1)
        return Encoded(table=b"", payload=zlib.compress(runs.astype("<i4").tobytes(), 9))

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        # a run takes 8 bytes and no run is empty: more than 8 bytes per symbol are never needed
        unfold = zlib.decompressobj()
        try:
            data = unfold.decompress(encoded.payload, 8 * spec.count + 1)
        except zlib.error as error:
            raise CorruptFile(f"not a zlib stream: {error}") from error
        if len(data) % 8 or len(data) > 8 * spec.count or not unfold.eof:
            raise CorruptFile("not a whole number of runs, or too many of them")
        values, lengths = np.frombuffer(data, "<i4").reshape(-1, 2).T
        if (lengths < 1).any() or int(lengths.sum(dtype=np.int64)) != spec.count:
            raise CorruptFile(f"the runs do not add up to {spec.count} symbols")
        return check_decoded(np.repeat(values, lengths).astype(np.int32), spec)


@hookimpl
def nqbench_plugins() -> list[type[Coder]]:
    return [RunLength]
