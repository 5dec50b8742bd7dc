"""--profile, --set and --only."""

import re

import pytest

from nqbench.api import BadInput
from nqbench.cli.plan import command as plan
from nqbench.suite import SuiteError, load

TEXT = """\
models: net
quantizers:
  - kmeans: {k: [4, 8]}
  - uniform: {step: 0.1}
coders: [huffman, lzw]
profiles:
  small:
    quantizers: [kmeans]
    coders: lzw
  wrong:
    quantizers:
      - kmeans: {k: 0}
  odd: {coder: lzw}
"""


def shown(trials):
    return [(t.quantizer.name, t.quantizer.parameters.get("k"), t.coder.name) for t in trials]


def test_a_profile_replaces_keys_and_keeps_the_others(suite_of):
    suite = suite_of(TEXT, profile="small")
    assert shown(suite.trials()) == [("kmeans", 16, "lzw")]


def test_a_fault_in_a_profile_is_placed_where_it_is_written(suite_of):
    with pytest.raises(SuiteError, match=r"^s.yaml:12: quantizers\[0\]\.kmeans\.k: must be greater than or equal to 1"):
        suite_of(TEXT, profile="wrong")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("smal", r"profiles: there is no profile 'smal'; did you mean 'small'\?"),
        ("odd", r"^s.yaml:13: profiles\.odd\.coder: unknown key 'coder'; did you mean 'coders'\?"),
    ],
)
def test_a_wrong_profile_is_refused(suite_of, profile, message):
    with pytest.raises(SuiteError, match=message):
        suite_of(TEXT, profile=profile)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["coders=lzw", "quantizers=kmeans"], [("kmeans", 16, "lzw")]),
        (["coders=[lzw]", "quantizers.0.kmeans.k=32"], [("kmeans", 32, "lzw"), ("uniform", None, "lzw")]),
        (["coders=[lzw]", "quantizers.kmeans.k=32"], [("kmeans", 32, "lzw"), ("uniform", None, "lzw")]),
        (["coders=[lzw]", "quantizers.uniform={step: 0.5}", "quantizers.kmeans={}"],
         [("kmeans", 16, "lzw"), ("uniform", None, "lzw")]),
        (["coders.0=lzw", "quantizers[0]=uniform", "quantizers[0].uniform.step=1e-3", "quantizers.1=kmeans"],
         [("uniform", None, "lzw"), ("kmeans", 16, "lzw")]),
        (["quantizers=kmeans", "quantizers.0.kmeans.k=2", "quantizers.1=kmeans", "coders=lzw"],
         [("kmeans", 2, "lzw"), ("kmeans", 16, "lzw")]),
    ],
)  # fmt: skip
def test_set_puts_a_value_in_its_place(suite_of, sets, expected):
    assert shown(suite_of(TEXT, sets=sets).trials()) == expected


def test_set_comes_after_the_profile_and_makes_mappings_that_are_missing(suite_of):
    suite = suite_of(TEXT, profile="small", sets=["coders=huffman", "measure.repeats=3"])
    assert shown(suite.trials()) == [("kmeans", 16, "huffman")]
    assert suite.measure is not None
    assert suite.measure.repeats == 3


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("quantizers.0.kmeans.k=0", r"quantizers\[0\]\.kmeans\.k: must be greater than or equal to 1, not 0"),
        ("quantizer=kmeans", "unknown key 'quantizer'; did you mean 'quantizers'"),
        ("quantizers.3=kmeans", r"quantizers has no \[3\]; its last entry is \[1\]"),
        ("quantizers.kmeans=3", r"quantizers\[0\]\.kmeans: must be a mapping of parameters to values, not 3"),
        (
            "quantizers.kmeanz.k=3",
            r"quantizers is a list without 'kmeanz'; did you mean 'kmeans'\?; or give an entry's",
        ),
        (
            "quantizers.1.kmeans.k=3",
            r"quantizers\[1\] is 'uniform', not 'kmeans'; leave the index out: quantizers.kmeans.k",
        ),
        ("quantizers.1.kmeens.k=3", r"quantizers\[1\] is 'uniform', not 'kmeens'; did you mean 'kmeans'"),
        ("coders.0.lzw.k=3", r"coders\[0\] is 'huffman', not 'lzw'; leave the index out: coders.lzw.k"),
        ("models.k=3", "models is 'net', which has no 'k'"),
        ("coders.²=lzw", "coders is a list without '²'"),
        ("streams.1=joint", r"streams has no \[1\]"),
        ("coders=[huffman,lzz]", r"coders\[1\]: unknown coder 'lzz'; did you mean 'lzw'"),
        ("coders=[", "value:1: invalid YAML"),
        ("coders", "must be key=value"),
    ],
)
def test_a_wrong_set_is_named_with_its_key(suite_of, item, message):
    with pytest.raises(SuiteError, match=message) as caught:
        suite_of(TEXT, sets=[item])
    assert str(caught.value).startswith(f"--set {item}: ")


