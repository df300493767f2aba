"""From a trained vanilla network to an octave network that is ready to be fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from octavize.calibration.calibrate import calibrate
from octavize.calibration.refit import refit
from octavize.convert.norms import reestimate_norms
from octavize.convert.octavize import octavize
from octavize.convert.planner import plan as make_plan
from octavize.convert.trace import copied, to_meta
from octavize.data.images import Images
from octavize.data.normalize import check_statistics
from octavize.errors import InputError, one_line
from octavize.files import PLAN, read_json, write_json
from octavize.plans.geometry import Downsample
from octavize.plans.plan import Plan
from octavize.training.checking import tells_mistakes
from octavize.training.folder import is_first_process
from octavize.training.hardware import Hardware, bare_trainer, guarded, quiet_lightning
from octavize.training.inputs import TrainingInputs
from octavize.training.metrics import finite_or_none
from octavize.training.module import Classifier
from octavize.training.recipe import EXACTLY, NUMBER, Count, Meeting, Rate, Recipe, Share, Switch, Whole
from octavize.training.runs import describe_input, input_shape
from octavize.zoo.find import Origin, Vanilla
from octavize.zoo.storage import load_converted, save_converted

Stage = dict[str, Any]
"""`stage`, `epoch`, `test_accuracy`, `test_loss`, `val_accuracy`; accuracies 0 … 1."""
STAGES = "stages.json"


@tells_mistakes
@checked(frozen=True, config=EXACTLY)
class Adaptation:
    """How a trained network is converted and adapted; what is not said here is the recipe's.

    Raises:
        InputError: a setting lies outside its range.
    """

    alpha: Share | None = 0.5
    """Share of low channels; None leaves it to the budget."""
    budget: Annotated[float, Field(gt=0, le=1), NUMBER] | None = None
    """See `octavize.plan`; None for none."""
    downsample: Downsample = "pool"
    """How layers of stride 2 reach their high output; `stride` keeps more of trained weights."""
    exchange: Meeting | None = None
    """Where the frequencies meet, see `octavize.plan`; None is the network's own."""
    min_low: Whole | None = None
    """Layers with fewer low channels stay dense, see `octavize.plan`; None is its default."""
    calibrate: Switch = True
    """Choose on training images which channels become low; otherwise the last ones do."""
    distil: Share = 0.5
    """Weight of the teacher in the loss, 0 to 1; 0 trains on the labels alone."""
    temperature: Rate = 2.0
    """Softens the teacher's distribution."""
    norm_images: Whole = 4096
    """Training images that the batch norms' statistics are measured on; 0 leaves them as they were."""
    refit_images: Whole = 0
    """Training images that the layers are refitted on, instead of measuring the norms anew; 0 for none."""
    calibration_images: Count = 1024
    """Training images that the choice of channels is made on."""

    def __post_init__(self) -> None:
        if self.alpha is None and self.budget is None:
            raise InputError("alpha and budget are both missing: give one of them, such as --alpha 0.5")
        if self.alpha is not None and self.budget is not None:
            raise InputError(
                f"alpha is {self.alpha!r} and budget is {self.budget!r}: give one, a budget chooses alpha"
            )
        if self.refit_images == 1:
            raise InputError("refit_images is 1: give 2, better 100 or more; 0 for no refitting")

    @property
    def channels(self) -> str:
        """How the low channels are chosen, in one word."""
        return "calibrated" if self.calibrate else "arbitrary"


@dataclass(frozen=True)
class Prepared:
    """A converted network with batch norm measured anew, and what it could do on the way there."""

    model: nn.Module
    plan: Plan
    stages: list[Stage]


def prepare_in(
    folder: Path,
    source: Vanilla,
    adaptation: Adaptation,
    recipe: Recipe,
    images: Images,
    hardware: Hardware,
) -> Prepared:
    """Convert a copy of a trained network, refit it or re-estimate its norms, and test it before and after
    that; or read what that left in this folder before.

    The folder gets plan.yaml, weights.safetensors and network.json (see `converted`), then stages.json.

    Raises:
        InputError: no layer can become octave, or the budget cannot be reached.
    """
    known = read_json(folder / STAGES)
    if known is not None:
        model = load_converted(folder, model=copied(source.model))
        return Prepared(model, Plan.load(folder / PLAN), known["stages"])
    model = copied(source.model).cpu().eval()
    plan = _planned(model, source.origin, adaptation, recipe, images)
    if adaptation.alpha != 0 and not any(d.alpha for d in plan.decisions):
        name = source.origin.name
        raise InputError(f"model {name}: no layer of it becomes octave; `octavize convert` says why")
    model = octavize(model, plan, inplace=True)
    stages = [evaluate(model, recipe, images, hardware, "converted")]
    if adaptation.refit_images and any(d.alpha for d in plan.decisions):
        loader = TrainingInputs(images, recipe, adaptation.refit_images)
        refit(model, loader, epochs=0, max_images=adaptation.refit_images)
        stages.append(evaluate(model, recipe, images, hardware, "refitted"))
    elif adaptation.norm_images:
        loader = TrainingInputs(images, recipe, adaptation.norm_images)
        most = max(2, adaptation.norm_images)
        reestimate_norms(model, loader, vanilla=source.model, max_images=most)
        stages.append(evaluate(model, recipe, images, hardware, "norms"))
    if is_first_process():
        save_converted(folder, model, plan, source.origin, input_facts(source, recipe, images))
        write_json(folder / STAGES, {"stages": stages})
    return Prepared(model, plan, stages)


