"""Whether the two frequencies, independent between exchanges, gain from a CUDA stream each.

Bottlenecks that exchange in their last layer alone: the 1 × 1 and the 3 × 3 before it are a chain of the high
half and a chain of the low half, and neither reads the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_checks import NETWORK_TOLERANCE, halves, worst
from gpu_device import capture, is_cuda, synchronize
from octavize import OctConv2d, OctTensor
from octavize.bench.timing import interleave
from octavize.nn.channels import split_channels

BLOCKS = 4
CHAINS = ((256, 64, 56), (1024, 256, 14))
"""Channels between blocks, channels within, and pixels of a side: of the first and the third stage of a
ResNet-50. The low half has half the pixels."""
Conv = Callable[[Tensor], Tensor]
Chains = tuple[list[Conv], list[Conv]]
DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Block:
    """A bottleneck whose first two layers do not exchange."""

    apart: Sequence[OctConv2d]
    last: OctConv2d


def make_blocks(channels: int, within: int, count: int = BLOCKS) -> list[Block]:
    """Octave layers of α = 0.5, biases included, as of a network whose norms are folded."""
    return [
        Block(
            (
                OctConv2d(channels, within, 1, exchange="none"),
                OctConv2d(within, within, 3, padding=1, exchange="none"),
            ),
            OctConv2d(within, channels, 1),
        )
        for _ in range(count)
    ]


def by_layers(blocks: Sequence[Block], x: OctTensor) -> OctTensor:
    """The blocks by octave layers alone: what `by_chains` has to equal."""
    for block in blocks:
        y: Any = x
        for layer in block.apart:
            y = F.relu(layer(y))
        x = _sum(x, block.last(y))
    return x


def by_chains(
    blocks: Sequence[Block], chains: Sequence[Chains], x: OctTensor, side: torch.cuda.Stream | None = None
) -> OctTensor:
    """The same with a chain for each half, that of the low half on a stream of its own if one is given."""
    for block, (highs, lows) in zip(blocks, chains, strict=True):
        if side is None:
            high, low = _run(highs, x.high), _run(lows, x.low)
        else:
            main = torch.cuda.current_stream()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                low = _run(lows, x.low)
            high = _run(highs, x.high)
            main.wait_stream(side)  # until here `x` has to live: its memory is reused in the order of `main`
        x = _sum(x, block.last(OctTensor(high, low)))
    return x


def _sum(x: OctTensor, y: OctTensor) -> OctTensor:
    return OctTensor(F.relu(x.high + y.high), F.relu(x.low + y.low))


def chains_of(block: Block) -> Chains:
    """The first layers of a block as a chain for the high half and one for the low half."""
    pairs = [_paths(layer) for layer in block.apart]
    return [high for high, _ in pairs], [low for _, low in pairs]


def _paths(layer: OctConv2d) -> tuple[Conv, Conv]:
    """The paths from high to high and from low to low of a layer whose input is half low."""
    assert layer.bias is not None
    assert not isinstance(layer.padding, str)
    rows = layer.octave.out_layout
    columns = (layer.in_channels // 2, layer.in_channels // 2)
    w_high, w_low = split_channels(layer.weight, rows)
    b_high, b_low = split_channels(layer.bias, rows)
    w_hh, w_ll = split_channels(w_high, columns, 1)[0], split_channels(w_low, columns, 1)[1]
    return _conv(w_hh, b_high, layer.padding), _conv(w_ll, b_low, layer.padding)


def _conv(weight: Tensor, bias: Tensor, padding: tuple[int, ...]) -> Conv:
    """With a weight of its own: of a part of a larger one, cuDNN makes a copy at every call."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    return partial(F.conv2d, weight=weight, bias=bias, padding=padding)


def _run(chain: Sequence[Conv], x: Tensor) -> Tensor:
    for conv in chain:
        x = F.relu(conv(x))
    return x


def measure_streams(device: str, batches: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """A row for each chain, batch and precision."""
    settings = product(CHAINS, batches, DTYPES)
    return [_measure(device, *setting, rounds) for setting in settings]


@torch.inference_mode()
def _measure(
    device: str, chain: tuple[int, int, int], batch: int, precision: str, rounds: int
) -> dict[str, Any]:
    channels, within, size = chain
    dtype = DTYPES[precision]
    blocks = make_blocks(channels, within)
    for block in blocks:
        nn.ModuleList([*block.apart, block.last]).to(device, dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = OctTensor.from_dense(torch.randn(batch, channels, size, size), 0.5).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    chains = [chains_of(block) for block in blocks]
    results: dict[str, OctTensor] = {}

    def keep(name: str, side: torch.cuda.Stream | None) -> None:
        results[name] = by_chains(blocks, chains, x, side)

    sides = {"one stream": None, "two streams": torch.cuda.Stream()}
    replays = {name: capture(partial(keep, name, side)) for name, side in sides.items()}

    def waited(replay: Callable[[], None]) -> None:
        replay()
        synchronize(device)

    seconds = interleave({name: partial(waited, replay) for name, replay in replays.items()}, rounds)
    one, two = seconds["one stream"], seconds["two streams"]
    return {
        "pixels": size,
        "channels": channels,
        "within": within,
        "blocks": BLOCKS,
        "batch": batch,
        "precision": precision,
        "one_stream_ms": 1e3 * statistics.median(one),
        "two_streams_ms": 1e3 * statistics.median(two),
        "ratio": statistics.median(b / a for a, b in zip(one, two, strict=True)),
        "largest_difference": worst(_named(results["two streams"]), _named(results["one stream"])),
        "n": rounds,
    }


def _named(x: OctTensor) -> dict[str, Tensor | None]:
    return dict(zip(("high", "low"), halves(x), strict=True))


@torch.no_grad()
def streams_agree(device: str) -> float:
    """Two streams against the octave layers themselves: a check, see `gpu_checks`."""
    blocks, x = make_blocks(16, 8), OctTensor.from_dense(torch.randn(2, 16, 9, 7), 0.5)
    for block in blocks:
        nn.ModuleList([*block.apart, block.last]).to(device)
    x = x.to(device)
    side = torch.cuda.Stream() if is_cuda(device) else None
    found = by_chains(blocks, [chains_of(block) for block in blocks], x, side)
    expected = by_layers(blocks, x)
    synchronize(device)
    return worst(_named(found), _named(expected))


CHECKS = {"chains of the two halves: equal to the octave layers": (streams_agree, NETWORK_TOLERANCE)}
