"""What the tests of trainings and sensitivities share."""

from __future__ import annotations

import pytest
from tiny_network import make_task

from nqbench.api import Task


@pytest.fixture
def task() -> Task:
    """A network of a few hundred weights with 24 images; see ``tiny_network``."""
    return make_task()
