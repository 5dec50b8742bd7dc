"""The probe distribution lives with the tests of the engine, the factory of records with those of the records, the
browser with those of the reports."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for neighbour in ("engine", "results", "report"):
    sys.path.insert(0, str(Path(__file__).parent.parent / neighbour))

from board_kit import EVERYTHING, add, world  # noqa: E402
from browser_kit import browser  # noqa: E402, F401 - a fixture
from probe_distribution import suite  # noqa: E402

from nqbench.board.collecting import submit  # noqa: E402
from nqbench.engine import run_suite  # noqa: E402
from nqbench.registry import registry  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine with a finished run, three submissions of its rows - ``plain`` of nqbench's own methods, ``stranger``
    and ``spied`` of a stranger's - and a board of the first."""
    folder = tmp_path_factory.mktemp("made")
    rows = {
        "plain": ["quantizer=kmeans,coder=huffman"],
        "stranger": [f"quantizer={name},coder=rans" for name in ("mine", "shaky", "wide")],
        "spied": ["quantizer.k=5,coder=spy"],
    }
    with world(folder):
        run_suite(suite(folder / "all.yaml", EVERYTHING), folder / "run", jobs=0)
        for name, wanted in rows.items():
            submit(folder / "run", folder / f"{name}.nqs", rows=wanted, who="A. Nobody", registry=registry())
        add(folder / "board", folder / "plain.nqs")
        yield folder


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
