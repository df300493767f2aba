"""The commands for networks that are trained already: `octavize convert` and `octavize adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavize.cli import options as o
from octavize.cli import paddle as cli_paddle
from octavize.cli.answers import check_octave, converted
from octavize.cli.telling import Answer
from octavize.deploy.formats import timed_formats
from octavize.errors import InputError
from octavize.files import check_folder
from octavize.plans.exchanging import check_exchange_policy
from octavize.plans.geometry import check_downsample
from octavize.plans.plan import check_budget
from octavize.split import check_alpha

if TYPE_CHECKING:
    from torch import Tensor, nn

    from octavize.calibration.refitting import Refitting
    from octavize.deploy.images import Found
    from octavize.plans.plan import Plan
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


def convert(
    model: Model,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the octave network.")],
    network: SourceOptions,
    size: Annotated[
        int | None, o.network(help="Side of the input in pixels; by default the network's own.", min=1)
    ] = None,
    mean: Mean = None,
    std: Std = None,
    alpha: Share = None,
    budget: Budget = None,
    target: Annotated[
        str | None,
        o.conversion(
            help=f"Beside --budget: where it shall be fast: {', '.join(timed_formats())} or compile. α is "
            "chosen by stage, from times measured on this machine; takes minutes.",
            metavar="RUNTIME",
        ),
    ] = None,
    downsample: Downsample = None,
    exchange: o.ExchangeName = None,
    min_low: MinLow = None,
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
    _check_ways(alpha, budget, downsample, exchange)
    _check_statistics(mean, std)
    if cli_paddle.is_paddle(backend):
        cli_paddle.refuse({"--target": target}, "times are measured on networks of torch")
        refitting = {"--refit": refit, "--refit-images": refit_images, "--refit-epochs": refit_epochs}
        cli_paddle.refuse(refitting, "layers are calibrated and refitted in torch")
        return cli_paddle.convert(
            model, out, asdict(network), size=size, mean=mean, std=std, alpha=alpha, budget=budget, plan=plan,
            exchange=exchange, downsample=downsample or FOR_TRAINED, min_low=min_low,
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

    source = _normalized(network.find(model), mean, std)
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


def _normalized(source: Vanilla, mean: list[float] | None, std: list[float] | None) -> Vanilla:
    """The network, whose images are normalized as the options say where they say anything."""
    given = {name: value for name, value in (("mean", mean), ("std", std)) if value}
    return replace(source, facts={**source.facts, **given})


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
        "downsample": downsample or FOR_TRAINED,
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


def _check_ways(
    alpha: float | None, budget: float | None, downsample: str | None, exchange: str | None
) -> None:
    """Check what can be checked before a network is built, which takes seconds."""
    for value, check in ((alpha, check_alpha), (budget, check_budget), (downsample, check_downsample)):
        if value is not None:
            check(value)  # pyright: ignore[reportArgumentType]
    if exchange is not None:
        check_exchange_policy(exchange)


def _check_statistics(mean: list[float] | None, std: list[float] | None) -> None:
    """Check what is known of the images before anything is written that would be read with it."""
    if bool(mean) != bool(std):
        given, other = ("--mean", "--std") if mean else ("--std", "--mean")
        raise InputError(f"{given} is given without {other}: give both")
    if mean and std:
        from octavize.data.normalize import check_statistics

        check_statistics(mean, std, len(mean))


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


def adapt(
    model: Model,
    *,
    out: Annotated[Path, o.runs("--out", "-o", help="Folder to write to.")],
    network: SourceOptions,
    mean: Mean = None,
    std: Std = None,
    alpha: Share = None,
    budget: Budget = None,
    downsample: Downsample = None,
    exchange: o.ExchangeName = None,
    min_low: MinLow = None,
    calibrate: Annotated[
        bool,
        o.conversion(
            "--calibrate/--arbitrary",
            help="Choose on training images which channels become low, or take the last ones.",
        ),
    ] = True,
    distil: Annotated[
        float | None, o.conversion(help="Weight of the teacher in the loss, 0 to 1. \\[default: 0.5]")
    ] = None,
    no_distil: Annotated[bool, o.conversion("--no-distil", help="Train on the labels alone.")] = False,
    temperature: Annotated[float, o.conversion(help="Softens the teacher's answers.")] = 2.0,
    norm_images: Annotated[
        int, o.conversion(help="Images on which batch norm is measured anew; 0 for not at all.", min=0)
    ] = 4096,
    refit_images: Annotated[
        int,
        o.conversion(
            help="Refit all layers on so many training images, instead of measuring batch norm: 200 keep "
            "much more where α is small or the network narrow, and take minutes; 0 for not at all.",
            min=0,
        ),
    ] = 0,
    seed: Annotated[int, o.runs(help="Of order and augmentation.", min=0)] = 0,
    recipe: Annotated[
        str | None,
        o.runs(
            "--recipe",
            "-r",
            help="quick, article, cifar, or a YAML file; by default that of the run, else quick.",
        ),
    ] = None,
    restart: o.Restart = False,
    training: o.TrainingOptions,
    machine: o.MachineOptions,
) -> Answer:
    """Make a trained network octave and bring its accuracy back.

    The network is converted, its batch norms are measured anew on training images (or all its layers
    refitted), and it is fine-tuned with its vanilla self as the teacher. Data and settings are those of the
    run that trained it, unless given; fine-tuning takes 3 epochs at a fifth of its learning rate. The folder
    gets the octave network, and results.json, results.csv and a figure with the accuracy at every stage. Call
    it again after an interruption and it goes on from the last finished epoch.

    [bold]Examples[/bold]

    [cyan]octavize adapt runs/oct_cifar_resnet20 --alpha 0.25 --out octave-r20[/cyan]

    [cyan]octavize adapt resnet18 --weights flowers.pth --num-classes 17 --data folder --data-dir ~/flowers
    --size 224 --out octave[/cyan]

    [cyan]octavize adapt mynets:build --weights mine.pth --data cifar10 --budget 0.6 --out octave[/cyan]
    """
    o.require_experiment()
    from octavize.training.adapt import adapt as run
    from octavize.training.adapt import fine_tuning_recipe
    from octavize.training.adapt_report import table
    from octavize.training.prepare import Adaptation
    from octavize.training.recipe import load_recipe, read_recipe

    if no_distil and distil is not None:
        raise InputError(f"--distil {distil:g} and --no-distil are both given: choose one")
    _check_ways(alpha, budget, downsample, exchange)
    _check_statistics(mean, std)
    source = _normalized(network.find(model), mean, std)
    # A function may have loaded its own weights; for everything else there is nothing to adapt without them.
    if source.weights == "as built" and source.origin.kind != "function":
        raise InputError(f"model {model} has no trained weights: give --weights FILE or --pretrained")
    before = read_recipe(source.recipe) if source.recipe and not recipe else load_recipe(recipe or "quick")
    chosen = fine_tuning_recipe(before, source.origin.name, seed, training.overrides())
    how = Adaptation(
        alpha=0.5 if alpha is None and budget is None else alpha,
        budget=budget,
        downsample=downsample or FOR_TRAINED,  # pyright: ignore[reportArgumentType]  (Adaptation checks it)
        exchange=exchange,
        min_low=min_low,
        calibrate=calibrate,
        distil=0.0 if no_distil else 0.5 if distil is None else distil,
        temperature=temperature,
        norm_images=norm_images,
        refit_images=refit_images,
    )
    results = run(
        source, chosen, how, out, data_dir=training.data_dir, hardware=machine.hardware(), restart=restart
    )
    if not results:  # another process of the same training answers
        return Answer({}, [])
    text = f"network: {out}, read by octavize.load_converted"
    return Answer({**results, "folder": str(out)}, [table(results), text])
