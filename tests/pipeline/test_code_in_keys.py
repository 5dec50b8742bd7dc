"""A stage's key covers the code that makes its result: what ran while it was made, and what an edit of it changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
from probe_distribution import installed
from trials import choice, trial

import nqbench
from nqbench.pipeline import fingerprint, syntax
from nqbench.pipeline.cache import Cache
from nqbench.pipeline.chain import STAGES
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.trial import Trial
from nqbench.pipeline.workbench import Work, Workbench
from nqbench.registry import registry

EXEMPT = {
    "nqbench.pipeline.chain": "says which functions make, save and load a stage's result, and computes nothing",
    "nqbench.pipeline.workbench": "decides whether a result is made, not what it is; puts figures side by side",
    "nqbench.pipeline.context": "hands on what it is asked for; keeps times, which are no part of a result",
    "nqbench.pipeline.keys": "makes the keys",
    "nqbench.pipeline.fingerprint": "makes the keys",
    "nqbench.pipeline.syntax": "makes the keys",
    "nqbench.pipeline.cache": "gives back the bytes that it was given, or nothing: they are checked",
    "nqbench.pipeline.files": "puts files in place that were made already",
    "nqbench.pipeline.entries": "gives back the bytes that it was given, or nothing: they are checked",
    "nqbench.pipeline.sharing": "copies entries",
    "nqbench.shared.told": "tells the user",
    "nqbench.shared.tier": "gives back the bytes that it was given, or nothing: they are checked",
    "nqbench.pipeline.memory": "measures the process's memory",
    "nqbench.pipeline.stage": "what it says of a stage is in the key",
    "nqbench.api.toolkit.store": "networks enter by their content; plugins that train bring it into their own keys",
    "nqbench.pipeline.trial": "names and JSON, all of them in the key",
}
"""Modules whose code may run while a result is made, or stands around it, and is in no key, and why."""
ALWAYS = ("nqbench.pipeline", "nqbench.pipeline.__init__")


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """The codes of all stages after an edit of a module in a copy of the core; of none, as it is."""
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    root = Path(nqbench.__file__).parent
    shutil.copytree(root, tmp_path / "nqbench", ignore=shutil.ignore_patterns("__pycache__", "*.html", "suites"))
    found = fingerprint._source

    def source(module: str) -> Path | None:
        path = found(module)
        inside = path is not None and path.is_relative_to(root)
        return tmp_path / "nqbench" / path.relative_to(root) if inside and path is not None else path

    monkeypatch.setattr(fingerprint, "_source", source)

    def codes(module: str) -> dict[str, str]:
        path = source(module) if module else None
        before = path.read_text() if path else ""
        if path:
            path.write_text(before + "\n_EDITED = True\n")
        try:
            return {name: fingerprint.code_of(s.make.__module__, ("nqbench",)) for name, s in STAGES.items()}
        finally:
            if path:
                path.write_text(before)
            syntax._code_in.cache_clear()

    return codes


@pytest.fixture
def ran(bench: Callable[..., Workbench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """stage -> the core's modules whose code ran while its result was made, over trials that have every stage."""
    seen: dict[str, set[str]] = {name: set() for name in STAGES}
    under_way: list[str] = []
    make = Work._make

    def watch(frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and under_way and name.startswith("nqbench."):
            seen[under_way[-1]].add(name)

    def watched(self: Work, stage: object, *rest: object) -> object:
        under_way.append(stage.name)  # type: ignore[attr-defined]
        try:
            return make(self, stage, *rest)  # type: ignore[arg-type]
        finally:
            under_way.pop()

    monkeypatch.setattr(Work, "_make", watched)
    sys.setprofile(watch)
    try:
        one = bench(cache=None)
        full = {"pruner": {}, "positions": "zero", "sensitivity": "squares", "training": ({},)}
        one.run(trial(**full, loss_increase=True, selected_on="train", fold_batchnorm=True), tmp_path)
        one.run(trial(codec="halves", unquantized="uint8"), tmp_path)
        one.knob(trial(**full))
    finally:
        sys.setprofile(None)
    return seen


def test_what_ran_while_a_result_was_made_is_in_its_key(
    edited: Callable[[str], dict[str, str]], ran: dict[str, set[str]]
) -> None:
    assert all(ran.values())
    plain = edited("")
    modules = {m for found in ran.values() for m in found} - set(EXEMPT)
    # what plugins are made of is in the keys with each plugin
    plugins = set(fingerprint.closure("nqbench.api", ("nqbench",))) | set(
        fingerprint.closure("nqbench_probe", ("nqbench",))
    )
    for module in sorted(modules - plugins):
        after = edited(module)
        used = {stage for stage, found in ran.items() if module in found}
        assert used <= {stage for stage in plain if plain[stage] != after[stage]}, module


def test_every_module_of_the_pipeline_is_in_the_keys_of_the_stages_that_use_it_or_exempt_for_a_reason(
    edited: Callable[[str], dict[str, str]],
) -> None:
    plain = edited("")
    names = {f"nqbench.pipeline.{path.stem}" for path in Path(fingerprint.__file__).parent.glob("*.py")}
    changed = {m: {s for s, code in edited(m).items() if code != plain[s]} for m in names - set(ALWAYS)}
    everything = set(STAGES)
    after = {
        "file",
        "evaluate",
        "evaluate_float",
        "evaluate_selected",
        "evaluate_float_selected",
        "loss_expansion",
        "loss",
    }
    assert changed == {
        **{name: set() for name in EXEMPT if name.startswith("nqbench.pipeline.")},
        **dict.fromkeys(
            [f"nqbench.pipeline.{name}" for name in ("artifacts", "batchnorm", "checks", "network", "preparation")],
            everything,
        ),
        **dict.fromkeys(
            [f"nqbench.pipeline.{name}" for name in ("quantization", "trainings", "distortion")], {"quantize"} | after
        ),
        **dict.fromkeys(["nqbench.pipeline.filing", "nqbench.pipeline.decoder", "nqbench.pipeline.cage"], after),
        **dict.fromkeys([f"nqbench.pipeline.{name}" for name in ("evaluating", "held", "precision")], after - {"file"}),
        "nqbench.pipeline.knobs": {"knob"},
    }
    assert {stage for stage in plain if edited("nqbench.container.writer")[stage] != plain[stage]} >= {"file"}


def test_words_for_people_change_no_key() -> None:
    def code(*lines: str) -> str:
        return syntax.parse("\n".join(lines).encode()).code

    plain = code("class A:", "    x: int = Field(3, ge=1)", "    def f(self): return 1")
    said = code('"""Doc."""', "class A:", '    """Doc."""', "    x: int = Field(3, ge=1)", '    """Doc."""',
                "    def f(self):  # why", "        return 1")  # fmt: skip
    shown = code("class A:", "    x: int = Field(3, ge=1, examples=[4], description='d')", "    def f(self): return 1")
    assert plain == said == shown
    assert code("class A:", "    x: int = Field(3, ge=2)", "    def f(self): return 1") != plain
    assert code("class A:", "    x: int = Field(3, ge=1)", "    def f(self): return 2") != plain


def test_what_is_for_type_checkers_alone_is_no_import() -> None:
    found = syntax.parse(
        b"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b\nimport c\n"
    )
    assert [names for level, _, names in found.imports if level < 0] == [("b",), ("c",)]


def test_a_compiled_module_counts_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nqbench_compiled"
    package.mkdir()
    (package / "__init__.py").write_text("from nqbench_compiled import fast\n")
    compiled = package / f"fast{EXTENSION_SUFFIXES[0]}"
    compiled.write_bytes(b"one")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = fingerprint.code_of("nqbench_compiled", ("nqbench_compiled",))
    assert fingerprint.code_of("nqbench_compiled", ("nqbench_compiled",)) == before
    compiled.write_bytes(b"another")
    assert fingerprint.code_of("nqbench_compiled", ("nqbench_compiled",)) != before


def test_what_lies_in_no_file_is_the_same_code_in_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typed", ModuleType("typed"))  # as a notebook's __main__
    here = fingerprint.code_of("typed", ("nqbench",))
    assert fingerprint.code_of("typed", ("nqbench",)) == here
    command = "import sys; from nqbench.pipeline.fingerprint import code_of; print(code_of('__main__', ('nqbench',)))"
    done = [subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout for _ in range(2)]
    assert len({here, *done}) == 3


def test_the_version_of_a_library_that_a_plugin_computes_with_is_in_its_keys(
    probe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in the keys of what follows from its result; those of other plugins stay."""
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path))
    real = fingerprint.metadata.version
    coders = {"zstd": "zstandard", "huffman": None}
    if find_spec("constriction"):
        coders["constriction"] = "constriction"

    def keys(**changed: str) -> dict[str, str]:
        monkeypatch.setattr(fingerprint.metadata, "version", lambda name: changed.get(name) or real(name))
        fingerprint.version_of.cache_clear()
        fingerprint.library_versions.cache_clear()
        maker = KeyMaker(registry(), "cpu", Cache(tmp_path))
        return {coder: maker.keys(trial(coder=(coder, {}))).trial for coder in coders}

    try:
        with installed(probe_folder):
            plain = keys()
            assert keys() == plain
            for coder, library in coders.items():
                if library:
                    changed = {name for name, key in keys(**{library: "99"}).items() if key != plain[name]}
                    assert changed == {coder}
            assert all(key != plain[name] for name, key in keys(numba="99").items())
    finally:
        monkeypatch.undo()
        fingerprint.version_of.cache_clear()
        fingerprint.library_versions.cache_clear()


LIBRARIES_OF: dict[str, tuple[dict[str, Any], set[str]]] = {
    "alexnet": ({"weights": "random", "data": "none"}, {"pillow"}),
    "efficientnet-lite0": ({}, {"pillow"}),
    "minilm-l6": ({}, {"tokenizers"}),
    "smollm2-135m": ({}, {"gguf", "tokenizers"}),
    "timm": ({"network": "tiny"}, {"timm", "gguf"}),
    "hf": ({"folder": ""}, {"transformers", "tokenizers", "torchvision", "pillow"}),
    "synthetic": ({}, set()),
}


@pytest.mark.parametrize("name", LIBRARIES_OF)
def test_the_version_of_a_library_that_computes_a_network_is_in_its_keys(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not it is installed: such a model is there without it, and says what it lacks."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NQBENCH_DATA", str(tmp_path))
    parameters, libraries = LIBRARIES_OF[name]
    if "folder" in parameters:
        parameters = {"folder": str(tmp_path)}
    whole = Trial(
        choice("model", name, **parameters), quantizer=choice("quantizer", "kmeans"), coder=choice("coder", "rans")
    )

    def keys(**changed: str) -> Mapping[str, str]:
        versions = dict.fromkeys(("timm", "transformers", "tokenizers", "torchvision", "pillow", "gguf"), "1") | changed
        monkeypatch.setattr("nqbench.pipeline.keys.version_of", lambda library: versions.get(library, ""))
        return KeyMaker(registry(), "cpu", Cache(None)).keys(whole).stages

    plain = keys()
    assert keys() == plain
    for library in ("timm", "transformers", "tokenizers", "torchvision", "pillow", "gguf"):
        other = keys(**{library: "99"})
        for stage in ("load", "quantize", "evaluate_float"):
            assert (other[stage] != plain[stage]) is (library in libraries), (library, stage)