def _planned(
    model: nn.Module, origin: Origin, adaptation: Adaptation, recipe: Recipe, images: Images
) -> Plan:
    """What is done to a trained network; its channels in a new order if that is asked for."""
    alpha = None if adaptation.alpha is None else origin.alpha(adaptation.alpha)
    given: Any = {
        "budget": adaptation.budget,
        "downsample": adaptation.downsample,
        "exchange": origin.exchange(adaptation.exchange),
        "min_low": adaptation.min_low,
        "example": input_shape(recipe, images),
    }
    if not adaptation.calibrate:
        return make_plan(model, alpha, **given)
    return calibrate(model, TrainingInputs(images, recipe, adaptation.calibration_images), alpha, **given)


def input_facts(source: Vanilla, recipe: Recipe, images: Images) -> dict[str, Any]:
    """What the octave network's user has to know of its input."""
    return {**describe_input(recipe, images), **source.facts}


def evaluate(model: nn.Module, recipe: Recipe, images: Images, hardware: Hardware, stage: str) -> Stage:
    """Accuracy on the validation and on the test images, by the same code as after training."""
    name = recipe.models[0]
    # A copy: Lightning may move the network and change its precision.
    recipe = replace(recipe, batch_size=512, norm_images=0)
    module = Classifier(copied(model), images, recipe, name, seed=0)
    alone = replace(hardware, devices=1, nodes=1, strategy="auto")
    with quiet_lightning():
        trainer = bare_trainer(alone, recipe.precision)
        guarded(trainer, lambda: trainer.validate(module, verbose=False))
        guarded(trainer, lambda: trainer.test(module, verbose=False))
    loss, accuracy = module.test_result
    return {
        "stage": stage,
        "epoch": 0,
        "test_accuracy": accuracy,
        "test_loss": finite_or_none(loss),
        "val_accuracy": module.val_meter.take()[1],
    }


def with_facts(recipe: Recipe, facts: Mapping[str, Any]) -> Recipe:
    """The recipe with the size and the normalization that the network was trained with."""
    known = {"size": facts.get("size"), "normalize": facts.get("normalize")}
    return replace(recipe, **{k: v for k, v in known.items() if v is not None})


def as_trained(images: Images, facts: Mapping[str, Any]) -> Images:
    """The images with the mean and deviation that the network was trained with.

    Raises:
        InputError: the network knows other classes, or mean and deviation are not one each a channel.
    """
    classes = facts.get("classes")
    if classes is not None and list(classes) != list(images.classes):
        raise InputError(
            f"data={images.name} has the classes {_some(images.classes)} and the network was trained on "
            f"{_some(classes)}: give the data it was trained on"
        )
    mean, std = facts.get("mean", images.mean), facts.get("std", images.std)
    check_statistics(mean, std, images.channels)  # before a folder is claimed for them
    return replace(images, mean=tuple(mean), std=tuple(std))


def check_fits(model: nn.Module, recipe: Recipe, images: Images) -> None:
    """Raises InputError unless the network takes these images and knows as many classes."""
    shape, kind = input_shape(recipe, images), type(model).__name__
    try:
        with torch.no_grad():
            scores = to_meta(model)(torch.empty(shape, device="meta"))
    except Exception as error:  # anything may go wrong in somebody else's forward
        raise InputError(
            f"model {kind} does not run on images of shape {shape} ({one_line(error)}): "
            "give --size or other --data"
        ) from error
    if not isinstance(scores, Tensor) or scores.shape != (1, len(images.classes)):
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(
            f"model {kind} returns {got} for an image and data={images.name} has {len(images.classes)} "
            "classes: give a network trained on these classes (and --num-classes)"
        )


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(map(str, names[:3])) + (f" … ({len(names)})" if len(names) > 3 else "")