def test_an_axis_that_the_suite_leaves_at_its_default_can_be_set_by_its_index(suite_of):
    text = "models: net\nquantizers: kmeans\n"
    assert shown(suite_of(text, sets=["coders.0=lzw"]).trials()) == shown(suite_of(text, sets=["coders=lzw"]).trials())
    with pytest.raises(SuiteError, match=r"target\.baseline: must be a string"):
        suite_of(text, sets=["target.drop=1", "target.baseline.0=kmeans"])


def test_the_text_of_an_overridden_suite_gives_the_same_trials(suite_of):
    suite = suite_of(TEXT, profile="small", sets=["seeds=[1, 2]", "quantizers.0={kmeans: {init: random}}", "timeout=7"])
    again = suite_of(suite.text)
    assert again.trials() == suite.trials()
    assert again.timeout == {"trial": 7}
    assert suite.text.startswith("# s.yaml with --profile small --set seeds=[1, 2] ")


def test_the_text_of_a_suite_as_written_keeps_its_comments(suite_of):
    assert suite_of("# why\n" + TEXT).text == "# why\n" + TEXT


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["quantizer=kmeans,coder=huffman"], [("kmeans", 4, "huffman"), ("kmeans", 8, "huffman")]),
        (["quantizer=k*", "coder=lz?"], [("kmeans", 4, "lzw"), ("kmeans", 8, "lzw")]),
        (["quantizer.k=8"], [("kmeans", 8, "huffman"), ("kmeans", 8, "lzw")]),
        (["quantizer.k=4,quantizer.k=8,coder=lzw"], [("kmeans", 4, "lzw"), ("kmeans", 8, "lzw")]),
        (["quantizer=uniform,training=none,seed=none,granularity=global,coder=lzw"], [("uniform", None, "lzw")]),
    ],
)
def test_only_keeps_the_trials_it_names(suite_of, only, expected):
    assert shown(suite_of(TEXT).trials(only)) == expected


def test_a_chain_is_found_by_any_of_its_links_or_whole(suite_of):
    suite = suite_of("models: net\nquantizers: kmeans\ntrainings: [none, tune, [tune, batchnorm]]\n")
    lengths = {text: [len(t.training) for t in suite.trials([f"training={text}"])] for text in
               ("none", "tune", "batchnorm", "tune+batchnorm")}  # fmt: skip
    assert lengths == {"none": [0], "tune": [1, 2], "batchnorm": [2], "tune+batchnorm": [2]}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("quantizr=kmeans", "--only quantizr=kmeans: unknown axis 'quantizr'; did you mean 'quantizer'"),
        ("quantizer=kmean", "--only quantizer=kmean: no trial is left; did you mean 'kmeans'"),
        ("coder=lzw,granularity=layer", "--only granularity=layer: no trial is left; known: global"),
        ("kmeans", "--only kmeans: must be axis=value"),
        ("seed.x=3", "--only seed.x=3: 'seed' has no parameters"),
    ],
)
def test_a_wrong_only_says_what_would_be_right(suite_of, only, message):
    with pytest.raises(BadInput) as caught:
        suite_of(TEXT).trials([only])
    assert str(caught.value).startswith(message)


def test_an_entry_that_stands_twice_is_named_by_its_index(suite_of):
    with pytest.raises(SuiteError, match=r"quantizers has several entries 'kmeans'; name one by its index, such as 0"):
        suite_of("models: net\nquantizers: [kmeans, {kmeans: {k: 4}}]\n", sets=["quantizers.kmeans.k=3"])


def test_the_example_of_the_help_works_on_the_shipped_suite_that_a_newcomer_starts_with():
    (example,) = re.findall(r"(\w+\.kmeans\.k=\d+)", str([p.help for p in plan.params if p.name == "sets"]))
    suite = load("quickstart", sets=[example])
    assert {t.quantizer.parameters["k"] for t in suite.trials() if t.quantizer.name == "kmeans"} == {8}
