"""``nqbench inspect FILE``: what is inside a compressed file, and what each part costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nqbench import printable

if TYPE_CHECKING:
    from nqbench.container import Header
    from nqbench.container.header import TensorEntry

KINDS = {0: "quantized", 1: "raw parameter", 2: "raw buffer", 3: "alias", 4: "coded", 9: "raw parameter, constant"}
KINDS[10] = "raw buffer, constant"
SHOWN = 20
"""Number of groups to list."""


@click.command("inspect")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per file.")
def command(files: tuple[Path, ...], tensors: bool, as_json: bool) -> None:
    """Print what is inside each FILE.nqz and what each part costs. Checksums are verified; no plugin is needed."""
    for index, file in enumerate(files):
        if index and not as_json:
            click.echo()
        _inspect(file, tensors, as_json)


def _inspect(file: Path, tensors: bool, as_json: bool) -> None:
    from nqbench.container import read_sections

    sections = read_sections(file)
    if as_json:
        click.echo(_json(file, sections.header, sections.parts, sections.file_bytes))
        return
    click.echo(f"{file}: {sections.file_bytes:,} bytes, written by {sections.header.producer}")
    click.echo(printable.plain(_made_by(sections.header)) + "\n")
    click.echo(_parts(sections.parts, sections.file_bytes) + "\n")
    parts = sections.parts
    raw = parts["raw_parameters"] + parts["raw_buffers"]
    click.echo(printable.plain(_groups(sections.header, 8 * (sections.file_bytes - raw))))
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


def _groups(header: Header, bits: int) -> str:
    weights = sum(t.numel for t in header.tensors if t.kind in (0, 4))
    lines = [
        f"{_count(header.tensors, 'tensor')}, {weights:,} weights of them {'coded' if _coded(header) else 'quantized'}"
    ]
    if weights:
        lines[0] += f" at {bits / weights:.3f} bits each, all but the raw tensors counted"
    if header.groups:
        lines.append(f"{_count(header.groups, 'group')}, {_count(header.streams, 'stream')} ({header.stream_mode})")
    for index, group in enumerate(header.groups[:SHOWN]):
        arrays = ", ".join(f"{a.name}{list(a.shape) if a.dtype else ''}" for a in group.arrays)
        zero = "" if group.inserted is None else f" and {group.inserted} for pruned weights"
        lines.append(f"  group {index}: {group.form}, {group.alphabet} symbols{zero}; {arrays}")
    if len(header.groups) > SHOWN:
        lines.append(f"  ... and {len(header.groups) - SHOWN} more")
    return "\n".join(lines)


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things):,} {what}{'' if len(things) == 1 else 's'}"


def _coded(header: Header) -> bool:
    return any(t.kind == 4 for t in header.tensors)


def _tensors(header: Header) -> str:
    from tabulate import tabulate

    rows = [(t.name, list(t.shape), str(t.dtype).removeprefix("torch."), _kind(t, header)) for t in header.tensors]
    return tabulate(rows, ("tensor", "shape", "dtype", "kind"))


def _kind(tensor: TensorEntry, header: Header) -> str:
    if tensor.kind == 0:
        return f"quantized, group {tensor.group}{', pruned' if tensor.masked else ''}"
    if tensor.kind == 3:
        return f"alias of {header.tensors[tensor.target].name}"
    if tensor.stored == tensor.dtype:
        return KINDS[tensor.kind]
    from nqbench.container.raw import is_codes

    stored = "eight-bit codes" if is_codes(tensor.stored, tensor.dtype) else str(tensor.stored).removeprefix("torch.")
    return f"{KINDS[tensor.kind]}, stored as {stored}"


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
                {
                    "form": g.form,
                    "alphabet": g.alphabet,
                    "inserted": g.inserted,
                    "arrays": [{"name": a.name, "shape": list(a.shape), "parameter": a.parameter} for a in g.arrays],
                }
                for g in header.groups
            ],
            "streams": {
                "mode": header.stream_mode,
                "bytes": [{"table": s.table, "payload": s.payload} for s in header.streams],
            },
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "dtype": str(t.dtype).removeprefix("torch."),
                    "kind": _kind(t, header),
                }
                for t in header.tensors
            ],
        },
        indent=1,
    )
