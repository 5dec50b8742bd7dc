"""The engine of one machine: worker processes side by side. It is registered as any other is."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from pydantic import field_validator

from nqbench.api.engine import Engine, Resources, Slots, SlotShape, Work
from nqbench.api.errors import BadInput, Note
from nqbench.api.hooks import hookimpl
from nqbench.api.plugin import Plugin


class Local(Engine, name="local"):
    """Worker processes on this machine."""

    @field_validator("place")
    @classmethod
    def _nowhere_else(cls, place: str) -> str:
        if place:
            raise ValueError(f"the engine 'local' is this machine and takes no place: '{place}'")
        return place

    def open(self, work: Work) -> Slots:
        needs, machine = work.needs, work.machine
        if lacking := needs.lacks(machine):
            raise BadInput(f"resources: this machine {lacking}; another engine may have it, see --engine")
        wanted = work.jobs or 1
        count, scarce = _side_by_side(wanted, needs, machine)
        if count < wanted:
            warnings.warn(
                f"{count} of {wanted} workers: there is no more {scarce} for trials as large", Note, stacklevel=2
            )
        shapes = [
            SlotShape(f"worker-{index}", needs.cpus, needs.memory, _gpus(index, needs.gpu)) for index in range(count)
        ]
        return work.host.open(shapes, work.scratch, away=False)


def _side_by_side(wanted: int, needs: Resources, machine: Resources) -> tuple[int, str]:
    """How many trials fit on a machine at once, at most as many as wanted, and what there is too little of for more."""
    count, scarce = wanted, ""
    for name in ("cpus", "memory", "gpu"):
        need, has = getattr(needs, name), getattr(machine, name)
        if need and has is not None and has // need < count:
            count, scarce = has // need, name
    return count, scarce


def _gpus(index: int, each: int) -> tuple[int, ...] | None:
    return tuple(range(index * each, (index + 1) * each)) if each else None


@hookimpl
def nqbench_plugins() -> Sequence[type[Plugin]]:
    return [Local]
