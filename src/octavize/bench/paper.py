"""The paper's arithmetic beside ours: what it printed, and what these networks take.

FLOPs of the paper are multiply–accumulates. Sources: the tables of Chen et al., "Drop an Octave", ICCV 2019,
and the README of its official code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from octavize.bench.profile import count_macs
from octavize.nn.conv import OctConv2d
from octavize.nn.tensor import OctTensor
from octavize.text import Table
from octavize.zoo.models import create_model, usual_input

GIGA, MEGA = 1e9, 1e6
UNITS = {GIGA: "G", MEGA: "M"}


@dataclass(frozen=True)
class Published:
    """A network as a table prints it: multiply–accumulates in `unit`, parameters in millions, where given."""

    table: str
    network: str
    model: str
    alpha: float
    macs: float
    unit: float = GIGA
    params: float | None = None
    top1: float | None = None
    """Percent, of ImageNet or Kinetics-400."""
    arguments: Mapping[str, Any] = field(default_factory=dict)


_resnet50 = partial(Published, "Table 2", "ResNet-50", "oct_resnet50")
_mobile = partial(Published, "Table 5", unit=MEGA)
_medium = partial(Published, "Table 6")
_official = partial(Published, "official README")
_video = partial(Published, "Table 8")
V1, V2 = "oct_mobilenet_v1", "oct_mobilenet_v2_official"

PUBLISHED = (
    _resnet50(0, 4.1, top1=77.0),
    _resnet50(0.125, 3.6, top1=78.2),
    _resnet50(0.25, 3.1, top1=78.0),
    _resnet50(0.5, 2.4, top1=77.3),
    _resnet50(0.75, 1.9, top1=76.6),
    _mobile("0.75 MobileNet (v1)", V1, 0, 325, params=2.6, top1=70.3, arguments={"width": 0.75}),
    _mobile("0.75 MobileNet (v1)", V1, 0.375, 213, params=2.6, top1=70.6, arguments={"width": 0.75}),
    _mobile("1.0 MobileNet (v1)", V1, 0.5, 321, params=4.2, top1=72.4),
    _mobile("1.0 MobileNet (v2)", "oct_mobilenet_v2", 0, 300, params=3.5, top1=72.0),
    _mobile("1.0 MobileNet (v2)", V2, 0.375, 256, params=3.5, top1=72.0),
    _mobile("1.125 MobileNet (v2)", V2, 0.5, 295, params=4.2, top1=73.0, arguments={"width": 1.125}),
    _medium("ResNeXt-50 (32×4d)", "oct_resnext50_32x4d", 0.25, 3.2, params=25.0, top1=78.7),
    _medium("ResNeXt-101 (32×4d)", "oct_resnext101_32x4d", 0.25, 5.7, params=44.2, top1=79.5),
    _medium("ResNet-50", "oct_resnet50", 0.5, 2.4, params=25.6, top1=77.3),
    _medium("ResNeXt-50 (32×4d)", "oct_resnext50_32x4d", 0.5, 2.4, params=25.0, top1=78.3),
    _medium("ResNeXt-101 (32×4d)", "oct_resnext101_32x4d", 0.5, 4.0, params=44.2, top1=78.9),
    _official("ResNet-152", "oct_resnet152_official", 0.125, 10.9, params=60.2, top1=81.4),
    _official("ResNet-152 + SE", "oct_seresnet152_official", 0.125, 10.9, params=66.8, top1=81.6),
    _video("I3D", "oct_i3d_resnet50", 0, 28.1, top1=72.6),
    _video("I3D", "oct_i3d_resnet50", 0.1, 25.6, top1=73.6),
    _video("I3D", "oct_i3d_resnet50", 0.2, 22.1, top1=73.1),
    _video("I3D", "oct_i3d_resnet50", 0.3, 15.3, top1=72.1),
    _video("C2D", "oct_c2d_resnet50", 0, 19.3, top1=71.9),
    _video("C2D", "oct_c2d_resnet50", 0.1, 17.4, top1=73.8),
)
LAYER = {0.125: (82, 91), 0.25: (67, 81), 0.5: (44, 63), 0.75: (30, 44), 0.875: (26, 35), 1: (25, 25)}
"""Table 1, by α: multiply–accumulates and memory of an octave layer, percent of a vanilla one's."""
NOTES = {
    "Table 2": "",
    "Table 5": (
        "Vanilla MobileNetV1 agrees, its octave networks take .8 to .9 % less than printed: here only "
        "convolutions and the classifier count, no pooling, up-sampling or addition. The octave networks of "
        "MobileNetV2 are those of the official code: their first block has a 1 × 1 expansion of factor 1 "
        "(12.8 M at α = 0), which the vanilla network of 300 M has not; they, too, take .8 % less."
    ),
    "Table 6": "",
    "official README": (
        "The official code's `resnet152_v1f`: three 3 × 3 in the place of the 7 × 7 stem, a residual block "
        "in that of max-pooling, strides in the last 1 × 1 of a block (the paper's §4.3); and with SE its "
        "`resnet152_v1e`: a wider stem of three 3 × 3, max-pooling, a norm before each block."
    ),
    "Table 8": (
        "The paper gives neither frames nor kernels; 8 frames and the kernels of Wang et al. (CVPR 2018) "
        "come within 1.2 % for the vanilla networks and for α = 0.1. No α up to 0.3 gives 22.1 and 15.3 G: "
        "α = 0.25 gives the first, and not even α = 0.5 (17.4 G) the second."
    ),
}
"""What explains the differences of a table."""


