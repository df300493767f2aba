"""One test scene as several networks see it, and where they part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from octavize.errors import InputError
from octavize.report.figures import WIDTH, styled, write_figure
from segment_data import Scenes, inputs_of
from segment_networks import ARMS, Arm, inputs_for, load_trained, scores_for
from segment_scores import CLASSES, VOID, near_border

PALETTE = np.array(
    [
        *((128, 160, 200), (128, 64, 64), (230, 220, 160), (110, 80, 120), (90, 110, 200), (110, 140, 40)),
        *((220, 140, 140), (100, 90, 130), (60, 10, 110), (220, 60, 40), (0, 150, 190), (0, 0, 0)),
    ],
    np.uint8,
)
"""A color a class, and black for what is unlabelled."""
OTHER = ARMS[-2]
"""The arm that is shown beside vanilla: the cheapest octave one."""


def write_scene(data: Path, out: Path, name: str, seed: int) -> Path:
    """Draw a test scene: image, labels, both answers, and the pixels that only one of them gets right.

    Raises:
        InputError: there is no such scene, or one of the two runs is not finished.
    """
    scenes = Scenes(data, "test")
    found = [i for i, path in enumerate(scenes.paths) if path.stem == name]
    if not found:
        raise InputError(f"--scene {name} is no test image: give one, such as {scenes.paths[0].stem}")
    image, labels = scenes[found[0]]
    answers = [answer(arm, out / f"{arm.slug}-seed{seed}", image) for arm in (ARMS[0], OTHER)]
    path = out / f"scene-{name}.png"
    draw(image, labels, answers, path)
    return path


def answer(arm: Arm, folder: Path, image: Tensor) -> Tensor:
    """The class of each pixel, (H, W)."""
    model = load_trained(arm, folder)
    with torch.inference_mode():
        outputs: Any = model(inputs_for(arm, inputs_of(image[None])))
    height, width = image.shape[1:]
    return scores_for(arm, outputs, (height, width)).argmax(1)[0]


def draw(image: Tensor, labels: Tensor, answers: list[Tensor], path: Path) -> None:
    """Six images in two rows."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = {
        "scene": image.permute(1, 2, 0).numpy(),
        "labels": PALETTE[labels.numpy()],
        "within three pixels of a border": shown_border(image, labels),
        ARMS[0].name: PALETTE[answers[0].numpy()],
        OTHER.name: PALETTE[answers[1].numpy()],
        "only one is right": shown_difference(image, labels, answers),
    }
    with styled():
        figure = Figure(figsize=(2 * WIDTH, 1.25 * WIDTH), layout="constrained")
        for axes, (title, pixels) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
            axes.imshow(pixels, interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
        colors = {kind: PALETTE[i] for i, kind in enumerate((*CLASSES, "unlabelled"))}
        colors |= {f"only {name}": np.array(ink) for name, ink in zip(NAMES, INKS, strict=True)}
        patches = [Patch(color=ink / 255, label=kind) for kind, ink in colors.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=8)
        write_figure(figure, path)


INKS = ((71, 85, 105), (232, 89, 12))
NAMES = (ARMS[0].name, OTHER.name)


def shown_border(image: Tensor, labels: Tensor) -> np.ndarray:
    """The scene in pale gray, with what counts as near a border in black."""
    pale = pale_gray(image)
    pale[near_border(labels[None])[0].numpy()] = 0
    return pale


def shown_difference(image: Tensor, labels: Tensor, answers: list[Tensor]) -> np.ndarray:
    """The scene in pale gray, and in color the pixels that only one of two answers gets right."""
    pale = pale_gray(image)
    right = [(answer == labels) & (labels != VOID) for answer in answers]
    for own, other, ink in ((right[0], right[1], INKS[0]), (right[1], right[0], INKS[1])):
        pale[(own & ~other).numpy()] = ink
    return pale


def pale_gray(image: Tensor) -> np.ndarray:
    """(H, W, 3), uint8."""
    gray = 160 + 95 * image.float().mean(0) / 255
    return gray.byte()[..., None].repeat(1, 1, 3).numpy()
