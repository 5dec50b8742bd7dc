"""The check of a built site finds what leads nowhere, and what a reader's browser would fetch from elsewhere."""

from __future__ import annotations

from pathlib import Path

import build
import pytest


def site(folder: Path, **pages: str) -> Path:
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{text}</body></html>", encoding="utf-8")
    return folder


def test_a_site_whose_links_all_hold_is_found_so(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text("<h2 id='caf%C3%A9'>x</h2>")
    (tmp_path / "a b.png").write_bytes(b"")
    links = '<a href="b.html#x">b</a><a href="#y">y</a><p id="y"></p><a href="sub/">s</a><img src="a%20b.png">'
    away = '<a href="https://example.org/no">away</a><a href="mailto:a@b">m</a><img src="data:image/png;base64,AA">'
    assert build.broken(site(tmp_path, a=links + away, b='<h1 id="x">x</h1>')) == []


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ('<a href="c.html">c</a>', "a.html: c.html: there is no such page"),
        ('<a href="b.html#z">b</a>', "a.html: b.html#z: there is no such anchor"),
        ('<a href="#z">z</a>', "a.html: #z: there is no such anchor"),
        ('<a href="repo:README.md">r</a>', "a.html: repo:README.md: an unknown scheme"),
        ('<img src="none.png">', "a.html: none.png: there is no such file"),
        (
            '<script src="https://cdn.org/x.js"></script>',
            "a.html: https://cdn.org/x.js: is fetched from elsewhere",
        ),
        (
            '<link rel="stylesheet" href="//cdn.org/x.css">',
            "a.html: //cdn.org/x.css: is fetched from elsewhere",
        ),
        ('<iframe src="http://example.org"></iframe>', "a.html: http://example.org: is fetched from elsewhere"),
    ],
)
def test_what_leads_nowhere_is_named(html: str, reason: str, tmp_path: Path) -> None:
    assert build.broken(site(tmp_path, a=html, b='<h1 id="x">x</h1>')) == [reason]
