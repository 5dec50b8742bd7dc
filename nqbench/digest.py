"""The name of a configuration: what trials of different nights, versions and machines are matched by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def configuration_digest(config: Mapping[str, Any]) -> str:
    """16 hex digits of a trial's configuration in the field names that records have. Whether a search asked for the
    trial (``selected_on``), and which metric it is judged by, makes no difference."""
    named = {name: value for name, value in config.items() if name not in ("selected_on", "judged_by")}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
