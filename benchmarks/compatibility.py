"""Which networks of public collections work: converted, trained, frozen, exported.

    python benchmarks/compatibility.py                     # all that are missing, then docs/compatibility.md
    python benchmarks/compatibility.py --only timm:dla     # measure again what begins so
    python benchmarks/compatibility.py --tables | --check

One network of each file of torchvision's `models`, segmentation-models-pytorch (every decoder on a
ResNet-18), efficientnet-pytorch and timm: the smallest of the file, with random weights, α = 0.5, each in a
process of its own, on images of 96 or 64 pixels where it takes them. A run that was stopped goes on with what
is missing. What is tried, one after the other:

- convert: a plan is made, and layers become octave; or the plan says why none does;
- gradients: each parameter that gets one in the vanilla network gets a finite one in the octave network;
- freeze: the frozen network computes the same to 1e-3 of the largest output;
- export: the same for ONNX, whose file ONNX Runtime runs with another batch.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from octavize.bench.environment import environment
from octavize.convert.inputs import Inputs, inputs_of
from octavize.convert.octavize import octavize
from octavize.convert.planner import plan
from octavize.convert.trace import example_shape, runs, to_meta
from octavize.errors import one_line, shortened
from octavize.files import read_json, write_json
from octavize.nn._torch_internals import tree_leaves
from octavize.text import Table

ROOT = Path(__file__).resolve().parent.parent
DATA, PAGE = ROOT / "docs/results/compatibility.json", ROOT / "docs/compatibility.md"
ALPHA = 0.5
SECONDS = 600
"""After which a network is given up."""
SIZES = (96, 64)
"""Pixels of the images, the first that a network takes; else those that it is made for."""
SHAPES = {
    **dict.fromkeys(("mvit_v2_s", "s3d"), (1, 3, 16, 224, 224)),
    **dict.fromkeys(("inception_v3", "quantized_inception_v3"), (1, 3, 299, 299)),
}
"""Of networks that take neither, nor what octavize derives from them."""
PAIRS = {"raft_small": (1, 3, 128, 128)}
"""Of networks that take two images."""
STAGES = ("convert", "gradients", "freeze", "export")
NONE = "no layer becomes octave"
Row = dict[str, Any]


# ---- collections ------------------------------------------------------------------------------------------


def files() -> dict[str, list[str]]:
    """The networks of each `collection:file`."""
    import efficientnet_pytorch  # noqa: F401  (says that it is missing before hours of work)
    import segmentation_models_pytorch as smp
    from timm.models import list_models, list_modules
    from torchvision import models as zoo

    found: dict[str, list[str]] = {}
    for name in zoo.list_models():
        file = zoo.get_model_builder(name).__module__.removeprefix("torchvision.models.")
        found.setdefault(f"torchvision:{file}", []).append(name)
    for name, kind in vars(smp).items():
        if inspect.isclass(kind) and issubclass(kind, nn.Module):
            found[f"smp:{name.lower()}"] = [name]
    found["efficientnet_pytorch:model"] = ["efficientnet-b0"]
    found |= {f"timm:{module}": list_models(module=module) for module in sorted(list_modules())}
    return {file: networks for file, networks in found.items() if networks}


def _parameters(name: str) -> int:
    """Of `collection:file:network`, which orders the networks of a file by size."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build(name).parameters())
    except Exception:  # some cannot be built without values: take another of the file
        return sys.maxsize


def build(name: str) -> nn.Module:
    """The network with random weights."""
    collection, _, rest = name.partition(":")
    model = rest.partition(":")[2]
    if collection == "timm":
        import timm

        return timm.create_model(model)
    if collection == "torchvision":
        from torchvision import models as zoo

        builder = zoo.get_model_builder(model)
        known = inspect.signature(builder).parameters
        return builder(**{key: None for key in ("weights", "weights_backbone") if key in known})
    if collection == "smp":
        import segmentation_models_pytorch as smp

        # DPT takes vision transformers alone: this one has a ResNet for a stem.
        encoder = "tu-vit_base_r50_s16_224.orig_in21k" if model == "DPT" else "resnet18"
        return getattr(smp, model)(encoder, encoder_weights=None)
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name(model)


# ---- one network ------------------------------------------------------------------------------------------


