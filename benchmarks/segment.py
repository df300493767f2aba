"""Does octave pay where every pixel counts? CamVid under DeepLabV3+ on an EfficientNet-Lite0 of ImageNet.

    python benchmarks/segment.py camvid --encoder efficientnet-lite0.pth         # train, resumable
    python benchmarks/segment.py camvid --encoder … --arm vanilla --seed 0       # only these runs
    python benchmarks/segment.py camvid --exported     # scores of the exported networks, bf16 and int8
    python benchmarks/segment.py --times               # milliseconds in OpenVINO; leave the machine idle
    python benchmarks/segment.py camvid --tables       # tables and figures; the scene goes to --out
    python benchmarks/segment.py --check               # exit 1 if the tables are not those of the results

DATA is a folder `train|val|test / images/*.jpg, labels/*.png`, one byte a pixel, 11 stands for unlabelled.
All arms start from the same ImageNet encoder and train for the same epochs on the same crops; the epoch is
chosen on val, and test is scored once. Runs go seed by seed, so that all arms are compared early on.

How many epochs: as many as let a vanilla run end within 25 minutes on one idle core, a minute each. That is
no proof that it has learned all: of 6 epochs, the last two still took vanilla, seed 0, from 50.5 to 54.8 % on
val. `history` in a run's result.json tells what its last epochs gained. The weights of the loss were chosen
on val, too: without them vanilla ended at 49.6 % after as long, with those of ENet at 54.6 %.

A killed run goes on from its last finished epoch. Results go to `benchmarks/results/segment/`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from octavize import export, load_runtime
from octavize.bench.contenders import Contender
from octavize.bench.process import settle_process
from octavize.bench.ratios import bench
from octavize.bench.runtimes import choose_runtimes
from octavize.deploy.formats import PRECISIONS
from octavize.errors import InputError
from octavize.files import read_json, write_json
from segment_data import sample
from segment_networks import ARMS, Arm, inputs_for, load_trained
from segment_scene import write_scene
from segment_tables import check_tables, write_results, write_tables
from segment_training import EXPORTED, Settings, results_of, run_once, score

EPOCHS = 24
TIMES, SETTINGS = "times.json", "settings.json"
LOWERED = ("bf16", "int8")
CALIBRATION = 100
"""Training images that int8 is quantized on."""


def places(options: argparse.Namespace) -> Iterator[tuple[Arm, int, Path]]:
    """The runs that are asked for, seed by seed, each with its folder."""
    for seed in options.seed:
        for arm in ARMS:
            if not options.arm or arm.slug in options.arm:
                yield arm, seed, options.out / f"{arm.slug}-seed{seed}"


def finished(options: argparse.Namespace) -> list[tuple[Arm, int, Path]]:
    """Those that are done.

    Raises:
        InputError: none is.
    """
    found = [place for place in places(options) if results_of(place[2]) is not None]
    if not found:
        raise InputError(f"--out {options.out} has no finished run of these: train them first")
    return found


def train(options: argparse.Namespace) -> None:
    """All runs that are not finished."""
    if options.encoder is None:
        raise InputError("--encoder is not given: give the weights of EfficientNet-Lite0")
    settings = Settings(
        options.epochs, options.batch, tuple(options.crop), options.lr, precision=options.precision,
        every=options.every,
    )  # fmt: skip
    check_settings(options.out, settings)
    for arm, seed, folder in places(options):
        run_once(arm, seed, settings, options.data, options.encoder, folder, options.threads)


def check_settings(out: Path, settings: Settings) -> None:
    """Runs of one folder have to be of the same settings."""
    given = {**asdict(settings), "crop": list(settings.crop)}
    known = read_json(out / SETTINGS)
    if known is not None and known != given:
        raise InputError(f"--out {out} holds runs of other settings ({known}): give another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SETTINGS, given)


def score_exported(options: argparse.Namespace) -> None:
    """Scores on test of each network as a file in low precision."""
    for arm, _, folder in finished(options):
        if (folder / EXPORTED).is_file():
            continue
        model, found = load_trained(arm, folder), {}
        images = [inputs_for(arm, batch) for batch in sample(options.data, CALIBRATION)]
        with tempfile.TemporaryDirectory() as scratch:
            for precision in LOWERED:
                file = Path(scratch) / f"{precision}.xml"
                export(
                    model, file, (1, *images[0].shape[1:]), precision=precision,
                    calibration=images if precision == "int8" else None,
                    dynamic_batch=False,
                )  # fmt: skip
                found[precision] = score(
                    load_runtime(file, options.threads, trust=True), arm, options.data, "test"
                )
                print(f"{folder.name} {precision}: {found[precision]['whole']['mean']:.2%}", flush=True)
        write_json(folder / EXPORTED, found)


def time_all(options: argparse.Namespace) -> None:
    """Milliseconds of one scene in OpenVINO, all arms and precisions taking turns."""
    contenders: dict[str, Contender] = {}
    for arm, _, folder in finished(options):
        result: Any = results_of(folder)
        if arm.name not in contenders:  # the weights of one seed are as fast as those of another
            image = tuple(result["image"])
            contenders[arm.name] = Contender(
                arm.name, load_trained(arm, folder), image, result["macs"], arm.alpha, arm.exchange
            )
    if missing := [arm.name for arm in ARMS if arm.name not in contenders and not options.arm]:
        raise InputError(f"--out {options.out} has no finished run of {', '.join(missing)}: train them first")
    found = bench(
        list(contenders.values()), choose_runtimes(["openvino"]), batches=[1], threads=[options.threads],
        precisions=PRECISIONS, rounds=options.rounds,
    )  # fmt: skip
    write_json(options.out / TIMES, found)


def tables(options: argparse.Namespace) -> None:
    """Collect the results of --out, and write what people read."""
    collected = [(results_of(folder) or {}) | (read_exported(folder)) for _, _, folder in finished(options)]
    write_results(collected, read_json(options.out / TIMES))
    write_tables()
    if options.data is not None:
        write_scene(options.data, options.out, options.scene, options.seed[0])


def read_exported(folder: Path) -> dict[str, Any]:
    """Scores in low precision, if they were measured."""
    found = read_json(folder / EXPORTED)
    return {} if found is None else {"exported": found}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, help="folder of the scenes")
    parser.add_argument("--encoder", type=Path, help="EfficientNet-Lite0's ImageNet weights, .pth")
    parser.add_argument("--out", type=Path, default=Path("runs/segment"))
    parser.add_argument("--arm", nargs="+", choices=[arm.slug for arm in ARMS], metavar="NAME")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="see above how they were judged")
    parser.add_argument("--every", type=int, default=4, help="epochs between two validations")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", nargs=2, type=int, default=[256, 320], metavar=("H", "W"))
    parser.add_argument("--lr", type=float, default=1e-3, help="peak of the one-cycle schedule")
    parser.add_argument(
        "--precision", choices=("bf16", "float32"), default="bf16", help="of training; bf16 is slower where "
        "the processor does not compute in it"
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30, help="of --times")
    parser.add_argument("--scene", default="Seq05VD_f02370", help="test image that is drawn")
    for name, what in (
        ("exported", "score the exported networks"), ("times", "time them"),
        ("tables", "write tables and figures"), ("check", "compare the tables with the results"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", action="store_true", help=what)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    settle_process()
    try:
        if options.check:
            check_tables()
        elif options.times:
            time_all(options)
        elif options.tables:
            tables(options)
        elif options.data is None:
            raise InputError("DATA is not given: give the folder of the scenes")
        else:
            (score_exported if options.exported else train)(options)
    except InputError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
