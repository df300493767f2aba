"""`octavize export --backend paddle`, and `octavize predict` of its files, without torch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image
from tests.helpers.cli import run

from octavize import load_runtime
from octavize.deploy.images import prepare
from octavize.paddle import create_model, plan, predictor_config
from octavize.paddle.state import PADDLE, write_state
from octavize.paddle.storage import Origin, save_converted
from octavize.paddle.weights import torch_state

NAME = "oct_cifar_resnet20"
CLASSES = ["cat", "[dog]", "emu"]
FACTS: dict[str, Any] = {"classes": CLASSES, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "size": 16}
needs_onnx = pytest.mark.skipif(find_spec("paddle2onnx") is None, reason="not installed")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def net() -> nn.Layer:
    made = create_model(NAME, 0.5, num_classes=3)
    made.eval()
    return made


@pytest.fixture
def folder(net: nn.Layer) -> Path:
    """What `octavize convert` writes."""
    origin = Origin("paddle", NAME, {"num_classes": 3})
    save_converted("octave", net, plan(net, {"*": 0.5}, example=(1, 3, 16, 16)), origin, FACTS)
    return Path("octave")


def trained(net: nn.Layer, **about: Any) -> Path:
    """What `octavize compare` writes."""
    Path("runs/one").mkdir(parents=True)
    facts = {"model": NAME, "alpha": 0.5, "arguments": {}, "in_chans": 3, "framework": PADDLE, **FACTS}
    write_state(Path("runs/one/best.safetensors"), torch_state(net), {**facts, **about})
    return Path("runs/one")


def image(name: str, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(name)
    return Path(name)


def export(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    return run(capsys, "export", "--backend", "paddle", *arguments)


def test_a_converted_network_for_paddle_inference(
    folder: Path, net: nn.Layer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = export(capsys, folder, "--to", "new/net", "--dynamic-size", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["files"] == ["new/net.json", "new/net.pdiparams", "new/net.octavize"]
    assert told["parity"] < 1e-4
    assert told["input_shape"] == [1, 3, 16, 16]
    assert json.loads(Path("new/net.octavize").read_text("utf-8"))["classes"] == CLASSES
    x = paddle.randn([2, 3, 21, 16])
    got = paddle.inference.create_predictor(predictor_config("new/net")).run([x])[0].numpy()
    np.testing.assert_allclose(got, net(x).numpy(), atol=1e-4)
    code, _, err = export(capsys, folder, "--to", "new/net")
    assert code == 2
    assert "new/net.json exists: give another name, or --overwrite" in err
    assert export(capsys, folder, "--to", "new/net", "--overwrite")[0] == 0
    code, _, err = run(capsys, "predict", "new/net", image("a.png", 0))
    assert code == 2
    assert "export the network with --to NAME.onnx" in err


@needs_onnx
@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_a_trained_network_for_other_runtimes(
    name: str, net: nn.Layer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = export(capsys, trained(net), "--to", name, "--size", 24, "--json")
    assert code == 0, err
    assert json.loads(out)["files"][0] == name  # nothing else is on standard output
    runner = load_runtime(name)
    kept = {key: runner.metadata[key] for key in ("classes", "mean", "std", "size", "alpha", "model")}
    assert kept == {**FACTS, "size": 24, "alpha": 0.5, "model": NAME}
    x = prepare([image("a.png", 0)], runner.metadata)
    wanted = net(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(runner(x), wanted, atol=1e-3)
    code, out, err = run(capsys, "predict", name, "a.png", "--top", 2, "--json")
    assert code == 0, err
    first = json.loads(out)[0]["predictions"][0]
    assert first["class"] == CLASSES[int(wanted.argmax())]
    chances = np.exp(wanted[0]) / np.exp(wanted[0]).sum()
    assert first["probability"] == pytest.approx(chances.max(), abs=1e-3)


@needs_onnx
@pytest.mark.parametrize("name", ["int8.onnx", "int8.xml"])
def test_int8(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name.endswith(".xml"):
        pytest.importorskip("nncf")
    for i, label in enumerate(CLASSES * 4):
        image(f"images/{label}/{i}.png", i)
    command = (folder, "--to", name, "--precision", "int8")
    code, _, err = export(capsys, *command)
    assert code == 2
    assert "give images to quantize on with --calibration FOLDER" in err
    code, out, err = export(capsys, *command, "--calibration", "images", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["quantized_on"] == 4
    assert told["agreement"]["images"] == 8
    assert 0 <= told["agreement"]["after"] <= 1
    runner = load_runtime(name)
    assert runner.metadata["precision"] == "int8"
    assert np.isfinite(runner(np.zeros((2, 3, 16, 16), np.float32))).all()


@needs_onnx
def test_a_function_follows_alpha_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    Path("export_paddle_nets.py").write_text(
        "import paddle\nfrom paddle import nn\ndef build():\n    paddle.seed(3)\n"
        "    layers = [nn.Conv2D(n, 8, 3, padding=1) for n in (1, 8, 8)]\n"
        "    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 12 * 12, 2))\n"
    )
    outputs = []
    for alpha in (0, 0.5):
        to = f"{alpha}.onnx".replace("0.", "half.")
        code, out, err = export(
            capsys, "export_paddle_nets:build", "--alpha", alpha, "--size", 12, "--to", to, "--overwrite"
        )
        assert code == 0, err
        assert "12 × 12 pixels" in out
        outputs.append(load_runtime(to)(np.tri(12, dtype=np.float32)[None, None]))
    assert not np.allclose(*outputs, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((NAME, "--to", "net.pt2"), "a name that ends in .onnx or .xml, or one without an ending"),
        ((NAME, "--to", "net.json"), "or one without an ending for Paddle Inference"),
        ((NAME, "--to", "net", "--precision", "int8"), "give a name that ends in .onnx or .xml"),
        ((NAME, "--to", "net.onnx", "--precision", "bf16"), "precision='bf16': .onnx"),
        ((NAME, "--to", "net", "--calibration", "."), "float32 needs no images"),
        (("resnet51", "--to", "net"), "did you mean"),
        (("LeNet", "--to", "net"), "give a name from `octavize models --backend paddle`"),
        (("none.safetensors", "--to", "net"), "none.safetensors does not exist"),
        (("os:getcwd", "--to", "net", "--num-classes", "3"), "leave it to the function"),
        (("octave", "--to", "net", "--alpha", "0.5"), "--alpha is given and octave"),
        (("runs", "--to", "net"), "give one of its runs, runs/runs/a"),
    ],
)
def test_what_is_refused(
    arguments: tuple[object, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/runs/a").mkdir(parents=True)
    Path("runs/runs/a/best.safetensors").write_bytes(b"")
    code, _, err = export(capsys, *arguments)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not list(Path().glob("net*"))


def test_a_run_of_torch_is_told_apart(net: nn.Layer, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = export(capsys, trained(net, framework="torch"), "--to", "net")
    assert code == 2
    assert "was not trained in PaddlePaddle: leave --backend paddle out" in err


def test_a_file_does_not_decide_which_code_runs(net: nn.Layer, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = trained(net, arguments={"checkpoint_path": "http://somewhere"})
    code, _, err = export(capsys, run_folder, "--to", "net")
    assert code == 2
    assert "which a file may not decide" in err
