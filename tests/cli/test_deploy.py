"""`octavize export`, `octavize predict` and `octavize bench` on the command line."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.cli import run

from octavize import create_model, load_runtime
from octavize.cli.main import main
from octavize.deploy.predict import prepare
from octavize.zoo.weights import save_weights

NAME = "oct_mobilenet_v1_small"
FACTS: dict[str, Any] = {
    "model": NAME,
    "alpha": 0.5,
    "classes": ["cat", "[dog]", "emu"],
    "in_chans": 3,
    "arguments": {"width": 0.125},
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.1],
    "normalize": True,
    "size": 16,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, and its exported file."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = create_model(NAME, 0.5, num_classes=3, width=0.125)
    save_weights(folder / "best.safetensors", model, FACTS)
    with pytest.raises(SystemExit):
        main(["export", str(folder), "--to", str(folder / "model.pt2")])
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("command", ["export", "predict", "bench"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"octavize {command}" in out
    assert "Example" in out


def test_export_of_a_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = load_runtime(trained / "model.pt2", trust=True)
    kept = ("model", "alpha", "classes", "mean", "std", "size")
    assert {key: runner.metadata[key] for key in kept} == {key: FACTS[key] for key in kept}
    code, _, err = run(capsys, "export", trained / "best.safetensors", "--to", trained / "model.pt2")
    assert code == 2
    assert "exists: give another name, or --overwrite" in " ".join(err.split())
    code, _, err = run(capsys, "export", trained, "--to", "x.pt2", "--exchange", "block")
    assert code == 2
    assert "--exchange is given" in err
    code, out, _ = run(
        capsys,
        "export",
        trained,
        "--to",
        trained / "model.pt2",
        "--overwrite",
        "--size",
        17,
        "--dynamic-size",
    )
    assert code == 0
    assert "parity: largest error" in out
    assert "any size" in out
    assert load_runtime(trained / "model.pt2", trust=True).metadata["input_shape"] == [1, 3, 17, 17]


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="not installed")
@pytest.mark.slow
def test_export_in_int8(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate(FACTS["classes"] * 4):
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    command: Any = ["export", trained, "--to", "int8.onnx", "--precision", "int8"]
    code, _, err = run(capsys, *command)
    assert code == 2
    assert "give images to quantize on with --calibration FOLDER" in err
    code, out, err = run(capsys, *command, "--calibration", tmp_path / "images")
    assert code == 0, err
    assert "quantized on 4 images" in out
    assert "compared on 8 others, same class first: " in out
    assert "accuracy: " in out
    assert load_runtime("int8.onnx", trust=True).metadata["precision"] == "int8"
    code, _, err = run(capsys, "export", trained, "--to", "f.onnx", "--calibration", tmp_path / "images")
    assert code == 2
    assert "float32 needs no images" in err


@pytest.mark.slow
def test_export_of_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "model.pt2"
    Path("resnet18").mkdir()  # a folder that happens to be called so hides nothing
    Path("timm:resnet18").mkdir()
    code, _, err = run(capsys, "export", "timm:resnet18", "--num-classes", 3, "--size", 32, "--to", to)
    assert code == 0, err
    code, _, err = run(capsys, "export", "resnet18", "--size", 32, "--to", tmp_path / "torchvisions.pt2")
    assert code == 0, err
    once: Any = [
        "export",
        NAME,
        "--exchange",
        "block:high_to_low",
        "--size",
        32,
        "--to",
        tmp_path / "once.pt2",
    ]
    code, _, err = run(capsys, *once)
    assert code == 0, err
    Path("resnet18.old/runs").mkdir(parents=True)
    code, _, err = run(capsys, "export", "resnet18.old/runs", "--to", tmp_path / "no.pt2")
    assert "resnet18.old/runs is a folder without best.safetensors or network.json" in err
    exported = load_runtime(to, trust=True)
    assert exported.metadata["alpha"] == 0.5
    assert exported(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_export_of_a_function_follows_alpha_and_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "export_nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    convolutions = [nn.Conv2d(n, 8, 3, padding=1) for n in (1, 8, 8)]\n"
        "    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 12 * 12, 2))\n"
    )
    outputs = []
    for alpha in (0, 0.5):
        to = tmp_path / f"{alpha}.pt2"
        code, _, err = run(capsys, "export", "export_nets:build", "--alpha", alpha, "--size", 12, "--to", to)
        assert code == 0, err
        outputs.append(load_runtime(to, trust=True)(torch.ones(1, 1, 12, 12).tril()))
    assert outputs[0].shape == outputs[1].shape == (1, 2)
    assert not np.allclose(outputs[0], outputs[1], atol=1e-3)


@pytest.mark.slow
def test_a_thinner_network_of_ours_is_found_by_either_name(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--same-macs", "--runtime", "eager", "--size", 16, "--batch", 1, "--threads", 1)
    for name in ("oct_cifar_resnet20", "octavize:oct_cifar_resnet20"):
        code, out, err = run(capsys, "bench", name, *arguments, "--alpha", 0.5, "--rounds", 1)
        assert code == 0, err
        assert "width" in out


def test_training_of_a_network_with_auxiliary_classifiers_is_timed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("googlenet", "--runtime", "training", "--size", 32, "--batch", 2, "--threads", 1)
    code, out, err = run(capsys, "bench", *arguments, "--alpha", 0.5, "--rounds", 1)
    assert code == 0, err
    assert "training" in out
    code, _, err = run(
        capsys, "bench", "timm:skresnet18", *arguments[1:], "--batch", 1, "--alpha", 0.5, "--rounds", 1
    )
    assert "in training mode, give larger images (--size) or more of them (--batch)" in err
    Path("segmenters.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(*(nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8)))\n"
    )
    code, _, err = run(capsys, "bench", "segmenters:build", *arguments[1:], "--alpha", 0.5, "--rounds", 1)
    assert code == 2
    assert "training is timed of classifiers" in err.splitlines()[-1]


def test_predict(trained: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained / "model.pt2"
    code, out, _ = run(capsys, "predict", "--trust", model, image, image, "--top", 2, "--json")
    assert code == 0
    first, second = json.loads(out)
    assert first == second
    assert first["image"] == str(image)
    chances = [found["probability"] for found in first["predictions"]]
    assert chances == sorted(chances, reverse=True)
    with torch.no_grad():
        x = prepare([image], load_runtime(model, trust=True).metadata)
        logits = torch.from_numpy(load_runtime(model, trust=True)(x))[0]
    best = int(logits.argmax())
    assert first["predictions"][0]["class"] == FACTS["classes"][best]
    assert chances[0] == pytest.approx(float(logits.softmax(0)[best]), abs=1e-6)
    code, out, _ = run(capsys, "predict", "--trust", model, image)
    assert code == 0
    assert all(name in out for name in FACTS["classes"])
    assert "%" in out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("no.png", "no.png does not exist"),
        ("best.safetensors", "cannot be read as an image"),
        (".", "is no file"),
    ],
)
def test_wrong_images(wrong: str, words: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines: what a trusted file may do, and the mistake."""
    code, _, err = run(capsys, "predict", "--trust", trained / "model.pt2", trained / wrong)
    warning, error = err.splitlines()
    assert code == 2
    assert warning.endswith("model.pt2 may run code of whoever wrote it")
    assert error.startswith("Error: ")
    assert words in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", NAME, "--to", "model.tflite"), ("model.tflite", ".onnx, .xml, .pt2")),
        (("export", "no-such", "--to", "m.pt2"), ("'no-such' is unknown",)),
        (("export", ".", "--to", "m.pt2"), ("is a folder without best.safetensors or network.json",)),
        (("export", "RUN", "--to", "m.pt2", "--alpha", 0.5), ("--alpha is given",)),
        (("export", "no.safetensors", "--to", "m.pt2"), ("no.safetensors does not exist",)),
        (("predict", "no.pt2", "a.png"), ("no.pt2 does not exist",)),
        (("predict", "RUN/model.pt2", "no.png"), ("may run code as it is read", "--trust", ".onnx")),
        (("bench", NAME, "--runtime", "tvm"), ("'tvm' is unknown",)),
        (("bench", "no-such"), ("'no-such' is unknown",)),
        (("bench", NAME, "--out", "RUN/model.pt2"), ("--overwrite",)),
        (("bench", NAME, "--out", "no/b.json"), ("folder that does not exist",)),
        (("bench", NAME, "--figure", "b.xyz"), ("--figure is b.xyz", ".png, .svg, .pdf")),
        (("bench", NAME, "--runtime", "eager", "--batch", 0), ("batch=0",)),
        (("bench", NAME, "--runtime", "eager", "--threads", -1), ("threads=-1",)),
        (("bench", NAME, "--runtime", "eager", "--device", "foo"), ("device='foo'",)),
        (("convert", "resnet18", "--target", "openvino", "--out", "o"), ("--target", "--budget")),
    ],
)
def test_mistakes_take_one_line(
    arguments: tuple[object, ...], words: tuple[str, ...], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *(str(argument).replace("RUN", str(trained)) for argument in arguments))
    assert code == 2
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--size", 32, "--rounds", 1, "--batch", 1, 2, "--threads", 1, "--alpha", 0.5, "--same-macs")
    runtimes = ("--runtime", "eager", "frozen")
    files = ("--out", tmp_path / "b.json", "--figure", tmp_path / "b.svg")
    code, out, _ = run(capsys, "bench", "oct_cifar_resnet20", *settings, *runtimes, *files)
    assert code == 0
    assert "realized" in out
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["model"] == "oct_cifar_resnet20"
    assert {(row["runtime"], row["batch"]) for row in found["rows"]} == {
        (runtime, batch) for runtime in ("eager", "frozen") for batch in (1, 2)
    }
    assert {row["network"].split(",")[0] for row in found["rows"]} == {"vanilla", "α=0.5"}
    assert (tmp_path / "b.svg").is_file()
