"""Format version 2: scales of any granularity, codes, vectors within rows, tables by rule, transforms, in every
mixture.

What must come back is worked out weight by weight (``nqz_kit.structured``); a second decoder reads the same files."""

import random
from dataclasses import replace

import pytest
import stranger_decoder
import torch
from nqz_kit import G, Recipe, S, T, build, kit_registry

import nqbench.container
from nqbench.api import Array, BadInput, CorruptFile, Per
from nqbench.container import decode, encode, sections_of
from nqbench.container.packing import crc, pack
from nqbench.pipeline.artifacts import first_difference, load_quantized, save_quantized

BY = (("global", 0), ("layer", 0), ("channel", 0), ("channel", 1), ("column", 0), ("group", 4), ("group", 3))
ODD = ((0, 3), (3, 0), (), (1,), (7,), (0,), (2, 0, 3), (1, 1))
RULES = (("nf4", 16, 1), ("fp4", 15, 1), ("e4m3", 253, 1), ("e5m2", 247, 1), ("int", 9, 1),
         ("laplace", 63, 1), ("zd", 40, 3), ("d4", 100, 4), ("e8", 300, 8))  # fmt: skip


def granularity(rng, axes):
    """Of tensors of at least so many axes."""

    def one(of):
        return rng.choice([per for per in of if per[0] != "channel" or per[1] < axes])

    if rng.random() < 0.7:
        return one(BY)
    per = one((("group", 4), ("group", 2), ("channel", 0), ("layer", 0)))
    units = [("global", 0), ("layer", 0), *([("group", 8)] if per[0] == "group" else [])]
    return (*per, rng.choice((2, 16, 256, 300)), *rng.choice(units))


