"""The named networks, the paper's arithmetic beside theirs, and what others published of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from octavize.cli.options import Backend
from octavize.cli.paddle import is_paddle
from octavize.cli.paddle import models as models_of_paddle
from octavize.cli.telling import Answer
from octavize.errors import InputError
from octavize.report.progress import steps


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that match, such as 'oct_resnet*'.")] = "*",
    costs: Annotated[
        bool,
        typer.Option("--costs", help="Parameters and multiply-accumulates, ours and the paper's."),
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Share of low channels for --costs. \\[default: 0.5]")
    ] = None,
    backend: Backend = "torch",
) -> Answer:
    """List the networks that octavize builds by name.

    Costs are of the input that a network is known for: images of 224 pixels, 32 for CIFAR's and those whose
    name ends in _small, clips of 8 frames for video. Counting all of them takes a minute.

    [bold]Examples[/bold]

    [cyan]octavize models[/cyan]

    [cyan]octavize models 'oct_resnext*' --costs --alpha 0.25[/cyan]

    [cyan]octavize models --backend paddle[/cyan]
    """
    if alpha is not None and not costs:
        raise InputError(f"--alpha {alpha:g} is given without --costs: names have no α; add --costs")
    if is_paddle(backend):
        return models_of_paddle(pattern, costs)
    from octavize.zoo.models import list_models

    names = list_models(pattern)
    if not names:
        raise InputError(f"PATTERN {pattern!r} matches no network: see `octavize models`")
    if not costs:
        return Answer(names, names)
    from octavize.bench.paper import cost_row, cost_table

    rows = [cost_row(name, 0.5 if alpha is None else alpha) for name in steps(names, "counting")]
    return Answer(rows, [cost_table(rows)])


def tables() -> Answer:
    """Count the arithmetic of the paper's tables anew, and show it beside what the paper prints.

    Nothing is computed but sizes: it takes seconds, and no memory to speak of.

    [bold]Example[/bold]

    [cyan]octavize tables[/cyan]
    """
    from octavize.bench.paper import PUBLISHED, layer_rows, layer_table, network_row, network_tables

    layer = layer_rows()
    rows = [network_row(published) for published in steps(PUBLISHED, "counting")]
    return Answer({"layer": layer, "networks": rows}, [layer_table(layer), *network_tables(rows)])


def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help=".pth or .safetensors; .pdparams; MXNet's .params or a .tar of it."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    alpha: Annotated[
        float | None,
        typer.Option(help="Share of low channels. \\[default: that of the file's first octave layer]"),
    ] = None,
) -> Answer:
    """Turn an octave network that others published into a checkpoint of octavize.

    Read are files of d-li14's PyTorch code (ResNet-26/50/101/152/200, MobileNetV1), of the article's
    PaddlePaddle code (the same), and of the paper's Gluon code (ResNet-50, ResNeXt-50, MobileNetV1). They are
    recognized by the names of their arrays. Nothing in a file is executed. What is written computes what the
    original does; `octavize export` and `octavize.zoo.checkpoint.load_checkpoint` take it.

    [bold]Example[/bold]

    [cyan]octavize import oct_resnet50_cosine.pth --to oct_resnet50.safetensors[/cyan]
    """
    from octavize.zoo.published import import_published

    found = import_published(checkpoint, to, alpha)
    text = (
        f"{found['published_by']}: {found['model']}, α = {found['alpha']:g}, {len(found['classes'])} "
        f"classes; written to {to}"
    )
    return Answer({**found, "file": str(to)}, [text])
