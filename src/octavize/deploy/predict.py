"""Images through an exported file: prepared as in training, answered with names and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from octavize.deploy.runtime import Runner
from octavize.errors import InputError, require_extra, whole

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Prediction = dict[str, Any]
"""`class`, `index`, `probability` (0 … 1)."""


def predict(runner: Runner, images: Sequence[str | Path], top: int = 5) -> list[list[Prediction]]:
    """The likeliest classes of each image, the likeliest first.

    The shorter side is resized to the network's size and the center cut out, as for the images it was
    trained on; mean and deviation are those in the file, or ImageNet's where it has none.

    Raises:
        InputError: an image cannot be read, or the file takes no images in gray or color.
    """
    whole("top", top, 1)
    names = runner.metadata.get("classes") or []
    answers = []
    for image in images:
        logits = torch.from_numpy(runner(prepare(runner, Path(image)))).float()
        if logits.dim() != 2:
            raise InputError(f"model {runner.path} answers with {tuple(logits.shape)}: give a classifier")
        if names and (not isinstance(names, list) or len(names) != logits.shape[1]):
            raise InputError(
                f"model {runner.path} has {logits.shape[1]} outputs, and its classes are not a list of as "
                "many names: export it with them, or without classes"
            )
        chances, indices = logits.softmax(1)[0].topk(min(top, logits.shape[1]))
        answers.append(
            [
                {"class": str(names[i]) if names else str(i), "index": i, "probability": p}
                for i, p in zip(indices.tolist(), chances.tolist(), strict=True)
            ]
        )
    return answers


def prepare(runner: Runner, image: Path) -> Tensor:
    """One image as input of the network: (1, C, size, size)."""
    require_extra("PIL", "experiment")
    from octavize.data.augment import to_input
    from octavize.data.decode import decode

    about = runner.metadata
    if len(about["input_shape"]) != 4:
        raise InputError(f"model {runner.path} takes {about['input_shape']}: no images")
    channels, height, width = about["input_shape"][1:]
    if channels not in (1, 3):
        raise InputError(f"model {runner.path} takes {channels} channels: images have 1 or 3")
    if height != width:
        raise InputError(f"model {runner.path} takes {height} × {width} pixels: only square ones are made")
    if not image.is_file():
        what = "is no file" if image.exists() else "does not exist"
        raise InputError(f"image {image} {what}: give the path of an image file")
    pixels = decode(image, height)[None]
    if channels == 1:
        pixels = pixels.float().mean(1, keepdim=True).round().to(torch.uint8)
    mean, std = (about.get(key) or IMAGENET[key][:channels] for key in ("mean", "std"))
    return to_input(pixels, mean, std, normalize=about.get("normalize", True))
