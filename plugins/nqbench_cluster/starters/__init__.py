"""Commented scripts that start a cluster. ``@name@`` is replaced by the user's choice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from nqbench.api.engine import Start

_TEXTS = {"slurm": "slurm.sh", "kubernetes": "kubernetes.yaml"}
NAMES = tuple(_TEXTS)
_SPARE = 1.25
"""A pod's memory divided by that of its trials: the slot's own process needs some, and nqbench's limit should take
effect before that of the pod."""


def text(name: str, start: Start) -> str:
    """The script that starts a cluster of this kind."""
    found = files(__package__).joinpath(_TEXTS[name]).read_text(encoding="utf-8")
    return re.sub(r"@(\w+)@", lambda match: _places(start)[match[1]], found)


def _places(start: Start) -> Mapping[str, str]:
    mebibytes = -(-start.memory // (1 << 20))
    return {
        "slots": str(start.slots),
        "cpus": str(start.cpus),
        "memory_bytes": str(start.memory),
        "memory_per_cpu": str(-(-int(mebibytes * _SPARE) // start.cpus)),
        "pod_memory": str(int(start.memory * _SPARE) // 10**6),
        "gpus": str(start.gpu),
        "gpu_line": f"#SBATCH --gpus-per-task={start.gpu}" if start.gpu else "# GPUs: #SBATCH --gpus-per-task=1",
        "gpu_limit": f", nvidia.com/gpu: {start.gpu}" if start.gpu else "",
        "time": start.time,
        "suite": start.suite,
        "output": start.output,
    }
