"""``nqbench decompress FILE.nqz``: the tensors that a file stands for, as safetensors."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("decompress")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="[default: FILE.safetensors]")
@click.option(
    "--limit",
    metavar="SIZE",
    help="Refuse a file whose tensors take more memory than this, such as 4G.  [default: a tenth of the memory]",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
def command(file: Path, output: Path | None, limit: str | None, force: bool) -> None:
    """Decode FILE and write all its tensors, under their names, to a safetensors file.

    Load that with safetensors.torch.load_file and the network's load_state_dict. Only FILE is needed, and the plugins
    that `nqbench inspect` lists.
    """
    from nqbench.api.errors import BadInput
    from nqbench.api.toolkit.paths import written_whole
    from nqbench.container import read
    from nqbench.pipeline.artifacts import save_tensors
    from nqbench.pipeline.cache import parse_size
    from nqbench.registry import registry

    target = output or file.with_suffix(".safetensors")
    if target.exists() and not force:
        raise BadInput(f"{target} is there already: choose another --output, or replace it with --force")
    tensors = read(file, registry(), limit=None if limit is None else parse_size(limit)).tensors
    if "__metadata__" in tensors:
        raise BadInput(f"{file}: a tensor is called '__metadata__', a name that safetensors keeps for itself")
    try:
        with written_whole(target) as temporary:
            save_tensors(tensors, temporary)
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error}") from None
    numbers = sum(tensor.numel() for tensor in tensors.values())
    click.echo(f"{target}: {len(tensors)} tensors, {numbers:,} numbers, {target.stat().st_size:,} bytes")
