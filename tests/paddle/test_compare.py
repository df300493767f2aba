"""`octavize compare --backend paddle`: run folder, resumption, what it refuses."""

from __future__ import annotations

import csv
import io
import json
import math
import pickle
import re
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

from octavize.cli.main import main
from octavize.errors import InputError
from octavize.paddle import create_model
from octavize.paddle.initialize import initialize, settle_path_biases
from octavize.paddle.source import find_network
from octavize.paddle.trace import trace
from octavize.paddle.weights import read_safetensors
from octavize.paddle.zoo import build_model
from octavize.training.folder import folder_lock
from octavize.training.paddle import train as training
from octavize.training.paddle.compare import compare
from octavize.training.paddle.data import Images, LazySplit, Split, as_seen, crop_and_flip, load_images
from octavize.training.recipe import Recipe, load_recipe
from octavize.training.runs import describe_data, plan_runs
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


def test_the_run_folder_and_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(training, "processor_name", lambda: "another")
    assert run(out, epochs=1)["profile"]["environment"]["processor"] == "another"  # its times were not kept
    with folder_lock(out / "train.lock"), pytest.raises(InputError, match="another command is at work"):
        run(out, epochs=1)
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
        ({"models": ["oct_resnet51"]}, "none of Paddle's: did you mean oct_resnet50"),
        ({"models": ["LeNet"]}, "none of Paddle's: see `octavize models --backend paddle`"),
        ({"data": "folder"}, "data_dir is not given"),
        ({"optimizer": "lamb"}, "optimizer is 'lamb'"),
        ({"precision": "16-mixed"}, "precision is '16-mixed'"),
        ({"precision": "bf16-mixed"}, "on GPUs only"),
        ({"norm_images": 1}, "norm_images=1: give a whole number of at least 2"),
        (
            {"size": 16},
            "textures have 32 or 64 pixels: Paddle makes none smaller",
        ),
        ({"size": 48}, "give 32, 64 or more"),
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


def make_folder(root: Path, count: int = 5) -> Path:
    """Class a is red, class b is blue; the green channel numbers the images."""
    for split in ("train", "test"):
        for name, color in (("a", (255, 0)), ("b", (0, 255))):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (10, 8), (color[0], 20 * i, color[1]))
                image.save(root / split / name / f"{i}.png")
    return root


def test_a_folder_is_read_as_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("quick", data="folder", size=8, val_fraction=0.2)
    eager = load_images(recipe, make_folder(tmp_path / "images"))
    assert list(eager.classes) == ["a", "b"]
    assert (eager.channels, eager.size) == (3, 8)
    assert [len(split) for split in (eager.train, eager.val, eager.test)] == [8, 2, 10]
    assert sorted(eager.train.labels.tolist()) == [0] * 4 + [1] * 4
    both = [*eager.train[:].images[:, 1, 0, 0], *eager.val[:].images[:, 1, 0, 0]]
    assert sorted(both) == sorted([0, 20, 40, 60, 80] * 2)
    assert (eager.mean[0], eager.std[2]) == pytest.approx((0.5, 0.5))
    monkeypatch.setattr("octavize.data.folder.EAGER_BYTES", 100)
    lazy = load_images(recipe, tmp_path / "images")
    assert isinstance(lazy.train, LazySplit)
    assert (lazy.mean, lazy.std, lazy.channels, lazy.size) == (eager.mean, eager.std, 3, 8)
    for index in (np.array([7, 0, 3]), slice(2, 5)):
        mine, other = lazy.train[index], eager.train[index]
        np.testing.assert_array_equal(mine.images, other.images)
        np.testing.assert_array_equal(mine.labels, other.labels)
    if find_spec("torch") is not None:
        from octavize.data.sets import load_data

        theirs = load_data("folder", size=8, data_dir=tmp_path / "images", val_fraction=0.2)
        assert describe_data(theirs) == pytest.approx(describe_data(lazy))


