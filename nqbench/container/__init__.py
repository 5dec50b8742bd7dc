"""The ``.nqz`` file, format version 1: a compressed network, specified byte by byte.

All integers are little-endian. ``int`` is unsigned LEB128 (7 bits a byte, lowest first, top bit set on all but the
last); ``signed`` is zigzag, then ``int``; ``text`` is an ``int`` length and that many bytes of UTF-8; ``u8`` a byte.
Nothing in a file is trusted before it is checked; a reader refuses what this page does not allow.

File
====
======================= ==============================================================================================
``"NQZ"``, ``u8`` 1     magic and format version
``int`` U, ``int`` C    size of the header, plain and deflated
C bytes                 the header: raw deflate (RFC 1951) with the preset dictionary ``header.DICTIONARY``
4 bytes                 CRC-32 (IEEE 802.3, as zlib's) of everything before it
sections                ``codebook``, ``coder_table``, ``positions``, ``symbols``, ``raw_parameters``, ``raw_buffers``,
                        in this order; an empty one is left out; each is followed by the CRC-32 of its bytes (4 bytes)
======================= ==============================================================================================
The file ends with its last section.

Header
======
1.  ``text`` producer.
2.  Five plugins: quantizer, coder, codec, positions, positions' own coder. Each: ``text`` name, and unless that is
    empty: ``text`` canonical JSON of its parameters, ``text`` distribution, ``text`` its version.
3.  Tensors, in the order of the network's state: ``int`` T; T names, each as ``int`` length of the prefix shared with
    the name before, ``int`` length of the rest, the rest (UTF-8); T kinds, ``u8`` each:
    0 quantized, 1 raw parameter, 2 raw buffer, 3 alias, 4 coded by the codec; 8 is added to 1 or 2 where one stored
    element stands for all. Then for each tensor: an alias: ``int`` index of the tensor it shares; every other:
    ``u8`` (deployed dtype << 4 | stored dtype), ``int`` rank, that many ``int`` sizes; a quantized one also
    ``int`` (group << 1 | 1 if it was pruned). dtypes: 0 float32, 1 float16, 2 bfloat16, 3 float64, 4 int64, 5 int32,
    6 int16, 7 int8, 8 uint8, 9 bool.
4.  Groups (tensors that share one quantizer's result): ``int`` G; for each: ``u8`` form (0 lookup, 1 grid,
    2 dithered, 3 plugin), ``int`` alphabet k, ``int`` inserted symbol + 1 or 0, ``int`` number of arrays; each array:
    ``text`` name, ``u8`` type: dtype, +16 for a parameter (what fine-tuning may move), and then ``int`` rank and the
    sizes; or 32 for an integer, 33 for a float64.
5.  ``u8`` stream mode (0 one stream for all groups, 1 one a group, 2 one a tensor), ``int`` number of streams, for
    each ``int`` bytes of its table, ``int`` bytes of its payload.
6.  ``u8`` 1 if there is a stream of positions, and then ``int`` its number of symbols, ``int`` alphabet, ``int``
    bytes of its table, ``int`` bytes of its payload.
7.  Six ``int``: the bytes of each section.

Sections
========
- ``codebook``: the arrays of all groups in the header's order: tensors row-major, integers ``signed``, floats 8 bytes.
- ``coder_table``, ``symbols``: tables and payloads of the streams, one after another; what they mean is the coder's
  own specification (``nqbench show coder NAME``). A codec's bytes are in ``symbols``.
- ``positions``: table and payload of the positions' stream, through their own coder or the file's.
- ``raw_parameters``, ``raw_buffers``: the tensors of kinds 1 and 2 (9 and 10: one element), row-major, stored dtype.

Symbols
=======
A group's tensors are taken in the header's order, row-major; the symbols of pruned places are left out, or, where the
positions are of the kind that merges (``zero``), they are in as the *zero symbol*: the symbol whose value is exactly
0, or, where the quantizer has none, one more that is inserted into the alphabet at the place the header says (symbols
from there on are moved up by one). A stream's alphabet is the largest of its groups'. A symbol of a codebook (k, d)
stands for d weights; the last one of a group may be padded.

Values
======
For weight i of a group (kept ones counted in order, from 0), in float32, each operation rounded once:
``value = scale * table[symbol] - u``; see ``nqbench.api.quantized`` for the forms: ``lookup`` (table: ``codebook``),
``grid`` (table: symbol + ``offset``, scale: ``step``), ``dithered`` (table: ``codebook``; u by Philox4x32-10 from
``seed`` and ``dither_step``, see ``nqbench.api.philox``, whose tests hold golden vectors). scale has one entry, or
one a tensor, or is absent (1). Pruned places are +0, and a value of -0 is deployed as +0. Tensors of another
deployed dtype are rounded to it at the end.
Form ``plugin`` can be read by the quantizer alone.
"""

from nqbench.container.header import SECTIONS, Header
from nqbench.container.layout import cpu
from nqbench.container.reader import LIMIT, Decoded, decode, read
from nqbench.container.sections import Sections, read_sections, sections_of
from nqbench.container.writer import Contents, Written, encode, stored_dtype, write

PARTS = ("header", *SECTIONS)
"""The parts of a file, as records list them."""

__all__ = [
    "LIMIT",
    "PARTS",
    "SECTIONS",
    "Contents",
    "Decoded",
    "Header",
    "Sections",
    "Written",
    "cpu",
    "decode",
    "encode",
    "read",
    "read_sections",
    "sections_of",
    "stored_dtype",
    "write",
]