def tried(name: str) -> Row:
    """How far a network comes: of each stage "yes", or why not; the others need the first."""
    torch.manual_seed(0)
    row: Row = {"name": name}
    try:
        model = build(name).eval()
        network = name.rpartition(":")[2]
        pair = PAIRS.get(network)
        given = None if pair is None else Inputs((torch.randn(pair), torch.randn(pair)))
        given = given or SHAPES.get(network) or example(model)
        made = plan(model, ALPHA, example=given)
    except Exception as error:
        none = "has no convolution" in str(error)
        return row | {"convert": f"{NONE} (it has no convolution)" if none else one_line(error, kind=True)}
    layers = [d for d in made.decisions if d.alpha is not None]
    row |= {"layers": len(made.decisions), "octave": sum(bool(d.alpha) for d in layers)}
    row |= {"size": list(made.input_shape), "macs": made.macs_ratio, "fallbacks": dict(made.fallbacks or {})}
    row["unhandled"] = dict(Counter(d.kind for d in made.decisions if "@oct_handler" in d.reason))
    if made.macs_after == made.macs_before:
        row["octave"] = 0  # some have an α, and too few channels for it
        reasons = dict.fromkeys(d.reason.partition(":")[0] for d in made.decisions)
        return row | {"convert": f"{NONE} ({', '.join(reasons)})"}
    row["convert"] = "yes"
    octave = octavize(model, made)
    given = given or tuple(made.input_shape)
    stages: dict[str, Callable[[], str]] = {
        "gradients": lambda: gradients(model, octave, given),
        "freeze": lambda: frozen(octave, given),
        "export": lambda: exported(octave, given),
    }
    return row | {stage: _or_why_not(run) for stage, run in stages.items()}


def example(model: nn.Module) -> tuple[int, ...] | None:
    """The shape of a small image that the network takes; None if it takes none of `SIZES`."""
    shape = example_shape(model)
    smaller = [(*shape[:2], size, size) for size in SIZES if len(shape) == 4]
    return next((given for given in smaller if runs(model, given) and _trains(model, given)), None)


def _trains(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        to_meta(model).train()(torch.empty(2, *shape[1:], device="meta"))
    except Exception:  # such as that of an auxiliary classifier, whose maps become too small
        return False
    return True


def _or_why_not(run: Callable[[], str]) -> str:
    try:
        return run()
    except Exception as error:
        return one_line(error, kind=True)


def images(given: Inputs | tuple[int, ...], batch: int | None = None) -> Inputs:
    """Noise, a batch of so many, or as many as the example has."""
    inputs = inputs_of(given, "cpu", torch.float32)
    return inputs.rows(torch.arange(batch or inputs.batch) % inputs.batch).noisy()


def gradients(vanilla: nn.Module, octave: nn.Module, given: Inputs | tuple[int, ...]) -> str:
    """Whether the same parameters get a gradient, and a finite one."""
    found = {}
    for kind, model in (("vanilla", vanilla), ("octave", octave)):
        outputs = images(given, 2).call(model.train())
        sum(z.square().mean() for z in _tensors(outputs) if z.requires_grad).backward()  # pyright: ignore
        grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        bad = [key for key, g in grads.items() if not g.isfinite().all()]
        if bad and kind == "octave":
            return f"the gradient of {bad[0]} is not finite"
        found[kind] = set(grads)
        model.zero_grad(set_to_none=True)
        model.eval()
    lost = sorted(found["vanilla"] - found["octave"])
    return f"no gradient for {len(lost)}, such as {lost[0]}" if lost else "yes"


def frozen(octave: nn.Module, given: Inputs | tuple[int, ...]) -> str:
    """Whether the frozen network computes the same."""
    from octavize import freeze

    x = images(given)
    with torch.no_grad():
        pairs = zip(_tensors(x.call(octave)), _tensors(x.call(freeze(octave, given))), strict=True)
        off = max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs)
    return "yes" if off < 1e-3 else f"off by {off:.1e} of the largest output"


def exported(octave: nn.Module, given: Inputs | tuple[int, ...]) -> str:
    """Whether the ONNX file computes the same, which `export` checks, and another batch, too."""
    from octavize import export, load_runtime

    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        model = First(octave).eval()
        export(model, path, given)
        x = images(given, 3)
        with torch.no_grad():
            wanted = x.call(model)
        found = torch.as_tensor(load_runtime(path)(*x.tensors))
        off = float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-12))
    return "yes" if off < 1e-3 else f"batch 3: off by {off:.1e} of the largest output"


class First(nn.Module):
    """A network's first output alone: files have one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *images: Tensor) -> Tensor:
        return _tensors(self.net(*images))[0]


def _tensors(outputs: Any) -> list[Any]:
    return [z for z in tree_leaves(outputs) if isinstance(z, Tensor) and z.is_floating_point()]


# ---- the page ---------------------------------------------------------------------------------------------

HEAD = """# Compatibility

<!-- Written by `python benchmarks/compatibility.py` from docs/results/compatibility.json. -->

