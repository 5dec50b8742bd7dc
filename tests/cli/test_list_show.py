"""``nqbench list``, ``show`` and ``check``: what is installed, in words and as JSON, and errors of one line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pluggy
import pytest
from pydantic import Field

from nqbench import registry as discovery
from nqbench.api import (
    Coder,
    CorruptFile,
    Encoded,
    Knob,
    Pruner,
    Quantized,
    Quantizer,
    SensitivityForm,
    Source,
    Stream,
    StreamSpec,
    check_decoded,
)
from nqbench.cli import invoke
from nqbench.registry import Broken, Registered, Registry


class Steps(Quantizer, name="steps", paper="arXiv:0000.00000, eq. 3"):
    """Rounds to steps.

    More of the story, in a second paragraph.
    """

    takes: ClassVar[frozenset[SensitivityForm]] = frozenset({"none", "diagonal"})

    step: float = Field(0.1, gt=0, le=2)
    """Width of a step, in units
    of the weights."""
    zero: Literal["center", "edge"] = "center"
    """Where zero lies."""
    k: int | None = Field(None, ge=1)
    """Number of levels; none: as many as needed."""
    fixed: tuple[float, ...] = ()
    """Levels that do not move."""
    span: tuple[int, int] = (0, 9)
    """First and last."""
    must: str = Field(examples=["be"])
    """Has no default."""

    def quantize(self, source: Source) -> Quantized:
        return Quantized.nearest(source, source.weights.unique())

    def knob(self, source: Source) -> Knob | None:
        return Knob("step", 0.01, 1.0, more_bytes="down")


class Plain(Coder, name="plain"):
    """Four bytes per symbol."""

    def encode(self, stream: Stream) -> Encoded:
        return Encoded(b"", stream.symbols.tobytes())

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        if len(encoded.payload) != 4 * spec.count:
            raise CorruptFile("wrong length")
        return check_decoded(np.frombuffer(encoded.payload, dtype=np.int32), spec)


class LossyPlain(Plain, name="twice"):
    """Forgets the last symbol."""

    def decode(self, encoded: Encoded, spec: StreamSpec) -> np.ndarray:
        symbols = super().decode(encoded, spec).copy()
        symbols[-1:] = 0
        return symbols


class Twice(Pruner, name="twice"):
    """Shares its name with a coder."""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Exactly the plugins above, and one package that is broken."""
    found = Registry(pluggy.PluginManager("nqbench"))
    for cls in (Steps, Plain, LossyPlain, Twice):
        found.found[cls.kind, cls.name] = Registered(cls, "acme", "1.10")
    found.broken.append(Broken("zeta_module", "zeta", "0.3", "cannot be imported: ImportError: no sun"))
    monkeypatch.setattr(discovery, "registry", lambda: found)
    return found


