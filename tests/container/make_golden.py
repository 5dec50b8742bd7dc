"""Makes the golden files: one per coder and form, tiny, and ``golden.json`` with what they must decode to.

``python tests/container/make_golden.py`` writes those that are missing and never touches one that is there: a file
written by an older version must stay readable. Delete one by hand to make it anew (a change of the format, with a new
version number, is the only good reason).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from nqz_kit import G, Recipe, S, T, build, kit_registry

from nqbench.api.toolkit.content import content_hash
from nqbench.container import SECTIONS, Decoded, decode, encode, sections_of

FOLDER = Path(__file__).parent / "golden"
ABOUT = FOLDER / "golden.json"

NET = (T((4, 6)), T((4,), None), T((3, 4)), T((3,), None, trainable=False, constant=True))
PRUNED = (T((5, 8), mask=0.3), T((5,), None), T((3, 4), mask=0.5))
MIXED = (
    T((4, 6)), T((4,), None), T((4,), None, trainable=False, constant=True), T((), None, torch.int64, trainable=False),
    T((0, 3)), T((2, 3), 0, torch.float16), T((2, 3), None, torch.bfloat16), T((5,), None, torch.bool, trainable=False),
    T(alias=0), T((3,), None, torch.float64),
)  # fmt: skip
CODERS = ("raw", "huffman", "rans", "lzw", "bzip2", "zlib", "xz", "zstd")

HALF = torch.float16
SCALAR_RULES = (("nf4", 16), ("fp4", 15), ("e4m3", 253), ("e5m2", 247), ("int", 9), ("laplace", 31))


def _S(form: str, *, k: int = 5, d: int = 1, zero_level: bool = False, **fields: Any) -> G:
    """A group with a structure; arrays and the fields of ``S`` by name."""
    names = ("stored", "books", "summed", "table", "hadamard", "tile")
    of_s = {name: fields.pop(name) for name in names if name in fields}
    return G(form, alphabet=k, d=d, zero=zero_level, structure=S(tuple(fields.items()), **of_s))


RECIPES = {
    **{f"coder-{name}": Recipe(NET, coder=name, groups=(G(alphabet=5),), seed=1) for name in CODERS},
    "coder-context": Recipe((T((9, 40)), T((9,), None), T((6, 50))), coder="context", groups=(G(alphabet=6),), seed=1),
    "coder-context-pruned": Recipe(
        (T((9, 40), mask=0.4), T((6, 50), mask=0.7)), (G("grid", alphabet=9, zero=True),), coder="context", seed=1
    ),
    "coder-context-gaps": Recipe(
        (T((9, 40), mask=0.2), T((6, 50))), (G("dithered-grid"),), coder="context", positions="gaps", seed=1
    ),
    "form-dithered-pruned": Recipe(PRUNED, (G("dithered", scale="each"),)),
    "form-lookup-scale": Recipe(NET, (G(scale="each"),)),
    "form-lookup-vectors": Recipe(NET, (G(d=2, scale="one"),)),
    "form-grid": Recipe(NET, (G("grid", zero=True),)),
    "form-dithered": Recipe(NET, (G("dithered"),)),
    "form-dithered-vectors": Recipe(NET, (G("dithered", d=4, movable=False),)),
    "form-dithered-grid": Recipe(NET, (G("dithered-grid", scale="each"),)),
    "form-dithered-grid-pruned": Recipe(PRUNED, (G("dithered-grid"),)),
    "form-plugin": Recipe(NET, (G("plugin"),)),
    "form-codec": Recipe(NET, codec=True),
    "merged-into-a-zero": Recipe(PRUNED, (G(zero=True),)),
    "merged-inserted": Recipe(PRUNED, (G("grid"),)),
    "positions-gaps": Recipe(PRUNED, positions="kit-gaps"),
    "positions-bitmap": Recipe(PRUNED, (G(d=2),), positions="kit-bitmap"),
    "positions-own-gaps": Recipe(PRUNED, (G(d=4),), positions="gaps"),
    "positions-own-bitmap": Recipe(PRUNED, positions="bitmap"),
    "positions-own-coder": Recipe(PRUNED, positions="gaps", positions_coder="huffman"),
    "positions-own-zero": Recipe(PRUNED, (G(zero=True, scale="each"),), positions="zero", coder="rans"),
    "one-symbol": Recipe(NET, (G("dithered", alphabet=1),)),
    "one-symbol-grid": Recipe(PRUNED, (G("grid", alphabet=1),), coder="huffman"),
    "wholly-pruned": Recipe((T((4, 6), mask=0.0), T((4,), None)), (G(alphabet=1),), positions="kit-bitmap"),
    "layers": Recipe(
        tuple(replace(t, group=None if t.group is None else i // 2) for i, t in enumerate(NET)), (G(), G(alphabet=3))
    ),
    "streams-joint": Recipe((T(group=0), T(group=1)), (G(), G(alphabet=9)), streams="joint"),
    "streams-per-tensor": Recipe(PRUNED, streams="per-tensor", coder="huffman"),
    "structure-channel": Recipe(NET, (_S("lookup", scale=("channel", 0)),)),
    "structure-blocks": Recipe(
        PRUNED, (_S("grid", step=("group", 4), zero=("group", 4), stored=HALF),), positions="gaps"
    ),
    "structure-blocks-merged": Recipe(PRUNED, (_S("grid", step=("group", 3), zero_level=True),)),
    "structure-shift": Recipe(PRUNED, (_S("lookup", scale=("column", 0), shift=("layer", 0)),)),
    "structure-codes": Recipe(
        (T((4, 40)), T((3, 7, 5))),
        (_S("lookup", scale=("group", 4, 64, "group", 16), shift=("group", 8, 256, "layer", 0), stored=HALF),),
    ),
    "structure-coded-scales": Recipe(
        (T((30, 40)),), (_S("lookup", scale=("group", 2, 4, "global", 0), equalize=("channel", 1)),), coder="rans"
    ),
    "structure-coded-planes": Recipe(
        (T((15, 32), 0), T((16, 32), 1), T((8, 32), 2), T((2, 3), 3)),
        (*(_S("grid", step=("group", 1), stored=kind) for kind in (torch.float32, HALF, torch.bfloat16)), G()),
        coder="kit-present",
    ),
    "structure-product": Recipe(PRUNED, (_S("lookup", d=2, books=3),), positions="kit-bitmap", streams="per-tensor"),
    "structure-residual": Recipe(
        NET, (_S("lookup", d=3, books=2, summed=True, scale=("channel", 0), stored=torch.bfloat16),)
    ),
    **{f"structure-table-{n}": Recipe(NET, (_S("lookup", k=k, scale=("group", 2), table=n),)) for n, k in SCALAR_RULES},
    "structure-table-zd": Recipe(NET, (_S("lookup", k=60, d=3, table="zd"),)),
    "structure-table-d4": Recipe(NET, (_S("lookup", k=200, d=4, table="d4", scale=("layer", 0)),)),
    "structure-table-e8": Recipe(NET, (_S("lookup", k=400, d=8, table="e8", scale=("global", 0)),)),
    "structure-hadamard": Recipe(
        PRUNED, (_S("dithered-grid", step=("channel", 0), equalize=("column", 0), hadamard=4),), positions="gaps"
    ),
    "structure-tiles": Recipe(
        (T((6, 10)), T((3, 4), mask=0.5)), (_S("lookup", scale=("channel", 0), hadamard=4, tile=4),), positions="gaps"
    ),
    "structure-dithered-vectors": Recipe(NET, (_S("dithered", d=2, k=9, scale=("channel", 1)),)),
    "structure-plugin": Recipe(NET, (_S("plugin", scale=("channel", 0)),)),
    "structure-beside-plain": Recipe(
        (T(group=0), T(group=1)), (_S("lookup", scale=("channel", 0)), G()), streams="joint"
    ),
    "state-others-codes": Recipe(
        (T((4, 6)), T((9,), None), T((3,), None), T((2, 4), None, torch.float64), T((7,), None, trainable=False)),
        unquantized="uint8-all",
    ),
    "state-mixed": Recipe(MIXED, (G(codebook=torch.float16),), unquantized="float16-all"),
}
NO_LONGER_WRITTEN = ("state-others-uint8",)
"""Codes of values, not of their roots."""


def facts(decoded: Decoded) -> dict[str, Any]:
    """What must not change: the state's hash, and what the header says."""
    header = decoded.header
    return {
        "sha256": content_hash(decoded.tensors),
        "shapes": {name: list(t.shape) for name, t in decoded.tensors.items()},
        "dtypes": [str(t.dtype).removeprefix("torch.") for t in decoded.tensors.values()],
        "kinds": [t.kind for t in header.tensors],
        "plugins": [plugin.name for plugin in header.plugins],
        "groups": [[g.form, g.alphabet, g.inserted, [a.name for a in g.arrays]] for g in header.groups],
        "streams": [header.stream_mode, *([s.table, s.payload] for s in header.streams)],
        "sections": [
            s for name, s in zip(SECTIONS, header.sections, strict=True) if header.version > 1 or name != "scales"
        ],
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    about = json.loads(ABOUT.read_text()) if ABOUT.exists() else {}
    registry = kit_registry()
    for name, recipe in RECIPES.items():
        path = FOLDER / f"{name}.nqz"
        if not path.exists():
            data, _ = encode(build(recipe)[0], registry)
            about[name] = facts(decode(sections_of(data), registry))
            path.write_bytes(data)
    lines = [f"{json.dumps(name)}: {json.dumps(about[name])}" for name in sorted((*RECIPES, *NO_LONGER_WRITTEN))]
    ABOUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
