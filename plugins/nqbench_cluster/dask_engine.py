"""The engine ``dask``: slots are the worker processes of a Dask cluster, a new one on this machine or any that runs.

Dask starts processes and carries messages. Everything else stays as it is on one machine: inside a slot, each trial
runs in a worker process of its own, below the slot's; which trial goes where is the run's business, so that every task
is pinned to its worker and none is ever retried by Dask.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from nqbench.api import Engine
from nqbench.api.engine import Slots, Start, Work
from nqbench_cluster import starters


class Dask(Engine, name="dask", requires="distributed"):
    """Worker processes of a Dask cluster: `dask` starts one here, `dask:tcp://HOST:PORT` and `dask:FILE` use a
    scheduler that runs, by its address or its scheduler file."""

    away: ClassVar[bool] = True
    starters: ClassVar[tuple[str, ...]] = starters.NAMES

    @field_validator("place")
    @classmethod
    def _found(cls, place: str) -> str:
        if place and "://" not in place and not Path(place).is_file():
            raise ValueError(
                f"'{place}' is neither a scheduler's address (tcp://HOST:PORT) nor a scheduler file that is there"
            )
        return place

    def open(self, work: Work) -> Slots:
        from nqbench_cluster.driver import DaskSlots

        return DaskSlots(self.place, work)

    @classmethod
    def starter(cls, name: str, start: Start) -> str:
        return starters.text(name, start)
