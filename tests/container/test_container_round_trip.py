"""What is written comes back bit for bit, whatever a state, its masks, its groups and its streams look like."""

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nqz_kit import G, Recipe, S, T, build, kit_registry

from nqbench.api import BadInput
from nqbench.container import PARTS, decode, encode, read, sections_of, write
from nqbench.container.consistency import check
from nqbench.container.header import TensorEntry
from nqbench.container.layout import GroupLayout, Part, streams_of
from nqbench.container.raw import as_stored, written
from nqbench.pipeline.artifacts import first_difference

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)

shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)
quantized = st.builds(
    T,
    shape=shapes,
    dtype=st.sampled_from(FLOATS),
    mask=st.sampled_from((None, None, 0.0, 0.3, 1.0)),
    group=st.integers(0, 2),
)
raw = st.builds(
    T,
    shape=shapes,
    group=st.none(),
    dtype=st.sampled_from(FLOATS + OTHERS),
    trainable=st.booleans(),
    constant=st.booleans(),
)
groups = st.builds(
    G,
    form=st.sampled_from(("lookup", "grid", "dithered", "plugin", "dithered-grid")),
    alphabet=st.sampled_from((1, 2, 3, 7, 300)),
    d=st.sampled_from((1, 1, 2, 4)),
    scale=st.sampled_from(("none", "one", "each", "number")),
    codebook=st.sampled_from((torch.float32, torch.float16)),
    zero=st.booleans(),
    ordered=st.booleans(),
    movable=st.booleans(),
).map(lambda g: g if g.form in ("lookup", "dithered") else replace(g, d=1))
names = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8)


@st.composite
def recipes(draw):
    """Recipes of which a file can be made: vectors are not merged into zero, nor cut at tensors' borders."""
    tensors = draw(st.lists(st.one_of(quantized, raw), max_size=7))
    for target, tensor in list(enumerate(tensors))[:1]:
        if tensor.alias is None and draw(st.booleans()):
            tensors.append(T(alias=target))
    used = sorted({t.group for t in tensors if t.group is not None and t.alias is None})
    renumber = {g: i for i, g in enumerate(used)}
    if draw(st.booleans()):  # names as a state has them, or any
        chosen = draw(st.lists(names, min_size=len(tensors), max_size=len(tensors), unique=True))
    else:
        chosen = [""] * len(tensors)
    tensors = [
        T(t.shape, renumber.get(t.group), t.dtype, t.mask, t.alias, t.trainable, t.constant, name)
        for t, name in zip(tensors, chosen, strict=True)
    ]
    recipe = Recipe(
        tuple(tensors),
        tuple(draw(groups) for _ in used),
        coder=draw(st.sampled_from(("raw", "raw", "zlib", "bzip2"))),
        positions=draw(st.sampled_from(("kit-merged", "kit-bitmap", "kit-gaps"))),
        positions_coder=draw(st.sampled_from((None, None, "zlib"))),
        streams=draw(st.sampled_from(("auto", "joint", "per-tensor"))),
        unquantized=draw(st.sampled_from(("float32", "float16", "uint8", "float16-all", "uint8-all"))),
        seed=draw(st.integers(0, 99)),
    )
    vectors = any(g.d > 1 for g in recipe.groups)
    masked = any(t.mask is not None and t.group is not None for t in recipe.tensors)
    assume(not (vectors and masked and recipe.positions == "kit-merged"))
    assume(not (vectors and recipe.streams == "per-tensor"))
    return recipe


@settings(max_examples=150, deadline=None)
@given(recipes())
def test_every_state_comes_back_bit_for_bit_and_its_parts_add_up(recipe):
    contents, expected = build(recipe)
    registry = kit_registry()
    data, written = encode(contents, registry)
    sections = sections_of(data)
    assert first_difference(expected, decode(sections, registry).tensors) is None
    assert sum(written.parts.values()) == written.file_bytes == len(data)
    assert tuple(written.parts) == PARTS
    assert sections.parts == written.parts


@pytest.mark.parametrize("coder", ["huffman", "rans", "lzw", "xz", "zstd"])
@pytest.mark.parametrize("positions", ["kit-merged", "kit-bitmap"])
def test_every_coder_carries_weights_and_positions(coder, positions, tmp_path):
    tensors = (T((40, 30), mask=0.2), T((7,), None), T((30, 11), 1, mask=0.5))
    recipe = Recipe(tensors, (G(alphabet=17), G("grid", alphabet=5)), coder=coder, positions=positions)
    contents, expected = build(recipe)
    written = write(tmp_path / "a.nqz", contents, kit_registry())
    decoded = read(tmp_path / "a.nqz", kit_registry())
    assert first_difference(expected, decoded.tensors) is None
    assert written.file_bytes == (tmp_path / "a.nqz").stat().st_size == sum(written.parts.values())
    assert (written.parts["positions"] > 0) == (positions == "kit-bitmap")


class Counted:
    """Counts what is read of its instances."""

    reads = 0

    def __getattribute__(self, name):
        Counted.reads += 1
        return super().__getattribute__(name)


