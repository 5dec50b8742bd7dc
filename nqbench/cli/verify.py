"""``nqbench verify DIR``: is every file what its record says?"""

from __future__ import annotations

from pathlib import Path

import click

from nqbench import printable
from nqbench.cli.options import engine_option, store_option


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--run", default="latest", show_default=True, help="Id of the run to check; all: of every run.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--limit",
    metavar="SIZE",
    help="Refuse files whose tensors take more memory than this, such as 4G.  [default: a tenth of the memory]",
)
@store_option
@engine_option
@click.option("--allow-code", is_flag=True, help="Run Python functions and TorchScript files that records name.")
def command(
    folder: Path, run: str, device: str, limit: str | None, store: str | None, engine: str | None, allow_code: bool
) -> None:
    """Decode every file in FOLDER in a fresh process and evaluate it again.

    The decoded tensors must match the record bit for bit. Metrics must match exactly in the environment that made the
    records; in another one, percentages within 0.1 points and other figures within a hundredth of them. A network given
    as a Python function or a TorchScript file is code written by the author of FOLDER: it runs with your permissions,
    and only if you pass --allow-code. Ends with exit code 3 if anything differs.
    """
    from nqbench.cli import REGRESSION
    from nqbench.engine.verify import verify
    from nqbench.pipeline.cache import parse_size

    checked = faults = 0
    most = None if limit is None else parse_size(limit)
    verdicts = verify(folder, run=run, device=device, allow_code=allow_code, limit=most, store=store, engine=engine)
    for verdict in verdicts:
        checked += 1
        if verdict.fault is not None:
            faults += 1
            click.echo(f"DIFFERS: {printable.line(verdict.fault)}", err=True)
    if not checked:
        raise click.ClickException(f"{folder}: no record of a finished trial to verify")
    click.echo(f"{checked - faults} of {checked} files verified")
    if faults:
        click.echo(f"{faults} files are not what their records say", err=True)
        click.get_current_context().exit(REGRESSION)
