"""The command that fine-tunes a trained network as an octave one: `octavize adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from octavize.cli import options as o
from octavize.cli import trained as t
from octavize.cli.telling import Answer
from octavize.errors import InputError


def adapt(
    model: t.Model,
    *,
    out: Annotated[Path, o.runs("--out", "-o", help="Folder to write to.")],
    network: t.SourceOptions,
    mean: t.Mean = None,
    std: t.Std = None,
    alpha: t.Share = None,
    budget: t.Budget = None,
    downsample: t.Downsample = None,
    exchange: o.ExchangeName = None,
    min_low: t.MinLow = None,
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
    t.check_ways(alpha, budget, downsample, exchange)
    t.check_statistics(mean, std)
    source = t.normalized(network.find(model), mean, std)
    # A function may have loaded its own weights; for everything else there is nothing to adapt without them.
    if source.weights == "as built" and source.origin.kind != "function":
        raise InputError(f"model {model} has no trained weights: give --weights FILE or --pretrained")
    before = read_recipe(source.recipe) if source.recipe and not recipe else load_recipe(recipe or "quick")
    chosen = fine_tuning_recipe(before, source.origin.name, seed, training.overrides())
    how = Adaptation(
        alpha=0.5 if alpha is None and budget is None else alpha,
        budget=budget,
        downsample=downsample or t.FOR_TRAINED,  # pyright: ignore[reportArgumentType]  (Adaptation checks it)
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
