"""Files of networks that read something else than one image."""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import octavize
from octavize import InputError, load_runtime

NEEDS = {".pt2": "torch", ".onnx": "onnxruntime", ".xml": "openvino"}
SUFFIXES = [
    pytest.param(
        suffix, marks=pytest.mark.skipif(find_spec(module) is None, reason=f"{module} not installed")
    )
    for suffix, module in NEEDS.items()
]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            nn.Conv2d(32, 8, 1),
        )
        self.words = nn.Embedding(10, 8)
        self.conditions = nn.Linear(5, 8)


class Difference(Base):
    """A siamese network: two images through the same layers."""

    def forward(self, before: Any, after: Any) -> Any:
        return (self.features(before) - self.features(after)).mean((2, 3))


class Conditioned(Base):
    """An image, and a vector of conditions."""

    def forward(self, image: Any, conditions: Any, scale: float = 1.0) -> Any:
        return (self.features(image) * scale * self.conditions(conditions)[..., None, None]).mean((2, 3))


class Captioned(Base):
    """An image, token ids, and which of them count; and a table for all images."""

    def forward(self, image: Any, ids: Any, counts: Any = None, table: Any = None) -> Any:
        words = self.words(ids) if counts is None else self.words(ids) * counts[..., None]
        y = self.features(image).mean((2, 3)) + words.mean(1)
        return y if table is None else y @ table


class OneDict(Captioned):
    """As data sets of detection give it."""

    def forward(self, batch: dict[str, Any]) -> Any:
        return super().forward(batch["image"], batch["ids"])


def images(n: int, side: int = 12) -> Tensor:
    return torch.randn(n, 3, side, side)


def ids(n: int) -> Tensor:
    return torch.randint(10, (n, 4))


def made(kind: type[nn.Module], example: Any) -> nn.Module:
    torch.manual_seed(0)
    model = kind().train()
    for _ in range(3):
        model.features(images(4))  # pyright: ignore
    octave = octavize.octavize(model.eval(), 0.5, example=example)
    assert octave.features[0].weight.shape == (32, 3, 3, 3)  # pyright: ignore
    assert octave.features[3].alpha == 0.5  # pyright: ignore
    return octave


