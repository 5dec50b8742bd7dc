"""The decoder process: it decodes from a path, its errors are the reader's own; neither plugin nor death stops it."""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nqz_kit import G, Recipe, T, build, kit_registry

from nqbench.api import BadInput, CorruptFile, NotRegistered, NqbenchError
from nqbench.container import decode, encode, sections_of, write
from nqbench.container.packing import crc, pack
from nqbench.pipeline.artifacts import first_difference
from nqbench.pipeline.cage import Cage
from nqbench.pipeline.decoder import Decoder
from nqbench.registry import Registered

ODD = '''
import os, sys
import numpy as np
from nqbench.api import Coder, Encoded, Quantizer, Source, hookimpl

print("printed at import")

class Odd(Coder, name="odd"):
    """Does one odd thing, and then decodes zeros."""

    act: str = ""

    def encode(self, stream):
        return Encoded(b"", b"")

    def decode(self, encoded, spec):
        if self.act == "print":
            print('{"error": "printed", "kind": "BadInput"}', flush=True)
            os.write(1, b"raw bytes")
            sys.__stdout__.write("more")
        if self.act == "read":
            assert sys.stdin.read() == "" and os.read(0, 1) == b""
        if self.act == "kill":
            os.kill(os.getpid(), 9)
        if self.act == "exit":
            os._exit(7)
        if self.act == "sys-exit":
            sys.exit(3)
        if self.act == "panic":
            raise type("PanicException", (BaseException,), {})("index out of bounds")
        if self.act == "memory":
            raise MemoryError
        return np.zeros(spec.count, dtype=np.int32)

class Stand(Quantizer, name="stand"):
    """Stands in a header."""

@hookimpl
def nqbench_plugins():
    return [Odd, Stand]
'''


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A distribution with the coder ``odd``, on the path of processes to come; the class itself."""
    folder = tmp_path_factory.mktemp("odd")
    info = folder / "odd_coder-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-coder\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nqbench]\nodd = odd_module\n")
    (folder / "odd_module.py").write_text(ODD)
    spec = importlib.util.spec_from_file_location("odd_module", folder / "odd_module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    yield module
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture(scope="module")
def decoder(odd):
    decoder = Decoder(limit=1 << 20)
    yield decoder
    decoder.close()


@pytest.fixture
def make(odd, tmp_path):
    """Writes a file of the coder ``odd`` that acts so, or of ``raw``."""

    def make(act=None, recipe=Recipe(), name="file"):  # noqa: B008 - frozen
        registry = kit_registry()
        found = {(c.kind, c.name): Registered(c, "odd-coder", "1.0") for c in (odd.Odd, odd.Stand)}
        contents, expected = build(recipe)
        coder = contents.coder if act is None else odd.Odd(act=act)
        contents = replace(contents, coder=coder, quantizer=odd.Stand())
        path = tmp_path / f"{name}.nqz"
        write(path, contents, replace(registry, found=registry.found | found))
        return path, expected

    return make


STATE = Recipe(
    (T((5, 3)), T((3,), None, name="__metadata__"), T((2,), None, torch.int64, trainable=False), T((), None),
     T(alias=0), T((0, 4), None, torch.bool, trainable=False), T((4,), 0, torch.bfloat16)),
    (G(),),
)  # fmt: skip


def test_it_decodes_the_state_in_its_order_with_its_aliases(decoder, make):
    path, expected = make(recipe=STATE)
    decoded = decoder.decode(path, repeats=3)
    assert first_difference(expected, decoded.tensors) is None
    assert decoded.tensors["layer2.weight"] is decoded.tensors["layer0.weight"]
    assert len(decoded.samples) == 3
    assert decoded.seconds == min(decoded.samples) > 0


def test_a_relative_path_is_this_process_s(decoder, make, monkeypatch):
    path, expected = make()
    monkeypatch.chdir(path.parent)
    assert first_difference(expected, decoder.decode(Path(path.name)).tensors) is None


def test_a_corrupt_file_s_error_crosses_whole_and_the_process_goes_on(decoder, make):
    path, expected = make()
    decoder.decode(path)
    pid = decoder._process.pid
    good = path.read_bytes()
    path.write_bytes(good[:-6])
    with pytest.raises(CorruptFile) as theirs:
        decoder.decode(path)
    with pytest.raises(CorruptFile) as ours:
        sections_of(good[:-6])
    assert str(theirs.value) == str(ours.value.at(path=str(path)))
    assert (theirs.value.section, theirs.value.offset, theirs.value.path) == ("symbols", 1, str(path))
    path.write_bytes(good)
    assert first_difference(expected, decoder.decode(path).tensors) is None
    assert decoder._process.pid == pid


def test_the_limit_crosses_too(decoder, make):
    path, _ = make(recipe=Recipe((T((1 << 19,)),), (G(alphabet=1),)))
    with pytest.raises(CorruptFile, match="more than the limit of 1048576"):
        decoder.decode(path)


def test_a_missing_plugin_and_a_missing_file_keep_their_kind(decoder, tmp_path):
    path = tmp_path / "kit.nqz"
    data, _ = encode(build(Recipe((T(mask=0.5),)))[0], kit_registry())
    path.write_bytes(data)  # kit-merged is of no installed distribution
    decode(sections_of(data), kit_registry())
    with pytest.raises(NotRegistered, match="'kit-merged' of the distribution 'nqz-kit'"):
        decoder.decode(path)
    with pytest.raises(BadInput, match=r"gone\.nqz: No such file"):
        decoder.decode(tmp_path / "gone.nqz")


def test_too_little_memory_is_not_called_a_corrupt_file(decoder, make):
    with pytest.raises(NqbenchError, match="not enough memory") as caught:
        decoder.decode(make("memory")[0])
    assert not isinstance(caught.value, CorruptFile)


@pytest.mark.parametrize(
    ("act", "told"), [("sys-exit", "SystemExit: 3"), ("panic", "PanicException: index out of bounds")]
)
def test_what_a_plugin_raises_that_is_no_exception_is_told_as_one(decoder, make, act, told):
    with pytest.raises(CorruptFile, match=f"coder 'odd' failed: {told}"):
        decoder.decode(make(act)[0])
    assert decoder._process.poll() is None


@pytest.mark.parametrize("act", ["print", "read"])
def test_a_plugin_that_prints_or_reads_cannot_break_the_protocol(decoder, make, act):
    path, expected = make(act)
    zeros = torch.full_like(expected["layer0.weight"], float(expected["layer0.weight"].min()))
    for _ in range(2):  # a stray line would be the next request's answer
        assert torch.equal(decoder.decode(path).tensors["layer0.weight"], zeros)


@pytest.mark.parametrize(("act", "ending"), [("kill", "signal SIGKILL"), ("exit", "exit code 7")])
def test_its_death_is_one_clear_error_and_the_next_decoding_works(decoder, make, act, ending):
    path, _ = make(act, name="deadly")
    with pytest.raises(NqbenchError) as caught:
        decoder.decode(path)
    assert str(caught.value) == f"the decoder process ended with {ending} while it decoded {path}"
    sound, expected = make(name="sound")
    assert first_difference(expected, decoder.decode(sound).tensors) is None


def test_an_answer_that_stops_in_the_middle_is_waited_for_no_longer_than_the_cage_allows(tmp_path):
    code = "import sys, time; sys.stdin.readline(); print('{\"samples\": [0.1', end='', flush=True); time.sleep(60)"
    caged = Decoder(cage=Cage(seconds=1.0))
    caged._process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"x\.nqz was not decoded within 1 seconds"):
        caged.decode(tmp_path / "x.nqz")
    assert time.monotonic() - began < 30
    assert caged._process is None
    caged.close()


def test_a_caged_decoder_takes_answers_longer_than_a_pipe_and_one_after_another(tmp_path):
    code = """if True:
        import json, sys
        for n, _ in enumerate(sys.stdin):
            print(json.dumps({"error": "x" * 300_000 + str(n), "kind": "BadInput"}), flush=True)
    """
    caged = Decoder(cage=Cage(seconds=30.0))
    caged._process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    for n in range(3):
        with pytest.raises(BadInput, match=f"^x{{300000}}{n}$"):
            caged.decode(tmp_path / "x.nqz")
    caged.close()


def test_a_death_between_two_requests_goes_unnoticed(decoder, make):
    path, expected = make()
    decoder.decode(path)
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._process.wait()
    assert first_difference(expected, decoder.decode(path).tensors) is None


def test_after_an_interruption_the_next_file_is_not_taken_for_the_one_before(decoder, make, monkeypatch):
    """The request is written, and its answer on the way."""
    first, second = make(name="first")[0], make(recipe=STATE, name="second")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decoder.decode(first)
    assert first_difference(second[1], decoder.decode(second[0]).tensors) is None


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_one_stored_element_for_a_tensor_of_one(decoder, make, shape):
    """No writer does that; a tensor that shares its one element with none is expanded without a stride."""
    path, _ = make(recipe=Recipe((T((2,)), T((2, 3), None, constant=True)), (G(),)))
    whole = sections_of(path.read_bytes())
    constant = replace(whole.header.tensors[1], shape=shape)
    data = pack(replace(whole.header, tensors=(whole.header.tensors[0], constant)))
    path.write_bytes(data + b"".join(section + crc(section) for section in whole.data.values() if section))
    assert decoder.decode(path).tensors[constant.name].shape == shape


def test_what_was_decoded_stays_when_the_next_file_is(decoder, make):
    path, expected = make(recipe=STATE)
    first = decoder.decode(path).tensors
    decoder.decode(make("print", name="other")[0])
    assert first_difference(expected, first) is None


def test_close_ends_the_process_and_leaves_no_file(make, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    decoder = Decoder()
    decoder.decode(make()[0])
    assert not list((tmp_path / "temporary").iterdir())  # it has no name from the start: a kill leaves none either
    process = decoder._process
    decoder.close()
    assert process.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for it")
def test_it_dies_with_its_parent_even_by_kill_9():
    code = (
        "import time\nfrom nqbench.pipeline.decoder import Decoder\nd = Decoder()\nd.start()\n"
        "print(d._process.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline().split()[0])
        time.sleep(0.2)
        assert _alive(child)
        parent.kill()
    end = time.monotonic() + 60  # until it has asked the kernel, it sees its input end, or its parent gone
    while _alive(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
