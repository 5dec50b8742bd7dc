"""Nights of the real engine: nothing changed, a coder made three times slower, a quantizer made two per cent worse.

What changes between the nights is the code of an installed plugin, as it would be in a repository.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from probe_distribution import command, install, search_path, suite

from nqbench.results.compare import Thresholds, compare
from nqbench.results.exports import Side, read_side
from nqbench.results.record import Record

SUITE = """
    name: nights
    models:
      - probe: {sizes: [200, 200, 10]}
    quantizers:
      - steady: {k: [17, 33]}
    coders:
      - paced: {delay: 0.08}
    measure: {repeats: 8, rounds: 2, warmup: 0}
    thresholds:
      seconds: {ratio: 1.5}
"""
STRETCH = "codebook = torch.linspace(float(low), float(high), self.k)"
DELAY = "time.sleep(self.delay)\n        while self.held"


class Nights:
    def __init__(self, folder: Path) -> None:
        self.module = install(folder / "dist") / "nqbench_probe.py"
        self.suite = suite(folder / "nights.yaml", SUITE)
        self.output = folder / "nights"

    def plant(self, old: str, new: str) -> None:
        text = self.module.read_text()
        assert text.count(old) == 1
        self.module.write_text(text.replace(old, new))

    def run(self) -> int:
        """One night's exit code."""
        arguments = command("nightly", self.suite, "--output", self.output, "--device", "cpu")
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=280)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode

    def figures(self) -> dict[str, set[str]]:
        """verdict -> the figures that have it."""
        found: dict[str, set[str]] = {}
        for change in self.changes():
            found.setdefault(change["verdict"], set()).add(change["figure"])
        return found

    def changes(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads((self.output / "compare.json").read_text())["changes"]
        return listed


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    found = Nights(tmp_path)
    monkeypatch.setenv("PYTHONPATH", search_path(found.module.parent))
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_planted_regression_is_caught_by_the_night_and_a_quiet_night_is_quiet(nights: Nights) -> None:
    assert nights.run() == 0
    assert nights.run() == 0
    assert not {"worse", "better", "failed", "new", "gone"} & set(nights.figures())
    assert {"file_bytes", "ratio", "mse", "accuracy"} <= nights.figures()["same"]
    quiet = read_side(nights.output)

    nights.plant(DELAY, DELAY.replace("self.delay", "3 * self.delay"))
    # the error of a grid goes with the square of its step: 1 % wider, 2 % worse
    nights.plant(STRETCH, STRETCH.replace("float(low), float(high)", "1.01 * float(low), 1.01 * float(high)"))
    assert nights.run() == 3
    changed = {c["figure"]: c["change"] for c in nights.changes() if c["verdict"] == "worse"}
    assert {"seconds.encode", "mse"} <= set(changed)
    assert not {"seconds.quantize", "seconds.decode"} & set(changed)
    assert [c["verdict"] for c in nights.changes() if c["figure"] in ("seconds.encode", "mse")] == ["worse"] * 4
    assert 2 < 1 + changed["seconds.encode"] < 4
    assert 0.01 < changed["mse"] < 0.03
    junit = ElementTree.parse(nights.output / "junit.xml").getroot()
    assert junit.get("failures") == "2"
    page = (nights.output / "history.html").read_text()
    moved = page.partition("<h2>What moves")[0]
    assert "mse" in moved  # speeds of three nights are too few for a change point where the machine is busy

    check_that_twenty_nights_like_it_raise_no_alarm(quiet)


def check_that_twenty_nights_like_it_raise_no_alarm(night: Side) -> None:
    """Nights whose samples are drawn from those that were measured, with the noise that the stages showed."""
    assert all(len(samples) >= 7 for record in night.records for samples in record.samples.values())
    rng = np.random.default_rng(0)

    def another() -> Side:
        def drawn(samples: list[float]) -> list[float]:
            return (rng.choice(samples, len(samples)) * rng.lognormal(0, 0.02, len(samples))).tolist()

        records = [
            Record.from_dict({**r.to_dict(), "samples": {stage: drawn(s) for stage, s in r.samples.items()}})
            for r in night.records
        ]
        return Side(night.path, night.suite, records, night.run, night.settings)

    for _ in range(20):
        found = compare(another(), another(), Thresholds.of(night.settings))
        assert found.exit_code == 0
        assert not {"worse", "better"} & set(found.trials.values())
