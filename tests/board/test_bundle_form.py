"""A submission's form: what the writer writes any zip program reads; of what others write nothing is believed."""

from __future__ import annotations

import hashlib
import io
import random
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nqbench.board.bundle import MANIFEST, SUITE, BadBundle, file_name, open_bundle, write_bundle

DATA = b"\x00PK\x01\x02 any bytes " * 3
NAME = file_name(hashlib.sha256(DATA).hexdigest())
ENTRIES = [(MANIFEST, b'{"nqs": 1}'), (SUITE, b"name: s\n"), (NAME, DATA)]


def plain(path: Path) -> bytes:
    write_bundle(path / "b.nqs", ENTRIES)
    return (path / "b.nqs").read_bytes()


def opened(data: bytes, folder: Path) -> dict[str, bytes]:
    (folder / "other.nqs").write_bytes(data)
    with open_bundle(folder / "other.nqs") as bundle:
        return {name: bundle.read(name) for name in bundle.entries}


def test_what_is_written_is_read_again_and_by_python_s_own_zip(tmp_path: Path) -> None:
    data = plain(tmp_path)
    assert opened(data, tmp_path) == dict(ENTRIES)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert [(info.filename, archive.read(info)) for info in archive.infolist()] == ENTRIES
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


def test_equal_submissions_are_equal_bytes(tmp_path: Path) -> None:
    assert plain(tmp_path) == plain(tmp_path)


def test_no_byte_can_be_changed_unnoticed(tmp_path: Path) -> None:
    data = plain(tmp_path)
    for at in range(len(data)):
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << (at % 8)
        with pytest.raises(BadBundle):
            opened(bytes(spoiled), tmp_path)


def test_no_part_of_one_is_one(tmp_path: Path) -> None:
    data = plain(tmp_path)
    for length in range(len(data)):
        with pytest.raises(BadBundle):
            opened(data[:length], tmp_path)
    for more in (b"\0", data):
        with pytest.raises(BadBundle):
            opened(data + more, tmp_path)
        with pytest.raises(BadBundle):
            opened(more + data, tmp_path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 2**32))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, junk: bytes, seed: int) -> None:
    folder = tmp_path_factory.mktemp("junk")
    whole = bytearray(plain(folder))
    draw = random.Random(seed)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(whole))
        whole[at : at + draw.randrange(40)] = junk[: draw.randrange(len(junk) + 1)]
    for data in (junk, bytes(whole)):
        try:
            assert opened(data, folder) == dict(ENTRIES)
        except BadBundle as error:
            message = str(error)
            if "\n" in message:
                pytest.fail(message)


def hostile() -> dict[str, bytes]:
    """Archives of another program, each with something that a submission has not."""

    def made(*entries: tuple[zipfile.ZipInfo | str, bytes], comment: bytes = b"") -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.comment = comment
            for name, data in entries:
                archive.writestr(name, data)
        return buffer.getvalue()

    def named(name: str, *, mode: int = 0o644, comment: bytes = b"", extra: bytes = b"") -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name)
        info.external_attr, info.comment, info.extra = mode << 16, comment, extra
        return info

    first = (named(MANIFEST), b"{}")
    names = {
        "out of the folder": "../../etc/cron.d/x", "an absolute path": "/etc/passwd", "a drive": "C:\\x.nqz",
        "a folder": "files/", "another case": NAME.upper(), "no hex": f"files/{'g' * 64}.nqz",
        "a full-width letter": NAME.replace("nqz", "nqｚ"), "another direction": f"files/\u202e{NAME[6:]}",
        "a name of nothing": "", "a name with a line": NAME + "\n", "code": "setup.py",
    }  # fmt: skip
    found = {what: made(first, (named(name), DATA)) for what, name in names.items()}
    packed = named(MANIFEST)
    packed.compress_type = zipfile.ZIP_DEFLATED
    bomb = made((packed, b"0" * (1 << 24)))
    assert len(bomb) < 1 << 15
    twice = made(*ENTRIES)
    return found | {
        "a bomb": bomb,
        "a link": made(first, (named(NAME, mode=stat.S_IFLNK | 0o777), b"/etc/passwd")),
        "a comment": made(*ENTRIES, comment=b"hello"),
        "an entry's comment": made((named(MANIFEST, comment=b"x"), b"{}")),
        "an extra field": made((named(MANIFEST, extra=struct.pack("<HH", 0x7075, 0)), b"{}")),
        "a date": made((zipfile.ZipInfo(MANIFEST, (2020, 1, 1, 0, 0, 0)), b"{}")),
        "no manifest": made((NAME, DATA)),
        "a second manifest": twice[: twice.index(b"PK\x01\x02")] + made(first),
    }


@pytest.mark.parametrize("what", list(hostile()))
def test_a_stranger_s_archive_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(BadBundle) as raised:
        opened(hostile()[what], tmp_path)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other.nqs"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="twice"):
        write_bundle(tmp_path / "b.nqs", [*ENTRIES, ENTRIES[-1]])
    data = plain(tmp_path)
    local = data[data.index(b"PK\x03\x04", 40 + len(MANIFEST)) :][: 30 + len(SUITE) + len(ENTRIES[1][1])]
    at = data.index(local)
    with pytest.raises(BadBundle, match=r"expected files/|twice|out of order"):
        opened(data[:at] + local + data[at:], tmp_path)


@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1, len(DATA) + 1, 1 << 20, (1 << 32) - 1])
def test_a_size_that_lies_is_noticed(tmp_path: Path, size: int) -> None:
    data = bytearray(plain(tmp_path))
    at = data.index(NAME.encode()) - 30
    central = data.rindex(NAME.encode()) - 46
    part = DATA[:size]
    struct.pack_into("<III", data, at + 14, zlib.crc32(part), size, size)
    struct.pack_into("<III", data, central + 16, zlib.crc32(part), size, size)
    with pytest.raises(BadBundle):
        opened(bytes(data), tmp_path)


def test_what_is_no_file_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.nqs"):
        with pytest.raises(BadBundle, match="cannot be read"), open_bundle(path):
            pass
