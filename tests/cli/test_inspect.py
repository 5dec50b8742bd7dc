"""``nqbench inspect``: what is in a file and what it costs, or one line about what is wrong with it."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "container"))

from make_golden import FOLDER
from nqz_kit import G, Recipe, T, build, kit_registry

from nqbench import cli
from nqbench.container import PARTS, write


@pytest.fixture
def inspect(capsys):
    def inspect(*args):
        code = cli.invoke(["inspect", *map(str, args)])
        return code, *capsys.readouterr()

    return inspect


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.nqz")), ids=lambda path: path.stem)
def test_the_parts_add_up_to_the_file(inspect, path):
    """The kit's plugins are not installed: none is needed."""
    code, out, _ = inspect(path, "--json")
    about = json.loads(out)
    assert code == cli.OK
    assert tuple(about["parts"]) == PARTS
    assert sum(about["parts"].values()) == about["file_bytes"] == path.stat().st_size
    code, out, _ = inspect(path, "--tensors")
    assert code == cli.OK
    assert all(tensor["name"] in out for tensor in about["tensors"])


def test_it_says_what_is_inside(inspect, tmp_path):
    path = tmp_path / "a.nqz"
    recipe = Recipe((T((5, 8), mask=0.3), T((5,), None), T(alias=0)), (G("grid"),), coder="huffman")
    written = write(path, build(recipe)[0], kit_registry())
    code, out, _ = inspect(path, "--tensors")
    assert code == cli.OK
    assert f"{path}: {written.file_bytes} bytes, written by nqbench" in out
    assert "quantizer: kit-quantizer {} (of nqz-kit 0.0)" in out  # four levels are its default
    bits = 8 * (written.file_bytes - written.parts["raw_parameters"]) / 40
    assert f"3 tensors, 40 weights of them quantized at {bits:.3f} bits each" in out
    assert "1 group, 1 stream (per-group)" in out
    assert "group 0: grid, 4 symbols and 2 for pruned weights; step[1], offset" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["symbols", str(written.parts["symbols"])] in [line[:2] for line in lines]
    assert ["layer0.weight", "[5,", "8]", "float32", "quantized,", "group", "0,", "pruned"] in lines
    assert ["layer1.weight", "[]", "float32", "alias", "of", "layer0.weight"] in lines


def test_a_codec_s_weights_are_counted(inspect):
    out = inspect(FOLDER / "form-codec.nqz")[1]
    assert "4 tensors, 36 weights of them coded at" in out
    assert "codec: kit-codec {} (of nqz-kit 0.0)" in out


def test_many_groups_are_cut_short(inspect, tmp_path):
    path = tmp_path / "a.nqz"
    write(path, build(Recipe(tuple(T((2,), i) for i in range(25)), (G(),) * 25))[0], kit_registry())
    out = inspect(path)[1]
    assert "group 19:" in out
    assert "group 20:" not in out
    assert "... and 5 more" in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-6], "section 'raw_buffers', byte 2: the file is truncated: 8 bytes expected, 2 left"),
        (lambda data: data[:9], "section 'header', byte "),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "section 'raw_buffers': checksum mismatch"),
        (lambda data: data + b"x", "section 'raw_buffers': 1 bytes follow the end"),
        (lambda data: b"PK" + data[2:], "section 'header', byte 0: this is not an .nqz file"),
        (lambda data: data[:3] + b"\7" + data[4:], "section 'header', byte 3: format version 7; this nqbench reads 1"),
        (lambda data: b"", "section 'header', byte 0: this is not an .nqz file"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_the_section(inspect, tmp_path, damage, message):
    path = tmp_path / "bad.nqz"
    path.write_bytes(damage((FOLDER / "coder-raw.nqz").read_bytes()))
    code, out, err = inspect(path)
    assert code == cli.WRONG_USE
    assert out == ""
    assert err.startswith(f"error: {path}: {message}")
    assert err.count("\n") == 1


def test_a_missing_file_and_a_folder_are_one_line(inspect, tmp_path):
    assert inspect(tmp_path / "none.nqz") == (
        cli.WRONG_USE,
        "",
        f"error: {tmp_path}/none.nqz: No such file or directory\n",
    )
    assert inspect(tmp_path) == (cli.WRONG_USE, "", f"error: {tmp_path}: Is a directory\n")
