"""What compare, merge and serve print, write and answer."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
from record_factory import failed, make
from test_reports import fill

from nqbench.cli import invoke
from nqbench.cli.serve import server


@pytest.fixture
def nights(tmp_path: Path) -> tuple[Path, Path]:
    fill(tmp_path / "old", [make(k=k) for k in (2, 4, 8)])
    fill(tmp_path / "new", [make(k=2), make(k=4, symbols=9_999), failed(k=8, error="no\x00 way"), make(k=16)])
    return tmp_path / "old", tmp_path / "new"


def test_compare_says_what_is_worse_and_ends_with_3(
    nights: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = nights
    outputs = [f"--{name}={tmp_path / name}" for name in ("markdown", "junit", "json")]
    assert invoke(["compare", str(old), str(new), *outputs]) == 3
    shown = capsys.readouterr().out
    assert "4 trials: 1 failed, 1 worse, 1 new, 1 same" in shown
    assert "uniform(k=4) global huffman" in shown

    text = (tmp_path / "markdown").read_text()
    assert text.startswith("# synthetic: REGRESSION")
    assert "| worse | net | uniform(k=4) global huffman | file_bytes | 3,020 | 10,519 | +248.31 % |" in text

    suite = ElementTree.parse(tmp_path / "junit").getroot()
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "4", "failures": "2", "skipped": "1",
    }  # fmt: skip
    assert len(suite.findall("testcase/failure")) == 2
    assert len(suite.findall("testcase/skipped")) == 1

    document = json.loads((tmp_path / "json").read_text())
    assert document["exit_code"] == 3
    assert sorted(document["trials"].values()) == ["failed", "new", "same", "worse"]


def test_compare_ends_with_0_where_nothing_changed_and_2_where_trials_failed(
    nights: tuple[Path, Path], tmp_path: Path
) -> None:
    old, _ = nights
    assert invoke(["compare", str(old), str(old / "records.sqlite")]) == 0
    fill(tmp_path / "broken", [make(k=2), make(k=4), failed(k=8)])
    assert invoke(["compare", str(old), str(tmp_path / "broken")]) == 2
    assert invoke(["compare", str(tmp_path / "broken"), str(old)]) == 0


def test_compare_says_in_one_line_what_cannot_be_compared(
    nights: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = nights
    for arguments in (
        [str(old), str(tmp_path / "nowhere")],
        [str(old), str(new), "--tolerance", "file_bytes"],
        [str(old), str(new), "--run", "none"],
    ):
        assert invoke(["compare", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_merge_writes_a_store_and_an_export_that_compares_as_the_store_does(
    nights: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = nights
    assert invoke(["merge", str(tmp_path / "all"), str(old), str(new)]) == 0
    assert "2 runs" in capsys.readouterr().out
    export = tmp_path / "baseline.json"
    assert invoke(["merge", str(export), str(old)]) == 0
    first = export.read_text()
    assert invoke(["merge", str(export), str(old)]) == 0
    assert export.read_text() == first
    assert invoke(["compare", str(export), str(tmp_path / "all")]) == 3


OUT_OF_REACH = (
    "/records.sqlite", "/../secret", "/%2e%2e/secret", "/.nqbench.lock", "/records%2esqlite", "/Records.SQLite",
    "/RECORDS.SQLITE-wal", "/%00", "/index.html%00", "/link", "/up/secret", "/up/", "/circle", "/store", "/sub/",
    "/sub/index.html", "/./%2enqbench.lock", "/" + "a" * 5000, "/x/%2e%2e/.nqbench.lock", "/%ff",
    "/sub/..%2f.nqbench.lock",
)  # fmt: skip


def test_serve_gives_out_the_page_and_neither_the_store_nor_what_is_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<p>page</p>")
    for name in ("records.sqlite", ".nqbench.lock", "RECORDS.SQLITE-wal"):
        (folder / name).write_text("store")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "store").symlink_to(folder / "records.sqlite")
    (folder / "inside").symlink_to(folder / "index.html")
    (folder / "sub").mkdir()
    (folder / "sub" / "index.html").symlink_to(tmp_path / "secret")
    with server(folder, 0) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        assert found.server_address[0] == "127.0.0.1"

        def get(path: str, host: str | None = None) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", found.server_port, timeout=10)
            connection.request("GET", path, headers={} if host is None else {"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read()

        assert get("/") == (200, b"<p>page</p>")
        for path in OUT_OF_REACH:
            assert get(path)[0] == 404, path
        for host in ("evil.example", f"evil.example:{found.server_port}", "127.0.0.1.evil.example", "localhost@x", ""):
            assert get("/", host)[0] == 403
        for host in ("localhost", f"LOCALHOST:{found.server_port}", "[::1]:1"):
            assert get("/", host)[0] == 200
        assert get("/inside") == (200, b"<p>page</p>")
        found.shutdown()


def test_a_browser_that_goes_away_is_nothing_to_tell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "index.html").write_bytes(b"x" * (8 << 20))
    with server(tmp_path, 0) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        with socket.create_connection(("127.0.0.1", found.server_port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200")
        found.shutdown()
    assert capfd.readouterr().err == ""
