#!/usr/bin/env bash
# A suite on a Slurm cluster: one job with a Dask scheduler, @slots@ slots, and the driver. Submit it with
#     sbatch THIS_FILE
# from a folder that every node sees. The same job submitted again resumes.

#SBATCH --job-name=nqbench
# Slots: in each runs one trial at a time. More nodes, or more on one: Slurm decides.
#SBATCH --ntasks=@slots@
# What a trial gets: torch, numba and BLAS use as many threads as a slot has cores.
#SBATCH --cpus-per-task=@cpus@
#SBATCH --mem-per-cpu=@memory_per_cpu@M
@gpu_line@
#SBATCH --time=@time@
# Two minutes before the time is up the driver is told to end: what has ended is kept.
#SBATCH --signal=B:TERM@120
#SBATCH --output=nqbench-%j.log

set -euo pipefail

suite="@suite@"
output="@output@"

# The environment in which nqbench is installed, `pip install "nqbench[cluster]"`: the same on every node, else slots
# are refused. If it is not active where you submit from:
# source /path/to/venv/bin/activate
#
# Data sets, where every node finds them, and a cache that the slots share, so that one network is trained once:
# export NQBENCH_DATA=/shared/data
# export NQBENCH_SHARED_CACHE=file:///shared/nqbench-cache

job=${SLURM_JOB_ID:?submit this file with sbatch}
scheduler="$PWD/nqbench-scheduler-$job.json"
local="${TMPDIR:-/tmp}/nqbench-$job"
started=()
finish() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  # a worker that lost its scheduler may not end by itself
  for ((tries = 0; tries < 20; tries++)); do kill -0 "${started[@]}" 2>/dev/null || break; sleep 0.5; done
  kill -KILL "${started[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$scheduler" "$local"
}
trap finish EXIT

# Each slot is a Dask worker with one thread and no nanny: the trial runs in a process of its own below it, so that a
# method that crashes, hangs or eats its memory costs a record and no worker.
dask scheduler --scheduler-file "$scheduler" --port 0 &
started+=($!)
srun --ntasks="${SLURM_NTASKS:-@slots@}" --cpus-per-task=@cpus@ --kill-on-bad-exit=0 \
  dask worker --scheduler-file "$scheduler" --nthreads 1 --no-nanny --death-timeout 60 \
  --local-directory "$local" --resources "cpus=@cpus@ memory=@memory_bytes@ gpu=@gpus@" &
started+=($!)

# The driver. Slurm's warning (see --signal) reaches this script, which hands it on.
nqbench run "$suite" --output "$output" --engine "dask:$scheduler" &
driver=$!
trap 'kill -TERM "$driver" 2>/dev/null || true' TERM INT
while true; do
  code=0
  wait "$driver" || code=$?
  kill -0 "$driver" 2>/dev/null || break  # else a signal woke us, and the driver is still writing its report
done
exit "$code"