def mixture(seed, coder=None):
    """A file of two groups, the first with a structure."""
    rng = random.Random(seed)
    form = rng.choice(("lookup", "grid", "dithered", "dithered-grid", "lookup", "lookup"))
    names = [n for n in ("step" if "grid" in form else "scale", "zero", "shift", "equalize") if rng.random() < 0.5]
    table, d, k, books, summed = "", 1, rng.choice((1, 2, 4, 7, 16)), 1, False
    if "grid" not in form:
        d = rng.choice((1, 1, 2, 3, 4))
        if rng.random() < 0.3:
            table, k, d = rng.choice(RULES)
        elif form != "dithered" and rng.random() < 0.4:
            books, summed = rng.choice((2, 3)), rng.random() < 0.5
    stored = rng.choice((torch.float32, torch.float16, torch.bfloat16))
    odd = rng.choices(ODD, k=rng.choice((0, 1, 1, 2, 3)))
    axes = min([2, *map(len, odd)])
    arrays = tuple((name, granularity(rng, axes)) for name in names)
    structure = S(arrays, stored, books, summed, table, rng.choice((0, 0, 2, 8)))
    if structure.hadamard and rng.random() < 0.5:
        structure = replace(structure, tile=rng.choice((2, 4)))
    masked = rng.random() < 0.5
    plain = d == 1 and books == 1
    tensors = [
        T((5, 9), mask=rng.choice((None, 0.5, 0.1)) if masked else None), T((4,), None),
        T((3, 2, 2, 3), mask=0.6 if masked else None), T((4, 7), 1 if rng.random() < 0.3 else 0),
    ]  # fmt: skip
    for shape in odd:  # before the others, between them, behind them; or, rarely, alone
        tensors.insert(rng.randint(0, len(tensors)), T(shape, mask=0.5 if masked and rng.random() < 0.5 else None))
    if odd and rng.random() < 0.1:
        tensors = [replace(t, group=None) if t.shape in ((5, 9), (3, 2, 2, 3)) else t for t in tensors]
    first = G(form, k, d, zero=rng.random() < 0.5, ordered=rng.random() < 0.7, movable=rng.random() < 0.7)
    return Recipe(
        tuple(tensors), (replace(first, structure=structure), G()),
        coder=coder or rng.choice(("raw", "huffman", "context", "rans")),
        positions=rng.choice(("kit-merged", "gaps", "kit-bitmap")[0 if plain else 1 :]),
        streams=rng.choice(("auto", "joint", "per-tensor")), seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def registry():
    return kit_registry()


@pytest.mark.parametrize("part", range(4))
def test_every_mixture_decodes_to_what_its_formula_says(registry, part):
    for seed in range(25 * part, 25 * part + 25):
        contents, expected = build(mixture(seed))
        data, written = encode(contents, registry)
        assert sum(written.parts.values()) == len(data)
        found = first_difference(expected, decode(sections_of(data), registry).tensors)
        assert found is None, (seed, found)


def test_a_decoder_written_from_the_specification_alone_reads_every_mixture(registry):
    for seed in range(1000, 1040):
        contents, expected = build(mixture(seed, ("raw", "kit-present")[seed % 2]))
        theirs = stranger_decoder.decode(encode(contents, registry)[0], nqbench.container.__doc__)
        assert all(theirs[name].tobytes() == value.numpy().tobytes() for name, value in expected.items()), seed


def test_vectors_of_tensors_without_weights_take_nothing_for_their_rows(registry):
    """2^40 rows of no weight: a number for each would take 8 TB. Masked, in product codes, rotated."""
    many = (1 << 40, 0)
    for structure in (S(books=2), S(hadamard=8), S((("scale", ("group", 4)),), hadamard=2, tile=2)):
        recipe = Recipe(
            (T(many), T((4, 6), mask=0.5), T(many, mask=0.5)), (G(d=2, structure=structure),), positions="gaps"
        )
        contents, expected = build(recipe)
        decoded = decode(sections_of(encode(contents, registry)[0]), registry).tensors
        assert first_difference(expected, decoded) is None


@pytest.mark.parametrize("empty", [(0, 3), (0,)])
def test_the_unit_of_a_code_of_all_tensors_is_that_of_the_first_weight(registry, empty):
    """A tensor without weights before it has no unit."""
    structure = S((("scale", ("global", 0, 16, "layer", 0)),))
    contents, expected = build(Recipe((T(empty), T((4, 6))), (G(structure=structure),)))
    decoded = decode(sections_of(encode(contents, registry)[0]), registry).tensors
    assert first_difference(expected, decoded) is None


@pytest.mark.parametrize("masked", [None, 0.6])
@pytest.mark.parametrize("form", ["lookup", "dithered"])
def test_vectors_longer_than_some_rows(registry, form, masked):
    tensors = (T((5, 3), mask=masked), T((2, 9), mask=masked), T((4, 1)), T((1, 4)), T((3, 0)))
    for structure in (S(), S(books=3), S(books=3, summed=True)) if form == "lookup" else (S(),):
        contents, expected = build(Recipe(tensors, (G(form, d=4, structure=structure),), positions="gaps"))
        decoded = decode(sections_of(encode(contents, registry)[0]), registry).tensors
        assert first_difference(expected, decoded) is None


def test_scales_are_a_part_of_their_own_and_coded_where_that_is_shorter(registry):
    """4 x 4096 / 64 float16 scales, drawn from 16 values: half a byte each at best, and never more than two."""
    recipe = Recipe((T((64, 4096)),), (G(structure=S((("scale", ("group", 64)),), torch.float16)),), coder="rans")
    contents, _ = build(recipe)
    (group,) = contents.groups
    few = torch.linspace(0.5, 2, 16)[torch.randint(16, (4096,), generator=torch.Generator().manual_seed(0))]
    chosen = replace(group.quantized, parameters={**group.quantized.parameters, "scale": few})
    coded = encode(replace(contents, groups=(replace(group, quantized=chosen),)), registry)[1]
    assert 4096 // 2 <= coded.parts["scales"] < 4096 * 3 // 4
    assert encode(build(replace(recipe, coder="raw"))[0], registry)[1].parts["scales"] == 2 * 4096 + 1


def test_a_file_without_a_structure_is_still_of_version_1(registry):
    assert encode(build(Recipe())[0], registry)[0][3] == 1
    assert encode(build(Recipe(groups=(G(structure=S()),)))[0], registry)[0][3] == 2


def test_a_cached_result_keeps_its_structure(registry, tmp_path):
    from nqbench.api import QuantizedModel

    for seed in range(30):
        contents, _ = build(mixture(seed))
        save_quantized(QuantizedModel(contents.groups, {}), tmp_path / "q")
        again = load_quantized(tmp_path / "q").groups
        for old, new in zip(contents.groups, again, strict=True):
            if old.quantized.form != "plugin":
                assert torch.equal(old.quantized.reconstruct(), new.quantized.reconstruct())


def test_the_gradient_of_a_scale_is_the_sum_over_its_weights(registry):
    """value = scale * table[symbol]: d sum(value) / d scale_b is the sum of the block's table entries, whatever the
    dtype in which the scale is stored."""
    recipe = Recipe((T((4, 12)),), (G(structure=S((("scale", ("group", 4)),), torch.float16)),))
    q = build(recipe)[0].groups[0].quantized
    scale = q.parameters["scale"].clone().requires_grad_()
    q.reconstruct({**q.parameters, "scale": scale}).sum().backward()
    table = q.parameters["codebook"].half().float()
    torch.testing.assert_close(scale.grad, table[q.symbols].reshape(-1, 4).sum(1))


WRONG = {
    "an array that nobody declares": lambda q: replace(q, side={**q.side, "shift": torch.zeros(3)}),
    "too few entries": lambda q: replace(q, parameters={**q.parameters, "scale": torch.ones(2)}),
    "an infinite scale": lambda q: replace(q, parameters={**q.parameters, "scale": torch.full((4,), torch.inf)}),
    "a scale beyond float16": lambda q: replace(
        q, parameters={**q.parameters, "scale": torch.full((4,), 1e6)},
        structure=replace(q.structure, stored={"scale": torch.float16}),
    ),
    "a missing scale": lambda q: replace(q, parameters={"codebook": q.parameters["codebook"]}),
    "another dimension": lambda q: replace(q, structure=replace(q.structure, dimension=2)),
    "a table beside a codebook": lambda q: replace(q, structure=replace(q.structure, table="nf4")),
    "a transform of 12": lambda q: replace(q, structure=replace(q.structure, hadamard=12)),
    "an axis too many": lambda q: replace(
        q, structure=replace(q.structure, arrays={"scale": Array(Per("channel", 2))})
    ),
    "codes of floats": lambda q: replace(
        q, structure=replace(q.structure, arrays={"scale": Array(Per("channel"), 16)})
    ),
    "a step of a table": lambda q: replace(
        q, side={"step": torch.ones(4)}, structure=replace(q.structure, arrays={"step": Array(Per("channel"))})
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_no_decoder_could_read_is_not_written(registry, what):
    contents, _ = build(Recipe((T((4, 6)),), (G(structure=S((("scale", ("channel", 0)),))),)))
    (group,) = contents.groups
    wrong = replace(group, quantized=WRONG[what](group.quantized))
    with pytest.raises(BadInput):
        encode(replace(contents, groups=(wrong,)), registry)


def test_vectors_are_not_merged(registry):
    recipe = Recipe((T((4, 6), mask=0.5),), (G(d=2, structure=S()),))
    with pytest.raises(BadInput, match="one symbol per weight"):
        encode(build(recipe)[0], registry)


LIES = {
    "other entries": lambda s: replace(s, arrays=(("scale", Array(Per("column"))),)),
    "codes": lambda s: replace(s, arrays=(("scale", Array(Per("channel"), 16)),)),
    "an axis too many": lambda s: replace(s, arrays=(("scale", Array(Per("channel", 9))),)),
    "a dimension": lambda s: replace(s, dimension=3),
    "no dimension": lambda s: replace(s, dimension=0),
    "a transform": lambda s: replace(s, hadamard=6),
    "tiles without a transform": lambda s: replace(s, tile=4),
    "tiles of three rows": lambda s: replace(s, hadamard=4, tile=3),
    "no such table": lambda s: replace(s, table="nf5"),
    "a sum": lambda s: replace(s, summed=True),
}


@pytest.mark.parametrize("what", LIES)
def test_a_header_that_lies_of_a_structure_is_refused(registry, what):
    data, _ = encode(build(Recipe((T((4, 6)),), (G(structure=S((("scale", ("channel", 0)),))),)))[0], registry)
    whole = sections_of(data)
    group = replace(whole.header.groups[0], structure=LIES[what](whole.header.groups[0].structure))
    lying = pack(replace(whole.header, groups=(group,)))
    body = b"".join(part + crc(part) for part in whole.data.values() if part)
    with pytest.raises(CorruptFile) as caught:
        decode(sections_of(lying + body), registry)
    assert caught.value.section in ("header", "codebook", "scales")
