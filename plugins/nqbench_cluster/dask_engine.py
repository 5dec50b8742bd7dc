"""The engine ``dask``: its slots are the worker processes of a Dask cluster, started on this machine or running
anywhere.

Dask only starts processes and passes messages. Everything else is as on one machine: a slot runs trials in a worker
process of its own, a child of the slot's process. The run, not Dask, assigns trials to slots, so every task is pinned
to its Dask worker, and Dask never retries a task.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from nqbench.api import Engine
from nqbench.api.engine import Slots, Start, Work
from nqbench_cluster import starters


class Dask(Engine, name="dask", requires="distributed"):
    """Workers of a Dask cluster: started on this machine (`dask`), or running (`dask:tcp://HOST:PORT`, `dask:FILE`)."""

    away: ClassVar[bool] = True
    starters: ClassVar[tuple[str, ...]] = starters.NAMES

    @field_validator("place")
    @classmethod
    def _found(cls, place: str) -> str:
        if place and "://" not in place and not Path(place).is_file():
            raise ValueError(
                f"'{place}' is neither a scheduler's address (tcp://HOST:PORT) nor an existing scheduler file"
            )
        return place

    def open(self, work: Work) -> Slots:
        from nqbench_cluster.driver import DaskSlots

        return DaskSlots(self.place, work)

    @classmethod
    def starter(cls, name: str, start: Start) -> str:
        return starters.text(name, start)
