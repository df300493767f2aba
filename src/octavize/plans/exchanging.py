"""Where in a network the frequencies meet: in every layer, once a block, or once a stage.

In the paper every layer exchanges, so each has four convolutions. A residual block mixes its channels several
times, and both frequencies add to one sum at its end. Meeting there alone leaves fewer and larger pieces of
work. Big-Little Net (Chen et al., ICLR 2019) merges its two resolutions once a stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from octavize.errors import InputError, shown
from octavize.plans.geometry import EXCHANGE

WHERE = ("every", "block", "stage")
"""Where the frequencies may meet."""
_PATHS = tuple(paths for paths in EXCHANGE if paths != "none")


def check_exchange_policy(exchange: str) -> str:
    """Return what a network's `exchange` says: that of one layer (`both`, `none` …), or where layers meet.

    Where is `every`, `block` or `stage`. It may be followed by the paths: `block:high_to_low`; without them
    both are meant.

    Raises:
        InputError: it is none of these.
    """
    where, _, paths = exchange.partition(":") if isinstance(exchange, str) else ("", "", "")
    if exchange in EXCHANGE or exchange in WHERE or (where in WHERE and paths in _PATHS):
        return exchange
    raise InputError(
        f"exchange={shown(exchange)}: give {', '.join(WHERE)} (with one path: block:high_to_low), "
        f"or for layers {', '.join(EXCHANGE)}"
    )


def needs_blocks(exchange: str) -> bool:
    """Whether a network's blocks have to be known to tell what this means for a layer."""
    return exchange.partition(":")[0] in ("block", "stage")


@dataclass(frozen=True)
class Block:
    """A residual block of a network.

    `layers` are the names of its convolutions, `last` those of them whose output goes into its sum after most
    others, and `size` is that of its output in pixels.
    """

    layers: frozenset[str]
    last: frozenset[str]
    size: tuple[int, ...]


def places_of(blocks: Sequence[Block]) -> dict[str, str]:
    """What each layer of a block ends: its `block`, its `stage` too, or neither, an empty text.

    A stage is a row of blocks that write maps of one size.

    Args:
        blocks: in the order in which they run.
    """
    places: dict[str, str] = {}
    for block, after in zip_longest(blocks, blocks[1:]):
        end = "block" if after is not None and after.size == block.size else "stage"
        places |= {name: end if name in block.last else "" for name in block.layers}
    return places


def exchange_of_layer(exchange: str, place: str | None) -> str:
    """The paths between the frequencies in one layer, see `OctConv2d`.

    Args:
        exchange: the network's, see `check_exchange_policy`.
        place: what the layer ends, see `places_of`. A layer of no block (None) exchanges as in the paper.
    """
    if exchange in EXCHANGE:
        return exchange
    where, _, paths = exchange.partition(":")
    paths = paths or "both"
    if where == "every":
        return paths
    if place is None:
        return "both"
    return paths if place in ("stage", where) else "none"


def by_layer(exchanges: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    """The paths of every layer, from the network's `exchange` and what layers end, both by name."""
    return {name: exchange_of_layer(exchange, places.get(name)) for name, exchange in exchanges.items()}
