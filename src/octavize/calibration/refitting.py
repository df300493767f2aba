"""What refitting did, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from octavize.text import Table


@dataclass(frozen=True)
class Refitted:
    """One half of a layer, refitted.

    `half` is "high", "low", or "all" of a layer without low channels. Errors are shares of the variance of
    what the vanilla network goes on with: before, with the new weights, and on each half of the images with
    weights fitted to the other half in one step. `ridge` is a share of the mean square of what
    the weights read, and `rows` are the sampled pixels, with `columns` numbers to find for each channel.
    """

    name: str
    half: str
    rows: int
    columns: int
    ridge: float
    before: float
    after: float
    held_out: float


@dataclass(frozen=True)
class Polished:
    """What epochs of gradient did: how far the octave network's answers were from the vanilla one's, before
    and after, on the images themselves; see `polish.distance`.
    """

    epochs: int
    before: float
    after: float


@dataclass(frozen=True)
class Refitting:
    """What `refit` did; printing it gives a table.

    `left` are the layers that were left alone, with the reason. `shift` is how far the means of maps on these
    images lie from those that the batch norms remember, see `norm_shift`; None without batch norms.
    `polished` is what the epochs after that did; None for no epochs.
    """

    layers: tuple[Refitted, ...]
    left: Mapping[str, str] = field(default_factory=dict)
    images: int = 0
    shift: float | None = None
    polished: Polished | None = None

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.half,
                f"{layer.rows:,}",
                f"{layer.columns:,}",
                f"{layer.ridge:g}",
                f"{layer.before:.2%}",
                f"{layer.after:.2%}",
                f"{layer.held_out:.2%}",
            )
            for layer in self.layers
        ]
        head = ("layer", "half", "rows", "columns", "ridge", "error before", "after", "held out")
        left = "".join(f"\n{name} was left alone: {reason}" for name, reason in self.left.items())
        shift = (
            "" if self.shift is None else f", whose maps lie {self.shift:.2f} deviations off the norms' means"
        )
        note = f"fitted on {self.images:,} images{shift}{left}"
        if self.polished is not None:
            p = self.polished
            note += f"\n{p.epochs} epochs of gradient: answers {p.before:.3f} off before, {p.after:.3f} after"
        return str(Table(head, rows, align="llr", note=note))
