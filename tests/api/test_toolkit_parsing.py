"""JSON of others: what cannot be written again is not read."""

from __future__ import annotations

import json

import pytest

from nqbench.api.toolkit.parsing import parse_json


@pytest.mark.parametrize(
    "text", ['{"a": "\\ud800"}', '["\\uDFFF\\uD800"]', '{"\\udc00": 1}', b'["\xed\xa0\x80"]', b"\xff"]
)
def test_half_of_a_surrogate_pair_is_no_text(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"surrogate|decode"):
        parse_json(text)


@pytest.mark.parametrize("value", ["\U0001f600", "\\ud800", "\ue000", {"ü": [1, None, 2.5]}])
def test_text_of_any_kind_is_read(value: object) -> None:
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value


def test_what_is_nested_without_end_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)
