"""Runs trials in the slots of an engine. A run takes trials from a schedule and writes a record for each.

Worker processes import this package before anything heavy, so the names here are imported only when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nqbench.engine.devices import resolve_device
    from nqbench.engine.progress import Progress, Silent
    from nqbench.engine.run import RunResult, run_suite
    from nqbench.results.database import FILES

__all__ = ["FILES", "Progress", "RunResult", "Silent", "resolve_device", "run_suite"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    homes = {
        "FILES": "nqbench.results.database",
        "Progress": f"{__name__}.progress",
        "Silent": f"{__name__}.progress",
        "resolve_device": f"{__name__}.devices",
    }
    return getattr(importlib.import_module(homes.get(name, f"{__name__}.run")), name)
