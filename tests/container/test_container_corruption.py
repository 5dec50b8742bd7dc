"""A file that is damaged, or lies, is refused in one line that names the section, before it costs anything."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nqz_kit import G, KitMerged, Recipe, S, T, build, kit_registry

from nqbench.api import BadInput, Coder, CorruptFile, Encoded, NotRegistered, StreamSpec
from nqbench.container import SECTIONS, decode, default_limit, encode, read, sections_of, write
from nqbench.container.fields import put_int
from nqbench.container.header import CODES, ArrayEntry, PluginRef, PositionsEntry, StreamEntry, TensorEntry
from nqbench.container.packing import body, crc, frame, pack
from nqbench.container.unpacking import unframe
from nqbench.registry import Registered

ALL = Recipe(
    (T((5, 8), mask=0.3), T((5,), None), T((2, 3), 1, mask=0.5), T((3,), None, trainable=False), T(alias=1)),
    (G(alphabet=5, scale="one"), G("dithered")),
    coder="huffman",
    positions="kit-bitmap",
)
"""A file that has every section."""


@pytest.fixture(scope="module")
def registry():
    return kit_registry()


@pytest.fixture(scope="module")
def file(registry):
    data, written = encode(build(ALL)[0], registry)
    assert all(size for name, size in written.parts.items() if name != "scales")
    return data


def places(file):
    """Where each section ends, with its checksum; the header is the first."""
    sizes = sections_of(file).header.sections
    ends = {"header": unframe(file)[1]}
    at = ends["header"]
    for name, size in zip(SECTIONS, sizes, strict=True):
        at += size + 4 if size else 0
        ends[name] = at
    return ends


def section_of(file, at):
    return next(name for name, end in places(file).items() if at < end)


def rebuilt(file, header=None, **sections):
    """The file with another header or other sections, all checksums right."""
    whole = sections_of(file)
    data = {**whole.data, **sections}
    return pack(header or whole.header) + b"".join(data[n] + crc(data[n]) for n in SECTIONS if data[n])


def complaint(file, registry, **options):
    with pytest.raises(CorruptFile) as caught:
        decode(sections_of(file), registry, **options)
    text = str(caught.value)
    assert text.isprintable()
    assert caught.value.section in ("header", *SECTIONS)
    return text


def test_every_single_bit_flip_is_caught_in_its_section(file):
    ends = places(file)
    for at in range(len(file)):
        section = next(name for name, end in ends.items() if at < end)
        for bit in range(8):
            flipped = bytearray(file)
            flipped[at] ^= 1 << bit
            with pytest.raises(CorruptFile) as caught:
                sections_of(bytes(flipped))
            assert caught.value.section == section, (at, bit)


def test_a_file_cut_anywhere_is_refused_where_it_was_cut(file):
    for length in range(len(file)):
        with pytest.raises(CorruptFile) as caught:
            sections_of(file[:length])
        assert caught.value.section == section_of(file, length), length


def test_a_cut_file_s_error_names_path_section_and_byte(file, registry, tmp_path):
    path = tmp_path / "cut.nqz"
    end = places(file)["symbols"]
    path.write_bytes(file[: end - 5])
    symbols = sections_of(file).header.sections[SECTIONS.index("symbols")]
    with pytest.raises(CorruptFile) as caught:
        read(path, registry)
    where = f"{path}: section 'symbols', byte {symbols - 1}: "
    assert str(caught.value) == f"{where}the file is truncated: {symbols + 4} bytes expected, {symbols - 1} left"


@pytest.mark.parametrize("extra", [b"\0", b"NQZ\1", bytes(1000)])
def test_bytes_after_the_end_are_refused(file, registry, extra):
    assert "follow the end" in complaint(file + extra, registry)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "not an .nqz file"),
        (b"PK\3\4", "not an .nqz file"),
        (b"NQ", "not an .nqz file"),
        (b"NQZ", "1 bytes expected"),
        (b"NQZ\3", "format version 3; this nqbench reads 1 and 2"),
        (b"NQZ\xff", "format version 255"),
        (b"NQZ\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "does not end"),
        (b"NQZ\1\xff\xff\xff\x7f\5", "the header's size"),
    ],
)
def test_what_is_no_file_of_this_version_is_refused(start, message, registry):
    assert message in complaint(start, registry)


def test_a_missing_file_is_bad_input(registry, tmp_path):
    with pytest.raises(BadInput, match=r"none\.nqz: No such file"):
        read(tmp_path / "none.nqz", registry)
    with pytest.raises(BadInput, match="directory"):
        read(tmp_path, registry)


@pytest.mark.parametrize("kind", ["coder", "positions"])
def test_a_plugin_that_is_not_installed_names_its_distribution(file, registry, kind, tmp_path):
    ref = PluginRef("nobody", "{}", "nqbench-nobody", "7.1")
    path = tmp_path / "a.nqz"
    path.write_bytes(rebuilt(file, replace(sections_of(file).header, **{kind: ref})))
    with pytest.raises(NotRegistered) as caught:
        read(path, registry)
    needs = f"{path}: needs the {kind} 'nobody' of the distribution 'nqbench-nobody' 7.1"
    assert str(caught.value) == f"{needs}, which is not installed here: pip install nqbench-nobody"


def test_the_base_forms_decode_without_their_quantizer(file, registry):
    header = replace(sections_of(file).header, quantizer=PluginRef("nobody", "{}", "gone", "1"))
    decode(sections_of(rebuilt(file, header)), registry)


def test_a_form_of_its_own_needs_its_quantizer(registry):
    data, _ = encode(build(Recipe(groups=(G("plugin"),)))[0], registry)
    bare = replace(registry, found={k: v for k, v in registry.found.items() if k != ("quantizer", "kit-quantizer")})
    with pytest.raises(NotRegistered, match="'kit-quantizer' of the distribution 'nqz-kit'"):
        decode(sections_of(data), bare)


# -- the size limit ------------------------------------------------------------------------------------------------
def test_the_limit_is_the_decoded_state_s_bytes(file, registry):
    # 40 + 5 + 6 + 3 float32; an alias costs nothing
    decode(sections_of(file), registry, limit=4 * 54)
    assert "decodes to 216 bytes of tensors, more than the limit of 215" in complaint(file, registry, limit=4 * 54 - 1)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20), (1 << 16, 1 << 16, 1 << 16)])
@pytest.mark.parametrize("kind", ["quantized", "constant"])
def test_a_few_bytes_that_stand_for_terabytes_are_refused_before_anything_is_allocated(registry, shape, kind):
    group = 0 if kind == "quantized" else None
    recipe = Recipe((T((2,)), T((2,), group, constant=True)), (G(alphabet=1),))
    file, _ = encode(build(recipe)[0], registry)
    header = sections_of(file).header
    lying = replace(header, tensors=(header.tensors[0], replace(header.tensors[1], shape=shape)))
    assert f"more than the limit of {default_limit()}: raise the limit" in complaint(rebuilt(file, lying), registry)


def test_what_a_file_may_stand_for_fits_the_memory_ten_times():
    """The most that decoding takes (see below); with no other bound on it than the machine's."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < 10 * default_limit() <= physical