class CountedPart(Counted, Part):
    pass


class CountedEntry(Counted, TensorEntry):
    pass


@pytest.mark.parametrize(("mode", "symbols"), [("per-tensor", 4), ("per-tensor", None), ("joint", 4)])
def test_a_layout_takes_a_few_steps_a_tensor(mode, symbols):
    """A look at all of a group's tensors for each of them, of which a file may have 2^16, would be 250000 here."""
    parts = tuple(CountedPart(str(i), (4,), 4, symbols=symbols) for i in range(500))
    groups = [GroupLayout(parts, 3, 1, True, None)]
    before = Counted.reads
    streams = streams_of(groups, mode)
    assert Counted.reads - before <= 20 * 500
    assert [t.start for stream in streams for t in stream.spec.tensors][-1] == (4 * 499 if mode == "joint" else 0)
    assert [piece[1:] for stream in streams for piece in stream.pieces][-1] == (0 if mode == "joint" else 1996, 2000)


def test_a_header_s_groups_are_checked_in_a_few_steps_a_tensor():
    tensors = tuple(T((4,), i) for i in range(100))
    contents, _ = build(Recipe(tensors, tuple(G(structure=S((("scale", ("layer", 0)),))) for _ in tensors)))
    header = sections_of(encode(contents, kit_registry())[0]).header
    counted = replace(header, tensors=tuple(CountedEntry(**vars(entry)) for entry in header.tensors))
    before = Counted.reads
    check(counted)
    assert Counted.reads - before <= 50 * 100


def test_aliases_come_back_as_one_tensor():
    data, _ = encode(build(Recipe((T(), T(alias=0))))[0], kit_registry())
    state = decode(sections_of(data), kit_registry()).tensors
    assert state["layer0.weight"] is state["layer0.bias"]


def test_a_constant_tensor_takes_one_element():
    sizes = []
    for size in (4, 4000):
        recipe = Recipe((T(), T((size,), None, trainable=False, constant=True)))
        sizes.append(encode(build(recipe)[0], kit_registry())[1].parts["raw_buffers"])
    assert sizes == [4, 4]


def test_values_of_minus_zero_are_deployed_as_zero():
    contents, _ = build(Recipe((T((8,)),), (G(alphabet=1),)))
    contents.groups[0].quantized.parameters["codebook"][:] = -0.0
    state = decode(sections_of(encode(contents, kit_registry())[0]), kit_registry()).tensors
    assert not torch.signbit(state["layer0.weight"]).any()


def test_entropy_is_that_of_the_symbols():
    contents, _ = build(Recipe((T((64,)),), (G(alphabet=2),)))
    contents.groups[0].quantized.symbols[:] = torch.tensor([0] * 48 + [1] * 16)
    written = encode(contents, kit_registry())[1]
    assert written.symbols == 64
    assert written.entropy_bits == pytest.approx(64 * 0.8112781244591328)  # H(1/4) in bits


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe((T(mask=0.5),), (G(d=2),)), "one symbol per weight"),
        (Recipe((T(), T()), (G(d=2),), streams="per-tensor"), "one symbol per weight"),
        (Recipe((T(name="a\nb"),)), "control characters"),
        (Recipe((T(dtype=torch.int32),)), "no float"),
        (Recipe((T(name="x" * 5000),)), "a name's length"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(recipe, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        write(tmp_path / "a.nqz", build(recipe)[0], kit_registry())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("lookup", lambda q: q.parameters.update(codebook=torch.full((4,), float("nan"))), "codebook is not finite"),
        ("lookup", lambda q: q.parameters.update(codebook=torch.zeros(3)), "3 entries for 4 symbols"),
        ("lookup", lambda q: q.parameters.update(codebook=torch.zeros(4, 0)), "not an array of numbers or vectors"),
        ("lookup", lambda q: q.side.update(scale=torch.ones(5)), "5 entries of the scale for 1 tensors"),
        ("grid", lambda q: q.side.pop("offset"), "offset is missing"),
        ("grid", lambda q: q.side.update(offset=float("inf")), "offset is not finite"),
        ("grid", lambda q: q.parameters.pop("step"), "step is missing"),
        ("dithered", lambda q: q.side.update(seed=-1), "seed is not an integer"),
        ("dithered", lambda q: q.side.update(seed=1 << 63), "seed is not an integer"),
        ("dithered", lambda q: q.side.update(dither_step=1e39), "dither_step is not finite"),
        ("dithered-grid", lambda q: q.side.pop("seed"), "seed is not an integer"),
        ("dithered-grid", lambda q: q.side.pop("offset"), "offset is missing"),
        ("plugin", lambda q: q.side.update(big=1 << 63), "64 bits do not hold"),
    ],
)
def test_a_quantized_result_that_no_decoder_could_use_is_not_written(form, change, message):
    contents, _ = build(Recipe(groups=(G(form),)))
    change(contents.groups[0].quantized)
    with pytest.raises(BadInput, match=message):
        encode(contents, kit_registry())


