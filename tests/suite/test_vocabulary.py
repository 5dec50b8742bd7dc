"""Words of before: suites, ``--set`` and ``--only`` that use them mean what they meant, and one line says so."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest

from nqbench.api import BadInput
from nqbench.cli.frame import invoke
from nqbench.registry import registry
from nqbench.suite import Suite, SuiteError, load
from nqbench.suite.document import read
from nqbench.suite.vocabulary import OldWord, Vocabulary

OLD = """
models: synthetic
sensitivities: second-moments
scopes: [layer, global]
others: [float16, float32]
quantizers:
  - obs: {step: 0.1, survivors: [1, 4], order: [natural, decreasing]}
  - obs: {step: 0.5, steps: [shared, std]}
trainings: [none, [sequential, {finetune: {others: true}}]]
coders: [huffman, raw]
exclude: [{quantizer: {obs: {survivors: 4, order: decreasing}}, scope: global}, {others: float32, coder: raw}]
include: [{quantizers: obs, scopes: layer, others: uint8}]
profiles: {small: {scopes: layer, quantizers: {obs: {survivors: 2}}, others: float16, trainings: none, include: []}}
"""
NEW = """
models: synthetic
sensitivities: second-moments
granularities: [layer, global]
unquantized: [float16, float32]
quantizers:
  - gptq: {step: 0.1, beam_width: [1, 4], act_order: [false, true]}
  - gptq: {step: 0.5, granularity: [global, layer]}
trainings: [none, [sequential, {finetune: {unquantized: true}}]]
coders: [huffman, raw]
exclude: [{quantizer: {gptq: {beam_width: 4, act_order: true}}, granularity: global},
  {unquantized: float32, coder: raw}]
include: [{quantizers: gptq, granularities: layer, unquantized: uint8}]
profiles: {small: {granularities: layer, quantizers: {gptq: {beam_width: 2}}, unquantized: float16, trainings: none,
  include: []}}
"""
SETS = (
    ("quantizers.0.obs.survivors=[3,5]", "quantizers.0.gptq.beam_width=[3,5]"),
    ("quantizers.0.obs.order=decreasing", "quantizers.0.gptq.act_order=true"),
    ("scopes=[global]", "granularities=[global]"),
    ("quantizers=[obs: {survivors: 7}]", "quantizers=[gptq: {beam_width: 7}]"),
    ("include.0.others=float32", "include.0.unquantized=float32"),
)
FILTERS = (
    ("quantizer=obs,scope=layer", "quantizer=gptq,granularity=layer"),
    ("quantizer.survivors=4", "quantizer.beam_width=4"),
    ("quantizer.order=decreasing", "quantizer.act_order=true"),
    ("others=float16", "unquantized=float16"),
)


def quietly(path: Path, **how: object) -> Suite:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldWord)
        return load(path, **how)  # type: ignore[arg-type]


@pytest.fixture
def suites(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD)
    new.write_text(NEW)
    return old, new


@pytest.mark.parametrize("profile", [None, "small"])
@pytest.mark.parametrize(("before", "now"), [("", ""), *SETS])
def test_old_words_give_the_trials_of_the_new_ones(
    suites: tuple[Path, Path], profile: str | None, before: str, now: str
) -> None:
    if profile and "." in before:
        return  # the profile has no such entry, under either name
    old = quietly(suites[0], profile=profile, sets=[before] if before else [])
    new = quietly(suites[1], profile=profile, sets=[now] if now else [])
    assert old.trials() == new.trials()
    assert [(d.count, d.reason) for d in old.dropped] == [(d.count, d.reason) for d in new.dropped]
    # either suite takes either words
    mixed = quietly(suites[1], profile=profile, sets=[before] if before else [])
    assert mixed.trials() == new.trials()


@pytest.mark.parametrize(("before", "now"), FILTERS)
def test_filters_in_old_words_keep_what_the_new_ones_keep(suites: tuple[Path, Path], before: str, now: str) -> None:
    suite = quietly(suites[1])
    with pytest.warns(OldWord):
        kept = suite.trials([before])
    assert kept == suite.trials([now])
    assert 0 < len(kept) < len(suite.trials())


def test_new_words_warn_of_nothing_and_old_ones_in_one_line(suites: tuple[Path, Path]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(suites[1])
        assert not caught
        load(suites[0])
    (line,) = [str(warning.message) for warning in caught]
    assert line.startswith(f"{suites[0]}: ")
    for word in ("'obs' is now 'gptq'", "'scopes' is now 'granularities'", "'survivors' is now 'beam_width'"):
        assert word in line
    assert "\n" not in line


def test_the_shipped_suites_use_the_words_of_today() -> None:
    paths = sorted((Path(__file__).parents[2] / "suites").rglob("*.yaml"))
    assert len(paths) > 10
    for path in paths:
        vocabulary = Vocabulary(registry(), path.name)
        vocabulary.document(read(path)[0])
        assert not vocabulary.renamed, path


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("models: synthetic\nquantizers: uniform\nscopes: layer\ngranularities: global\n", "3: scopes: is now called"),
        (
            "models: synthetic\nquantizers:\n  gptq: {survivors: 2,\n    beam_width: 3}\n",
            "3: quantizers.gptq.survivors",
        ),
    ],
)
def test_an_old_word_beside_the_new_one_is_refused_where_it_stands(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=f"both.yaml:{place}"):
        load(path)


def test_faults_in_old_words_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "fault.yaml"
    path.write_text("models: synthetic\nsensitivities: second-moments\nquantizers:\n  obs:\n    survivors: 0\n")
    with pytest.raises(SuiteError, match=r"fault.yaml:5: quantizers.gptq.beam_width: must be"), pytest.warns(OldWord):
        load(path)


def test_the_registry_makes_a_plugin_of_a_files_old_names() -> None:
    plugin = registry().make(
        "quantizer", "obs", '{"step": 0.25, "survivors": 4, "order": "decreasing", "steps": "std"}'
    )
    assert str(plugin) == "gptq(step=0.25, granularity=layer, beam_width=4, act_order=True)"
    with pytest.raises(BadInput, match="beam_width"):
        registry().make("quantizer", "gptq", {"survivors": 0})


def test_no_former_name_is_another_plugins_name_of_today() -> None:
    entries = registry().all()
    for one, other in itertools.product(entries, entries):
        if one.cls.kind == other.cls.kind:
            assert other.cls.name not in one.cls.formerly
            assert one is other or not set(one.cls.formerly) & set(other.cls.formerly)
    for entry in entries:
        fields = set(entry.cls.model_fields)
        assert not fields & set(entry.cls.former_fields)
        assert {former.field for former in entry.cls.former_fields.values()} <= fields


def test_commands_about_plugins_know_the_old_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show", "obs"], ["show", "quantizer", "obs"]):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            assert invoke(words) == 0
        shown = capsys.readouterr()
        assert shown.out.startswith("quantizer gptq")
        assert shown.err.startswith("note: nqbench show: 'obs' is now 'gptq'; the old words")
