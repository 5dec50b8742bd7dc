"""Tools for scalar quantizers: the sorted line of a source with prefix sums, assignment, codebooks.

from nqbench.api import scalar

line = scalar.line(source)                     # sorted once, shared by all trials on this source
positions = line.cut(scalar.midpoints(codebook))
count, h, hw, hww = line.sums(positions)       # one iteration over k cells: k binary searches
...
return scalar.nearest(source, codebook)        # symbols, and the codewords that are in use
"""

from nqbench.api.toolkit.codebooks import (
    MAX_ALPHABET,
    check_alphabet,
    dense,
    distortion,
    entropy,
    from_edges,
    from_symbols,
    look_up,
    nearest,
)
from nqbench.api.toolkit.passes import (
    assign,
    assign_and_sum,
    edge_table,
    floor32,
    interval_sums,
    midpoints,
    prefix,
    symbol_sums,
)
from nqbench.api.toolkit.sorted_line import Line, extremes, line, moments, offset

__all__ = [
    "MAX_ALPHABET",
    "Line",
    "assign",
    "assign_and_sum",
    "check_alphabet",
    "dense",
    "distortion",
    "edge_table",
    "entropy",
    "extremes",
    "floor32",
    "from_edges",
    "from_symbols",
    "interval_sums",
    "line",
    "look_up",
    "midpoints",
    "moments",
    "nearest",
    "offset",
    "prefix",
    "symbol_sums",
]