@pytest.mark.skipif(sys.platform != "linux", reason="limits its own address space")
def test_a_limited_process_allows_less():
    script = (
        "import resource; from nqbench.container.memory import default_limit;"
        "resource.setrlimit(resource.RLIMIT_AS, (5 << 30, resource.RLIM_INFINITY)); print(default_limit())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) == (5 << 30) // 10


@pytest.mark.parametrize("kind", ["quantized", "constant"])
def test_an_allocation_that_fails_is_one_line(registry, kind, tmp_path):
    """2^47 float32 are more than an address space holds, whatever the machine promises to have."""
    group = 0 if kind == "quantized" else None
    file, _ = encode(build(Recipe((T((2,)), T((2,), group, constant=True)), (G(alphabet=1),)))[0], registry)
    header = sections_of(file).header
    lying = replace(header, tensors=(header.tensors[0], replace(header.tensors[1], shape=(1 << 47,))))
    path = tmp_path / "huge.nqz"
    path.write_bytes(rebuilt(file, lying))
    with pytest.raises(BadInput) as caught:
        read(path, registry, limit=1 << 62)
    assert str(caught.value) == f"{path}: there is not enough memory to decode it: use a machine with more"


def test_a_few_bytes_may_stand_for_many_weights_within_the_limit(registry):
    recipe = Recipe((T((1000, 1000)),), (G(alphabet=1),))
    contents, expected = build(recipe)
    data, _ = encode(contents, registry)
    assert len(data) < 150
    assert torch.equal(decode(sections_of(data), registry).tensors["layer0.weight"], expected["layer0.weight"])


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory through /proc")
@pytest.mark.parametrize(
    ("most", "recipe"),
    [
        (8, Recipe((T((4000, 1000)),))),
        (10, Recipe((T((4000, 1000), mask=0.9),), (G("dithered", scale="one"),))),
        (10, Recipe((T((4000, 1000), mask=0.9),), (G("dithered", d=4),), positions="gaps")),
    ],
    ids=["plain", "merged", "gaps"],
)
def test_decoding_takes_at_most_ten_times_what_the_file_stands_for(registry, tmp_path, most, recipe):
    """16 MB of weights; measured need: 5, 8 and 6 times. The small file is large enough for the compiled dither."""
    write(tmp_path / "big.nqz", build(recipe)[0], registry)
    few = replace(recipe, tensors=tuple(replace(t, shape=(700, 700)) for t in recipe.tensors))
    write(tmp_path / "small.nqz", build(few)[0], registry)
    script = Path(__file__).with_name("decode_within.py")
    command = [sys.executable, script, tmp_path / "small.nqz", tmp_path / "big.nqz", str(most * 16_000_000)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory through /proc")
@pytest.mark.parametrize("form", ["lookup", "dithered"])
def test_vectors_longer_than_their_rows_take_no_more_memory(registry, tmp_path, form):
    """512 rows of one weight, each from a vector of 2^15 values: 64 MB if they were laid out whole."""
    recipe = Recipe((T((512, 1)), T((1, 8))), (G(form, alphabet=2, d=1 << 15, structure=S()),))
    write(tmp_path / "long.nqz", build(recipe)[0], registry)
    write(tmp_path / "short.nqz", build(replace(recipe, groups=(replace(recipe.groups[0], d=4),)))[0], registry)
    script = Path(__file__).with_name("decode_within.py")
    command = [sys.executable, script, tmp_path / "short.nqz", tmp_path / "long.nqz", str(32 << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_symbols_of_a_sum_count_where_they_are_more_than_the_weights(registry):
    """Of 6 x 5 weights, in 6 x 3 vectors of two: 18 symbols a codebook, 4 bytes each."""
    for books, size in ((2, 4 * 36), (60, 4 * 18 * 60)):
        recipe = Recipe((T((6, 5)),), (G(d=2, structure=S(books=books, summed=True)),))
        header = sections_of(encode(build(recipe)[0], registry)[0]).header
        assert header.decoded_bytes() == size
    assert "more than the limit" in complaint(encode(build(recipe)[0], registry)[0], registry, limit=size - 1)


# -- lies of the header --------------------------------------------------------------------------------------------
def tensor(index, **changes):
    def change(header):
        entry = replace(header.tensors[index], **changes)
        return replace(header, tensors=(*header.tensors[:index], entry, *header.tensors[index + 1 :]))

    return change


def group(index, **changes):
    def change(header):
        entry = replace(header.groups[index], **changes)
        return replace(header, groups=(*header.groups[:index], entry, *header.groups[index + 1 :]))

    return change


def top(**changes):
    return lambda header: replace(header, **changes)


def array(index, **changes):
    def change(header):
        arrays = header.groups[1].arrays
        return group(1, arrays=(*arrays[:index], replace(arrays[index], **changes), *arrays[index + 1 :]))(header)

    return change


LIES = [
    (tensor(0, shape=(1 << 62, 4)), "header", "too large"),
    (tensor(0, shape=(1 << 24, 0, 1 << 25)), "header", "too large"),
    (tensor(0, shape=(1,) * 33), "header", "a rank is 33"),
    (tensor(0, kind=5), "header", "unknown kind 5"),
    (tensor(0, kind=8), "header", "unknown kind 8"),
    (tensor(0, group=2), "header", "is of group 2, there are 2"),
    (tensor(0, dtype=torch.int32), "header", "no float"),
    (tensor(1, dtype=torch.bool), "header", "stored as torch.float32 and deployed as torch.bool"),
    (tensor(1, shape=(6,)), "header", "section 'raw_parameters' has 20 bytes, its tensors have 24"),
    (tensor(1, kind=9, shape=(0,)), "header", "has no element"),
    (tensor(1, stored=CODES), "header", "section 'raw_parameters' has 20 bytes, its tensors have 9"),
    (tensor(1, stored=torch.uint8), "header", "section 'raw_parameters' has 20 bytes, its tensors have 9"),
    (tensor(1, dtype=torch.int64, stored=CODES), "header", "stored as torch.quint8 and deployed as torch.int64"),
    (tensor(1, kind=9, stored=torch.uint8), "header", "is a constant, and stored as codes of a range"),
    (tensor(1, kind=9, stored=CODES), "header", "is a constant, and stored as codes of a range"),
    (tensor(4, target=4), "header", "alias of an alias"),
    (tensor(4, target=5), "header", "an alias is 5, at most 4 is possible"),
    (tensor(4, name="layer0.weight"), "header", "two tensors have the same name"),
    (tensor(4, name="\x1b[2J"), "header", "control characters"),
    (tensor(4, name="weight\u202ethgiew"), "header", "control characters"),
    (tensor(2, group=0), "header", "group 1 has no tensor"),
    (tensor(0, masked=False), "header", "46 positions of 2 kinds are impossible"),
    (group(0, alphabet=0), "header", "an alphabet of 0"),
    (group(0, alphabet=1 << 25), "header", "at most 16777216 is possible"),
    (group(0, inserted=3), "header", "inserted for pruned weights, and none merged"),
    (group(0, inserted=6), "header", "inserted symbol 6"),
    (group(0, alphabet=6), "codebook", "a codebook of 5 entries for 6 symbols"),
    (group(0, form="plugin"), "codebook", "quantizer 'kit-quantizer' failed: KeyError"),
    (group(0, form="grid"), "codebook", "a grid has no codebook"),
    (group(0, form="dithered-grid"), "codebook", "a grid has no codebook"),
    (group(0, arrays=()), "codebook", ""),
    (group(0, arrays=(ArrayEntry("a", True), ArrayEntry("a", False))), "header", "two arrays of one name"),
    (group(0, arrays=tuple(ArrayEntry(f"{i}", False) for i in range(65))), "header", "the number of arrays is 65"),
    (array(0, shape=(2, 2)), "codebook", "a codebook of 2 entries for 4 symbols"),
    (array(0, shape=(4, 2)), "codebook", "bytes expected"),
    (array(0, shape=(1 << 40,)), "codebook", "bytes expected"),
    (array(0, shape=(0,)), "codebook", ""),
    (array(1, name="sead"), "codebook", "the seed is not an integer"),
    (array(1, integer=False), "codebook", ""),
    (array(2, name="x"), "codebook", "the dither_step is missing"),
    (top(stream_mode="joint"), "header", "2 streams, 1 expected"),
    (top(streams=()), "header", "0 streams, 2 expected"),
    (top(streams=(StreamEntry(1 << 62, 0), StreamEntry(1 << 62, 0))), "header", "do not add up"),
    (top(positions_entry=None), "header", ""),
    (top(positions_entry=PositionsEntry(46, 3, 1, 9)), "header", ""),
    (top(positions_entry=PositionsEntry(1 << 40, 2, 1, 9)), "header", ""),
    (top(positions_entry=PositionsEntry(46, 0, 1, 9)), "header", "alphabet is empty"),
    (top(sections=(0,) * 7), "header", "do not add up"),
    (top(sections=((1 << 63) - 1, 0, *((1 << 63) - 1,) * 5)), "header", "do not add up"),
    (top(coder=PluginRef()), "header", "the coder has no name"),
    (top(positions=PluginRef()), "header", "the positions has no name"),
    (top(codec=PluginRef("kit-codec", "{}", "a", "1")), "header", "nothing to do"),
    (top(coder=PluginRef("huffman", "[1", "a", "1")), "header", "not a JSON object"),
    (top(coder=PluginRef("huffman", "[" * 30000, "a", "1")), "header", "not a JSON object"),
    (top(coder=PluginRef("huffman", '{"x\\n":1}', "a", "1")), "header", "unknown parameter 'x '"),
    (top(coder=PluginRef("lzw", '{"dictionary_bits":40}', "a", "1")), "header", "dictionary_bits"),
    (top(coder=PluginRef("huffman", "{}", "a b; rm", "1")), "header", "other characters"),
    (top(producer="x" * 257), "header", "at most 256"),
]


@pytest.mark.parametrize(("lie", "section", "message"), LIES, ids=[str(i) for i in range(len(LIES))])
def test_a_header_that_lies_is_refused(file, registry, lie, section, message):
    lying = rebuilt(file, lie(sections_of(file).header))
    text = complaint(lying, registry)
    assert f"section '{section}'" in text
    assert message in text


def test_positions_that_merge_have_no_stream(file, registry):
    ref = PluginRef("kit-merged", "{}", "nqz-kit", "0.0")
    assert "kit-merged' with a stream" in complaint(
        rebuilt(file, replace(sections_of(file).header, positions=ref)), registry
    )


def test_an_inserted_symbol_in_a_tensor_that_was_not_pruned_is_refused(registry):
    recipe = Recipe((T((6,), mask=0.5), T((6,))))
    file, _ = encode(build(recipe)[0], registry)
    header = sections_of(file).header
    first, second = header.tensors
    swapped = replace(header, tensors=(replace(first, masked=False), replace(second, masked=True)))
    assert "was not pruned and has pruned weights" in complaint(rebuilt(file, swapped), registry)


def test_names_that_share_prefixes_cannot_unfold_without_bound(file, registry):
    """4,097 names of 4,097 bytes each from 2 or 3 bytes a name: 16 MiB from 12 kB."""
    plain = bytearray()
    put_int(plain, 0)  # producer
    plain += bytes(5)  # no plugins
    put_int(plain, 5000)
    put_int(plain, 0)
    put_int(plain, 4096)
    plain += b"a" * 4096
    for _ in range(4999):
        put_int(plain, 4095)
        put_int(plain, 1)
        plain += b"b"
    assert "the tensors' names are too long" in complaint(frame(bytes(plain), 1), registry)


def test_a_header_of_zeros_that_inflates_to_a_gigabyte_is_refused_at_its_stated_size(registry):
    framed = bytearray(frame(bytes(1 << 22), 1))
    assert len(framed) < 5000
    complaint(bytes(framed), registry)
    with pytest.raises(CorruptFile, match="the header's size"):
        sections_of(frame(bytes((1 << 22) + 1), 1))


def test_a_header_inflating_to_more_than_it_states_is_refused(file, registry):
    plain, end, _ = unframe(file)
    honest, lying = bytearray(b"NQZ\1"), bytearray(b"NQZ\1")
    put_int(honest, len(plain))
    put_int(lying, len(plain) - 1)
    lying += file[len(honest) : end - 4]
    assert "does not decompress to the" in complaint(bytes(lying) + crc(lying) + file[end:], registry)


# -- lies of the sections ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_a_dither_step_that_is_no_number_is_refused(registry, value):
    file, _ = encode(build(Recipe(groups=(G("dithered"),)))[0], registry)
    data = sections_of(file).data["codebook"]
    text = complaint(rebuilt(file, codebook=data[:-8] + np.array([value]).tobytes()), registry)
    assert "section 'codebook'" in text
    assert "dither_step is not finite" in text


def test_a_codebook_that_is_not_finite_is_refused(file, registry):
    data = sections_of(file).data["codebook"]
    for at, name in ((0, "scale"), (4, "codebook")):
        lying = rebuilt(file, codebook=data[:at] + np.float32("nan").tobytes() + data[at + 4 :])
        assert f"the {name} is not finite" in complaint(lying, registry)


def test_a_bool_that_is_two_is_refused(registry):
    contents, _ = build(Recipe((T((3,), None, torch.bool),), ()))
    contents.raw["layer0.weight"][:] = torch.tensor([False, True, True])
    file, _ = encode(contents, registry)
    assert "section 'raw_parameters', byte 3: a bool" in complaint(rebuilt(file, raw_parameters=b"\0\1\2"), registry)


def test_a_coder_s_offset_counts_from_the_section_s_start(registry):
    """The second stream's payload begins after the first's; raw refuses a set bit after its last symbol."""
    recipe = Recipe((T((8,)), T((3,), 1)), (G(alphabet=16), G(alphabet=4)))
    file, _ = encode(build(recipe)[0], registry)
    payload = bytearray(sections_of(file).data["symbols"])
    assert len(payload) == 4 + 1
    payload[4] |= 0x80
    assert "section 'symbols', byte 4" in complaint(rebuilt(file, symbols=bytes(payload)), registry)


# -- strangers' plugins --------------------------------------------------------------------------------------------
class Stranger(Coder, name="stranger"):
    """A coder whose decoder returns or raises what a test tells it to."""

    behaviour: str = ""

    def encode(self, stream):
        return Encoded(b"", bytes(stream.symbols.size))

    def decode(self, encoded: Encoded, spec: StreamSpec):
        n = spec.count
        made = {
            "list": lambda: [0] * n,
            "floats": lambda: np.zeros(n),
            "short": lambda: np.zeros(n - 1, dtype=np.int32),
            "rank": lambda: np.zeros((n, 1), dtype=np.int32),
            "negative": lambda: np.full(n, -1, dtype=np.int32),
            "wide": lambda: np.full(n, 1 << 40, dtype=np.int64),
            "none": lambda: None,
            "raises": lambda: 1 // 0,
            "lines": lambda: (_ for _ in ()).throw(ValueError("one\ntwo\n" + "x" * 10000)),
            "recursion": lambda: self.decode(encoded, spec),
        }
        return made[self.behaviour]()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("list", "did not return an array of integers"),
        ("floats", "did not return an array of integers"),
        ("short", "11 symbols decoded, 12 expected"),
        ("rank", "12 expected"),
        ("negative", "lies outside [0, 4)"),
        ("wide", "lies outside [0, 4)"),
        ("none", "did not return an array of integers"),
        ("raises", "coder 'stranger' failed: ZeroDivisionError: "),
        ("lines", "coder 'stranger' failed: ValueError: one two xxx"),
        ("recursion", "coder 'stranger' failed: RecursionError"),
    ],
)
def test_whatever_a_stranger_s_decoder_does_ends_in_one_line(registry, behaviour, message):
    found = registry.found | {("coder", "stranger"): Registered(Stranger, "far-away", "1")}
    theirs = replace(registry, found=found)
    contents, _ = build(Recipe())
    data, _ = encode(replace(contents, coder=Stranger(behaviour=behaviour)), theirs)
    text = complaint(data, theirs)
    assert "section 'symbols'" in text
    assert message in text
    assert len(text) < 500


def test_positions_that_return_junk_end_in_one_line(file, registry, monkeypatch):
    for junk, message in (
        ([np.ones((5, 8), dtype=bool)], "other shapes"),
        ([np.ones(40, dtype=bool), np.ones(6, dtype=bool)], "other shapes"),
        (None, "failed: TypeError"),
        ([["x"], 3], "shapes"),
    ):
        monkeypatch.setattr(
            registry.get("positions", "kit-bitmap"), "from_stream", lambda self, symbols, shapes, junk=junk: junk
        )
        assert message in complaint(file, registry)


def test_a_merging_plugin_is_not_asked_for_a_stream(registry):
    assert KitMerged.merges
    data, _ = encode(build(Recipe((T((9,), mask=0.4),)))[0], registry)
    assert sections_of(data).header.positions_entry is None


def test_an_entry_without_bytes_is_a_header_that_ends(file, registry):
    plain = body(replace(sections_of(file).header, tensors=(TensorEntry("a", 1, (2,)),)))
    for cut in range(0, len(plain), 7):
        assert "section 'header'" in complaint(frame(plain[:cut], 1), registry)


@pytest.mark.parametrize("coder", ["huffman", "rans", "lzw", "raw", "zlib"])
def test_what_is_wrong_with_a_coder_s_table_is_said_of_the_table(registry, coder):
    """Bytes follow the second stream's table: their offset counts from the section's start."""
    recipe = Recipe((T((50,)), T((50,), 1)), (G(alphabet=3), G(alphabet=3)), coder=coder)
    file, _ = encode(build(recipe)[0], registry)
    whole = sections_of(file)
    table = whole.data["coder_table"] + b"\xff" * 9
    first, second = whole.header.streams
    longer = replace(
        whole.header,
        streams=(first, replace(second, table=second.table + 9)),
        sections=(*whole.header.sections[:2], len(table), *whole.header.sections[3:]),
    )
    text = complaint(rebuilt(file, longer, coder_table=table), registry)
    place, offset = text.split(":")[0].split(", byte ")
    assert place == "section 'coder_table'"
    assert first.table <= int(offset) < len(table)
