"""Old files stay readable: golden files decode to what they always did, and the specification alone suffices to."""

import json
from dataclasses import replace

import pytest
import stranger_decoder
import torch
from make_golden import ABOUT, FOLDER, NO_LONGER_WRITTEN, RECIPES, facts
from nqz_kit import build, kit_registry

import nqbench.container
from nqbench.container import SECTIONS, decode, encode, sections_of
from nqbench.container.header import DICTIONARY
from nqbench.pipeline.artifacts import first_difference

GOLDEN = json.loads(ABOUT.read_text())
PLAIN = [
    name
    for name, about in GOLDEN.items()
    if about["plugins"][1] == "raw" and about["plugins"][4] in ("", "raw") and not name.endswith("-plugin")
]
"""Files whose every coder is ``raw``."""
DETERMINISTIC = [
    name
    for name, about in GOLDEN.items()
    if about["plugins"][1] in ("raw", "huffman", "rans", "lzw", "") and name in RECIPES
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


def test_the_specification_holds_the_dictionary():
    assert stranger_decoder.dictionary(nqbench.container.__doc__) == DICTIONARY


def test_the_specification_names_the_sections_in_their_order():
    text = " ".join(nqbench.container.__doc__.split())
    assert ", ".join(f"``{name}``" for name in SECTIONS) in text