def test_networks_are_trained_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavize.training.paddle.compare.load_images", load_images)
    changed = {"data": "folder", "size": 16, "limit_train": 8, "batch_size": 4, "epochs": 1, "alphas": [0.5]}
    recipe = load_recipe("quick", **{**TINY, **changed})
    folder = make_folder(tmp_path / "images")
    results = compare(recipe, tmp_path / "out", data_dir=folder, timing=SHORT)
    assert results["networks"][0]["alpha"] == 0.5
    best = tmp_path / "out/runs/oct_resnet18_small-alpha0.5-seed0/best.safetensors"
    net, facts = find_network(str(best))
    assert (facts["classes"], facts["size"], facts["alpha"]) == (["a", "b"], 16, 0.5)
    assert list(net(paddle.zeros([1, 3, 16, 16])).shape) == [1, 2]


def deviation(layer: Any, rows: slice = slice(None), columns: slice = slice(None)) -> float:
    return float(layer.weight.numpy()[rows, columns].std())


def test_how_networks_start() -> None:
    net: Any = create_model("oct_mobilenet_v1", 0.5, num_classes=10)
    depthwise, pointwise = net.conv5_1._depthwise_conv[0], net.conv5_1._pointwise_conv[0]
    own = deviation(depthwise)
    channels, shape = depthwise._in_channels, (1, 3, 32, 32)
    before = pointwise.weight.numpy()
    initialize(net, "builder", "he", shape)
    np.testing.assert_array_equal(pointwise.weight.numpy(), before)
    assert own == pytest.approx(math.sqrt(2 / (9 * channels)), rel=0.1)
    assert deviation(depthwise) == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    initialize(net, "torch", "torch", shape)
    bound = 1 / math.sqrt(channels)
    assert abs(pointwise.weight.numpy()).max() == pytest.approx(bound, rel=0.01)
    initialize(net, "framework", "framework", shape)
    half = slice(0, channels // 2), slice(channels // 2, channels)
    for part in half:  # each path has the fan-in of its own half
        assert deviation(pointwise, columns=part) == pytest.approx(math.sqrt(2 / (channels / 2)), rel=0.1)
        assert deviation(depthwise, rows=part) == pytest.approx(math.sqrt(2 / (9 * channels / 2)), rel=0.1)


def test_octave_layers_have_a_bias_for_each_path() -> None:
    net = build_model("oct_resnet18_small", 0.5, 10, 3, {"octave_bias": True})
    plain = build_model("oct_resnet18_small", 0.5, 10, 3, {})
    plain.set_state_dict(net.state_dict())
    added = net.state_dict().keys() - plain.state_dict().keys()
    leaves = Counter(name.rpartition(".")[2] for name in added)
    reads_low = [run for run in trace(plain, (1, 3, 32, 32)).layers if run.input[1] and run.kind != "Linear"]
    assert leaves == {"bias": 20 - len(reads_low), "bias_0": len(reads_low), "bias_1": len(reads_low)}
    x = paddle.randn([2, 3, 32, 32])
    assert (net.eval()(x) == plain.eval()(x)).all()  # all are zero

    layer: Any = net.layer2[0].conv2
    optimizer = paddle.optimizer.SGD(0.1, parameters=net.parameters())
    net(x).square().sum().backward()
    gradient = layer.bias_0.grad.numpy()
    optimizer.step()
    net(x)
    assert np.abs(gradient).max() > 0
    assert layer.bias.numpy() == pytest.approx(-0.2 * gradient)  # both have moved

    outputs = net(x)
    settle_path_biases(net)
    assert "bias" in layer._parameters
    assert not layer._forward_pre_hooks
    assert {name.rpartition(".")[2] for name in net.state_dict()} & {"bias_0", "bias_1"} == set()
    assert net(x).numpy() == pytest.approx(outputs.numpy(), abs=1e-5)


def test_a_vanilla_network_keeps_its_biases() -> None:
    names = build_model("oct_resnet18_small", 0, 10, 3, {"octave_bias": True}).state_dict().keys()
    assert names == build_model("oct_resnet18_small", 0, 10, 3, {}).state_dict().keys()


def test_a_run_with_path_biases_is_found_again(tmp_path: Path) -> None:
    run(tmp_path / "out", alphas=[0.5], octave_bias=True)
    (best,) = (tmp_path / "out").rglob("best.safetensors")
    net, about = find_network(str(best))
    assert about["alpha"] == 0.5
    arrays = read_safetensors(best)
    (name,) = [key for key in arrays if key.endswith("layer1.0.conv2.bias_0")]
    both = arrays[name] + arrays[name.replace("bias_0", "bias_1")]
    assert np.abs(both).max() > 0
    assert net.layer1[0].conv2.bias.numpy() == pytest.approx(both)


BASE: dict[str, Any] = {"alphas": [0.5], "epochs": 2, "weight_decay": 0.1, "label_smoothing": 0.1}
OTHERWISE: dict[str, Any] = {
    "size": 64,
    "models": ["oct_mobilenet_v1_small"],
    "model_arguments": {"*": {"width": 0.25}},
    "octave_bias": True,
    "downsample": "stride",
    "exchange": "high_to_low",
    "initializer": "he",
    "depthwise_initializer": "he",
    "alphas": [0.25],
    "seeds": [1],
    "epochs": 3,
    "batch_size": 10,
    "optimizer": "momentum",
    "lr": 0.01,
    "momentum": 0.5,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "label_smoothing": 0.0,
    "crop_padding": 0,
    "flip": False,
    "normalize": False,
    "limit_train": 30,
    "norm_images": 20,
}
"""Another value of every setting that training in Paddle honors."""
ELSEWHERE = {
    "name": "only what the report is called",
    "data": "test_a_folder_is_read_as_in_torch",
    "val_fraction": "test_a_folder_is_read_as_in_torch",
    "precision": "test_what_is_refused",
}
"""The other settings, and who tests them."""


def test_every_setting_of_a_recipe_is_tried() -> None:
    assert OTHERWISE.keys() | ELSEWHERE.keys() == {field.name for field in fields(Recipe)}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERWISE)
