"""The commands for networks that are finished: `octavize export`, `octavize predict` and `octavize bench`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from octavize.cli.exporters import Exporter, as_json, exporter_of
from octavize.cli.options import Backend, ExchangeName, Exchanges, network
from octavize.deploy.formats import PRECISIONS, format_of, formats, timed_formats
from octavize.errors import InputError
from octavize.text import Table

if TYPE_CHECKING:
    from octavize.deploy.agreement import Agreement
    from octavize.deploy.images import Found

CALIBRATED_ON, COMPARED_ON = 300, 500
"""Images that int8 is quantized on and that are compared, at most."""
file: Callable[..., Any] = partial(typer.Option, rich_help_panel="File")


def _formats() -> str:
    return ", ".join(f"{kind.suffix} ({kind.runtime})" for kind in formats().values())


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of `octavize train`, `adapt` or `convert`, or of a run of `compare`; a "
            "best.safetensors; or, untrained, a name from `octavize models`, of torchvision or timm, or "
            "module:function.",
        ),
    ],
    to: Annotated[
        Path,
        file(
            help=f"File to write: {_formats()}. With --backend paddle .onnx, .xml, or, without an ending, "
            "files for Paddle Inference."
        ),
    ],
    size: Annotated[
        int | None,
        file(help="Side of the images in pixels; by default that of training, else 224.", min=1),
    ] = None,
    precision: Annotated[
        str, file(help=f"In which the file computes: {', '.join(PRECISIONS)}; float32 in and out.")
    ] = "float32",
    calibration: Annotated[
        Path | None,
        file(
            help="Folder of images for int8, as the network will see: it is quantized on a third of them, "
            "300 at most, and compared on others. Folders named as its classes give accuracy.",
        ),
    ] = None,
    dynamic_size: Annotated[bool, file("--dynamic-size", help="Take images of any size.")] = False,
    overwrite: Annotated[bool, file("--overwrite", help="Replace the file if it exists.")] = False,
    alpha: Annotated[
        float | None,
        network(help="Share of low channels of a named network. \\[default: 0.5]"),
    ] = None,
    num_classes: Annotated[
        int | None,
        network(help="Classes of a named network; by default its own number.", min=1),
    ] = None,
    exchange: ExchangeName = None,
    backend: Backend = "torch",
    to_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a network for another runtime, and compare the file with the network.

    Batch norms are folded in. The file takes any number of images at once; it knows its classes, how
    images are normalized, and α.

    With `--backend paddle` the network is one of PaddlePaddle, and torch is not needed.

    [bold]Examples[/bold]

    [cyan]octavize export runs/oct_mobilenet_v1_small --to model.onnx[/cyan]

    [cyan]octavize export octave-r50 --to model.xml --dynamic-size[/cyan]

    [cyan]octavize export runs/r50 --to r50-int8.xml --precision int8 --calibration images/val[/cyan]

    [cyan]octavize export oct_resnet50 --alpha 0.25 --size 224 --to model.pt2[/cyan]

    [cyan]octavize export octave-r50 --backend paddle --to model.onnx --json[/cyan]
    """
    from octavize.deploy.images import batches, find_images, spread_out

    exporter = exporter_of(backend)
    written = exporter.files(to, precision)
    for path in written:
        if path.exists() and not overwrite:
            raise InputError(f"--to is {to}, and {path} exists: give another name, or --overwrite")
    if precision == "int8" and calibration is None:
        raise InputError("--precision is int8: give images to quantize on with --calibration FOLDER")
    if precision == "float32" and calibration is not None:
        raise InputError(
            "--calibration is given: float32 needs no images; give --precision int8, or leave it out"
        )
    model, facts = exporter.find(source, alpha, num_classes, size, exchange)
    side = size or facts.get("size") or 224
    shape = (1, facts.get("in_chans", 3), side, side)
    about = {**facts, "size": side}
    seen, compared, outputs = None, None, None
    if calibration is not None:
        outputs = exporter.outputs_of(model, shape)
        compared = find_images(calibration, facts.get("classes"), outputs)
        if precision == "int8":
            seen, unseen = spread_out(compared, min(CALIBRATED_ON, max(len(compared.paths) // 3, 1)))
            compared = unseen if unseen.paths else seen
    images = None if seen is None else batches(seen.paths, {**about, "input_shape": shape})
    how: dict[str, Any] = {"precision": precision, "calibration": images, "dynamic_size": dynamic_size}
    error = exporter.write(model, to, shape, metadata=about, **how)
    agreed = None if compared is None or outputs is None else _agreement(exporter, model, to, compared)
    quantized_on = 0 if seen is None else len(seen.paths)
    if to_json:
        told = {"files": [str(path) for path in written], "error": error, "precision": precision}
        told |= {"input_shape": list(shape), "dynamic_size": dynamic_size, "quantized_on": quantized_on}
        typer.echo(as_json(told | {"agreement": None if agreed is None else asdict(agreed)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    lowered = "" if precision == "float32" else " in float32"
    console.print(f"parity: largest error {error:.1e} of what an image changes{lowered}")
    if seen is not None:
        console.print(f"quantized on {quantized_on} images")
    if agreed is not None:
        others = "the same" if compared is seen else "images" if seen is None else "others"
        _tell_agreement(console, agreed, others)
    elif compared is not None:
        console.print("not compared on images: the network tells no classes apart")
    sizes = "any size" if dynamic_size else f"{side} × {side} pixels"
    console.print(f"written: [bold]{to}[/bold], {precision}, for any number of images of {sizes}")


def _agreement(exporter: Exporter, model: Any, file: Path, images: Found) -> Agreement:
    """How the network and its file answer to images."""
    from octavize.deploy.images import batches, spread_out
    from octavize.deploy.runtime import load_runtime

    compared, _ = spread_out(images, COMPARED_ON)
    runner = load_runtime(file, trust=True)  # written a moment ago
    return exporter.agreement(model, runner, batches(compared.paths, runner.metadata), compared.labels)


def _tell_agreement(console: Console, found: Agreement, which: str) -> None:
    """Say it; `which` images these were, beside those that the file was quantized on."""
    console.print(f"compared on {found.images} {which}, same class first: {found.same:.1%}")
    if found.before is None or found.after is None:
        console.print("accuracy: unknown, since the folders of the images are not the network's classes")
    else:
        console.print(f"accuracy: {found.before:.2%} in float32, {found.after:.2%} in this file")


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help=f"File that `octavize export` wrote: {_formats()}.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files.")],
    top: Annotated[int, typer.Option(help="Classes to show for each image.", min=1)] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Read a .pt2 although it may run code of whoever wrote it.")
    ] = False,
    to_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify images with an exported network.

    [bold]Examples[/bold]

    [cyan]octavize predict model.onnx cat.jpg dog.jpg[/cyan]

    [cyan]octavize predict model.xml cat.jpg --top 1 --json[/cyan]
    """
    from octavize.deploy.predict import predict as run
    from octavize.deploy.runtime import load_runtime
    from octavize.report.tables import show

    if model.suffix in ("", ".json", ".pdiparams") and model.with_suffix(".pdiparams").is_file():
        raise InputError(
            f"model {model} is for Paddle Inference, which octavize.paddle.predictor_config runs: to "
            "predict, export the network with --to NAME.onnx"
        )
    if trust and format_of("model", model).runs_code:
        typer.echo(f"warning: {model} may run code of whoever wrote it", err=True)
    answers = run(load_runtime(model, threads, trust=trust), images, top)
    if to_json:
        rows = [{"image": str(p), "predictions": a} for p, a in zip(images, answers, strict=True)]
        typer.echo(as_json(rows))
        return
    rows = [
        ("" if i else str(image), found["class"], f"{found['probability']:.1%}")
        for image, answer in zip(images, answers, strict=True)
        for i, found in enumerate(answer)
    ]
    show(Table(("image", "class", "probability"), rows, align="llr"), Console(highlight=False))


def bench(
    source: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name from `octavize models`, of torchvision or timm; or module:function that returns a "
            "vanilla network.",
        ),
    ] = "oct_resnet50",
    alpha: Annotated[
        list[float] | None,
        typer.Option(metavar="SHARE...", help="Shares of low channels. \\[default: 0.125 0.25 0.5 0.75]"),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help=f"eager, frozen, compile, {', '.join(timed_formats())} (default: these), training (a step).",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="Images per call. \\[default: 1 8]")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(metavar="N...", help="CPU threads. \\[default: 1 and all]")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help=f"{', '.join(PRECISIONS)}: a runtime takes those that it has. \\[default: float32]",
        ),
    ] = None,
    exchange: Exchanges = None,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.", min=1)] = 224,
    rounds: Annotated[int, typer.Option(help="Timed calls of each network, taking turns.", min=1)] = 20,
    same_macs: Annotated[
        bool,
        typer.Option(
            "--same-macs", help="Also vanilla at the image size, and the width, with the same arithmetic."
        ),
    ] = False,
    together: Annotated[
        bool, typer.Option("--together", help="All runtimes take turns, to compare them with each other.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda (PyTorch only, untested).")] = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Figure to write: .png, .svg or .pdf.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Time vanilla and octave in each runtime: how much of the saved arithmetic is saved in time.

    Saving realized is (1 − time ratio) / (1 − ratio of multiply-accumulates), each against the vanilla
    network in the same runtime and precision. Networks take turns in one process; leave the machine idle
    meanwhile.

    [bold]Examples[/bold]

    [cyan]octavize bench oct_resnet50 --out bench.json --figure bench.svg[/cyan]

    [cyan]octavize bench oct_mobilenet_v1 --alpha 0.5 --runtime frozen onnxruntime --threads 1[/cyan]

    [cyan]octavize bench --alpha 0.5 --exchange every block:high_to_low --runtime openvino --precision float32
    bf16 int8[/cyan]
    """
    from octavize.bench.contenders import contenders_of, with_narrower
    from octavize.bench.ratios import bench as run
    from octavize.bench.report import FIGURES, draw, show_tables
    from octavize.bench.runtimes import choose_runtimes
    from octavize.files import write_json
    from octavize.zoo.find import find_origin

    for option, file in (("--out", out), ("--figure", figure)):
        if file is not None and file.exists() and not overwrite:
            raise InputError(f"{option} is {file}, which exists: give another name, or --overwrite")
        if file is not None and not file.parent.is_dir():
            raise InputError(f"{option} is {file}, in a folder that does not exist: make {file.parent} first")
    if figure is not None and figure.suffix not in FIGURES:
        raise InputError(f"--figure is {figure}: give a name that ends in {', '.join(FIGURES)}")
    chosen = choose_runtimes(runtime)
    shares = alpha or [0.125, 0.25, 0.5, 0.75]
    origin = find_origin(source)
    build = partial(origin.octave, size=size)
    contenders = contenders_of(build, shares, size, exchanges=exchange or (), same_macs=same_macs)
    if same_macs and origin.kind == "octavize":
        contenders = with_narrower(origin.name, contenders, size)
    log = Console(stderr=True, highlight=False)
    results = {"model": source, "size": size} | run(
        contenders,
        chosen,
        batches=batch or (1, 8),
        threads=threads,
        precisions=precision or ("float32",),
        rounds=rounds,
        together=together,
        device=device,
        say=log.print,
    )
    title = f"{source}, {size} × {size} pixels, median of {rounds} rounds"
    show_tables(results, title, Console())
    if out is not None:
        write_json(out, results)
    if figure is not None:
        draw(results, figure, title)
