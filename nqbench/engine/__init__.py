"""Where trials run: local worker processes. A run pulls trials from a schedule and leaves a record for each.

A worker process imports this package before it imports anything heavy: what is named here is found when it is asked
for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nqbench.engine.progress import Progress, Silent
    from nqbench.engine.run import FILES, RunResult, resolve_device, run_suite

__all__ = ["FILES", "Progress", "RunResult", "Silent", "resolve_device", "run_suite"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    home = "progress" if name in ("Progress", "Silent") else "run"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
