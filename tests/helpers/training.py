"""A data set, networks and a recipe so small that a whole comparison takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from octavize.errors import InputError
from octavize.training.recipe import Recipe, load_recipe

MODEL = "oct_mobilenet_v1_small"
CLASSES = ("<i>stripes", "waves")


def make_folder(root: Path, train: int = 16, test: int = 6) -> Path:
    """An image folder of two classes that differ in direction: (16, 16) RGB."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                wave = np.sin(np.arange(16) * 0.8 + random.uniform(0, 6))[None].repeat(16, 0)
                image = 120 + 60 * (wave if label else wave.T) + random.normal(0, 10, (16, 16))
                pixels = image.clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def tiny(**changes: Any) -> Recipe:
    """Two networks, two epochs, four steps each; with everything that draws random numbers."""
    settings: dict[str, Any] = {
        "data": "folder",
        "size": 16,
        "models": [MODEL],
        "model_arguments": {"*": {"width": 0.125, "drop_rate": 0.2}},
        "epochs": 2,
        "batch_size": 7,
        "limit_train": None,
        "crop_padding": 2,
        "val_fraction": 0.2,
    }
    return load_recipe("quick", **{**settings, **changes})


def refusal(call: Callable[[], object]) -> str:
    """What an InputError says of a call; nothing where the call is accepted."""
    try:
        call()
    except InputError as error:
        return str(error)
    return ""
