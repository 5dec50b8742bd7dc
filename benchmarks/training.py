# ruff: noqa: T201 - a script that prints its table
"""CPU time of a training step on one thread, beside the forward and backward pass that nothing can save.

    python benchmarks/training.py [--steps 100] [--repeats 5] [--only lenet300 lenet5 resnet20]

Columns, milliseconds a step, the quickest of the repeats: `passes`, forward and backward on one batch that lies ready;
`batches`, gathering and normalising alone; `plain`, the whole loop without second moments, as LC and fine-tuning run
it; `moments`, the loop that keeps them, as the first training runs it; then what is over the passes in `plain`, and
the seconds of an epoch. The data must be there (MNIST, CIFAR-10).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from nqbench_models.images import ImageModel  # noqa: E402
from nqbench_models.lenet import LeNet5, LeNet300  # noqa: E402
from nqbench_models.resnet import ResNet20  # noqa: E402

from nqbench.api.toolkit.optimise import Recipe, fit, one_thread, seeded  # noqa: E402

MODELS: tuple[tuple[ImageModel, int], ...] = ((LeNet300(), 256), (LeNet5(), 64), (ResNet20(), 128))
"""Networks and the batch they are trained with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    chosen = parser.parse_args()
    heads = ("passes", "batches", "plain", "moments", "over", "epoch s")
    print(f"{'model':10} {'batch':>5} " + " ".join(f"{head:>8}" for head in heads))
    for model, batch_size in MODELS:
        if not chosen.only or model.name in chosen.only:
            report(model, batch_size, chosen.steps, chosen.repeats)


def report(model: ImageModel, batch_size: int, steps: int, repeats: int) -> None:
    """One line of the table."""
    with one_thread(), seeded(0):
        module = model.build().train()
        moved = {name: p for name, p in module.named_parameters() if p.requires_grad}
        steps_an_epoch = -(-len(model.examples("train")) // batch_size)
        steps = min(steps, steps_an_epoch)
        recipe = Recipe(epochs=1, steps=steps, lr=1e-3, batch_size=batch_size)
        fixed = next(model.batches("train", batch_size=batch_size, shuffle=0))

        def passes() -> None:
            for _ in range(steps):
                model.losses(model.predict(module, fixed), fixed).mean().backward(inputs=list(moved.values()))
                for p in moved.values():
                    p.grad = None

        def batches() -> None:
            for _ in islice(model.batches("train", batch_size=batch_size, shuffle=0), steps):
                pass

        def loop(moments: bool) -> None:
            fit(
                recipe,
                moved,
                lambda seed: model.batches("train", batch_size=batch_size, shuffle=seed),
                lambda batch: model.losses(model.predict(module, batch), batch).mean(),
                second_moments=moments,
            )

        works = (passes, batches, lambda: loop(False), lambda: loop(True))
        least = [1e3 * quickest(work, repeats) / steps for work in works]
    plain = least[2]
    figures = (*least, plain - least[0], plain * steps_an_epoch / 1e3)
    print(f"{model.name:10} {batch_size:5} " + " ".join(f"{figure:8.2f}" for figure in figures), flush=True)


def quickest(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the quickest of some calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
