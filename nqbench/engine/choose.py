"""Chooses the engine of a run: a name, for some engines with a place after a colon."""

from __future__ import annotations

from nqbench.api.engine import Engine
from nqbench.engine.local import Local
from nqbench.registry import Registry, registry


def chosen(engine: str | Engine | None, known: Registry | None = None) -> Engine:
    """``local``, ``dask``, ``dask:tcp://HOST:PORT``, or an engine as it is; None: this machine.

    Raises NotRegistered, also where the package that an engine needs is missing, and BadInput for a bad place.
    """
    if engine is None:
        return Local()
    if isinstance(engine, Engine):
        return engine
    name, colon, place = engine.partition(":")
    made = (known or registry()).make("engine", name, {"place": place} if colon else {})
    assert isinstance(made, Engine)
    return made