def test_no_setting_is_ignored(name: str, tmp_path: Path) -> None:
    base = BASE | ({"models": ["oct_mobilenet_v1_small"]} if name == "depthwise_initializer" else {})
    curves = []
    for settings in (base, base | {name: OTHERWISE[name]}):
        recipe = load_recipe("quick", **{**TINY, **settings})
        images, (run,) = load_images(recipe), plan_runs(recipe)
        images = replace(images, val=images.val[::60], test=images.test[::60])
        folder = tmp_path / str(len(curves))
        training.train_run(run, recipe, images, folder)
        rows = list(csv.DictReader((folder / "metrics.csv").open(encoding="utf-8")))
        curves.append([{key: row[key] for key in ("train_loss", "val_loss")} for row in rows])
    assert curves[0] != curves[1]


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_decay_is_of_weights_alone(optimizer: str) -> None:
    """One step without gradients moves what decays: the weights, not biases nor batch norms."""
    recipe = load_recipe("quick", **{**TINY, "optimizer": optimizer, "weight_decay": 0.5, "lr": 0.1})
    net = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 1), paddle.nn.BatchNorm2D(4), paddle.nn.Linear(4, 2))
    parameters = dict(net.named_parameters())
    for parameter in parameters.values():
        parameter.set_value(paddle.ones_like(parameter))
        parameter.grad = paddle.zeros_like(parameter)
    training.make_optimizer(net, recipe, "oct_resnet18_small", 10).step()
    moved = {name for name, value in parameters.items() if not bool((value == 1).all())}
    assert moved == {"0.weight", "2.weight"}


def test_no_torch_is_imported() -> None:
    program = "import sys, octavize.training.paddle.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
