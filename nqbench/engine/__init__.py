"""Where trials run: local worker processes. A run pulls trials from a schedule and leaves a record for each."""

from nqbench.engine.progress import Progress, Silent
from nqbench.engine.run import FILES, RunResult, resolve_device, run_suite

__all__ = ["FILES", "Progress", "RunResult", "Silent", "resolve_device", "run_suite"]
