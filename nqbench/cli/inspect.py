"""``nqbench inspect FILE``: what is inside a compressed file, and what each part costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nqbench.container import Header
    from nqbench.container.header import TensorEntry

KINDS = {0: "quantized", 1: "raw parameter", 2: "raw buffer", 3: "alias", 4: "coded", 9: "raw parameter, constant"}
KINDS[10] = "raw buffer, constant"


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(file: Path, tensors: bool, as_json: bool) -> None:
    """Print what is inside FILE.nqz and what each part costs. Checksums are verified; no plugin is needed."""
    from nqbench.container import read_sections

    sections = read_sections(file)
    if as_json:
        click.echo(_json(file, sections.header, sections.parts, sections.file_bytes))
        return
    click.echo(f"{file}: {sections.file_bytes:,} bytes, written by {sections.header.producer}")
    click.echo(_made_by(sections.header) + "\n")
    click.echo(_parts(sections.parts, sections.file_bytes) + "\n")
    click.echo(_groups(sections.header))
    if tensors:
        click.echo("\n" + _tensors(sections.header))


def _made_by(header: Header) -> str:
    kinds = ("quantizer", "coder", "codec", "positions", "positions' coder")
    lines = []
    for kind, ref in zip(kinds, header.plugins, strict=True):
        if ref.name:
            lines.append(f"{kind}: {ref.name} {ref.json} (of {ref.distribution} {ref.version})")
    return "\n".join(lines)


def _parts(parts: dict[str, int], total: int) -> str:
    from tabulate import tabulate

    rows = [(name, f"{size:,}", f"{100 * size / total:.1f} %") for name, size in parts.items()]
    rows.append(("all", f"{total:,}", "100.0 %"))
    return tabulate(rows, ("part", "bytes", "share"), colalign=("left", "right", "right"))


def _groups(header: Header) -> str:
    quantized = [t for t in header.tensors if t.kind == 0]
    weights = sum(t.numel for t in quantized)
    lines = [f"{len(header.tensors)} tensors; {len(quantized)} quantized, {weights:,} weights"]
    if header.groups:
        lines.append(f"{len(header.groups)} codebooks, {len(header.streams)} streams ({header.stream_mode})")
    for index, group in enumerate(header.groups[:20]):
        arrays = ", ".join(f"{a.name}{list(a.shape) if a.dtype else ''}" for a in group.arrays)
        lines.append(f"  group {index}: {group.form}, {group.alphabet} symbols; {arrays}")
    if len(header.groups) > 20:
        lines.append(f"  ... and {len(header.groups) - 20} more")
    return "\n".join(lines)


def _tensors(header: Header) -> str:
    from tabulate import tabulate

    rows = [(t.name, list(t.shape), str(t.dtype).removeprefix("torch."), _kind(t, header)) for t in header.tensors]
    return tabulate(rows, ("tensor", "shape", "dtype", "kind"))


def _kind(tensor: TensorEntry, header: Header) -> str:
    if tensor.kind == 0:
        return f"quantized, group {tensor.group}{', pruned' if tensor.masked else ''}"
    if tensor.kind == 3:
        return f"alias of {header.tensors[tensor.target].name}"
    stored = f", stored as {str(tensor.stored).removeprefix('torch.')}" if tensor.stored != tensor.dtype else ""
    return KINDS[tensor.kind] + stored


def _json(file: Path, header: Header, parts: dict[str, int], total: int) -> str:
    import json

    return json.dumps(
        {
            "file": str(file),
            "file_bytes": total,
            "parts": parts,
            "producer": header.producer,
            "plugins": [
                {"name": p.name, "parameters": json.loads(p.json), "distribution": p.distribution, "version": p.version}
                for p in header.plugins
                if p.name
            ],
            "groups": [
                {"form": g.form, "alphabet": g.alphabet, "arrays": [a.name for a in g.arrays]} for g in header.groups
            ],
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "dtype": str(t.dtype), "kind": _kind(t, header)}
                for t in header.tensors
            ],
        },
        indent=1,
    )
