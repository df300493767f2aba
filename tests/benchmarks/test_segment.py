"""The study of dense prediction: its scores are those of a slow count, and it runs on eight tiny scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
SIZE = (64, 96)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__


def scenes(seed: int, count: int) -> Tensor:
    """Labels (N, H, W): patches of classes, with unlabelled pixels strewn in."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 12, (count, 4, 6)).repeat(8, 1).repeat(8, 2)
    patches[random.random(patches.shape) < 0.02] = 11
    return torch.from_numpy(patches)


def test_the_band_is_what_a_look_around_each_pixel_finds(module: Any) -> None:
    labels = scenes(0, 2)
    expected = torch.zeros_like(labels, dtype=torch.bool)
    for n, y, x in np.ndindex(*labels.shape):
        around = labels[n, max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        expected[n, y, x] = labels[n, y, x] != 11 and len(set(around.flatten().tolist()) - {11}) > 1
    assert 0 < expected.float().mean() < 1
    assert torch.equal(module("segment_scores").near_border(labels), expected)


def test_a_border_with_unlabelled_pixels_is_none(module: Any) -> None:
    labels = torch.full((1, 9, 20), 3)
    labels[:, :, 6:13] = 11
    labels[:, :, 13:] = 8
    assert not module("segment_scores").near_border(labels).any()


def test_scores_are_those_of_sets_of_pixels(module: Any) -> None:
    kit, labels = module("segment_scores"), scenes(0, 4)
    labels[labels == 10] = 11  # a class that never occurs
    answers = torch.where(torch.rand(labels.shape) < 0.3, scenes(1, 4).clamp(max=9), labels.clamp(max=9))
    scores = kit.Scores()
    for part in range(4):  # as they come
        scores.add(answers[part : part + 1], labels[part : part + 1])
    found = scores.take()
    for place, counted in (("whole", labels != 11), ("border", kit.near_border(labels))):
        expected = []
        for kind in range(10):
            own, said = ({*map(tuple, ((m == kind) & counted).nonzero().tolist())} for m in (labels, answers))
            expected.append(len(own & said) / len(own | said))
        assert found[place]["classes"][:10] == pytest.approx(expected)
        assert found[place]["classes"][10] is None
        assert found[place]["mean"] == pytest.approx(np.mean(expected))
    assert found["whole"]["mean"] != found["border"]["mean"]


def test_images_are_padded_for_the_network_and_its_answer_is_cut(module: Any) -> None:
    networks = module("segment_networks")
    shapes = {arm.slug: arm.shape((360, 480)) for arm in networks.ARMS}
    assert shapes["vanilla"] == (3, 368, 480)
    assert shapes["octave-0.5-every"] == (3, 384, 480)
    assert shapes["vanilla-smaller"] == (3, 272, 368)
    images = torch.randn(1, 3, 360, 480)
    for arm in networks.ARMS:
        inputs = networks.inputs_for(arm, images)
        assert inputs.shape[1:] == arm.shape((360, 480))
        answer = networks.scores_for(arm, inputs, (360, 480))
        assert answer.shape == images.shape
        assert torch.equal(answer, images) == (arm.scale == 1)


def test_differences_are_paired_by_seed(module: Any) -> None:
    tables, kit = module("segment_tables"), module("segment_scores")

    def run(arm: str, seed: int, mean: float) -> dict[str, Any]:
        places = {place: {"mean": mean, "classes": [mean] * 11} for place in kit.PLACES}
        about = {"environment": {"torch": "2", "processor": "one"}, "macs": 4_000_000_000}
        about["settings"] = {"epochs": 1, "crop": [2, 3], "batch": 4, "precision": "bf16"}
        return {"arm": arm, "seed": seed, "test": places, "exported": {"int8": places}, **about}

    runs = [run("vanilla", seed, 0.6 + 0.1 * seed) for seed in range(3)]
    runs += [run("α=0.5, every", seed, 0.59 + 0.1 * seed) for seed in range(2)]
    text = tables.page({"runs": runs, "times": None})
    assert "| vanilla | 4.00 G | 70.0 ± 10.0 (3) |  |" in text
    assert "| α=0.5, every | 4.00 G | 64.0 ± 7.1 (2) | −1.0 (−1.0 to −1.0) |  | – |" in text


def test_rare_classes_weigh_more(module: Any, tmp_path: Path) -> None:
    data, kit = module("segment_data"), module("segment_scores")
    counts = data.pixels_by_class(write_scenes(tmp_path))
    expected = torch.stack([labels for _, labels in data.Scenes(tmp_path, "train")]).flatten().bincount()
    assert torch.equal(counts, expected[:11])
    weights = kit.class_weights(counts)
    assert torch.equal(weights.argsort(), counts.argsort(descending=True))
    assert kit.class_weights(torch.tensor([1.0, 0.0])).tolist() == pytest.approx([1.3478, 10.492], rel=1e-3)


# ---- the whole script --------------------------------------------------------------------------------------


def write_scenes(folder: Path) -> Path:
    """Two scenes for each split, whose colors tell their classes."""
    for number, split in enumerate(("train", "val", "test")):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for i, labels in enumerate(scenes(number, 4).repeat_interleave(2, 1).repeat_interleave(2, 2)):
            pixels = labels.numpy().astype(np.uint8)
            Image.fromarray(np.stack([pixels * 20, 255 - pixels * 20, pixels * 7], 2)).save(
                folder / split / "images" / f"{i}.jpg"
            )
            Image.fromarray(pixels).save(folder / split / "labels" / f"{i}.png")
    return folder


@pytest.mark.slow
def test_it_trains_scores_times_and_tells(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="pip install segmentation-models-pytorch")
    import timm

    segment, tables = module("segment"), module("segment_tables")
    monkeypatch.setattr(segment, "CALIBRATION", 2)
    data, out, encoder = write_scenes(tmp_path / "data"), tmp_path / "out", tmp_path / "encoder.pth"
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), encoder)

    def call(*arguments: object) -> None:
        given = ["segment.py", *arguments, "--out", out, "--seed", 0]
        monkeypatch.setattr("sys.argv", [*map(str, given)])
        segment.main()

    arms = ("vanilla", "octave-0.5-block-high_to_low", "vanilla-smaller")
    settings = ("--epochs", 2, "--every", 1, "--batch", 2, "--crop", 64, 64, "--encoder", encoder)
    train = (data, *settings, "--arm", *arms)
    call(*train)
    first = {path.parent.name: json.loads(path.read_text("utf-8")) for path in out.glob("*/result.json")}
    assert set(first) == {f"{arm}-seed0" for arm in arms}
    before, after = (sum(run["history"][i]["loss"] for run in first.values()) for i in (0, 1))
    assert after < before

    # A kill after the first epoch: the second is the same again.
    again = out / "octave-0.5-block-high_to_low-seed0"
    kill_after_first_epoch(module("segment_training"), again, lambda: call(*train), monkeypatch)
    call(*train)
    second = json.loads((again / "result.json").read_text("utf-8"))
    assert second["test"] == first[again.name]["test"]

    call(data, "--exported", "--arm", *arms)
    call("--times", "--arm", *arms, "--rounds", 1)
    monkeypatch.setattr(segment, "write_tables", lambda: tables.write_tables(tmp_path))
    monkeypatch.setattr(segment, "write_results", lambda *given: tables.write_results(*given, tmp_path))
    call(data, "--tables", "--scene", 0)
    text = (tmp_path / "tables.md").read_text("utf-8")
    assert "| α=0.5, block:high_to_low |" in text
    assert "–" not in text.split("## IoU by class")[0].replace("− vanilla", "")
    assert (tmp_path / "milliseconds.svg").stat().st_size > 1000
    assert (out / "scene-0.png").stat().st_size > 1000


def kill_after_first_epoch(training: Any, folder: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one of the networks anew, up to the state that its first epoch leaves."""
    for file in folder.glob("*.*"):
        file.unlink()
    save = training.Run._save

    def saves_and_dies(self: Any) -> None:
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training.Run, "_save", saves_and_dies)
        with pytest.raises(KeyboardInterrupt):
            call()
    assert (folder / "state.pt").is_file()
