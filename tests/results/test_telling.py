"""Versions of a plugin are told apart by the fields that differ where all else that was told is equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from record_factory import digest, make

from nqbench.results.labels import Labels
from nqbench.results.telling import KNOB, telling

FIELDS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1", "2", KNOB]), max_size=4)


def said(version: dict[str, object], fields: frozenset[str]) -> dict[str, object]:
    return {field: version[field] for field in fields if field in version}


@given(st.lists(st.fixed_dictionaries({field: st.sampled_from("12") for field in "abcd"}), max_size=9))
def test_no_two_versions_are_told_alike_and_nothing_is_told_that_all_have(versions: list[dict[str, object]]) -> None:
    versions = [dict(pairs) for pairs in dict.fromkeys(tuple(sorted(v.items())) for v in versions)]
    found = telling(versions)
    words = [said(version, fields) for version, fields in zip(versions, found, strict=True)]
    assert all(one != other for at, one in enumerate(words) for other in words[:at])
    for fields in found:
        assert all(len({version[field] for version in versions}) > 1 for field in fields)


@given(st.lists(FIELDS, max_size=8))
def test_versions_that_lack_fields_or_are_curves_along_others_are_told_as_far_as_all_differing_fields_tell_them(
    versions: list[dict[str, object]],
) -> None:
    versions = [dict(pairs) for pairs in dict.fromkeys(tuple(sorted(v.items(), key=str)) for v in versions)]
    found = telling(versions)
    varying = frozenset(f for f in "abcd" if len({version.get(f) for version in versions}) > 1)
    words = [said(version, fields) for version, fields in zip(versions, found, strict=True)]
    whole = [said(version, varying) for version in versions]
    for at, one in enumerate(words):
        for before, other in enumerate(words[:at]):
            assert one != other or whole[at] == whole[before]


def test_what_only_some_ways_to_round_have_is_told_of_them_alone() -> None:
    def rounded(knob: str = "bits", **given: object) -> dict[str, object]:
        plain = {"bits": 3, "fit": "max", "granularity": "layer", "group": 64, "scales": "float32", "step": None}
        return {"quantizer": "rtn", "quantizer_params": plain | given, "knob": knob, "key": digest(given)}

    versions = [
        rounded(),
        rounded(granularity="channel"),
        rounded(granularity="group", group=32, scales="float16"),
        rounded(granularity="group", group=32, scales="codes"),
        rounded(granularity="group", group=32, scales="codes", fit="search"),
        rounded("step", bits=None, step=0.5),
    ]
    records = [make(**version) for version in versions]
    labels = Labels(records)
    assert [labels.plugin(record, "quantizer") for record in records] == [
        "rtn(bits=3, granularity=layer)",
        "rtn(bits=3, granularity=channel)",
        "rtn(bits=3, fit=max, granularity=group, scales=float16)",
        "rtn(bits=3, fit=max, granularity=group, scales=codes)",
        "rtn(bits=3, fit=search, granularity=group)",
        "rtn(step=0.5)",
    ]
    methods = [labels.plugin(record, "quantizer", knob=False) for record in records]
    assert methods[0] == "rtn(bits, granularity=layer)"
    assert methods[4:] == ["rtn(bits, fit=search, granularity=group)", "rtn(step)"]


def test_of_two_fields_that_tell_as_much_a_list_is_not_told() -> None:
    versions = [{"epochs": "[22, 20]", "keep": "0.1"}, {"epochs": "[22, 90]", "keep": "0.08"}]
    assert telling(versions) == [frozenset({"keep"})] * 2
    assert telling([{**version, "keep": "0.1"} for version in versions]) == [frozenset({"epochs"})] * 2
