"""Old files stay readable: golden files decode to what they always did, and the specification alone suffices to."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import stranger_decoder
import torch
from make_golden import ABOUT, FOLDER, NO_LONGER_WRITTEN, RECIPES, facts
from nqz_kit import build, kit_registry

import nqbench.container
from nqbench.api.tables import NF4, table_of
from nqbench.container import SECTIONS, decode, encode, sections_of
from nqbench.container.header import DICTIONARY
from nqbench.pipeline.artifacts import first_difference

GOLDEN = json.loads(ABOUT.read_text())
KNOWN = ("raw", "kit-present")
PLAIN = [
    name
    for name, about in GOLDEN.items()
    if about["plugins"][1] in KNOWN and about["plugins"][4] in ("", *KNOWN) and not name.endswith("-plugin")
]
"""Files whose coders the other decoder knows."""
DETERMINISTIC = [
    name
    for name, about in GOLDEN.items()
    if about["plugins"][1] in (*KNOWN, "huffman", "rans", "lzw", "") and name in RECIPES
]
"""Files whose coder is ours; a library's next release may write other bytes."""


def test_every_golden_file_is_known():
    assert {path.stem for path in FOLDER.glob("*.nqz")} == set(GOLDEN) == {*RECIPES, *NO_LONGER_WRITTEN}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_file_decodes_to_what_it_always_did(name):
    sections = sections_of((FOLDER / f"{name}.nqz").read_bytes())
    decoded = decode(sections, kit_registry())
    assert json.loads(json.dumps(facts(decoded))) == GOLDEN[name]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_golden_file_would_be_written_alike_today(name):
    """Up to the versions of what wrote it."""
    old = sections_of((FOLDER / f"{name}.nqz").read_bytes())
    contents, expected = build(RECIPES[name])
    new = sections_of(encode(contents, kit_registry())[0])
    assert first_difference(expected, decode(old, kit_registry()).tensors) is None
    assert new.data == old.data
    refs = {
        f: getattr(old.header, f) for f in ("quantizer", "coder", "codec", "positions", "positions_coder", "producer")
    }
    assert replace(new.header, **refs) == old.header


@pytest.mark.parametrize("name", PLAIN)
def test_a_decoder_written_from_the_specification_alone_agrees(name):
    data = (FOLDER / f"{name}.nqz").read_bytes()
    theirs = stranger_decoder.decode(data, nqbench.container.__doc__)
    ours = decode(sections_of(data), kit_registry()).tensors
    assert list(theirs) == list(ours)
    for key, tensor in ours.items():
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert theirs[key].dtype == wide.numpy().dtype
        assert theirs[key].tobytes() == wide.numpy().tobytes()
        assert theirs[key].shape == tuple(tensor.shape)


def test_that_decoder_read_most_golden_files():
    assert len(PLAIN) >= 12
    assert {g[0] for name in PLAIN for g in GOLDEN[name]["groups"]} == {"lookup", "grid", "dithered", "dithered-grid"}


def test_the_other_decoder_read_scales_as_codes_and_as_byte_planes_of_all_three_floats():
    before = dict(stranger_decoder.TIMES)
    for name, floats, codes in (("structure-coded-planes", 3, 0), ("structure-codes", 0, 1)):
        stranger_decoder.decode((FOLDER / f"{name}.nqz").read_bytes(), nqbench.container.__doc__)
        assert stranger_decoder.TIMES["planes"] == before["planes"] + floats
        assert stranger_decoder.TIMES["codes"] >= before["codes"] + codes
        before = dict(stranger_decoder.TIMES)


def test_the_specification_lists_the_numbers_of_nf4():
    block = nqbench.container.__doc__.partition("stands for the nearest float32::\n\n")[2].partition("\n\n")[0]
    assert tuple(float(number) for number in block.split(",")) == NF4 == stranger_decoder.NF4
    assert table_of("nf4", 16).tolist() == list(NF4)


def test_the_other_decoder_shares_no_code():
    imported = re.findall(r"^\s*(?:from|import) (\w+)", Path(stranger_decoder.__file__).read_text(), re.MULTILINE)
    assert set(imported) <= {*sys.stdlib_module_names, "numpy"}


def test_the_specification_holds_the_dictionary():
    assert stranger_decoder.dictionary(nqbench.container.__doc__) == DICTIONARY


def test_the_specification_names_the_sections_in_their_order():
    text = " ".join(nqbench.container.__doc__.split())
    assert ", ".join(f"``{name}``" for name in SECTIONS) in text
