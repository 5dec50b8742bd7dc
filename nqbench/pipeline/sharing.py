"""All of a cache, and of the trained networks, to and from the tier that machines share."""

from __future__ import annotations

from pathlib import Path

from nqbench.api.toolkit import store
from nqbench.pipeline.cache import WORK, Cache
from nqbench.shared.tier import Shared


def networks() -> list[Path]:
    """The files of the store of trained networks."""
    return sorted(path for path in store.store_dir().glob("*.safetensors") if not path.name.startswith("."))


def shared_info(shared: Shared) -> dict[str, tuple[int, int]]:
    """stage -> (entries, bytes) of the shared tier; trained networks are a stage there. Raises BadInput."""
    found: dict[str, tuple[int, int]] = {}
    for stage, _, size, _ in shared.entries():
        count, total = found.get(stage, (0, 0))
        found[stage] = count + 1, total + size
    return dict(sorted(found.items()))


def push_all(cache: Cache, shared: Shared) -> tuple[int, int, int]:
    """Write what is here and not there: (entries, bytes) written, and how many were not. Raises BadInput."""
    there = {(stage, key) for stage, key, _, _ in shared.entries()}
    pushed = size = left = 0
    for stage, path, bytes_, _ in list(cache.entries()):
        # a damaged one is dropped, not shared
        if stage != WORK and (stage, path.stem) not in there and cache.get(stage, path.stem) is not None:
            written = cache.push(stage, path.stem)
            pushed, size, left = pushed + written, size + bytes_ * written, left + (not written)
    for path in networks():
        if (store.SHARED, path.name) not in there and store.sound(path):
            bytes_, written = path.stat().st_size, store.push(path)
            pushed, size, left = pushed + written, size + bytes_ * written, left + (not written)
    return pushed, size, left


def pull_all(cache: Cache, shared: Shared, limit: int) -> tuple[int, int, int]:
    """Take what is there and not here, the newest first, until there are ``limit`` bytes here: (entries, bytes) taken,
    and how many were not. Raises BadInput."""
    total = sum(size for _, _, size, _ in cache.entries())
    pulled = size = left = 0
    for stage, key, bytes_, _ in sorted(shared.entries(), key=lambda entry: entry[3], reverse=True):
        network = store.store_dir() / key if stage == store.SHARED else None
        if network.exists() if network is not None else cache.here(stage, key):
            continue
        if network is not None:
            taken = store.pull(network)
        else:
            taken = total + bytes_ <= limit and cache.pull(stage, key)
            total += bytes_ * taken
        pulled, size, left = pulled + taken, size + bytes_ * taken, left + (not taken)
    return pulled, size, left
