"""Options that `octavize convert` and `octavize adapt` share: the trained network, and what it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from octavize.cli import options as o
from octavize.plans.exchanging import check_exchange_policy
from octavize.plans.geometry import check_downsample
from octavize.plans.plan import check_budget
from octavize.split import check_alpha

if TYPE_CHECKING:
    from octavize.zoo.find import Vanilla

FOR_TRAINED = "stride"
"""The way to downsample of these commands, which are for trained weights: they keep more by it."""

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a vanilla run of `octavize train`; or a name of torchvision, timm or "
        "`octavize models`; or module:function that returns the network.",
    ),
]
Share = Annotated[
    float | None,
    o.conversion(
        "--alpha",
        help="Share of low-frequency channels, 0 to 1; 0.5 where no budget is given.",
        metavar="SHARE",
    ),
]
Budget = Annotated[
    float | None,
    o.conversion(
        help="Share of the arithmetic to keep; it chooses α, layer by layer where channels are calibrated."
    ),
]
Downsample = Annotated[
    str | None,
    o.conversion(
        metavar="HOW",
        help="How layers of stride 2 reach their high output: stride (trained weights keep more) or pool "
        "(the paper, and the default in Python). \\[default: stride]",
    ),
]

MinLow = Annotated[
    int | None,
    o.conversion(
        help="Layers that would have fewer low channels stay dense: they would cost more time than they "
        "save. \\[default: 16; 0 where --alpha is of a name from `octavize models`]",
        metavar="N",
        min=0,
    ),
]


Mean = Annotated[
    list[float] | None,
    o.network(
        help="Of the images (0 to 1) the network was trained on, per channel; if not known, `adapt` measures "
        "it and --refit needs it.",
        metavar="R G B",
    ),
]
Std = Annotated[list[float] | None, o.network(help="Their deviation, per channel.", metavar="R G B")]


@dataclass(frozen=True)
class SourceOptions:
    """Options of the vanilla network that is converted."""

    weights: Annotated[
        Path | None, o.network(help="Trained weights, .safetensors or .pth (a state dict).")
    ] = None
    pretrained: Annotated[
        bool, o.network("--pretrained", help="Weights of torchvision or timm, downloaded.")
    ] = False
    num_classes: Annotated[
        int | None,
        o.network(help="Classes of the last layer; by default the builder's own number.", min=1),
    ] = None

    def find(self, model: str) -> Vanilla:
        """The network of this name or folder."""
        from octavize.zoo.find import find_vanilla

        return find_vanilla(model, **asdict(self))


def normalized(source: Vanilla, mean: list[float] | None, std: list[float] | None) -> Vanilla:
    """The network, whose images are normalized as the options say where they say anything."""
    given = {name: value for name, value in (("mean", mean), ("std", std)) if value}
    return replace(source, facts={**source.facts, **given})


def check_ways(
    alpha: float | None, budget: float | None, downsample: str | None, exchange: str | None
) -> None:
    """Check what can be checked before a network is built, which takes seconds."""
    for value, check in ((alpha, check_alpha), (budget, check_budget), (downsample, check_downsample)):
        if value is not None:
            check(value)  # pyright: ignore[reportArgumentType]
    if exchange is not None:
        check_exchange_policy(exchange)


def check_statistics(mean: list[float] | None, std: list[float] | None) -> None:
    """Check what is known of the images before anything is written that would be read with it."""
    if mean or std:
        from octavize.data import normalize

        normalize.check_together({"--mean": mean, "--std": std})
        normalize.check_statistics(mean or (), std or (), len(mean or ()))