def call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        return model(*args, **kwargs).numpy()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_images(suffix: str, tmp_path: Path) -> None:
    model, path = made(Difference, (images(1), images(1))), tmp_path / f"net{suffix}"
    # Zeros would make a difference of 0: the comparison takes noise.
    assert 0 < octavize.export(model, path, (torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 12))) < 1e-5
    runner = load_runtime(path, trust=True)
    assert runner.metadata["input_shape"] == [1, 3, 12, 12]
    assert [(x.name, x.dtype, str(x)) for x in runner.inputs] == [
        ("before", "float32", "(any, 3, 12, 12)"),
        ("after", "float32", "(any, 3, 12, 12)"),
    ]
    for batch in (1, 2, 5):
        a, b = images(batch), images(batch)
        wanted = call(model, a, b)
        np.testing.assert_allclose(runner(a, b), wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(runner({"after": b.numpy(), "before": a}), wanted, rtol=1e-4, atol=1e-5)
    for given, words in (
        ((a,), r"batch has 1 inputs, but .* takes 2 inputs \(before, after\)"),
        (({"before": a},), "batch has before, but .* takes before, after"),
        ((a, b[:2]), r"inputs of different lengths, \(5, 3, 12, 12\), \(2, 3, 12, 12\)"),
        ((a, images(5, 16)), r"input 'after' has shape \(5, 3, 16, 16\), but .* takes \(any, 3, 12, 12\)"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            runner(*given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [Captioned, OneDict])
def test_whole_numbers_by_name(kind: type[nn.Module], suffix: str, tmp_path: Path) -> None:
    named = {"image": images(2), "ids": ids(2)}
    model, path = made(kind, named), tmp_path / f"net{suffix}"
    assert octavize.export(model, path, named) < 1e-5
    runner = load_runtime(path, trust=True)
    assert [(x.name, x.dtype, str(x)) for x in runner.inputs] == [
        ("image", "float32", "(any, 3, 12, 12)"),
        ("ids", "int64", "(any, 4)"),
    ]
    x, words = images(3), ids(3)
    both = {"image": x, "ids": words}
    wanted = call(model, both) if kind is OneDict else call(model, x, words)
    np.testing.assert_allclose(runner(both), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(runner(x, words.int()), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"input 'ids' is of float32, but .* takes int64"):
        runner(x, words.float())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_has_no_row_for_each_image(suffix: str, tmp_path: Path) -> None:
    """Truth values keep their dtype, a number of the example its value, and a table its shape."""
    counts, table = torch.tensor([[True, True, False, True]] * 2), torch.randn(8, 8)
    example = {"image": images(2), "ids": ids(2), "counts": counts, "table": table}
    model, path = made(Captioned, example), tmp_path / f"net{suffix}"
    assert octavize.export(model, path, example) < 1e-5
    runner = load_runtime(path, trust=True)
    assert [(x.dtype, x.open) for x in runner.inputs[2:]] == [("bool", (0,)), ("float32", ())]
    x, words, counts = images(3), ids(3), torch.rand(3, 4) < 0.5
    wanted = call(model, x, words, counts, table)
    np.testing.assert_allclose(runner(x, words, counts, table), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"input 'table' has shape \(3, 8\), but .* takes \(8, 8\)"):
        runner(x, words, counts, table[:3])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_fixed_batch_and_a_number_that_stays(suffix: str, tmp_path: Path) -> None:
    example = (images(2), torch.randn(2, 5), 3.0)
    model, path = made(Conditioned, example), tmp_path / f"net{suffix}"
    assert octavize.export(model, path, example, dynamic_batch=False) < 1e-5
    runner = load_runtime(path, trust=True)
    assert [str(x) for x in runner.inputs] == ["(2, 3, 12, 12)", "(2, 5)"]
    x, conditions = images(2), torch.randn(2, 5)
    np.testing.assert_allclose(runner(x, conditions), call(model, x, conditions, 3.0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_size_of_both_images(suffix: str, tmp_path: Path) -> None:
    model, path = made(Difference, (images(1), images(1))), tmp_path / f"net{suffix}"
    assert octavize.export(model, path, (images(1, 16), images(1, 16)), dynamic_size=True) < 1e-5
    runner = load_runtime(path, trust=True)
    for side in (9, 16, 23):
        a, b = images(2, side), images(2, side)
        np.testing.assert_allclose(runner(a, b), call(model, a, b), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="inputs of different sizes"):
        runner(a, images(2, 9))


class Text(nn.Module):
    """Convolutions over token ids alone."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 32)
        self.one, self.two = nn.Conv1d(32, 32, 3, padding=1), nn.Conv1d(32, 32, 3, padding=1)
        self.last = nn.Conv1d(32, 2, 1)

    def forward(self, tokens: Any) -> Any:
        x = torch.relu(self.one(self.words(tokens).transpose(1, 2)))
        return self.last(torch.relu(self.two(x))).mean(2)


def test_token_ids_alone(tmp_path: Path) -> None:
    model = octavize.octavize(Text().eval(), 0.5, example=ids(1))
    assert octavize.export(model, tmp_path / "net.pt2", ids(1)) < 1e-5
    runner, words = load_runtime(tmp_path / "net.pt2", trust=True), ids(3)
    assert [x.name for x in runner.inputs] == ["tokens"]
    np.testing.assert_allclose(runner(words), call(model, words), rtol=1e-4, atol=1e-5)


def test_a_wrong_file_is_found_by_every_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that swaps two images of one shape is not written."""
    from octavize.deploy import export as e

    model = made(Difference, (images(1), images(1)))
    monkeypatch.setattr(e, "freeze_layers", lambda *_, **__: Swapped(model))
    with pytest.raises(InputError, match="is not written: its outputs differ"):
        octavize.export(model, tmp_path / "net.pt2", (images(1), images(1)))


class Swapped(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, before: Any, after: Any) -> Any:
        return self.net(after, before)


def test_int8_of_several_inputs_is_refused(tmp_path: Path) -> None:
    model = made(Difference, (images(1), images(1)))
    with pytest.raises(InputError, match="only networks that read one image are quantized"):
        octavize.export(model, tmp_path / "net.xml", (images(1), images(1)), precision="int8")


class Scaled(Base):
    """An image, and one number for all."""

    def forward(self, image: Any, scale: Any) -> Any:
        return (self.features(image) * scale).mean((2, 3))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_single_number(suffix: str, tmp_path: Path) -> None:
    model, path = made(Scaled, (images(2), torch.tensor(2.0))), tmp_path / f"net{suffix}"
    octavize.export(model, path, (images(2), torch.tensor(2.0)))
    runner, x = load_runtime(path, trust=True), images(3)
    wanted = call(model, x, torch.tensor(-3.0))
    np.testing.assert_allclose(runner(x, torch.tensor(-3.0)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_numbers_that_the_file_cannot_hold(suffix: str, tmp_path: Path) -> None:
    class Small(Captioned):
        def forward(self, image: Any, ids: Any) -> Any:
            return super().forward(image, ids.long())

    model, path = made(Small, (images(2), ids(2).int())), tmp_path / f"net{suffix}"
    octavize.export(model, path, (images(2), ids(2).int()))
    runner, x, words = load_runtime(path, trust=True), images(2), ids(2)
    np.testing.assert_allclose(runner(x, words), call(model, x, words), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="input 'ids' has numbers too large for int32"):
        runner(x, words + 2**32)  # whose last 32 bits are those of words


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pixels_that_nobody_prepared(suffix: str, tmp_path: Path) -> None:
    model, path = made(Difference, (images(1), images(1))), tmp_path / f"net{suffix}"
    octavize.export(model, path, (images(1), images(1)))
    runner, x, y = load_runtime(path, trust=True), images(2), images(2)
    pixels = (255 * x.sigmoid()).byte()
    for given in (pixels, pixels.numpy(), pixels.long()):
        with pytest.raises(InputError, match=r"input 'after' is of u?int\d+, .* float32: give it prepared"):
            runner(x, given)
    reversed_twice = y.flip(2).numpy()[:, :, ::-1]
    for same in (y.double(), y.double().numpy(), reversed_twice, y.tolist()):
        np.testing.assert_allclose(runner(x, same), call(model, x, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_batch_that_failed_leaves_no_trace(suffix: str, tmp_path: Path) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(2), nn.Flatten())

        def forward(self, x: Any) -> Any:
            return self.features(x)

    model, path, x = Pooled().eval(), tmp_path / f"net{suffix}", images(2)
    octavize.export(model, path, (1, 3, 12, 12))
    runner = load_runtime(path, trust=True)
    with contextlib.suppress(InputError):  # OpenVINO takes no empty batch
        runner(x[:0])
    np.testing.assert_allclose(runner(x), call(model, x), rtol=1e-4, atol=1e-5)
