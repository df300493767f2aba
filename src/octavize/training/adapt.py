"""Give a trained network octaves: convert it, refit it or measure its norms anew, fine-tune it.

asked.json            what was asked for; the folder belongs to it
plan.yaml, weights.safetensors, network.json
                      the octave network, see `converted`; after training its best epoch
vanilla.json          accuracy of the vanilla network
stages.json           accuracy after conversion, and after refitting or measuring the norms anew
training/             as a run of `train`: metrics.csv, last.ckpt, best.safetensors, TensorBoard
results.json, results.csv, accuracy.svg, accuracy.png
                      written last
train.lock            held while a command trains here: a second one is refused
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octavize.convert.order import order_of
from octavize.data.images import Images
from octavize.files import NETWORK, PLAN, WEIGHTS, completed, json_text, read_json, write_json
from octavize.training.adapt_report import stage_name, write_report
from octavize.training.distil import Distiller, EpochTests
from octavize.training.folder import claimed, is_first_process
from octavize.training.hardware import HERE, Hardware, check_hardware, lent
from octavize.training.journal import Journal
from octavize.training.module import check_optimizer
from octavize.training.prepare import (
    STAGES,
    Adaptation,
    Stage,
    as_trained,
    check_fits,
    evaluate,
    input_facts,
    prepare_in,
    with_facts,
)
from octavize.training.recipe import Recipe
from octavize.training.runs import Run, describe_data, fingerprint, teller
from octavize.training.train import fit_and_test, load_images
from octavize.zoo.find import Vanilla
from octavize.zoo.storage import save_converted

logger = logging.getLogger(__name__)
ASKED, VANILLA, RESULTS, TRAINING = "asked.json", "vanilla.json", "results.json", "training"
OUTPUTS = (
    *(ASKED, VANILLA, STAGES, RESULTS, TRAINING, PLAN, WEIGHTS, NETWORK),
    *("results.csv", "accuracy.svg", "accuracy.png"),
)
"""What `adapt` writes, and --restart removes."""
FINE_TUNING = {"epochs": 3, "schedule": "cosine", "warmup_epochs": 0.25}
"""Settings in which fine-tuning differs from training, where the user gives none."""
LR_SHARE = 0.2
"""The peak learning rate of fine-tuning, as a share of that which trained the network."""


def fine_tuning_recipe(recipe: Recipe, name: str, seed: int, given: dict[str, Any]) -> Recipe:
    """The recipe that trained a network, made one that fine-tunes it.

    Args:
        name: of the network, which picks settings given by pattern.
        given: settings of the user's own; None where not given.

    Raises:
        InputError: a setting that recipes do not have, or a value out of range.
    """
    adapted = {**FINE_TUNING, "lr": LR_SHARE * recipe.lr_of(name), "batch_size": recipe.batch_size_of(name)}
    chosen = {k: v for k, v in given.items() if v is not None}
    lists = {"models": (name,), "alphas": (0.0,), "seeds": (seed,), "model_arguments": {}}
    return replace(recipe, **{**adapted, **chosen, **lists})


def adapt(
    source: Vanilla,
    recipe: Recipe,
    adaptation: Adaptation,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    hardware: Hardware = HERE,
    restart: bool = False,
) -> dict[str, Any]:
    """Convert and adapt a trained network, and report its accuracy at every stage.

    Called again on the same folder it goes on from the last finished epoch.

    Args:
        source: the trained vanilla network; it is the teacher too.
        recipe: of `fine_tuning_recipe`, with one model and one seed.
        out: folder to write to.
        data_dir: where the images lie, for the data sets that need it.
        restart: forget what `out` holds.

    Returns:
        What `results.json` holds.

    Raises:
        InputError: a setting is wrong, the data does not fit the network, or `out` holds something else.
    """
    out = Path(out)
    check_optimizer(recipe.optimizer)
    check_hardware(hardware, recipe.precision)
    recipe = with_facts(recipe, source.facts)
    images = as_trained(load_images(recipe, data_dir), source.facts)
    check_fits(source.model, recipe, images)
    asked = _asked(source, recipe, adaptation, images)
    with claimed(out / ASKED, json_text(asked), lambda path: _changed(path, asked), OUTPUTS, restart):
        if (known := read_json(out / RESULTS)) is not None:
            return known
        logger.info("converting")
        with lent(hardware):
            before = _vanilla_stage(source, recipe, images, out, hardware)
            prepared = prepare_in(out, source, adaptation, recipe, images, hardware)
        stages = [before, *prepared.stages]
        for stage in stages:
            logger.info(f"  {stage_name(stage):<20} test {stage['test_accuracy']:.2%}")
        folder = out / TRAINING
        fine = fine_tune(prepared.model, source.model, recipe, adaptation, images, folder, hardware)
        if not is_first_process():
            return {}
        trained = fine.pop("model")
        if fine["val_accuracy"] > stages[-1]["val_accuracy"]:
            save_converted(out, trained, prepared.plan, source.origin, input_facts(source, recipe, images))
        else:  # fine-tuning made it no better: the folder keeps what it started from
            measured = ("test_accuracy", "test_loss", "val_accuracy")
            fine |= {k: stages[-1][k] for k in measured} | {"best_epoch": 0}
        plan = prepared.plan
        results = {
            **asked,
            "input_shape": list(plan.input_shape),
            "macs_before": plan.macs_before,
            "macs_after": plan.macs_after,
            **fine,
            "stages": [*stages, *fine["stages"]],
        }
        write_report(results, out)
        write_json(out / RESULTS, results)
        (folder / "last.ckpt").unlink(missing_ok=True)
        return results


def fine_tune(
    model: nn.Module,
    teacher: nn.Module,
    recipe: Recipe,
    adaptation: Adaptation,
    images: Images,
    folder: Path,
    hardware: Hardware = HERE,
    *,
    every_epoch: bool = True,
) -> dict[str, Any]:
    """Train a prepared network, going on from the last finished epoch if the folder holds one.

    Args:
        every_epoch: read the test images after each epoch, for the curve.

    Returns:
        The `model` with its best weights, `stages` of the epochs, and what `fit_and_test` returns.
    """
    name, seed = recipe.models[0], recipe.seeds[0]
    distil = {"teacher": teacher, "weight": adaptation.distil, "temperature": adaptation.temperature}
    module = Distiller(model, images, recipe, name, seed, **distil)
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "model": name,
        "seed": seed,
        "adaptation": asdict(adaptation),
        "recipe": fingerprint(recipe, Run(name, adaptation.alpha or 0.0, seed)),
        "data": describe_data(images),
    }
    facts = {**identity, "order": order_of(model)}  # training does not move channels
    journal = Journal(folder, identity, facts, teller(recipe.epochs_of(name)))
    tests = EpochTests()
    with lent(hardware):
        torch.manual_seed(seed)
        found = fit_and_test(module, journal, hardware, [tests] if every_epoch else [])
    stages: list[Stage] = [
        {"stage": "epoch", **test, "epoch": int(row["epoch"]), "val_accuracy": row["val_accuracy"]}
        for row, test in zip(journal.rows, tests.rows, strict=every_epoch)
    ]
    return {"model": module.model.cpu(), "stages": stages, **found}


def _vanilla_stage(source: Vanilla, recipe: Recipe, images: Images, out: Path, hardware: Hardware) -> Stage:
    """Accuracy of the network as it came, measured once."""
    known = read_json(out / VANILLA)
    if known is not None:
        return known
    stage = evaluate(source.model, recipe, images, hardware, "vanilla")
    if is_first_process():
        write_json(out / VANILLA, stage)
    return stage


def _asked(source: Vanilla, recipe: Recipe, adaptation: Adaptation, images: Images) -> dict[str, Any]:
    """All that decides the result, as JSON reads it back."""
    asked = {
        "origin": asdict(source.origin),
        "source": source.weights,
        "adaptation": asdict(adaptation),
        "recipe": recipe.as_dict(),
        "data": describe_data(images),
    }
    return json.loads(json.dumps(asked))


def _changed(path: Path, asked: dict[str, Any]) -> str:
    """What makes a folder another adaptation's; nothing where it is this one's."""
    old = completed({"data": {}, **(read_json(path) or {})}, asked)
    changed = [key for key in asked if old.get(key) != asked[key]]
    return f"the folder of another adaptation (other {', '.join(changed)})" if changed else ""
