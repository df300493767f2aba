"""`octavize compare --backend paddle`: run folder, resumption, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavize.cli.main import main
from octavize.errors import InputError
from octavize.training.paddle import train as training
from octavize.training.paddle.compare import compare
from octavize.training.paddle.data import Images, Split, as_seen, crop_and_flip, load_images
from octavize.training.recipe import Recipe, load_recipe
from octavize.training.summary import Timing

SHORT = Timing(batch=2, rounds=1)
TINY: dict[str, Any] = {
    "models": ["oct_resnet18_small"],
    "model_arguments": {"*": {"width": 0.125}},
    "limit_train": 40,
    "epochs": 2,
    "batch_size": 16,
    "lr": 0.02,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "crop_padding": 2,
    "flip": True,
}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is of few images anyway; validation and test are too."""
    whole = load_images

    def few(recipe: Recipe, data_dir: Path | None = None) -> Images:
        found = whole(recipe, data_dir)
        val, test = found.val[::30], found.test[::50]
        return Images(found.name, found.classes, found.train, val, test, found.mean, found.std)

    monkeypatch.setattr("octavize.training.paddle.compare.load_images", few)


def run(out: Path, **changed: Any) -> dict[str, Any]:
    restart = changed.pop("restart", False)
    recipe = load_recipe("quick", **{**TINY, **changed})
    return compare(recipe, out, timing=SHORT, restart=restart)


def test_the_run_folder_and_its_report(tmp_path: Path) -> None:
    results = run(tmp_path / "out", epochs=1)
    out = tmp_path / "out"
    assert results == json.loads((out / "results.json").read_text("utf-8"))
    vanilla, octave = results["networks"]
    assert (vanilla["alpha"], octave["alpha"]) == (0.0, 0.5)
    assert octave["ratios"]["macs"] < 0.9
    assert octave["ratios"]["params"] == 1
    assert octave["latency_ms"] > 0 < octave["train_step_ms"]
    assert octave["activation_bytes"] is None
    page = (out / "report.html").read_text("utf-8")
    assert "Latency, PaddlePaddle" in page
    assert "Not counted in PaddlePaddle" in page
    with (out / "results.csv").open(encoding="utf-8") as file:
        assert [row["alpha"] for row in csv.DictReader(file)] == ["0.0", "0.5"]
    folder = out / "runs" / "oct_resnet18_small-alpha0.5-seed0"
    assert {p.name for p in folder.iterdir()} >= {"metrics.csv", "best.safetensors", "result.json"}
    assert not (folder / "last.safetensors").exists()
    assert (folder / "visualdl").is_dir() == (find_spec("visualdl") is not None)
    before = (folder / "result.json").read_text("utf-8")
    run(out, epochs=1)  # finished runs are skipped
    assert (folder / "result.json").read_text("utf-8") == before
    with pytest.raises(InputError, match=re.escape("another recipe (lr was 0.02, now 0.01)")):
        run(out, epochs=1, lr=0.01)
    result = json.loads(before)
    del result["framework"]  # as torch writes it
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match="not trained in PaddlePaddle"):
        run(out, epochs=1)