def layer_rows(channels: int = 256, side: int = 56) -> list[dict[str, float]]:
    """Table 1: an octave layer between octave layers, counted.

    Returns:
        For each α `alpha`, and in percent of the vanilla layer `macs` and `memory` (of its output), each with
        what is `…_printed`.
    """
    vanilla = nn.Conv2d(channels, channels, 3, padding=1, device="meta")
    all_macs = count_macs(vanilla, (1, channels, side, side))
    rows = []
    for alpha, (macs, memory) in LAYER.items():
        with torch.device("meta"):
            into = OctConv2d(channels, channels, 1, alpha=alpha)
            layer = OctConv2d(channels, channels, 3, padding=1, alpha=alpha)
            both = count_macs(nn.Sequential(into, layer), (1, channels, side, side))
            own = both - count_macs(into, (1, channels, side, side))
            out = layer(into(torch.empty(1, channels, side, side)))
        assert isinstance(out, OctTensor)
        kept = sum(half.numel() for half in (out.high, out.low) if half is not None) / (channels * side**2)
        found = {"macs": 100 * own / all_macs, "memory": 100 * kept}
        rows.append({"alpha": alpha, **found, "macs_printed": macs, "memory_printed": memory})
    return rows


def network_row(published: Published) -> dict[str, Any]:
    """A network of the tables, counted on the meta device.

    Returns:
        What is `Published`, with `macs_found` in the same unit, `params_found` in millions, and `difference`
        of the multiply–accumulates, as a share of what is printed.
    """
    macs, params = _counted(published.model, published.alpha, published.arguments)
    found = macs / published.unit
    own = {"macs_found": found, "params_found": params / MEGA, "difference": found / published.macs - 1}
    return {**asdict(published), **own}


def cost_row(name: str, alpha: float) -> dict[str, Any]:
    """A named network as `octavize models --costs` tells it.

    Returns:
        `model`, `alpha`, `input` (its usual one), `params`, `macs_vanilla` and `macs` for one input, and what
        the paper's `tables` print for it at this α.
    """
    (vanilla, params), (macs, _) = _counted(name, 0, {}), _counted(name, alpha, {})
    printed = [row for row in PUBLISHED if (row.model, row.alpha, row.arguments) == (name, alpha, {})]
    return {
        "model": name,
        "alpha": alpha,
        "input": list(usual_input(name)),
        "params": params,
        "macs_vanilla": vanilla,
        "macs": macs,
        "tables": {row.table: row.macs * row.unit for row in printed},
    }


def cost_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The same for people."""
    cells = [
        [
            row["model"],
            " × ".join(map(str, row["input"][2:])),
            f"{row['params'] / MEGA:.1f} M",
            f"{row['macs_vanilla'] / GIGA:.3f} G",
            f"{row['macs'] / GIGA:.3f} G",
            ", ".join(f"{macs / GIGA:g} G ({table})" for table, macs in row["tables"].items()),
        ]
        for row in rows
    ]
    head = ("name", "input", "parameters", "MACs, vanilla", f"α = {rows[0]['alpha']:g}", "paper")
    return Table(head, cells, align="lrrrrl")


def _counted(name: str, alpha: float, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Multiply–accumulates for one input, and parameters."""
    with torch.device("meta"):
        model = create_model(name, alpha, **arguments)
    return count_macs(model, usual_input(name)), sum(p.numel() for p in model.parameters())


def layer_table(rows: Sequence[Mapping[str, float]]) -> Table:
    """Table 1 for people."""
    keys = {"macs": ".1f", "macs_printed": ".0f", "memory": ".1f", "memory_printed": ".0f"}
    cells = [[f"{row['alpha']:g}", *(f"{row[key]:{form}}" for key, form in keys.items())] for row in rows]
    return Table(
        ("α", "MACs, %", "printed", "memory, %", "printed"), cells, align="r", title="Table 1: one layer"
    )


def network_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One for each table of the paper; the note explains the differences."""
    return [
        _table(table, [row for row in rows if row["table"] == table], note)
        for table, note in NOTES.items()
        if any(row["table"] == table for row in rows)
    ]


def _table(name: str, rows: Sequence[Mapping[str, Any]], note: str) -> Table:
    cells = [
        [
            row["network"],
            row["model"],
            f"{row['alpha']:g}",
            f"{row['macs_found']:{'.1f' if row['unit'] == MEGA else '.3f'}} {UNITS[row['unit']]}",
            f"{row['macs']:{'.0f' if row['unit'] == MEGA else '.1f'}} {UNITS[row['unit']]}",
            f"{row['difference']:+.1%}",
            f"{row['params_found']:.1f} M",
            "" if row["params"] is None else f"{row['params']} M",
            f"{row['top1']:.1f}",
        ]
        for row in rows
    ]
    head = ("network", "name", "α", "MACs", "printed", "difference", "parameters", "printed", "its top-1, %")
    return Table(head, cells, align="llr", title=name, note=note)
