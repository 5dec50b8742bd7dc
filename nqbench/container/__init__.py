"""The ``.nqz`` file, format versions 1 and 2: a compressed network, specified byte by byte.

All integers are little-endian. ``int`` is unsigned LEB128 (7 bits a byte, lowest first, top bit set on all but the
last), below 2^63, which coders call a varint; ``signed`` is zigzag (0, -1, 1, -2, ... as 0, 1, 2, 3, ...), then LEB128,
within 64 bits; ``text`` is an ``int`` length and that many bytes of UTF-8 without control characters (nor U+061C,
U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069); ``u8`` a byte.
CRC-32 is IEEE 802.3's, as zlib computes it. Nothing in a file is trusted before it is checked; a reader refuses what
this page does not allow.

File
====
======================= ==============================================================================================
``"NQZ"``, ``u8``       magic and format version: 2 where a group has a structure, else 1
``int`` U, ``int`` C    size of the header, plain (at most 2^22) and deflated
C bytes                 the header: raw deflate (RFC 1951) with the preset dictionary below
4 bytes                 CRC-32 of everything before it
sections                ``codebook``, ``scales``, ``coder_table``, ``positions``, ``symbols``, ``raw_parameters``,
                        ``raw_buffers``, in this order; an empty one is left out; each is followed by the CRC-32 of its
                        bytes (4 bytes). Version 1 has no ``scales``
======================= ==============================================================================================

The file ends with its last section. The dictionary is these lines in ASCII, without their indentation, one right after
another (no line breaks, nothing between them)::

    {"}nqbenchlookupsensitivityzerostepcodebookkmeansuniformhuffmanlzwbzip2
    embeddingattentionin_proj_weightout_projencoderdecodernormblocksfeaturesclassifierheadfcdownsample
    .num_batches_tracked.running_var.running_mean.bias.weightlinearlayer1.0.bn1.bn2.conv2.conv1.weight

Header
======
1.  ``text`` producer.
2.  Five plugins: quantizer, coder, codec, positions, positions' own coder. Each: ``text`` name, and unless that is
    empty: ``text`` JSON object of its parameters, ``text`` distribution, ``text`` its version. A quantizer's parameters
    that are at that version's defaults are left out unless a group has form 3. A file has a quantizer and a coder if it
    has groups, a codec instead if it has tensors of kind 4, positions if a tensor was pruned.
3.  Tensors, in the order of the network's state: ``int`` T (at most 2^16); T names, each as ``int`` length of the
    prefix shared with the name before (bytes), ``int`` length of the rest, the rest (UTF-8, no control characters, all
    different); T kinds, ``u8`` each:
    0 quantized, 1 raw parameter, 2 raw buffer, 3 alias, 4 coded by the codec; 8 is added to 1 or 2 where one stored
    element stands for all. Then for each tensor: an alias: ``int`` index of the tensor it shares (no alias itself);
    every other: ``u8`` (deployed dtype << 4 | stored dtype), ``int`` rank (at most 32), that many ``int`` sizes (their
    product without zeros at most 2^48); a quantized one also ``int`` (group << 1 | 1 if it was pruned).
    dtypes: 0 float32, 1 float16, 2 bfloat16, 3 float64, 4 int64, 5 int32, 6 int16, 7 int8, 8 uint8, 9 bool. Kinds 0 and
    4 are deployed as floats; a raw tensor is stored in its own dtype, or a float one in another float dtype or, unless
    it is of one element for all, as *codes*: of signed roots if its stored dtype is 10, or of values if it is 8.
4.  Groups (tensors that share one quantizer's result, at least one each): ``int`` G; for each: ``u8`` form (0 lookup,
    1 grid, 2 dithered, 3 plugin, 4 dithered-grid), ``int`` alphabet k (1 to 2^24), ``int`` inserted symbol + 1 or 0,
    ``int`` number of arrays (at most 64); each array: ``text`` name, ``u8`` type: dtype, +16 for a parameter (what
    fine-tuning may move), and then ``int`` rank and the sizes; or 32 for an integer, 33 for a float64. Version 2 goes
    on, for each group, with ``u8`` 1 if it has a *structure*, else 0, and then the structure:
    ``int`` dimension d (at most 2^16), ``u8`` 1 if codewords are summed, ``text`` name of a table by rule or nothing,
    ``int`` block of the transform (a power of two, 2 to 2^15), of tiles of a rows (such a power, too) plus 2^16 a, or
    0, after a block ``int`` seed; ``int`` number of declared arrays; each: ``u8`` which (0 scale, 1 step, 2 zero, 3
    shift, 4 equalize), its granularity, ``int`` codes (0, or their number, at most 2^16) and for codes the granularity
    of their units. A granularity: ``u8`` 0 global, 1 layer, 2 channel, 3 column, 4 group; after 2 ``int`` the
    axis of the channels, after 4 ``int`` the number of weights in a group.
5.  ``u8`` stream mode (0 one stream for all groups, 1 one per group, 2 one per quantized tensor), ``int`` number of
    streams, for each ``int`` bytes of its table, ``int`` bytes of its payload. A codec has one stream without a table.
6.  ``u8`` 1 if there is a stream of positions, and then ``int`` its number of symbols, ``int`` alphabet, ``int``
    bytes of its table, ``int`` bytes of its payload.
7.  Seven ``int`` (version 1: six): the bytes of each section, without its checksum.

Sections
========
- ``codebook``: the arrays of all groups in the header's order: tensors row-major, integers ``signed``, floats 8 bytes;
  without those that are in ``scales``.
- ``scales``: the arrays that structures declare, in the header's order of arrays; an array of codes has its units under
  its name with ``_unit`` behind. Entries are float32, float16 or bfloat16; codes uint8 if there are at most 256, else
  int32, which the type in the header says. Each: ``u8`` 0 and its entries, or 1 and its streams, one after another: for
  codes one, of their alphabet; for floats one for each of their bytes, the most significant first, of the alphabet 256.
  Each stream: ``int`` bytes of its table, ``int`` bytes of its payload, both; the coder is the file's, and is told of
  the group's tensors, unless the granularity is global: their names, and in place of their shapes (entries,), or for
  group (R, entries / R).
- ``coder_table``, ``symbols``: tables and payloads of the streams, one after another; what they mean is the coder's
  own specification (``nqbench show coder NAME``). A codec's bytes are in ``symbols``.
- ``positions``: table and payload of the positions' stream, through their own coder or else the file's. It holds the
  masks of the pruned tensors, group by group, in a group in the header's order; what its symbols mean is the
  positions' own specification.
- ``raw_parameters``, ``raw_buffers``: the tensors of kinds 1 and 2 (9 and 10: one element) in the header's order,
  row-major, stored dtype; a bool is a byte 0 or 1; codes are two float16, low and step, and a byte an element.

Symbols
=======
A group's tensors are taken in the header's order, row-major; the symbols of pruned places are left out, or, where the
positions are of the kind that merges (they have no stream), they are in as the *zero symbol*: the first whose table
entry is exactly 0 (never of the dithered forms and plugin), or, where there is none, one more that is inserted into the
alphabet at the place the header says (the quantizer's symbols from there on are moved up by one); a place of a pruned
tensor with the inserted symbol was pruned. Streams hold their groups or tensors in the header's order. A stream's
alphabet is the largest of its groups', each with its inserted symbol.
Where the codebook is (k, d) in a group without a structure, a symbol stands for d weights, the group's kept weights
taken d at a time across its tensors' borders; the last symbol's superfluous values are dropped. Vectors are not merged,
and not in mode 2 with another tensor of their group.
In a group with a structure a symbol stands for d weights of one row. A tensor's *rows* are its R indices along its
first axis, each of L places, the other axes row-major; a tensor of fewer than two axes is one row. A row's kept weights
are taken d at a time, the last vector's superfluous values are dropped. There is a symbol for each vector, or m, one
after another, where m codewords are summed. A coder is told of such a tensor, unless a symbol is a weight, as a matrix
of its symbols: R rows of equally many where it is not pruned, else one row, and without a mask.

Values
======
For weight i of a group (kept ones counted in order, from 0), in float32, each operation rounded once::

    value = scale * table[symbol] - u

- ``lookup``: the table is the array ``codebook``, (k,) or (k, d), as float32; the scale is the array or number
  ``scale``: one entry, or one per tensor of the group, or absent (1). u = 0.
- ``grid``: table[symbol] = symbol + ``offset``; the scale is ``step``. u = 0.
- ``dithered``: as ``lookup``, and u = dither_step * ((x + 1/2) / 2^24 - 1/2), computed in float64 and rounded once to
  float32; x is the top 24 bits of the first word of Philox4x32-10 (Salmon et al. 2011) for the key (seed mod 2^32, seed
  div 2^32) and the counter (j mod 2^32, j div 2^32, 0, 0), j counting the group's symbols from 0, as the quantizer made
  them (an inserted symbol stands for no weight and is not counted): all weights of a symbol share u.
  ``nqbench.api.philox`` says more, and its tests hold golden vectors.
- ``dithered-grid``: table[symbol] = (symbol + ``offset``) - x, each rounded; the scale is ``step``. u = 0. x is the u
  of ``dithered`` for a dither_step of 1, whose counter j starts from 0 in each tensor of the group, inserted symbols
  again not counted.
- ``plugin``: only the quantizer can read it.

With a structure, of the same forms::

    y = scale * (table[symbol] - zero) + shift - u          value = equalize * transform^-1(y)

- ``scale``, ``step`` (the grids' scale), ``zero``, ``shift``, ``equalize``: the arrays that the structure declares, one
  entry a weight by its granularity; what is not declared is left out, with its operation. Entries lie tensor by tensor:
  global: one for all tensors of the file's group; and for each tensor with at least one place: layer: one; channel: one
  for each index along that axis; column: L, the weight's by its place in its row; group of g: R ceil(L / g), for g
  places of a row each, the last perhaps for fewer. Pruned weights have places, too. An entry of codes is unit * code,
  with the unit of the codes' first weight; units are global, layer, or a group whose g is a multiple of the codes' g.
  float16 and bfloat16 count as float32 of the same value.
- The table is ``codebook``, (k,) where d = 1, (k, d), or (m, k, d), m from 2 to 64: the j-th symbol of a row, from 0,
  is of the codebook j mod m, and if codewords are summed they are added in that order. Or it is the rule's that is
  named (``nqbench.api.tables`` specifies them): nf4, fp4, e4m3, e5m2, int, laplace, zd, d4, e8; at most 2^16 points,
  d <= 16. nf4 is no formula but 16 numbers [QLoRA, 2305.14314, appendix E], in the order of the symbols, of which
  each stands for the nearest float32::

    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0

- ``dithered``: j counts the group's symbols, and there is one codebook.
- transform: the sign-randomized Hadamard transform of each row's kept weights, or of tiles of several rows'
  (``nqbench.api.hadamard`` specifies both).
- The zero symbol is one of ``lookup`` or ``grid`` with d = 1, one codebook, no ``zero``, no ``shift``, no transform;
  for others one is inserted. Where it is not inserted, no mask is known and all places of the tensor are kept ones.

Pruned places are +0, and a value of -0 is deployed as +0. Tensors of another deployed dtype are rounded to it at the
end. Raw tensors go from their stored to their deployed dtype, whatever their values; codes stand for
u = low + step * byte if of values, for u |u| if of signed roots, in float32, each operation rounded once, and then
rounded to their dtype. (The encoder writes those of roots; there are older files of values.)
"""

from nqbench.container.header import SECTIONS, Header
from nqbench.container.layout import cpu
from nqbench.container.memory import default_limit
from nqbench.container.raw import as_stored
from nqbench.container.reader import Decoded, decode, read
from nqbench.container.sections import Sections, read_sections, sections_of
from nqbench.container.writer import Contents, Written, encode, write

PARTS = ("header", *SECTIONS)
"""The parts of a file, as records list them."""

__all__ = [
    "PARTS",
    "SECTIONS",
    "Contents",
    "Decoded",
    "Header",
    "Sections",
    "Written",
    "as_stored",
    "cpu",
    "decode",
    "default_limit",
    "encode",
    "read",
    "read_sections",
    "sections_of",
    "write",
]
