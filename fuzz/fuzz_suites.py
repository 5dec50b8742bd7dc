"""Suites with things in places where they mean nothing: each is read, planned, or refused in one line.

``python fuzz/fuzz_suites.py [first] [count]``, 1,000 from number 0 unless said otherwise: a suite with every key, of
which some are left out, and one or two values are replaced by others of any type. The short version is
``tests/suite/test_any_suite.py``.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nqbench.api.errors import NqbenchError
from nqbench.suite import load

WHOLE: dict[str, Any] = {
    "name": "x", "question": "q", "takes": "t", "models": [{"lenet300": {"data": "digits"}}],
    "pruners": ["none", {"magnitude": {"keep": 0.5, "epochs": 0}}],
    "sensitivities": ["none", {"fisher": {"samples": 10}}], "granularities": ["global", "layer"],
    "quantizers": [{"kmeans": {"k": [4, 8]}}, {"uniform": {"step": 0.1}}],
    "trainings": ["none", {"finetune": {"epochs": 1}}], "positions": ["gaps", {"gaps": {"coder": "huffman"}}],
    "coders": ["huffman", {"lzw": {"when_full": "reset"}}], "codecs": ["lossless"], "streams": ["auto"],
    "seeds": [0, 1], "unquantized": "float16", "fold_batchnorm": True, "loss_increase": False, "nonfinite": "refuse",
    "timeout": {"quantize": 3, "trial": 9}, "measure": {"repeats": 2, "rounds": 1, "warmup": 0},
    "thresholds": {"seconds": {"ratio": 1.5}}, "resources": {"cpus": 1}, "target": {"drop": 0.5, "trials": 3},
    "published": [{"method": "m", "network": "lenet300", "paper": "p", "ratio": 3}],
    "include": [{"quantizers": [{"kmeans": {"k": 3}}]}], "exclude": [{"quantizer": {"kmeans": {"k": 4}}}],
    "profiles": {"small": {"quantizers": [{"kmeans": {"k": 2}}]}},
}  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**70, 1e308, float("nan"), float("inf"), "", "x", "none", "\x1b[2J", "a" * 3000,
    "\u202e", "2020-01-01", [], {}, [[]], [{}], {"": None}, {"kmeans": None}, {"kmeans": {"k": []}}, {"kmeans": [1]},
    [None], ["kmeans", "kmeans"], {"a": {"b": {"c": 1}}}, {"1": 1}, [1, "a", None], {"none": {}},
)  # fmt: skip


def suite(number: int) -> tuple[dict[str, Any], list[Any]]:
    """The suite of this number, and what was put where."""
    draw = random.Random(number)
    made, put = copy.deepcopy(WHOLE), []
    for key in draw.sample(sorted(set(made) - {"models", "quantizers"}), draw.randrange(8, len(made) - 2)):
        del made[key]
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.choice(list(_places(made)))
        value = copy.deepcopy(draw.choice(OTHERS))
        around: Any = made
        for part in place[:-1]:
            around = around[part]
        around[place[-1]] = value
        put.append((place, value))
    return made, put


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, below in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*above, key)
        if isinstance(below, dict | list):
            yield from _places(below, (*above, key))


def outcome(number: int, folder: Path) -> str:
    """``planned``, ``refused``, or what went wrong."""
    made, put = suite(number)
    path = folder / "suite.yaml"
    path.write_text(json.dumps(made))
    try:
        for profile in (None, "small"):
            if profile is None or profile in (made.get("profiles") or {}):
                load(path, profile=profile).trials()
    except NqbenchError as error:
        text = str(error)
        return "refused" if "\n" not in text else f"{number}: more than a line: {text!r} after {put}"
    except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
        return f"{number}: {traceback.format_exc()} after {put}"
    return "planned"


def main(first: int = 0, count: int = 1000) -> int:
    """1 where a suite ended otherwise."""
    warnings.simplefilter("ignore")
    ends = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            text = outcome(number, Path(folder))
            ends[text if text in ("planned", "refused") else "FAULT"] += 1
            if text not in ("planned", "refused"):
                sys.stdout.write(f"{text}\n")
    sys.stdout.write(f"{count} suites: {dict(ends)}\n")
    return int(ends["FAULT"] > 0)


if __name__ == "__main__":
    sys.exit(main(*(int(text) for text in sys.argv[1:3])))