def test_an_interrupted_run_is_the_run_left_in_peace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"alphas": [0.5], "epochs": 3, "optimizer": "adam", "lr": 1e-3}
    whole = run(tmp_path / "whole", **changed)
    epoch = training._Training._epoch

    def killed(self: Any, number: int) -> Any:
        if number == 1:
            raise KeyboardInterrupt
        return epoch(self, number)

    monkeypatch.setattr(training._Training, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", **changed)
    monkeypatch.setattr(training._Training, "_epoch", epoch)
    resumed = run(tmp_path / "cut", **changed)
    assert resumed["curves"] == whole["curves"]
    assert resumed["networks"][0]["accuracies"] == whole["networks"][0]["accuracies"]


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "runs" / "oct_resnet18_small-alpha0.5-seed0"
    folder.mkdir(parents=True)
    (tmp_path / "out" / "recipe.yaml").write_text("{}")
    (folder / "last.safetensors").write_bytes(b"nothing")
    recipe = load_recipe("quick", **{**TINY, "alphas": [0.5]})
    with pytest.raises(InputError, match="is damaged"):
        training.train_run(training.Run("oct_resnet18_small", 0.5, 0), recipe, load_images(recipe), folder)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        run(tmp_path / "out", alphas=[0], lr=1e30, warmup_epochs=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ["oct_resnet51"]}, "none of Paddle's"),
        ({"data": "folder"}, "data is 'folder'"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb'"),
        ({"precision": "16-mixed"}, "precision is '16-mixed'"),
        ({"precision": "bf16-mixed"}, "on GPUs only"),
        ({"octave_bias": True}, "give --set octave_bias=false"),
        ({"initializer": "he"}, "give --set initializer=builder"),
        ({"depthwise_initializer": "torch"}, "depthwise_initializer is torch"),
        ({"norm_images": 9}, "norm_images is 9"),
        ({"size": 16}, "size is 16"),
        ({"model_arguments": {"*": {"height": 2}}}, "does not take these arguments"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run(tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--devices", "2"), "--devices is given with --backend paddle"),
        (("--nodes", "2"), "--nodes is given"),
        (("--strategy", "ddp"), "--strategy is given"),
        (("--accelerator", "tpu"), "--accelerator is 'tpu'"),
        (("--recipe", "article"), "octave_bias is True"),
    ],
)
def test_options_of_machines(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--backend", "paddle", *arguments])
    assert message in capsys.readouterr().err


def test_the_rate_climbs_and_falls() -> None:
    cosine = [training.rate("cosine", 10, 4)(step) for step in range(11)]
    assert cosine[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert cosine[10] == pytest.approx(0)
    assert training.rate("linear", 4, 0)(1) == 0.75
    assert training.rate("constant", 4, 0)(3) == 1


def test_each_image_is_shifted_and_mirrored_on_its_own() -> None:
    images = np.arange(4 * 3 * 6 * 6, dtype=np.uint8).reshape(4, 3, 6, 6)
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(crop_and_flip(images, 0, False, [0] * 3, random), images)
    moved = crop_and_flip(images, 0, True, [0] * 3, random)
    for new, old in zip(moved, images, strict=True):
        assert (new == old).all() or (new == old[:, :, ::-1]).all()
    shifted = crop_and_flip(images, 2, False, [7, 8, 9], random)
    padded = np.stack(
        [np.pad(images[:, c], ((0, 0), (2, 2), (2, 2)), constant_values=7 + c) for c in range(3)], 1
    )
    windows = [[padded[i, :, r : r + 6, c : c + 6] for r in range(5) for c in range(5)] for i in range(4)]
    assert all(any((new == w).all() for w in own) for new, own in zip(shifted, windows, strict=True))


def test_images_are_normalized_and_enlarged() -> None:
    split = Split(np.full((2, 1, 4, 4), 51, np.uint8), np.zeros(2, np.int64))
    images = Images("made", ["a"], split, split, split, (0.1,), (0.5,))
    seen = as_seen(split.images, images, Recipe(size=8))
    assert seen.shape == [2, 1, 8, 8]
    np.testing.assert_allclose(seen.numpy(), 0.2, rtol=1e-5)


def test_cifar_is_read_from_its_archive(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in ("data_batch_1", "test_batch"):
            labels = [i % 10 for i in range(30)]
            made = {b"data": random.integers(0, 256, (30, 3072), dtype=np.uint8), b"labels": labels}
            content = pickle.dumps(made)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    images = load_images(load_recipe("cifar"), tmp_path)
    assert (len(images.train), len(images.val), len(images.test)) == (20, 10, 30)
    assert images.train.images.shape[1:] == (3, 32, 32)
    with pytest.raises(InputError, match="put that archive"):
        load_images(load_recipe("cifar"), tmp_path / "elsewhere")


def test_no_torch_is_imported() -> None:
    program = "import sys, octavize.training.paddle.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
