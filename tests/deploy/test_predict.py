"""Images through an exported file: what counts as chances, and how images are normalized."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from octavize import InputError
from octavize.deploy.images import prepare
from octavize.deploy.predict import predict
from octavize.deploy.runtime import Runner

SHAPE = (1, 3, 8, 8)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def runner_of(numbers: list[float], outputs: Sequence[str] = ()) -> Runner:
    """A file that answers to every image with the same numbers, and tells these names of outputs."""
    about: dict[str, Any] = {"input_shape": SHAPE, "dynamic_batch": True, "dynamic_size": False}
    about |= {"outputs": [{"name": name, "rows": True} for name in outputs]} if outputs else {}
    answers = [np.array([numbers], np.float32) for _ in outputs or ("output",)]
    return Runner(Path("net.onnx"), lambda batch: answers, json.dumps(about))


def answer(image: Path, numbers: list[float]) -> dict[int, float]:
    runner = runner_of(numbers)
    return {found["index"]: found["probability"] for found in predict(runner, [image])[0]}


def test_logits_become_chances_and_chances_stay(image: Path) -> None:
    chances = [0.7, 0.2, 0.1]
    for numbers in (np.log(chances), np.log(chances) + 3, chances, np.multiply(chances, 1.0005)):
        assert answer(image, list(numbers)) == pytest.approx(dict(enumerate(chances)), abs=1e-3)
    found = answer(image, [0.0, 0.0, 2.0])  # not below zero either, but no chances
    assert found[2] == pytest.approx(np.exp(2) / (np.exp(2) + 2))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([0.3], r"answers with \(1, 1\): give a classifier of two classes or more"),
        ([0.3, float("nan")], "with numbers that are not finite"),
    ],
)
def test_answers_that_name_no_class(numbers: list[float], words: str, image: Path) -> None:
    with pytest.raises(InputError, match=words):
        answer(image, numbers)


def test_a_dict_of_one_output_is_that_output(image: Path) -> None:
    (found,) = predict(runner_of([0.0, 1.0], ["out"]), [image], top=1)
    assert found[0]["index"] == 1


def test_several_outputs_are_no_classifier(image: Path) -> None:
    with pytest.raises(InputError, match=r"answers with out, aux: give a classifier"):
        predict(runner_of([0.0, 1.0], ["out", "aux"]), [image])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mean": [0.5] * 3}, "comes without std: give both"),
        ({"std": [0.5] * 3}, "comes without mean: give both"),
        ({"mean": 0.5, "std": [0.5] * 3}, "mean=0.5: give a list of numbers, one for each channel"),
        ({"mean": [0.5], "std": [0.5]}, "mean has 1 values for 3 channels"),
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, "divide it by 255, and std too"),
        ({"normalize": "false"}, "normalize='false': give true or false"),
    ],
)
def test_how_images_are_normalized_is_never_guessed(facts: Any, words: str, image: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        prepare([image], {"input_shape": SHAPE, **facts})
    assert "\n" not in str(caught.value)
