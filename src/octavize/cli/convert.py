"""The command for networks that are trained already: `octavize convert`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavize.cli import options as o
from octavize.cli import paddle as cli_paddle
from octavize.cli import trained as t
from octavize.cli.answers import check_octave, converted
from octavize.cli.telling import Answer
from octavize.deploy.formats import timed_formats
from octavize.errors import InputError
from octavize.files import check_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from octavize.calibration.refitting import Refitting
    from octavize.deploy.images import Found
    from octavize.plans.plan import Plan
    from octavize.zoo.find import Vanilla


def convert(
    model: t.Model,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the octave network.")],
    network: t.SourceOptions,
    size: Annotated[
        int | None, o.network(help="Side of the input in pixels; by default the network's own.", min=1)
    ] = None,
    mean: t.Mean = None,
    std: t.Std = None,
    alpha: t.Share = None,
    budget: t.Budget = None,
    target: Annotated[
        str | None,
        o.conversion(
            help=f"Beside --budget: where it shall be fast: {', '.join(timed_formats())} or compile. α is "
            "chosen by stage, from times measured on this machine; takes minutes.",
            metavar="RUNTIME",
        ),
    ] = None,
    downsample: t.Downsample = None,
    exchange: o.ExchangeName = None,
    min_low: t.MinLow = None,
    plan: Annotated[
        Path | None,
        o.conversion(
            help="A plan.yaml to follow instead of --alpha; it has --size, --downsample, --exchange and "
            "--min-low."
        ),
    ] = None,
    refit: Annotated[
        Path | None,
        o.conversion(
            help="Folder of images of the kind that the network is for, without labels: on them its low "
            "channels are chosen (unless --plan says which), and its layers refitted. Takes minutes.",
            metavar="FOLDER",
        ),
    ] = None,
    refit_images: Annotated[
        int | None, o.conversion(help="How many of them to use. \\[default: 200]", min=2, metavar="N")
    ] = None,
    refit_epochs: Annotated[
        int | None,
        o.conversion(
            help="Passes over them with gradients, against the vanilla network's outputs, after the closed "
            "form. \\[default: 4]",
            min=0,
            metavar="N",
        ),
    ] = None,
    backend: o.Backend = "torch",
) -> Answer:
    """Make a network octave and write it to a folder.

    The folder gets plan.yaml, weights.safetensors and network.json; octavize.load_converted reads it. The
    weights are those of the vanilla network, with which the octave one loses accuracy. `--refit` brings much
    of it back without labels, `octavize adapt` more by training.

    With `--backend paddle` the network is one of paddle.vision.models, or what module:function returns, and
    octavize.paddle.load_converted reads the folder. Weights are .pdparams or .safetensors.

    [bold]Examples[/bold]

    [cyan]octavize convert resnet50 --pretrained --alpha 0.25 --out octave-r50[/cyan]

    [cyan]octavize convert timm:regnety_008 --weights flowers.pth --num-classes 17 --out octave[/cyan]

    [cyan]octavize convert mynets:build --weights mine.safetensors --size 96 --out octave[/cyan]

    [cyan]octavize convert resnet50 --pretrained --plan octave-r50/plan.yaml --out again[/cyan]

    [cyan]octavize convert resnet50 --pretrained --budget 0.75 --target openvino --out fast-r50[/cyan]

    [cyan]octavize convert resnet50 --pretrained --alpha 0.125 --refit photos --out kept-r50[/cyan]

    [cyan]octavize convert resnet50 --backend paddle --alpha 0.5 --out octave-r50[/cyan]
    """
    others = {"--size": size, "--downsample": downsample, "--exchange": exchange, "--min-low": min_low}
    _check_plan_alone(plan, alpha, budget, others)
    if target is not None and budget is None:
        raise InputError(f"--target is {target} without a --budget: give one, such as --budget 0.6")
    check_folder(out)
    t.check_ways(alpha, budget, downsample, exchange)
    t.check_statistics(mean, std)
    if cli_paddle.is_paddle(backend):
        cli_paddle.refuse({"--target": target}, "times are measured on networks of torch")
        refitting = {"--refit": refit, "--refit-images": refit_images, "--refit-epochs": refit_epochs}
        cli_paddle.refuse(refitting, "layers are calibrated and refitted in torch")
        return cli_paddle.convert(
            model, out, asdict(network), size=size, mean=mean, std=std, alpha=alpha, budget=budget, plan=plan,
            exchange=exchange, downsample=downsample or t.FOR_TRAINED, min_low=min_low,
        )  # fmt: skip
    for option, value in {"--refit-images": refit_images, "--refit-epochs": refit_epochs}.items():
        if refit is None and value is not None:
            raise InputError(f"{option} is {value} without --refit: give the folder of the images")
    if refit is not None and alpha == 0:
        raise InputError("--refit is given and --alpha is 0, which makes no layer octave: give another")
    from octavize.deploy.images import find_images
    from octavize.plans.plan import Plan as PlanFile

    found = None if refit is None else find_images(refit, None, None)
    known = None if plan is None else PlanFile.load(plan)
    from octavize.calibration.calibrate import calibrate
    from octavize.convert.octavize import octavize
    from octavize.zoo.storage import save_converted

    source = t.normalized(network.find(model), mean, std)
    decided = known or _planned(source, size, alpha, budget, target, downsample, exchange, min_low)
    check_octave(model, decided, alpha)
    images = None if found is None else _images(found, refit_images, decided, source.facts)
    if images is not None and plan is None:
        decided = calibrate(source.model, images, plan=decided)
    net = octavize(source.model, decided, inplace=True)
    refitted = None if images is None else _refit(net, images, refit_epochs)
    facts = {"size": decided.input_shape[-1], "in_chans": decided.input_shape[1], **source.facts}
    save_converted(out, net, decided, source.origin, facts)
    return converted(decided, source.weights, out, refitted)


def _check_plan_alone(
    plan: Path | None, alpha: float | None, budget: float | None, others: Mapping[str, object]
) -> None:
    if sum(given is not None for given in (plan, alpha, budget)) > 1:
        raise InputError("two of --plan, --alpha and --budget are given: choose one")
    for option, given in others.items():
        if plan is not None and given is not None:
            raise InputError(
                f"{option} is {given} and --plan {plan} is given, which has its own: leave one out"
            )


def _planned(
    source: Vanilla,
    size: int | None,
    alpha: float | None,
    budget: float | None,
    target: str | None,
    downsample: str | None,
    exchange: str | None,
    min_low: int | None,
) -> Plan:
    """What becomes of which layer, by these options."""
    from octavize.convert.planner import plan as make_plan
    from octavize.convert.trace import image_shape

    side = size or source.facts.get("size")
    ways: dict[str, Any] = {
        "downsample": downsample or t.FOR_TRAINED,
        "exchange": source.origin.exchange(exchange),
        "min_low": min_low,
        "example": None if side is None else image_shape(source.model, side),
    }
    if budget is None:
        return make_plan(source.model, source.origin.alpha(0.5 if alpha is None else alpha), **ways)
    if target is None:
        return make_plan(source.model, budget=budget, **ways)
    from octavize.bench.tune import tune

    return tune(source.model, budget, target, **ways)


def _images(found: Found, count: int | None, decided: Plan, facts: Mapping[str, Any]) -> list[Tensor]:
    """Some of a folder's images, evenly spaced, as input of the network.

    Raises:
        InputError: there is one only, or it is not known how they are normalized.
    """
    import torch

    from octavize.calibration.refit import MAX_IMAGES
    from octavize.deploy.images import batches, spread_out

    if facts.get("normalize", True) and not (facts.get("mean") and facts.get("std")):
        raise InputError(
            "--refit is given, and how the network's images are normalized is not known: give --mean and "
            "--std"
        )
    paths = spread_out(found, count or MAX_IMAGES)[0].paths
    if len(paths) < 2:
        raise InputError(f"--refit is given a single image, {paths[0]}: give 2, better 100 or more")
    prepared = batches(paths, {**facts, "input_shape": decided.input_shape})
    return [torch.from_numpy(images) for images in prepared]


def _refit(net: nn.Module, images: list[Tensor], epochs: int | None) -> Refitting:
    from octavize.calibration.refit import EPOCHS, refit

    epochs, count = EPOCHS if epochs is None else epochs, sum(map(len, images))
    return refit(net, images, epochs=epochs, max_images=count)
