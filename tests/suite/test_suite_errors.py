"""What is wrong with a suite is said in one line: file, line, key, what was expected, the nearest name."""

import random
from pathlib import Path

import pytest

from nqbench.registry import Registry
from nqbench.suite import SuiteError, load
from nqbench.suite.document import parse

HEAD = "models: net\n"

BAD = {
    "unknown plugin": (
        HEAD + "quantizers:\n  - kmeans\n  - kmeanz: {k: 4}\n",
        "s.yaml:4: quantizers[1].kmeanz: unknown quantizer 'kmeanz'; did you mean 'kmeans'?",
    ),
    "unknown plugin, as a scalar": (
        HEAD + "quantizers: kmeanz\n",
        "s.yaml:2: quantizers: unknown quantizer 'kmeanz'; did you mean 'kmeans'?",
    ),
    "unknown plugin, nothing near": (
        HEAD + "quantizers: kmeans\ncoders: [zzz]\n",
        "s.yaml:3: coders[0]: unknown coder 'zzz'; known: huffman, lzw",
    ),
    "wrong type": (
        HEAD + "quantizers:\n  - kmeans:\n      k: four\n",
        "s.yaml:4: quantizers[0].kmeans.k: must be an integer, not 'four'",
    ),
    "a number in quotes": (
        HEAD + "quantizers: {kmeans: {k: '4'}}\n",
        "s.yaml:2: quantizers.kmeans.k: must be an integer, not '4'",
    ),
    "a truth value for a number": (
        HEAD + "quantizers: {kmeans: {k: true}}\n",
        "s.yaml:2: quantizers.kmeans.k: must be an integer, not true",
    ),
    "out of range": (
        HEAD + "quantizers: {kmeans: {k: 0}}\n",
        "s.yaml:2: quantizers.kmeans.k: must be greater than or equal to 1, not 0",
    ),
    "out of range in a sweep": (
        HEAD + "quantizers:\n  - kmeans:\n      k:\n        - 4\n        - 0\n",
        "s.yaml:6: quantizers[0].kmeans.k[1]: must be greater than or equal to 1, not 0",
    ),
    "infinity": (
        HEAD + "quantizers: {uniform: {step: .inf}}\n",
        "s.yaml:2: quantizers.uniform.step: must be a finite number, not inf",
    ),
    "a choice": (
        HEAD + "quantizers: {kmeans: {init: lin}}\n",
        "s.yaml:2: quantizers.kmeans.init: must be 'linear' or 'random', not 'lin'",
    ),
    "unknown parameter": (
        HEAD + "quantizers: {uniform: {stop: 1}}\n",
        "s.yaml:2: quantizers.uniform.stop: quantizer 'uniform' has no parameter 'stop'; did you mean 'step'?",
    ),
    "a parameter of a plugin that has none": (
        HEAD + "quantizers: kmeans\ncoders: {lzw: {bits: 3}}\n",
        "s.yaml:3: coders.lzw.bits: coder 'lzw' has no parameter 'bits'; it takes no parameters",
    ),
    "a parameter that is required": (HEAD + "quantizers: [uniform]\n", "s.yaml:2: quantizers[0].step: is required"),
    "parameters that do not go together": (
        HEAD + "quantizers:\n  - kmeans: {k: 1, fixed: [0, 1]}\n",
        "s.yaml:3: quantizers[0].kmeans: more fixed centroids than k",
    ),
    "an element of a list that is one value": (
        HEAD + "quantizers: {kmeans: {fixed: [0, a]}}\n",
        "s.yaml:2: quantizers.kmeans.fixed[1]: must be a number, not 'a'",
    ),
    "a list that is one value in a sweep": (
        HEAD + "quantizers: {kmeans: {fixed: [[0, 1], [0, a]]}}\n",
        "s.yaml:2: quantizers.kmeans.fixed[1]: must be a number, not 'a'",
    ),
    "one value where a list is one value": (
        HEAD + "quantizers: {kmeans: {fixed: zero}}\n",
        "s.yaml:2: quantizers.kmeans.fixed: must be a list, not 'zero'",
    ),
    "nothing to sweep": (
        HEAD + "quantizers: {kmeans: {k: []}}\n",
        "s.yaml:2: quantizers.kmeans.k: is an empty list; there is nothing to sweep",
    ),
    "parameters that are indented too little": (
        HEAD + "quantizers:\n  - kmeans:\n    k: 4\n",
        "s.yaml:4: quantizers[0].k: stands beside 'kmeans', where one name with its parameters was expected: "
        "kmeans: {...} (check the indentation)",
    ),
    "duplicate key": (HEAD + "quantizers: kmeans\nmodels: net\n", "s.yaml:3: models: duplicate key"),
    "duplicate parameter": (HEAD + "quantizers:\n  - kmeans: {k: 4, k: 8}\n", "s.yaml:3: k: duplicate key"),
    "unknown key": (
        HEAD + "quantizers: kmeans\ncoder: lzw\n",
        "s.yaml:3: coder: unknown key 'coder'; did you mean 'coders'?",
    ),
    "unknown key below": (
        HEAD + "quantizers: kmeans\nmeasure:\n  repeat: 3\n",
        "s.yaml:4: measure.repeat: unknown key 'repeat'; did you mean 'repeats'?",
    ),
    "unknown key in an include": (
        HEAD + "quantizers: kmeans\ninclude:\n  - coders: lzw\n  - coder: lzw\n",
        "s.yaml:5: include[1].coder: unknown key 'coder'; did you mean 'coders'?",
    ),
    "wrong type of a key": (HEAD + "quantizers: kmeans\nseeds: [0, 1.5]\n", "s.yaml:3: seeds[1]: must be an integer"),
    "an axis without entries": (HEAD + "quantizers: []\n", "s.yaml:2: quantizers: must have at least one entry"),
    "trials that differ in how they are judged alone": (
        HEAD + "quantizers: kmeans\ninclude:\n  - judged_by: divergence\n",
        "s.yaml: the suite has trials on model 'net' that differ in nothing but 'judged_by' (null and \"divergence\")",
    ),
    "trials that differ in what is recorded alone": (
        HEAD + "quantizers: kmeans\ninclude:\n  - loss_increase: true\n",
        "s.yaml: the suite has trials on model 'net' that differ in nothing but 'loss_increase' (false and true)",
    ),
    "a baseline that no method is called": (
        HEAD + "quantizers: [kmeans, {uniform: {step: 0.1}}]\ntarget: {drop: 1, baseline: unifrom}\n",
        "s.yaml:3: target.baseline: no method of the suite is called 'unifrom'; did you mean 'uniform'?",
    ),
    "a name that is a folder's": (HEAD + "quantizers: kmeans\nname: ..\n", "s.yaml:3: name: must match pattern"),
    "an integer of thousands of digits": (
        HEAD + "quantizers: {kmeans: {k: 0x" + 4500 * "F" + "}}\n",
        "s.yaml:2: an integer of 18,000 bits cannot be used here",
    ),
    "no models": ("quantizers: kmeans\n", "s.yaml:1: 'models' is required"),
    "no methods": (HEAD, "s.yaml:1: 'quantizers' (or 'codecs') is required"),
    "an unknown plugin in an include": (
        HEAD + "quantizers: kmeans\ninclude:\n  - coders: lzv\n",
        "s.yaml:4: include[0].coders: unknown coder 'lzv'; did you mean 'lzw'?",
    ),
    "an unknown plugin in an exclude": (
        HEAD + "quantizers: kmeans\nexclude:\n  - coder: lzv\n",
        "s.yaml:4: exclude[0].coder: unknown coder 'lzv'; did you mean 'lzw'?",
    ),
    "an unknown axis in an exclude": (
        HEAD + "quantizers: kmeans\nexclude:\n  - coders: lzw\n",
        "s.yaml:4: exclude[0].coders: unknown axis 'coders'; did you mean 'coder'?",
    ),
    "an unknown parameter in an exclude": (
        HEAD + "quantizers: uniform\nexclude:\n  - quantizer: {kmeans: {kk: 3}}\n",
        "s.yaml:2: quantizers.step: is required",
    ),
    "an exclude of everything": (
        HEAD + "quantizers: kmeans\nexclude:\n  - {}\n",
        "s.yaml:4: exclude[0]: is empty and would match every trial",
    ),
    "two targets at once": (
        HEAD + "quantizers: kmeans\ntarget: {drop: 0.5, metric: 99}\n",
        "s.yaml:3: target: give one of 'drop'",
    ),
    "a threshold of a figure that there is not": (
        HEAD + "quantizers: kmeans\nthresholds:\n  file_byte: 0.1\n",
        "s.yaml:4: thresholds.file_byte: unknown key 'file_byte'; did you mean 'file_bytes'?",
    ),
    "a threshold of a metric that no model has": (
        HEAD + "quantizers: kmeans\nthresholds:\n  metrics:\n    acuracy: 0.1\n",
        "s.yaml:5: thresholds.metrics.acuracy: no model of the suite has the metric 'acuracy'; did you mean 'accu",
    ),
    "a tolerance below nothing": (
        HEAD + "quantizers: kmeans\nthresholds:\n  mse: -0.1\n",
        "s.yaml:4: thresholds.mse: must be greater than or equal to 0, not -0.1",
    ),
    "a tolerance that is text": (
        HEAD + "quantizers: kmeans\nthresholds:\n  mse: {relative: few}\n",
        "s.yaml:4: thresholds.mse.relative: must be a number, not 'few'",
    ),
    "a tolerance of another name": (
        HEAD + "quantizers: kmeans\nthresholds:\n  metrics: {accuracy: {absolut: 1}}\n",
        "s.yaml:4: thresholds.metrics.accuracy.absolut: unknown key 'absolut'; did you mean 'absolute'?",
    ),
    "a ratio of times that is no change": (
        HEAD + "quantizers: kmeans\nthresholds: {seconds: {ratio: 0.9}}\n",
        "s.yaml:3: thresholds.seconds.ratio: must be greater than or equal to 1, not 0.9",
    ),
    "a deadline of no stage": (
        HEAD + "quantizers: kmeans\ntimeout:\n  load: 5\n  quantise: 60\n",
        "s.yaml:5: timeout.quantise: unknown stage 'quantise'; did you mean 'quantize'?",
    ),
    "no time for a stage": (
        HEAD + "quantizers: kmeans\ntimeout: {quantize: -1}\n",
        "s.yaml:3: timeout.quantize: must be greater than 0, not -1",
    ),
    "no time": (
        HEAD + "quantizers: kmeans\ntimeout: [60]\n",
        "s.yaml:3: timeout: must be a mapping of keys to values, not [60]",
    ),
    "no time at all": (HEAD + "quantizers: kmeans\ntimeout: 0\n", "s.yaml:3: timeout: must be greater than 0, not 0"),
    "empty file": ("", "s.yaml: is empty; a suite names at least 'models' and 'quantizers'"),
    "only comments": ("# nothing\n", "s.yaml: is empty"),
    "a list": ("- net\n", "s.yaml:1: a suite is a mapping of keys to values, not a list"),
    "not YAML": (HEAD + "quantizers: [kmeans\ncoders: lzw\n", "s.yaml:3: invalid YAML: "),
    "a tab": (HEAD + "quantizers:\n\t- kmeans\n", "s.yaml:3: invalid YAML: "),
    "two documents": (HEAD + "---\n" + HEAD, "s.yaml: holds 2 YAML documents; one was expected"),
    "a key that is no text": (HEAD + "quantizers: {4: kmeans}\n", "s.yaml:2: keys are text, not 4; put it in quotes"),
    "an alias that contains itself": ("&a [*a]\n", "s.yaml:1: an alias contains itself"),
    "a set that leaves no trials": (
        HEAD + "quantizers: feedback\n",
        "s.yaml: no trial is left: 1 x quantizer 'feedback' takes second-moments, not no sensitivity",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_suite_is_refused_with_its_place_and_key(case, suite_of):
    text, expected = BAD[case]
    with pytest.raises(SuiteError) as caught:
        suite_of(text)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_an_unknown_parameter_of_an_exclude_is_refused(suite_of):
    with pytest.raises(SuiteError, match=r"exclude\.quantizer\.kmeans\.kk: quantizer 'kmeans' has no parameter 'kk'"):
        suite_of(HEAD + "quantizers: kmeans\nexclude: {quantizer: {kmeans: {kk: 3}}}\n")


def test_aliases_that_unfold_without_end_are_refused_before_they_fill_the_memory(suite_of):
    levels = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(SuiteError, match="more than 100000 values once its aliases are unfolded"):
        suite_of("\n".join(levels))


@pytest.mark.parametrize("depth", [41, 300, 3000, 30_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_what_is_nested_without_end_is_refused_in_one_line(suite_of, depth, opened, closed):
    text = opened * depth + "1" + closed * depth
    with pytest.raises(SuiteError, match=r"is nested more than 40 levels deep") as caught:
        suite_of("models:\n  " + text)
    assert "\n" not in str(caught.value)
    with pytest.raises(SuiteError, match=r"--set .*is nested more than 40 levels deep"):
        suite_of(HEAD + "quantizers: kmeans\n", sets=[f"models={text}"])
    with pytest.raises(SuiteError, match=r"--set .*: goes more than 40 levels deep"):
        suite_of(HEAD + "quantizers: kmeans\n", sets=["models.0" + ".a" * depth + "=1"])


TOKENS = (
    "<<: ", "&x ", "*x", "{", "}", "[", "]", ", ", ": ", "- ", "\n", "\n  ", "a", "b: ", "1", "!!int ", "!!float ",
    "!!set ", "!!omap ", "!!timestamp ", "!!binary ", "!foo ", "? ", "| \n", "> \n", "'", '"', "2020-99-99", "1e999",
    "0x", "~", "#c\n", "---\n", "...\n", "%YAML 1.1\n", "=", "1_0", "\t", "\\u00", "yes",
)  # fmt: skip


def test_whatever_yaml_s_marks_are_put_together_is_read_or_refused_in_one_line():
    draw = random.Random(4)
    texts = ["models:\n  <<: &x {<<: *x}\n", "!!set }}!!set ", "!!float }}1_00x=!foo "]
    texts += ["".join(draw.choices(TOKENS, k=draw.randrange(2, 14))) for _ in range(300)]
    refused = []
    for text in texts:
        try:
            parse(text, "s.yaml")
        except SuiteError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert not any("\n" in line for line in refused)


def test_more_combinations_than_can_be_planned_are_refused_before_any_is_made(suite_of):
    many = ", ".join(map(str, range(2, 1200)))
    with pytest.raises(SuiteError, match=r"stands for 1,\d+,\d+ combinations, and at most 1,000,000"):
        suite_of(HEAD + f"quantizers: [{{kmeans: {{k: [{many}]}}}}]\nseeds: [{many}]\n").trials()


def test_a_missing_file_is_named_with_the_nearest_shipped_suite(fake_registry):
    with pytest.raises(SuiteError, match=r"quickstrat: there is no such file.*; did you mean 'quickstart'\?"):
        load("quickstrat", registry=fake_registry)


def test_a_folder_is_not_a_suite(tmp_path, fake_registry):
    with pytest.raises(SuiteError, match=r"is not a file; name a suite's \.yaml file"):
        load(tmp_path, registry=fake_registry)


def test_text_that_is_not_utf8_is_refused_with_the_byte(tmp_path, fake_registry):
    file = tmp_path / "latin.yaml"
    file.write_bytes("question: é\n".encode("latin-1"))
    with pytest.raises(SuiteError, match=r"latin.yaml: is not UTF-8 text \(byte 10\)"):
        load(file, registry=fake_registry)


def test_a_file_that_may_not_be_read_says_so(tmp_path, fake_registry, monkeypatch):
    file = tmp_path / "secret.yaml"
    file.write_text(HEAD)

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything, so modes prove nothing
    with pytest.raises(SuiteError, match=r"secret.yaml: cannot be read: Permission denied"):
        load(file, registry=fake_registry)


def test_a_plugin_of_a_broken_package_is_told_with_the_reason(tmp_path, broken_registry: Registry):
    file = tmp_path / "s.yaml"
    file.write_text(HEAD + "quantizers: sparse-lattice\n")
    with pytest.raises(SuiteError) as caught:
        load(file, registry=broken_registry)
    assert "unknown quantizer 'sparse-lattice'; nqbench-sparse-lattice 0.3 (sparse_lattice) is installed but broken: " \
        "cannot be imported: ModuleNotFoundError: No module named 'nonesuch'" in str(caught.value)  # fmt: skip


def test_a_slip_of_the_pen_is_not_blamed_on_a_broken_package(tmp_path, broken_registry: Registry):
    file = tmp_path / "s.yaml"
    file.write_text(HEAD + "quantizers: kmeanz\n")
    with pytest.raises(SuiteError, match=r"did you mean 'kmeans'\?$"):
        load(file, registry=broken_registry)