def test_others_as_float16_keep_what_float16_cannot_hold():
    contents, _ = build(Recipe((T(), T((2,), None)), unquantized="float16"))
    contents.raw["layer0.bias"][:] = torch.tensor([1.0, 70000.0])
    data, written = encode(contents, kit_registry())
    assert written.parts["raw_parameters"] == 8
    assert decode(sections_of(data), kit_registry()).tensors["layer0.bias"].tolist() == [1.0, 70000.0]


@pytest.mark.parametrize("unquantized", ["float16", "uint8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trainable", [True, False])
def test_only_float32_parameters_are_rounded_unless_all_is_asked_for(unquantized, dtype, trainable):
    name, values = "layer0.bias", torch.tensor([torch.pi, 1e-5, -7.1, 2.0, 3.0]).to(dtype)
    found = {}
    for how in (unquantized, f"{unquantized}-all"):
        contents, _ = build(Recipe((T(), T((5,), None, dtype, trainable=trainable)), unquantized=how))
        contents.raw[name][:] = values
        data, written = encode(contents, kit_registry())
        got = decode(sections_of(data), kit_registry()).tensors[name]
        assert got.dtype == dtype
        found[how] = torch.equal(got, values), written.parts["raw_parameters"] + written.parts["raw_buffers"]
    bytes_rounded = 9 if unquantized == "uint8" and trainable else 10
    kept = not trainable or dtype == torch.float64
    assert found[unquantized] == ((True, 5 * dtype.itemsize) if kept else (False, bytes_rounded))
    assert found[f"{unquantized}-all"] == (False, bytes_rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_buffer_that_float16_holds_exactly_takes_two_bytes_a_number(dtype):
    contents, _ = build(Recipe((T(), T((4,), None, dtype, trainable=False)), unquantized="float16"))
    contents.raw["layer0.bias"][:] = torch.tensor([0.5, -0.0, 65504.0, 2.0**-24], dtype=dtype)
    data, written = encode(contents, kit_registry())
    assert written.parts["raw_buffers"] == 8
    assert written.buffers == sections_of(data).buffers == {"layer0.bias": 8}
    got = decode(sections_of(data), kit_registry()).tensors["layer0.bias"]
    assert torch.equal(got.view(torch.uint8), contents.raw["layer0.bias"].view(torch.uint8))


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([0.5, 0.25, -1.0, 3.0], 8),  # codes would be no shorter
        ([0.5, 0.25, -1.0, 3.0, 7.0], 9),
        ([0.5, 0.25, -1.0, 3.0, float("nan")], 20),
        ([0.5, 0.25, -1.0, 3.0, 70000.0], 9),
        ([0.5, 0.25, -1.0, 3.0, 4.3e9], 20),
        ([-4.29e9, 0.25, -1.0, 3.0, 4.29e9], 9),
        ([-65504.0, 0.25, -1.0, 3.0, 65504.0], 9),
        ([1e-9, 2e-9, 3e-9, 4e-9, 5e-9], 9),
        ([1e-12, 2e-12, 3e-12, -4e-12, 5e-12], 20),  # float16 has no such step
        ([1e-20, 2e-20, 3e-20, -4e-20, 5e-20], 20),
        ([1000.0, 1000.001, 1000.002, 1000.003, 1000.004], 9),
    ],
)
def test_others_as_uint8_err_by_half_a_step_of_the_roots_and_keep_what_has_none(values, size):
    contents, _ = build(Recipe((T(), T((len(values),), None)), unquantized="uint8"))
    contents.raw["layer0.bias"][:] = torch.tensor(values)
    data, written = encode(contents, kit_registry())
    assert written.parts["raw_parameters"] == size
    got = decode(sections_of(data), kit_registry()).tensors["layer0.bias"]
    wanted = torch.tensor(values)
    if size == 9:
        # float16 rounds the ends: by its last place at the largest root, or its smallest number
        roots = wanted.abs().double().sqrt() * wanted.sign()
        room = (roots.max() - roots.min()) / 510 + roots.abs().max() * 2**-10 + 2**-24
        assert bool(((got - wanted).abs() <= 2 * roots.abs() * room + room**2).all())
    elif size == 8:
        assert torch.equal(got, wanted.half().float())
    else:
        assert torch.equal(got.nan_to_num(9.0), wanted.nan_to_num(9.0))


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([3e-6, 1e-7, -2e-8], torch.float32),  # the last ones would be 2 and 0 units of 2^-24
        ([1e-1, 1e-8, 0.0], torch.float16),  # nothing beside the largest
        ([6.2e-5, 1e-6, 1e-8], torch.float16),
        ([0.0, 0.0, 0.0], torch.float16),
        ([2.0**-20, 0.0, 2.0**-24], torch.float16),  # as they are
        ([1e5, 1.0, 0.0], torch.float32),
    ],
)
def test_float16_stands_for_no_tensor_whose_largest_number_is_below_its_normal_ones(values, stored):
    tensor = torch.tensor(values)
    assert written(tensor, "float16", parameter=True)[0] == stored
    error = (as_stored(tensor, "float16", parameter=True) - tensor).abs().max()
    assert error <= tensor.abs().max() * 2.0**-11
