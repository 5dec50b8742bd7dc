# ruff: noqa: T201 - it prints
"""How often the first call of an elementary function has other digits than the second, with and without
``nqbench.api.dispatch``.

    python benchmarks/first_calls.py [--processes 4000] [--threads 2] [--function tanh]

forks processes, four at a time, in which PyTorch has computed nothing; each calls the function twice on the same 512 x
300 values. In the second half of them the kernels are chosen first, as importing ``nqbench.api`` does. On two cores of
a Xeon with AVX-512 3 of 2,000 of the first half differed, and none of the second.
"""

from __future__ import annotations

import argparse
import os
import runpy
from pathlib import Path

import torch

AT_ONCE = 4
DISPATCH = Path(__file__).parents[1] / "nqbench" / "api" / "dispatch.py"
choose_kernels = runpy.run_path(str(DISPATCH))["choose_kernels"]  # alone: importing nqbench would call it


def differs(function: str, threads: int, *, chosen: bool) -> bool:
    """Whether two calls on the same values give other digits, in a process that has computed nothing yet."""
    torch.set_num_threads(threads)
    if chosen:
        choose_kernels()
    called = getattr(torch, function)
    # a layer's products first, behind which the threads begin at the same moment
    generator = torch.Generator().manual_seed(0)
    inputs, weights = torch.rand(512, 64, generator=generator), torch.rand(300, 64, generator=generator) / 64
    values = torch.nn.functional.linear(inputs, weights)
    return not torch.equal(called(values), called(values))


def storm(processes: int, function: str, threads: int, *, chosen: bool) -> int:
    """How many of the processes differed."""
    found = running = 0
    for _ in range(processes):
        if os.fork() == 0:
            code = 2
            try:
                code = int(differs(function, threads, chosen=chosen))
            finally:
                os._exit(code)
        running += 1
        if running == AT_ONCE:
            found += _ended()
            running -= 1
    return found + sum(_ended() for _ in range(running))


def _ended() -> int:
    code = os.waitstatus_to_exitcode(os.wait()[1])
    if code not in (0, 1):
        raise SystemExit(f"a process ended with {code}")
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--function", default="tanh")
    asked = parser.parse_args()
    each = asked.processes // 2
    for chosen in (False, True):
        found = storm(each, asked.function, asked.threads, chosen=chosen)
        when = "chosen on one thread" if chosen else "chosen by the first call"
        print(f"{asked.function}, {asked.threads} threads, kernels {when}: {found} of {each} processes differ")


if __name__ == "__main__":
    main()
