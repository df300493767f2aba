"""Calibrating, refitting and measuring norms of networks that read something else than one image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import octavize
from octavize import InputError
from octavize.calibration.polish import _augmented_alike
from octavize.convert.inputs import Inputs, checked_example, joined
from octavize.convert.loaders import images_of

SEED = torch.Generator().manual_seed(0)


def block(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(block(3, 32), block(32, 32), nn.Conv2d(32, 8, 1))
        self.words = nn.Embedding(10, 8)
        self.conditions = nn.Linear(5, 8)


class Difference(Base):
    """A siamese network: two images through the same layers."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return (self.features(before) - self.features(after)).mean((2, 3))


class Conditioned(Base):
    """An image, and a vector of conditions."""

    def forward(self, image: Tensor, conditions: Tensor) -> Tensor:
        return (self.features(image) * self.conditions(conditions)[..., None, None]).mean((2, 3))


class Captioned(Base):
    """An image, and token ids."""

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        return self.features(image).mean((2, 3)) + self.words(ids).mean(1)


class OneDict(Base):
    """As data sets of detection give it."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.features(batch["image"]).mean((2, 3)) + self.words(batch["ids"]).mean(1)


def images(n: int) -> Tensor:
    """Smooth ones, as photographs are."""
    return nn.functional.interpolate(torch.randn(n, 3, 4, 4, generator=SEED), scale_factor=3, mode="bilinear")


A, B, LABELS = images(24), images(24), torch.arange(24) % 8
VECTORS, IDS = torch.randn(24, 5, generator=SEED), torch.randint(10, (24, 4), generator=SEED)
NAMED = {"image": A, "ids": IDS}
CASES: dict[str, tuple[type[nn.Module], Any, list[Any]]] = {
    "siamese": (Difference, (A[:1], B[:1]), [(A, B), (A, B, LABELS), [A, B, LABELS], ((A, B), LABELS)]),
    "conditions": (Conditioned, (A[:1], VECTORS[:1]), [(A, VECTORS), ((A, VECTORS), LABELS)]),
    "ids": (Captioned, (A[:1], IDS[:1]), [(A, IDS), (A, IDS, LABELS)]),
    "by name": (
        Captioned,
        {"image": A[:1], "ids": IDS[:1]},
        [NAMED, {"label": LABELS, **NAMED}, (NAMED, LABELS)],
    ),
    "one dict": (OneDict, {"image": A[:1], "ids": IDS[:1]}, [NAMED, {"label": LABELS, **NAMED}]),
}


def call(model: nn.Module, first: int = 24) -> Tensor:
    """The network on the first images, called by hand."""
    second = {Difference: B, Conditioned: VECTORS}.get(type(model), IDS)
    a, b = A[:first], second[:first]
    return model({"image": a, "ids": b}) if isinstance(model, OneDict) else model(a, b)


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = kind().train()
    with torch.no_grad():
        for _ in range(30):  # so that its norms know the images
            call(model)
    return model.eval()


def few(batch: Any, size: int) -> list[Any]:
    """A batch as a loader gives it, a few images at a time."""

    def cut(value: Any, rows: slice) -> Any:
        if isinstance(value, dict):
            return {key: cut(v, rows) for key, v in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(cut(v, rows) for v in value)
        return value[rows]

    return [cut(batch, slice(first, first + size)) for first in range(0, 24, size)]


@pytest.mark.parametrize("case", CASES)
def test_labels_are_told_from_inputs(case: str) -> None:
    kind, example, forms = CASES[case]
    model = made(kind)
    with torch.no_grad():
        expected = call(model, 20)
    for form in forms:
        batches = list(images_of(few(form, 7), 20, checked_example(model, example)))
        assert [batch.batch for batch in batches] == [7, 7, 6]
        with torch.no_grad():
            torch.testing.assert_close(torch.cat([batch.call(model) for batch in batches]), expected)
            torch.testing.assert_close(joined(batches).call(model), expected)


@pytest.mark.parametrize("case", CASES)
def test_calibrated_refitted_and_measured(case: str) -> None:
    """The order of channels changes nothing; refitting brings the octave network closer, as it should."""
    kind, example, forms = CASES[case]
    model, batches = made(kind), few(forms[-1], 8)
    with torch.no_grad():
        wanted = call(model)
    plan = octavize.calibrate(model, batches, 0.5, example=example)
    assert plan.permutation is not None
    assert plan.reordering is not None
    assert plan.reordering.images == 24
    first = octavize.plan(model, 0.5, example=example)
    again = octavize.calibrate(model, batches, plan=first, example=example)
    assert again.permutation == plan.permutation
    net = octavize.octavize(model, plan)
    reordered = octavize.octavize(net, 0.0, example=example)
    with torch.no_grad():
        torch.testing.assert_close(call(reordered), wanted, rtol=1e-4, atol=1e-5)
        before = float((call(net) - wanted).square().mean())
    done = octavize.refit(net, batches, epochs=1, example=example)
    assert done.images == 24
    assert "features.1.0" in {layer.name for layer in done.layers} | set(done.left)
    with torch.no_grad():
        assert float((call(net) - wanted).square().mean()) < 0.8 * before
    assert octavize.reestimate_norms(net, batches, example=example) == 24


def test_norms_are_those_of_both_images() -> None:
    """A layer that is called twice averages both uses."""
    model = made(Difference)
    octavize.reestimate_norms(model, [(A, B, LABELS)], example=(A[:1], B[:1]))
    conv, norm, _ = model.features[0]  # pyright: ignore
    with torch.no_grad():
        means = torch.stack([conv(x).mean((0, 2, 3)) for x in (A, B)])
    torch.testing.assert_close(norm.running_mean, means.mean(0))


@pytest.mark.parametrize(
    ("example", "batch", "words"),
    [
        ((A, IDS), A, r"loader yields float32 \(24, 3, 12, 12\): give batches like the example, \(float32"),
        ((A, IDS), (A, LABELS), r"yields \(float32 .*, int64 \(24,\)\): give batches like"),
        ((A, IDS), NAMED, r"yields \{'image': float32"),
        (NAMED, (A, IDS), r"like the example, \{'image': float32"),
        (NAMED, {"image": A}, "give batches like the example"),
        (None, (IDS, LABELS), "give example="),
        (None, (A, LABELS), "give example="),
    ],
)
def test_batches_that_are_not_like_the_example(example: Any, batch: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        octavize.reestimate_norms(made(Captioned), [batch], example=example)
    assert "\n" not in str(caught.value)


def test_a_pair_of_images_is_augmented_alike() -> None:
    pair = _augmented_alike(Inputs((A, A.clone(), VECTORS)), torch.Generator().manual_seed(1))
    assert torch.equal(pair.args[0], pair.args[1])
    assert not torch.equal(pair.args[0], A)
    assert pair.args[2] is VECTORS