@pytest.fixture
def nqbench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command: (exit code, output, errors)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = invoke(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_list_shows_kind_name_distribution_version_and_first_line(nqbench: Run) -> None:
    code, out, _ = nqbench("list")
    assert code == 0
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "quantizer steps acme 1.10 Rounds to steps." in rows
    assert "coder plain acme 1.10 Four bytes per symbol." in rows


def test_list_shows_what_is_broken_apart_with_its_reason_and_ends_well(nqbench: Run) -> None:
    code, out, _ = nqbench("list")
    plugins, _, broken = out.partition("broken, and left out:")
    assert code == 0
    assert "zeta" not in plugins
    assert " ".join(broken.splitlines()[-1].split()) == "zeta_module zeta 0.3 cannot be imported: ImportError: no sun"


@pytest.mark.parametrize("kind", ["coder", "coders"])
def test_list_of_a_kind_shows_no_other(nqbench: Run, kind: str) -> None:
    code, out, _ = nqbench("list", kind, "--json")
    assert code == 0
    assert [(p["kind"], p["name"]) for p in json.loads(out)["plugins"]] == [("coder", "plain"), ("coder", "twice")]


def test_list_as_json_has_the_broken_too(nqbench: Run) -> None:
    page = json.loads(nqbench("list", "--json")[1])
    assert page["broken"] == [
        {"what": "zeta_module", "distribution": "zeta", "version": "0.3",
         "reason": "cannot be imported: ImportError: no sun"}
    ]  # fmt: skip
    assert {"kind": "pruner", "name": "twice", "distribution": "acme", "version": "1.10",
            "description": "Shares its name with a coder."} in page["plugins"]  # fmt: skip


def test_an_unknown_kind_suggests_the_nearest(nqbench: Run) -> None:
    code, _, err = nqbench("list", "quantiser")
    assert (code, err) == (1, "error: there is no kind of plugin called 'quantiser'; did you mean 'quantizer'?\n")


@pytest.mark.parametrize(
    ("name", "type_", "default", "bounds", "meaning"),
    [
        ("step", "float", 0.1, "> 0, <= 2", "Width of a step, in units of the weights."),
        ("zero", "center | edge", "center", "", "Where zero lies."),
        ("k", "int or none", None, ">= 1", "Number of levels; none: as many as needed."),
        ("fixed", "list of float", [], "", "Levels that do not move."),
        ("span", "(int, int)", [0, 9], "", "First and last."),
        ("must", "text", None, "", "Has no default."),
    ],
)
def test_show_tells_each_parameter(
    nqbench: Run, name: str, type_: str, default: object, bounds: str, meaning: str
) -> None:
    page = json.loads(nqbench("show", "steps", "--json")[1])
    (row,) = [p for p in page["parameters"] if p["name"] == name]
    assert row == {
        "name": name, "type": type_, "default": default, "required": name == "must", "bounds": bounds,
        "meaning": meaning,
    }  # fmt: skip


def test_show_prints_origin_paper_documentation_and_habits(nqbench: Run) -> None:
    code, out, _ = nqbench("show", "quantizer", "steps")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[0] == "quantizer steps"
    assert "More of the story, in a second paragraph." in lines
    assert f"from acme 1.10, {Steps.__module__}.Steps" in lines
    assert "paper arXiv:0000.00000, eq. 3" in lines
    assert "takes sensitivity diagonal, none" in lines
    assert "knob step (smaller values give more bytes)" in lines
    assert "uses the seed no" in lines
    assert any(line.startswith("must text (required)") for line in lines)
    assert any(line.startswith("k int or none none >= 1") for line in lines)


def test_show_prints_the_specification_and_those_that_it_names(
    nqbench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a coder is enough for a decoder: what its module says, and modules of its package named there, once."""
    package = tmp_path / "acmecoders"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "table.py").write_text(
        '"""Tables: one byte.\n\nAs ``acmecoders.bits`` and ``acmecoders.table`` say."""\n'
    )
    (package / "bits.py").write_text('"""The lowest bit first."""\n')
    (package / "other.py").write_text('"""Nobody asked."""\n')
    said = "Bitstream: by ``acmecoders.table``, not ``acmecoders.nowhere`` nor ``json``."
    (package / "coder.py").write_text(f'"""{said}"""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("acmecoders.coder")
    monkeypatch.setattr(Steps, "__module__", "acmecoders.coder")
    out = nqbench("show", "quantizer", "steps")[1]
    pages = [
        f"acmecoders.coder\n================\n{said}",
        "acmecoders.table\n================\nTables: one byte.\n\nAs ``acmecoders.bits`` and ``acmecoders.table`` say.",
        "acmecoders.bits\n===============\nThe lowest bit first.",
    ]
    assert out.endswith("\n\n" + "\n\n".join(pages) + "\n")
    assert json.loads(nqbench("show", "quantizer", "steps", "--json")[1])["specification"] == "\n\n".join(pages)


def test_show_of_a_name_in_two_kinds_asks_which(nqbench: Run) -> None:
    assert nqbench("show", "twice")[::2] == (
        1, "error: 'twice' is the name of a coder and a pruner: say which, as in nqbench show coder twice\n",
    )  # fmt: skip
    assert nqbench("show", "pruner", "twice")[0] == 0


@pytest.mark.parametrize("words", [("plane",), ("coder", "plane")])
def test_show_of_an_unknown_name_suggests_the_nearest(nqbench: Run, words: tuple[str, ...]) -> None:
    code, _, err = nqbench("show", *words)
    assert code == 1
    assert "did you mean 'plain'?" in err
    assert err.count("\n") == 1


def test_check_prints_a_line_a_check_and_ends_well_if_all_pass(nqbench: Run) -> None:
    code, out, _ = nqbench("check", "plain", "--only", "lossless", "--only", "encoding_is_pure")
    assert code == 0
    assert out.splitlines()[0] == "coder plain (acme 1.10): 2 checks"
    assert [line.split()[:2] for line in out.splitlines()[2:4]] == [
        ["passed", "lossless"], ["passed", "encoding_is_pure"],
    ]  # fmt: skip
    assert out.splitlines()[-1] == "2 passed"


def test_a_failing_check_is_one_line_with_its_reason_and_the_rest_goes_on(nqbench: Run) -> None:
    code, out, _ = nqbench("check", "coder", "twice", "--only", "lossless", "--only", "rate")
    assert code == 1
    assert out.splitlines()[2] == "  FAILED    lossless  one symbol: symbol 0 of 1 comes back wrong"
    assert out.splitlines()[3].startswith("  passed    rate")
    assert out.splitlines()[-1] == "1 passed, 1 failed"


def test_check_takes_parameters(nqbench: Run) -> None:
    code, out, _ = nqbench("check", "steps", "--set", "must=x", "--set", "step=0.5", "--only", "json_round_trip")
    assert code == 0
    assert out.splitlines()[1] == "steps(step=0.5, must=x)"
    assert nqbench("check", "steps", "--set", "stp=1")[2].endswith("unknown parameter 'stp'; did you mean 'step'?\n")
    assert nqbench("check", "steps", "--set", "must")[2] == "error: --set takes KEY=VALUE, not 'must'\n"


def test_check_of_an_unknown_check_suggests_the_nearest(nqbench: Run) -> None:
    code, _, err = nqbench("check", "plain", "--only", "losless")
    assert (code, err) == (1, "error: no check of this plugin is called 'losless'; did you mean 'lossless'?\n")
