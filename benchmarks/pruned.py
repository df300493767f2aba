"""What refitting brings back of a *pruned* network, without labels: the counterpart of `refit.py`.

    cd benchmarks && python pruned.py trained:efficientnet_lite0 --images imagenet-val \\
        --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

Torch-Pruning (DepGraph, `pip install torch-pruning`) takes channels out of the vanilla network until it is as
fast as the octave network of an α that exchanges once a block, in OpenVINO, float32, one image, one thread.
Then the same is done to it as to the octave network: every layer is fitted in closed form to what the vanilla
layer makes, from what the pruned network hands to it, and then come as many epochs of gradient against the
vanilla network's outputs, on the same images. Leave the machine idle until it says what it has found.

`--tables` only writes docs/convert-trained.md anew, `--check` only compares it with the results.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress_arms import match_ratio, pruned
from marked import between, make
from octavize import calibrate, octavize
from octavize.bench.environment import environment
from octavize.bench.profile import count_macs
from octavize.calibration.coupling import stand_in
from octavize.calibration.polish import polish
from octavize.convert.inputs import Inputs
from octavize.files import read_json, write_json
from octavize.text import Table
from refit import PAGE, Bench, parse

RESULTS = Path(__file__).resolve().parent / "results/pruned"
MARKS = ("<!-- pruned: written by benchmarks/pruned.py -->\n", "<!-- /pruned -->")
PIXELS = 64
"""Of each image that a layer is fitted on."""
RIDGE = 0.1
"""Holds the weights to the trained ones: a share of the mean square of what they read."""
Row = dict[str, Any]


class Pair:
    """A pruned network and the vanilla one, layer by layer.

    Args:
        model: pruned; its convolutions are followed by batch norms.
        kept: of each convolution by name, the channels of the vanilla network that it still makes.
    """

    def __init__(self, model: nn.Module, vanilla: nn.Module, kept: dict[str, Tensor]) -> None:
        self.model, self.vanilla, self.kept = model, vanilla, kept
        self.norms = norms_after(vanilla)

    @torch.no_grad()
    def refit(self, batches: Sequence[Tensor]) -> None:
        """Fit every convolution but the first, in the order in which they run."""
        for name in list(self.norms)[1:]:
            self._fit(name, batches)

    def _fit(self, name: str, batches: Sequence[Tensor]) -> None:
        conv: Any = self.model.get_submodule(name)
        groups, generator = conv.groups, torch.Generator().manual_seed(0)
        read: list[Tensor] = []
        made: list[Tensor] = []
        for x in batches:
            inputs = self._at(self.model, name, x, before=True)
            wanted = self._at(self.vanilla, name, x, before=False)[:, self.kept[name]]
            columns = unfolded(conv, inputs)  # (N, C_in · k², pixels)
            chosen = torch.randperm(columns.shape[2], generator=generator)[:PIXELS]
            read.append(columns[:, :, chosen].permute(1, 0, 2).flatten(1))
            made.append(wanted.flatten(2)[:, :, chosen].permute(1, 0, 2).flatten(1))
        x = torch.cat(read, 1).unflatten(0, (groups, -1)).double()  # (groups, columns, rows)
        y = torch.cat(made, 1).unflatten(0, (groups, -1)).double()
        old = conv.weight.flatten(1).unflatten(0, (groups, -1)).double()
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        old = torch.cat([old, torch.zeros_like(old[:, :, :1])], 2)
        gram = x @ x.mT
        held = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1) * torch.ones(gram.shape[1], groups).double()
        held[-1] = 0  # the constant is free
        ridge = torch.diag_embed(held.T)
        new = old + torch.linalg.solve(gram + ridge, (y - old @ x) @ x.mT, left=False)
        conv.weight.copy_(new[:, :, :-1].flatten(0, 1).view_as(conv.weight))
        self.model.get_submodule(self.norms[name]).running_mean -= new[:, :, -1].flatten()  # pyright: ignore

    def _at(self, net: nn.Module, name: str, x: Tensor, *, before: bool) -> Tensor:
        """What a layer reads, or makes, of images."""
        net, found = stand_in(net), list[Tensor]()
        layer = net.get_submodule(name)

        def look(module: nn.Module, args: Any, made: Tensor) -> None:
            found.append(args[0] if before else made)

        layer.register_forward_hook(look)
        net(x)
        return found[0]


def unfolded(conv: Any, x: Tensor) -> Tensor:
    """What each output pixel of a convolution reads: (N, C_in · k², pixels)."""
    how = {key: getattr(conv, key) for key in ("dilation", "padding", "stride")}
    return F.unfold(x, conv.kernel_size, **how)


def norms_after(net: nn.Module) -> dict[str, str]:
    """The batch norm that follows each convolution, in the order in which they run."""
    ran: list[tuple[str, nn.Module]] = []
    standing = stand_in(net)
    for name, module in standing.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(lambda m, *_, name=name: ran.append((name, m)))
    with torch.no_grad():
        standing(torch.zeros(1, 3, 64, 64))
    return {conv: norm for (conv, a), (norm, _) in pairwise(ran) if isinstance(a, nn.Conv2d)}


def pruned_with_places(vanilla: nn.Module, shape: Any, ratio: float) -> tuple[nn.Module, dict[str, Tensor]]:
    """The pruned network, and which channels each convolution kept."""
    tagged = copy.deepcopy(vanilla)
    for module in tagged.modules():
        if isinstance(module, nn.BatchNorm2d):  # pruning carries the places along, and does not look at them
            module.running_mean = torch.arange(module.num_features).float()
    model, kept = pruned(tagged, shape, ratio), dict[str, Tensor]()
    for conv, norm in norms_after(vanilla).items():
        own, old = (net.get_submodule(norm) for net in (model, vanilla))
        kept[conv] = own.running_mean.long()  # pyright: ignore[reportCallIssue]
        own.running_mean = old.running_mean[kept[conv]].clone()  # pyright: ignore[reportIndexIssue]
    return model, kept


def measured(bench: Bench, known: Sequence[Row]) -> Iterator[Row]:
    """The rows that are still missing."""
    given, shape = bench.given, (1, 3, bench.given.size, bench.given.size)
    setting = next(bench.settings())
    batches = list(bench.prepare(setting.paths).split(8))
    for alpha in given.alpha:
        if any(row["alpha"] == alpha for row in known):
            continue
        how: dict[str, Any] = {
            "exchange": "block:high_to_low",
            "downsample": "stride",
            "min_low": given.min_low,
        }
        octave = octavize(bench.vanilla, calibrate(bench.vanilla, batches, alpha, **how)).eval()
        ratio, cost = match_ratio(octave, bench.vanilla, shape)
        print(f"α = {alpha:g}: {ratio:.0%} of the channels pruned takes {cost:.2f} of the time", flush=True)
        model, kept = pruned_with_places(bench.vanilla, shape, ratio)
        accuracy = partial(bench.accuracy, test=setting.test)
        stages = {"vanilla": accuracy(bench.vanilla), "pruned": accuracy(model)}
        start = time.process_time()
        Pair(model, bench.vanilla, kept).refit(batches)
        closed, stages["closed_form"] = time.process_time() - start, accuracy(model)
        for _ in polish(model, bench.vanilla, [Inputs((x,)) for x in batches], [], given.epochs):
            pass
        yield {
            "alpha": alpha,
            "ratio": ratio,
            "time": cost,
            "macs": count_macs(model, shape) / count_macs(bench.vanilla, shape),
            "images": len(setting.paths),
            "test_images": len(setting.test.paths),
            "epochs": given.epochs,
            **stages,
            "refitted": accuracy(model),
            "cpu_seconds_closed_form": closed,
        }


def table(results: dict[str, Any]) -> str:
    """Accuracy at every stage, a row an α whose time is reached."""
    stages = ("vanilla", "pruned", "closed_form", "refitted")
    lines = [
        (
            f"α = {row['alpha']:g}",
            f"{row['ratio']:.0%}",
            f"{row['macs']:.3f}",
            f"{row['time']:.2f}",
            *(f"{row[stage]:.1%}" for stage in stages),
        )
        for row in results["rows"]
    ]
    head = ("as long as", "pruned", "MACs", "time", "vanilla", "at once", "closed form", "and epochs")
    first = results["rows"][0]
    note = (
        f"{results['name']}, channels taken out by Torch-Pruning (DepGraph, smallest groups) until it is as "
        "fast as the octave network of this α that exchanges once a block, in OpenVINO, float32, one image; "
        f"the same {first['images']} images to refit on and {first['test_images']} to test on. torch "
        f"{results['environment']['torch']}, {results['environment']['processor']}."
    )
    return f"{Table(head, lines, align='lr').markdown()}\n\n{note}\n"


def page(text: str) -> str:
    """docs/convert-trained.md with the tables of all results."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    return between(text, *MARKS, "\n".join(table(results) for results in found))


def measure_all(given: Any) -> None:
    """Add the missing rows to the results."""
    torch.set_num_threads(given.threads)
    name = Path(given.network).name.rpartition(":")[2]
    out = given.out or RESULTS / f"{name}.json"
    known: Any = read_json(out) or {"rows": []}
    for row in measured(Bench(given), known["rows"]):
        known["rows"].append(row)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {"name": name, "environment": environment("openvino", "torch_pruning"), **known})
        print(json.dumps(row, ensure_ascii=False), flush=True)


def main() -> None:
    given = parse()
    make(given, lambda: measure_all(given), PAGE, page)


if __name__ == "__main__":
    main()
