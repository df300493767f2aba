"""`octavize models` and `octavize tables`: the named networks, and the paper's arithmetic beside theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from octavize.errors import InputError
from octavize.text import Table

T = TypeVar("T")


def models(
    pattern: Annotated[str, typer.Argument(help="Only names that match, such as 'oct_resnet*'.")] = "*",
    costs: Annotated[
        bool,
        typer.Option("--costs", help="Parameters and multiply-accumulates, ours and the paper's."),
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Share of low channels for --costs. \\[default: 0.5]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list instead of lines.")] = False,
) -> None:
    """List the networks that octavize builds by name.

    Costs are of the input that a network is known for: images of 224 pixels, 32 for CIFAR's and those whose
    name ends in _small, clips of 8 frames for video. Counting all of them takes a minute.

    [bold]Examples[/bold]

    [cyan]octavize models[/cyan]

    [cyan]octavize models 'oct_resnext*' --costs --alpha 0.25[/cyan]
    """
    from octavize.zoo.models import list_models

    names = list_models(pattern)
    if not names:
        raise InputError(f"PATTERN {pattern!r} matches no network: see `octavize models`")
    if alpha is not None and not costs:
        raise InputError(f"--alpha {alpha:g} is given without --costs: names have no α; add --costs")
    if not costs:
        typer.echo(json.dumps(names) if as_json else "\n".join(names))
        return
    from octavize.bench.published import cost_row, cost_table

    rows = [cost_row(name, 0.5 if alpha is None else alpha) for name in _with_bar(names)]
    _tell(as_json, rows, [cost_table(rows)])


def tables(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the arithmetic of the paper's tables anew, and show it beside what the paper prints.

    Nothing is computed but sizes: it takes seconds, and no memory to speak of.

    [bold]Example[/bold]

    [cyan]octavize tables[/cyan]
    """
    from octavize.bench.published import PUBLISHED, layer_rows, layer_table, network_row, network_tables

    layer = layer_rows()
    rows = [network_row(published) for published in _with_bar(PUBLISHED)]
    _tell(as_json, {"layer": layer, "networks": rows}, [layer_table(layer), *network_tables(rows)])


def _with_bar(many: Sequence[T]) -> Iterable[T]:
    from rich.progress import track

    return track(many, "counting", console=Console(stderr=True), transient=True)


def _tell(as_json: bool, values: object, shown: list[Table]) -> None:
    from octavize.report.tables import show

    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False))
        return
    for table in shown:
        show(table, Console())
