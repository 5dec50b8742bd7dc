"""``nqbench cluster``: what it writes is a script that a shell reads and objects that Kubernetes would."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the package distributed: pip install 'nqbench[cluster]'")

from nqbench_cluster.starters import NAMES, text
from probe_distribution import Log, nqbench, suite
from ruamel.yaml import YAML

from nqbench.api.engine import Start
from nqbench.cli import invoke
from nqbench.results.store import Store

START = Start("suites/mine.yaml", "reports/mine", slots=3, cpus=8, memory=30 << 30, gpu=2, time="01:30:00")


def test_every_place_is_filled_and_every_start_says_how_it_is_started() -> None:
    for name in NAMES:
        for start in (START, Start("quickstart", "reports/quickstart")):
            found = text(name, start)
            assert not re.search(r"@[A-Za-z_]+@", found)
            assert "resume" in found.partition("\n\n")[0].replace("resumes", "resume")


def test_a_slurm_job_asks_for_what_was_said_and_a_shell_reads_it() -> None:
    found = text("slurm", START)
    assert subprocess.run(["bash", "-n"], input=found, text=True, check=False).returncode == 0
    asked = [line.removeprefix("#SBATCH --") for line in found.splitlines() if line.startswith("#SBATCH")]
    # 30 GiB and a quarter more, over 8 cores
    assert {"ntasks=3", "cpus-per-task=8", "gpus-per-task=2", "mem-per-cpu=4800M", "time=01:30:00"} <= set(asked)
    assert f'--resources "cpus=8 memory={30 << 30} gpu=2"' in found
    assert "gpus-per-task" not in text("slurm", Start("s", "o")).replace("# GPUs: #SBATCH --gpus-per-task=1", "")


def test_kubernetes_gets_a_cluster_and_a_job_that_drives_it() -> None:
    cluster, job = YAML(typ="safe").load_all(text("kubernetes", START))
    assert (cluster["kind"], job["kind"]) == ("DaskCluster", "Job")
    worker = cluster["spec"]["worker"]
    assert worker["replicas"] == 3
    (container,) = worker["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "40265M", "nvidia.com/gpu": 2}
    assert f"--resources=cpus=8 memory={30 << 30} gpu=2" in container["args"]
    (driver,) = job["spec"]["template"]["spec"]["containers"]
    assert driver["args"][:3] == ["nqbench", "run", "suites/mine.yaml"]
    ports = {port["name"]: port["port"] for port in cluster["spec"]["scheduler"]["service"]["ports"]}
    assert driver["args"][-1] == f"dask:tcp://{cluster['metadata']['name']}-scheduler:{ports['tcp-comm']}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slurn"], "no engine starts a cluster of the kind 'slurn'; did you mean 'slurm'?"),
        (["slurm", "--suite", 'x"; rm -rf ~; "'], "quotes, backslashes and dollar signs cannot stand in a script"),
        (["slurm", "--memory", "much"], "'much' is not a size"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["cluster", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert said in output.err
    assert output.err.count("\n") == 1


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.sh"
    assert invoke(["cluster", "slurm", "--output", str(path)]) == 0
    written = path.read_text()
    assert invoke(["cluster", "slurm", "--slots", "9", "--output", str(path)]) == 1
    assert path.read_text() == written


@pytest.mark.timeout(240)
def test_the_slurm_job_runs_a_suite_where_srun_starts_processes_here(
    probe: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``srun`` and the commands of the environment are stood in for; the script, Dask and nqbench are what they are."""
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    commands = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
        "dask": f'what=$1; shift\nexec "{sys.executable}" -m "distributed.cli.dask_$what" "$@"',
        "nqbench": f'exec "{sys.executable}" -m nqbench "$@"',
    }
    for name, body in commands.items():
        (stand_in / name).write_text(f"#!/bin/sh\n{body}\n")
        (stand_in / name).chmod(stat.S_IRWXU)
    suite(tmp_path / "mine.yaml", "models: [probe]\nquantizers: [levels]\ncoders: [plain]\n")
    monkeypatch.chdir(tmp_path)
    done = nqbench("cluster", "slurm", "--suite", "mine.yaml", "--slots", "1", "--cpus", "1", "--output", "job.sh")
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PATH": f"{stand_in}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    ran = subprocess.run(["bash", "job.sh"], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr
    with Store.read(tmp_path / "reports" / "mine") as store:
        assert [record.status for record in store.records()] == ["ok"]
    assert not (tmp_path / "nqbench-scheduler-7.json").exists()
