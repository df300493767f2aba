"""Images through an exported file: prepared as in training, answered with names and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octavize.deploy.images import prepare
from octavize.deploy.runtime import Runner
from octavize.errors import InputError, whole
from octavize.report.progress import steps

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
    if len(runner.outputs) > 1:
        raise InputError(f"model {runner.path} answers with {', '.join(runner.outputs)}: give a classifier")
    names = runner.metadata.get("classes") or []
    answers = []
    for image in steps(images, "classifying"):
        logits = runner(prepare([Path(image)], runner.metadata)).astype(np.float64)
        if logits.ndim != 2:
            raise InputError(f"model {runner.path} answers with {logits.shape}: give a classifier")
        if names and (not isinstance(names, list) or len(names) != logits.shape[1]):
            raise InputError(
                f"model {runner.path} has {logits.shape[1]} outputs, and its classes are not a list of as "
                "many names: export it with them, or without classes"
            )
        chances = np.exp(logits[0] - logits[0].max())
        chances /= chances.sum()
        indices = np.argsort(-chances, kind="stable")[:top]
        answers.append(
            [
                {"class": str(names[i]) if names else str(i), "index": i, "probability": float(chances[i])}
                for i in indices.tolist()
            ]
        )
    return answers
