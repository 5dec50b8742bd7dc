"""Plugins that exist for these tests alone, and a registry of them built by hand: no entry point is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pluggy
import pytest
from pydantic import Field, model_validator

from nqbench.api import Codec, Coder, Model, Positions, Pruner, Quantizer, Sensitivity, Training
from nqbench.registry import Broken, Registered, Registry
from nqbench.suite import Suite, load


class Net(Model, name="net"):
    """A network."""

    data: Literal["digits", "mnist"] = "digits"


class NoPruner(Pruner, name="none"):
    """Prunes nothing."""

    prunes = False


class Magnitude(Pruner, name="magnitude"):
    """Keeps the largest."""

    keep: float = Field(0.1, gt=0, le=1)


class NoSensitivity(Sensitivity, name="none"):
    """Knows nothing."""

    form = "none"


class Fisher(Sensitivity, name="fisher"):
    """A diagonal."""


class Moments(Sensitivity, name="moments"):
    """Input second moments."""

    form = "second-moments"


class Uniform(Quantizer, name="uniform"):
    """A grid."""

    takes = frozenset({"none", "diagonal"})
    step: float = Field(gt=0)


class KMeans(Quantizer, name="kmeans"):
    """Some centroids may be held, and the start may be drawn."""

    takes = frozenset({"none", "diagonal"})
    k: int = Field(16, ge=1, le=65536)
    init: Literal["linear", "random"] = "linear"
    fixed: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _room(self) -> "KMeans":
        if len(self.fixed) > self.k:
            raise ValueError("more fixed centroids than k")
        return self

    def uses_seed(self) -> bool:
        return self.init == "random"


class Feedback(Quantizer, name="feedback"):
    """Needs second moments, and reads the coder's rates."""

    takes = frozenset({"second-moments"})

    def uses_rate(self) -> bool:
        return True


class NoTraining(Training, name="none"):
    """Direct compression."""


class Tune(Training, name="tune"):
    """Moves parameters."""

    epochs: int = Field(1, ge=1)


class BatchNorm(Training, name="batchnorm"):
    """Estimates statistics again."""


class Zero(Positions, name="zero"):
    """Merges."""

    merges = True


class Gaps(Positions, name="gaps"):
    """Index differences."""


class Huffman(Coder, name="huffman"):
    """A prefix code."""


class Lzw(Coder, name="lzw"):
    """A dictionary."""


class Peer(Codec, name="peer"):
    """Everything in one piece."""

    qp: int = -20


PLUGINS = (
    Net, NoPruner, Magnitude, NoSensitivity, Fisher, Moments, Uniform, KMeans, Feedback, NoTraining, Tune, BatchNorm,
    Zero, Gaps, Huffman, Lzw, Peer,
)  # fmt: skip


@pytest.fixture
def fake_registry() -> Registry:
    found = {(cls.kind, cls.name): Registered(cls, "fakes", "1.0") for cls in PLUGINS}
    return Registry(pluggy.PluginManager("nqbench"), found)


@pytest.fixture
def broken_registry(fake_registry: Registry) -> Registry:
    reason = "cannot be imported: ModuleNotFoundError: No module named 'nonesuch'"
    fake_registry.broken.append(Broken("sparse_lattice", "nqbench-sparse-lattice", "0.3", reason))
    return fake_registry


@pytest.fixture
def suite_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_registry: Registry) -> Callable[..., Suite]:
    """Write text as s.yaml in the current folder and load it against the fakes."""
    monkeypatch.chdir(tmp_path)

    def write_and_load(text: str, **options: object) -> Suite:
        Path("s.yaml").write_text(text, encoding="utf-8")
        return load("s.yaml", registry=fake_registry, **options)  # type: ignore[arg-type]

    return write_and_load
