"""The two example distributions, installed offline: found, checked, and run beside the built-ins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from offline_install import ROOT, nqbench_beside, pip_install, python_beside

SUITE = """
name: strangers
models: [{lenet300: {data: digits}}]
quantizers:
  - linspace: {bits: 3}
  - uniform: {step: 0.16}
coders: [run-length, huffman]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both installed, from copies: a build must not write into the checkout."""
    folder = tmp_path_factory.mktemp("examples")
    copies = [shutil.copytree(ROOT / "plugins" / name, folder / name) for name in ("example", "example_coder")]
    pip_install(folder / "site", *copies)
    return folder / "site"


def test_both_are_listed_with_their_distributions_and_nothing_is_broken(site: Path) -> None:
    listed = json.loads(nqbench_beside(site, "list", "--json").stdout)
    of = {(p["kind"], p["name"]): (p["distribution"], p["version"]) for p in listed["plugins"]}
    assert of["quantizer", "linspace"] == ("nqbench-example", "0.1.0")
    assert of["coder", "run-length"] == ("nqbench-example-coder", "0.1.0")
    assert ("quantizer", "kmeans") in of
    assert listed["broken"] == []


def test_the_quantizer_passes_the_check_command(site: Path) -> None:
    done = nqbench_beside(site, "check", "linspace")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    assert "  passed    round_trip " in done.stdout


def test_their_own_tests_pass_where_they_are_installed(site: Path) -> None:
    tests = [str(ROOT / "plugins" / name / "tests") for name in ("example", "example_coder")]
    done = python_beside(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", *tests)
    assert done.returncode == 0, done.stdout


def test_a_suite_runs_them_beside_the_built_ins(site: Path, tmp_path: Path) -> None:
    (tmp_path / "strangers.yaml").write_text(SUITE)
    done = nqbench_beside(site, "run", "strangers.yaml", "--output", "out", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "out" / "records.json").read_text())["records"]
    assert {(r["quantizer"], r["coder"]) for r in records} == {
        ("linspace", "run-length"), ("linspace", "huffman"), ("uniform", "run-length"), ("uniform", "huffman"),
    }  # fmt: skip
    for record in records:
        assert record["status"] == "ok"
        assert sum(record["parts"].values()) == record["file_bytes"]
    by_bits = {r["coder"]: r["bits_per_weight"] for r in records if r["quantizer"] == "linspace"}
    # eight levels take at most three bits per weight, and Huffman's code no more than its table above that
    assert by_bits["huffman"] < 3.01
