"""JSON of others: what cannot be written again is not read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nqbench.api.toolkit.parsing import parse_json, read_file


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


def test_what_has_no_end_or_too_many_bytes_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):  # opened, the pipe would wait for a writer
        with pytest.raises(OSError, match="is not a regular file"):
            read_file(endless)
    (tmp_path / "file").write_bytes(b"1234")
    assert read_file(tmp_path / "file", most=4) == b"1234"
    with pytest.raises(OSError, match="has 4 bytes, too many"):
        read_file(tmp_path / "file", most=3)
