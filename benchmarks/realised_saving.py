"""How much of the saved arithmetic each runtime saves in time: ResNet-50 and MobileNetV1 at 224 pixels.

    python benchmarks/realised_saving.py                     # all of it: benchmarks/results/realised_saving/
    python benchmarks/realised_saving.py --only frozen       # some runtimes
    python benchmarks/realised_saving.py --smoke             # a minute, to try the script; nothing is kept

Leave the machine idle meanwhile. Beside octave stand the vanilla networks of the same arithmetic: on smaller
pictures, and, where the architecture has one, of a smaller width.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

import octavize
from octavize.deploy.bench import bench
from octavize.deploy.bench_report import draw, table
from octavize.deploy.bench_runtimes import choose_runtimes
from octavize.deploy.contenders import contenders_of, narrower
from octavize.experiment.checkpoint import write_json

OUT = Path(__file__).resolve().parent / "results/realised_saving"
NETWORKS = ("oct_resnet50", "oct_mobilenet_v1")
ALPHAS = (0.125, 0.25, 0.5, 0.75)
SIZE = 224


def measure(name: str, only: list[str] | None, rounds: int, smoke: bool) -> None:
    """Time one network, print the table, and keep it as JSON with its figure."""
    size, alphas = (32, (0.5,)) if smoke else (SIZE, ALPHAS)
    networks = contenders_of(lambda alpha: octavize.create_model(name, alpha), alphas, size, same_macs=True)
    widths = (narrower(name, size, c.macs) for c in networks if c.alpha > 0)
    networks += list({c.name: c for c in widths if c is not None}.values())
    results = {"model": name, "size": size} | bench(
        networks,
        choose_runtimes(only),
        batches=(1,) if smoke else (1, 8),
        threads=(1,) if smoke else None,
        rounds=rounds,
        say=Console(stderr=True).print,
    )
    title = f"{name}, {size} × {size} pixels, median of {rounds} rounds"
    Console().print(table(results, title))
    if not smoke:
        OUT.mkdir(parents=True, exist_ok=True)
        write_json(OUT / f"{name}.json", results)
        draw(results, OUT / f"{name}.svg", title)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="RUNTIME", help="some of the runtimes")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="32 pixels, two rounds; nothing is kept")
    given = parser.parse_args()
    for name in ("oct_cifar_resnet20",) if given.smoke else NETWORKS:
        measure(name, given.only, 2 if given.smoke else given.rounds, given.smoke)


if __name__ == "__main__":
    main()
