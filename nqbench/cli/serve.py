"""``nqbench serve DIR``: look at a folder of reports in a browser."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click


@click.command(name="serve")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
def command(folder: Path, port: int) -> None:
    """Serve FOLDER at http://127.0.0.1:PORT until interrupted; to this machine alone."""
    try:
        with server(folder, port) as found:
            click.echo(f"http://127.0.0.1:{found.server_port}/ (Ctrl-C ends it)")
            found.serve_forever()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise click.ClickException(f"port {port} cannot be used ({error.strerror}); give --port another") from None


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of that folder's files on the loopback interface, not yet running."""
    return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))


class _Handler(SimpleHTTPRequestHandler):
    """Files only: hidden ones (locks, scratch files) and the store are not given out."""

    def send_head(self) -> Any:
        asked = unquote(self.path.partition("?")[0])
        if any(part.startswith(".") for part in asked.split("/")) or ".sqlite" in asked:
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: Any) -> None:
        pass
