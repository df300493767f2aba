"""Networks that read something else than one image: several inputs, by name, whole numbers."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import octavize
from octavize import InputError
from octavize.convert.trace import example_shape

IMAGE, IDS = torch.randn(2, 3, 16, 16), torch.tensor([[1, 2, 3, 9], [4, 0, 0, 7]])


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head, self.words = nn.Conv2d(32, 4, 1), nn.Embedding(10, 4)

    def features(self, image: Any) -> Any:
        return self.head(torch.relu(self.body(torch.relu(self.stem(image))))).mean((2, 3))


class Two(Base):
    """An image and token ids."""

    def forward(self, image: Any, ids: Any) -> Any:
        return self.features(image) + self.words(ids).mean(1)


class Batch(Base):
    """A dict, as many data sets give it."""

    def forward(self, batch: dict[str, Any]) -> Any:
        return self.features(batch["image"]) + self.words(batch["ids"]).mean(1)


class Text(nn.Module):
    """Convolutions over token ids alone."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 32)
        self.one, self.two = nn.Conv1d(32, 32, 3, padding=1), nn.Conv1d(32, 32, 3, padding=1)
        self.last = nn.Conv1d(32, 2, 1)

    def forward(self, ids: Any) -> Any:
        x = torch.relu(self.one(self.words(ids).transpose(1, 2)))
        return self.last(torch.relu(self.two(x))).mean(2)


NAMED = {"image": IMAGE, "ids": IDS}
CASES: dict[str, tuple[type[nn.Module], Any, tuple[Any, ...], dict[str, Any]]] = {
    "by position": (Two, (IMAGE, IDS), (IMAGE, IDS), {}),
    "by name": (Two, NAMED, (), NAMED),
    "one dict": (Batch, NAMED, (NAMED,), {}),
    "token ids": (Text, IDS, (IDS,), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_planned_converted_and_frozen(case: str) -> None:
    make, example, args, kwargs = CASES[case]
    torch.manual_seed(0)
    model = make().eval()
    plan = octavize.plan(model, 0.5, example=example)
    octave = octavize.octavize(model, 0.5, example=example)
    assert [a for a in plan.alphas.values() if a]  # something is octave
    if make is not Text:
        assert plan.input_shape == (2, 3, 16, 16)
        assert plan.alphas["body"] == 0.5
    frozen = octavize.freeze(octave, example)
    with torch.no_grad():
        torch.testing.assert_close(frozen(*args, **kwargs), octave(*args, **kwargs))
    octavize.octavize(model, 0.0, example=example)(*args, **kwargs)
    loss = octave(*args, **kwargs).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in octave.parameters())


def test_blocks_are_found_with_several_inputs() -> None:
    class Residual(Two):
        def features(self, image: Any) -> Any:
            return self.head(self.block(torch.relu(self.stem(image)))).mean((2, 3))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)

        def forward(self, x: Any) -> Any:
            return x + self.two(torch.relu(self.one(x)))

    model = Residual()
    model.block = Block()
    told = octavize.plan(model, 0.5, exchange="block", example=(IMAGE, IDS))
    ways = {d.name: d.exchange for d in told.decisions}
    assert (ways["block.one"], ways["block.two"]) == ("none", "both")


def test_an_example_of_one_map_counts_by_its_shape() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)).half()
    for example in (torch.zeros(1, 3, 8, 8), (torch.zeros(1, 3, 8, 8),), (1, 3, 8, 8), [1, 3, 8, 8]):
        assert octavize.plan(model, 0.5, example=example).input_shape == (1, 3, 8, 8)


def test_three_channels_are_tried_where_the_first_layer_reads_more() -> None:
    """Its stem rearranges space to channels."""
    model = timm.create_model("tresnet_m", num_classes=3)
    assert example_shape(model) == (1, 3, 224, 224)
    assert any(octavize.plan(model, 0.5).alphas.values())
    own = nn.Sequential(nn.Conv2d(48, 8, 1))
    assert example_shape(own) == (1, 48, 224, 224)


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ({}, "holds no tensor"),
        ({"image": "a.png"}, "holds no tensor"),
        ("image", "neither an input nor its shape"),
        (3, "neither an input nor its shape"),
        ((1, 3, 0), r"example=\(1, 3, 0\) is no shape"),
        ((IMAGE, IDS, IDS), r"does not run on an input of shape \(2, 3, 16, 16\), \(2, 4\), \(2, 4\)"),
    ],
)
def test_examples_that_are_none(example: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        octavize.plan(Two(), 0.5, example=example)
    assert "\n" not in str(caught.value)


def test_inputs_that_are_missing_are_named() -> None:
    with pytest.raises(
        InputError, match=r"its forward takes image, ids: give all in Python, as example=\(ima"
    ):
        octavize.plan(Two(), 0.5)


def test_a_part_that_runs_is_named() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.backbone = (
                nn.Conv2d(32, 4, 1),
                nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)),
            )

        def forward(self, x: Any) -> Any:
            y = self.head(self.backbone(x)).flatten(2)
            return y[:, :, : int(y.amax().item())]

    model = Detector()
    words = r"asks for values, .*; convert .* such as model.backbone = octavize\(model.backbone\)"
    with pytest.raises(InputError, match=words):
        octavize.plan(model, 0.5, example=(1, 3, 16, 16))
    model.backbone = octavize.octavize(model.backbone, 0.5, example=(1, 3, 16, 16))
    assert model.backbone[1].alpha == 0.5  # pyright: ignore
