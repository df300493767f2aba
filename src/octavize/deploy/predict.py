"""Images through an exported file: prepared as in training, answered with names and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octavize.deploy.formats import Array
from octavize.deploy.images import prepare
from octavize.deploy.runtime import Runner
from octavize.errors import InputError, whole
from octavize.report.progress import steps

SUMS_TO_ONE = 1e-3
"""How near to 1 outputs add up that are chances already; those of int8 files are rounded."""
Prediction = dict[str, Any]
"""`class`, `index`, `probability` (0 … 1)."""


def predict(runner: Runner, images: Sequence[str | Path], top: int = 5) -> list[list[Prediction]]:
    """The likeliest classes of each image, the likeliest first.

    The shorter side is resized to the network's size and the center cut out, as for the images it was
    trained on; mean and deviation are those in the file, or ImageNet's where it has none.

    Outputs are logits, or the chances themselves, of a network that ends in a softmax.

    Raises:
        InputError: an image cannot be read, the file takes no images in gray or color, or it tells no classes
            apart.
    """
    whole("top", top, 1)
    names = runner.metadata.get("classes") or []
    answers = []
    for image in steps(images, "classifying"):
        logits = runner.scores(prepare([Path(image)], runner.metadata)).astype(np.float64)
        if logits.shape[1] < 2:  # a single number is no choice of a class
            raise InputError(
                f"model {runner.path} answers with {logits.shape}: give a classifier of two classes or more"
            )
        if not np.isfinite(logits).all():
            raise InputError(f"model {runner.path} answers to {image} with numbers that are not finite")
        if names and (not isinstance(names, list) or len(names) != logits.shape[1]):
            raise InputError(
                f"model {runner.path} has {logits.shape[1]} outputs, and its classes are not a list of as "
                "many names: export it with them, or without classes"
            )
        chances = _chances(logits[0])
        indices = np.argsort(-chances, kind="stable")[:top]
        answers.append(
            [
                {"class": str(names[i]) if names else str(i), "index": i, "probability": float(chances[i])}
                for i in indices.tolist()
            ]
        )
    return answers


def _chances(scores: Array) -> Array:
    """The chances of the classes (C,), from logits or from themselves."""
    if scores.min() >= 0 and abs(scores.sum() - 1) < SUMS_TO_ONE:
        return scores
    chances = np.exp(scores - scores.max())
    return chances / chances.sum()
