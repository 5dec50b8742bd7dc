"""``nqbench serve DIR``: look at a folder of reports in a browser."""

from __future__ import annotations

import functools
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click

from nqbench.cli.options import PLACE


@click.command(name="serve")
@click.argument("folder", type=PLACE)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
def command(folder: str | Path, port: int) -> None:
    """Serve FOLDER at http://127.0.0.1:PORT until interrupted. Only this machine can connect.

    FOLDER can be the URL of a store that a team shares (postgresql://...): the last run of each of its suites is shown.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise click.BadParameter(f"Directory '{folder}' does not exist.", param_hint="'FOLDER'")
    try:
        with _reports(folder) as reports, server(reports, port) as found:
            click.echo(f"http://127.0.0.1:{found.server_port}/ (Ctrl-C ends it)")
            found.serve_forever()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used ({error.strerror}); give --port another") from None


@contextmanager
def _reports(place: str | Path) -> Iterator[Path]:
    """A folder of reports: as it is or, of a server's store, one that is gone afterwards."""
    if isinstance(place, Path):
        yield place
        return
    from html import escape

    from nqbench.report import rebuild
    from nqbench.results.store import Store

    with Store.read(place) as store:
        last = {run.suite: run.run for run in store.runs()}
    with tempfile.TemporaryDirectory(prefix="nqbench-serve-") as name:
        links = []
        for number, (suite, run) in enumerate(sorted(last.items())):
            rebuild(place, Path(name) / str(number), run=run)
            links.append(f'<li><a href="{number}/index.html">{escape(suite)}</a> <small>{escape(run)}</small></li>')
        page = f"<!doctype html><meta charset=utf-8><title>nqbench</title><h1>Suites</h1><ul>{''.join(links)}</ul>"
        (Path(name) / "index.html").write_text(page, encoding="utf-8")
        yield Path(name)


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of that folder's files on the loopback interface, not yet running."""
    return _Server(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that no longer wants a page closes its connection: that is nothing to tell."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


_HOSTS = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
"""What a browser on this machine calls it. Another name is a page elsewhere that had its own name resolve to here."""
_INDEX = ("index.html", "index.htm")
"""What is given out for a folder, where it is there."""


class _Handler(SimpleHTTPRequestHandler):
    """Files of the folder only, also where a link in it points elsewhere: hidden ones (locks, scratch files) and the
    store are not given out, by whatever name they are asked for."""

    def send_head(self) -> Any:
        if not _HOSTS.fullmatch(self.headers.get("Host", "")):
            self.send_error(403, "ask for 127.0.0.1 or localhost")
            return None
        if not self._given_out():
            self.send_error(404)
            return None
        return super().send_head()

    def _given_out(self) -> bool:
        root = Path(self.directory).resolve()
        asked = Path(self.translate_path(self.path))
        try:
            found = [asked.resolve(strict=True)]
            found += [(asked / name).resolve() for name in _INDEX if asked.is_dir() and (asked / name).exists()]
        except (OSError, ValueError, RuntimeError):  # nothing there, a name that no file can have, a circle of links
            return False
        return all(path.is_relative_to(root) and not _hidden(path.relative_to(root)) for path in found)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _hidden(path: Path) -> bool:
    # some file systems do not tell cases apart
    return any(part.startswith(".") or ".sqlite" in part.casefold() for part in path.parts)