One network of each file of public model collections, converted at α = 0.5 without a change to its code.
{tried} of {files} files are tried. "yes" means: layers become octave; the same parameters get a
gradient as in the vanilla network; frozen, and exported to ONNX with a free batch, it computes the same.
Networks without a convolution to make octave are counted apart.

{versions}.
"""


def page(results: Any) -> str:
    """docs/compatibility.md."""
    rows: list[Row] = results["rows"]
    versions = ", ".join(f"{key} {value}" for key, value in results["versions"].items())
    parts = [HEAD.format(versions=versions, tried=len(rows), files=results["files"])]
    collections = list(dict.fromkeys(row["name"].partition(":")[0] for row in rows))
    head = ("collection", "files", "nothing to convert", *STAGES, "without dense fallback")
    lines = []
    for collection in collections:
        own = [row for row in rows if row["name"].startswith(f"{collection}:")]
        none = [row for row in own if row["convert"].startswith(NONE)]
        rest = [row for row in own if row not in none]
        yes = [f"{sum(row.get(stage) == 'yes' for row in rest)} / {len(rest)}" for stage in STAGES]
        clean = sum(row["convert"] == "yes" and not row["fallbacks"] for row in rest)
        lines.append((collection, str(len(own)), str(len(none)), *yes, f"{clean} / {len(rest)}"))
    parts.append(Table(head, lines, align="lr").markdown())
    bad = [
        (row["name"], stage, _why(row[stage]))
        for row in rows
        for stage in STAGES
        if row.get(stage, "yes") != "yes" and not row[stage].startswith(NONE)
    ]
    parts.append("## What does not")
    parts.append(Table(("network", "stage", "why"), bad, align="lll").markdown() if bad else "Nothing.")
    dense = [
        (r["name"], ", ".join(f"{k} {n}" for k, n in r["fallbacks"].items()))
        for r in rows
        if r.get("fallbacks")
    ]
    if dense:
        parts += ["## Dense fallbacks", Table(("network", "calls a forward"), dense, align="ll").markdown()]
    kinds = [
        (r["name"], ", ".join(f"{k} {n}" for k, n in r["unhandled"].items()))
        for r in rows
        if r.get("unhandled")
    ]
    if kinds:
        parts += ["## Layers that stay vanilla for want of a handler"]
        parts += [Table(("network", "layers of a kind"), kinds, align="ll").markdown()]
    none = [(row["name"], row["convert"]) for row in rows if row["convert"].startswith(NONE)]
    parts += ["## Nothing to convert", Table(("network", "why"), none, align="ll").markdown()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _why(told: str) -> str:
    """The reason and the remedy in a message; without them its beginning."""
    reason = told.partition("does not run on an input of shape ")[2].partition("): ")[2]
    return re.split(r" \(\w*(?:Error|Exception)", reason)[0] if reason else shortened(told)


def one_in_its_process(name: str) -> Row:
    """`tried`, where neither a crash nor an endless run stops the others."""
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return {"name": name, "convert": f"not done after {SECONDS} seconds"}
    if done.returncode:
        last = (done.stderr.strip() or "killed").splitlines()[-1]
        return {"name": name, "convert": f"the process ended with {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(only: list[str]) -> None:
    """Try what is missing, or begins with one of `only`."""
    known: dict[str, Row] = {row["name"]: row for row in (read_json(DATA) or {"rows": []})["rows"]}
    packages = ("timm", "torchvision", "segmentation_models_pytorch", "efficientnet_pytorch", "onnxruntime")
    where = environment(*packages)
    versions = {key: where[key] for key in ("octavize", "torch", *packages) if key in where}
    every = files()
    chosen = {name.rpartition(":")[0]: name for name in known}
    for file, networks in every.items():
        name = chosen.get(file) or min((f"{file}:{network}" for network in networks), key=_parameters)
        if name in known and not any(name.startswith(prefix) for prefix in only):
            continue
        known[name] = one_in_its_process(name)
        write_json(DATA, {"versions": versions, "files": len(every), "rows": list(known.values())})
        print(json.dumps(known[name], ensure_ascii=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="PREFIX")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--tables", action="store_true", help="only write the page")
    parser.add_argument("--check", action="store_true", help="only compare the page with the results")
    given = parser.parse_args()
    if given.one:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        print(json.dumps(tried(given.one), ensure_ascii=False))
        return
    if given.check:
        if PAGE.read_text("utf-8") != page(read_json(DATA)):
            sys.exit(
                "docs/compatibility.md does not say what its results say: run benchmarks/compatibility.py"
            )
        return
    if not given.tables:
        measure(given.only)
    PAGE.write_text(page(read_json(DATA)), "utf-8")


if __name__ == "__main__":
    main()
