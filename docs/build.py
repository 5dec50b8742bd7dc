"""Builds the site and follows every link in it: ``python docs/build.py build/site``.

Warnings are errors. A link to a page, an anchor, an image or a script that the site does not have is an error, and so
is anything that a browser would fetch from elsewhere in order to show a page. Links to other sites are not followed.
"""

# ruff: noqa: T201 - a script

from __future__ import annotations

import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).resolve().parent


class Links(HTMLParser):
    """A page's links, what it loads to be shown, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if tag == "a" and (href := given.get("href")):
            self.links.append(href)
        if source := given.get("src") or (given.get("href") if tag == "link" and _is_loaded(given) else None):
            self.loads.append(source)


def _is_loaded(given: dict[str, str | None]) -> bool:
    return any(word in (given.get("rel") or "") for word in ("stylesheet", "icon", "preload", "modulepreload"))


def broken(site: Path) -> list[str]:
    """A line for each link that leads nowhere, and for each thing that is fetched from elsewhere."""
    pages = {path.resolve(): _links_of(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        for link in page.links:
            reason = _wrong(link, path, pages)
            found += [f"{where}: {link}: {reason}"] if reason else []
        for load in page.loads:
            if urlsplit(load).scheme in ("http", "https") or load.startswith("//"):
                found.append(f"{where}: {load}: is fetched from elsewhere")
            elif not load.startswith("data:") and not _target(load, path).exists():
                found.append(f"{where}: {load}: there is no such file")
    return found


def _links_of(path: Path) -> Links:
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def _wrong(link: str, path: Path, pages: dict[Path, Links]) -> str:
    parts = urlsplit(link)
    if parts.scheme:
        return "" if parts.scheme in ("http", "https", "mailto", "data") else "an unknown scheme"
    target = _target(link, path) if parts.path else path
    if not target.exists():
        return "there is no such page"
    # a theme's link to the top of the page is a bare or an empty anchor
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].anchors:
        return "there is no such anchor"
    return ""


def _target(link: str, path: Path) -> Path:
    target = (path.parent / unquote(urlsplit(link).path)).resolve()
    return target / "index.html" if target.is_dir() else target


def main(arguments: list[str]) -> int:
    from sphinx.cmd.build import build_main

    site = Path(arguments[0] if arguments else "build/site")
    started = time.monotonic()
    code = build_main(["-q", "-W", "--keep-going", "-b", "html", "-d", f"{site}.doctrees", str(DOCS), str(site)])
    if code:
        return code
    found = broken(site)
    print("\n".join(found) or f"{len(list(site.rglob('*.html')))} pages in {time.monotonic() - started:.0f} s: {site}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
