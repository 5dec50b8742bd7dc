"""nqbench's own entropy coders, lossless codecs, and encodings of the positions of pruned weights."""

from __future__ import annotations

from nqbench.api import Plugin, hookimpl

nqbench_api_version = 1


@hookimpl
def nqbench_plugins() -> list[type[Plugin]]:
    from nqbench_coders.context import Context
    from nqbench_coders.gguf_codes import GGUFCodes
    from nqbench_coders.huffman import Huffman
    from nqbench_coders.library import Bzip2, Xz, Zlib, Zstd
    from nqbench_coders.lossless import Lossless
    from nqbench_coders.lzw import Lzw
    from nqbench_coders.nncodec import NNCodec
    from nqbench_coders.peers import Constriction, Dahuffman, ImagecodecsLzw, Ncompress, Pcodec
    from nqbench_coders.positions import Bitmap, Gaps, Zero
    from nqbench_coders.rans import Rans
    from nqbench_coders.raw import Raw
    from nqbench_coders.zipnn import ZipNN

    own: list[type[Plugin]] = [
        Huffman,
        Rans,
        Context,
        Lzw,
        Bzip2,
        Raw,
        Zlib,
        Xz,
        Zstd,
        Gaps,
        Bitmap,
        Zero,
        Lossless,
        GGUFCodes,
    ]
    peers: list[type[Plugin]] = [Constriction, Pcodec, Ncompress, ImagecodecsLzw, Dahuffman, NNCodec, ZipNN]
    return own + peers
