"""`--backend paddle` of the commands, in an environment that may lack torch."""

from __future__ import annotations

import importlib
import json
import re
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from octavize import load_runtime
from octavize.cli.main import main
from octavize.errors import InputError
from octavize.files import read_about
from octavize.paddle import create_model, load_converted


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["profile", "--backend", "paddle", *arguments])
    return int(ended.value.code or 0)


def test_costs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("oct_mobilenet_v1", "--alpha", "0", "0.5", "--num-classes", "10", "--json") == 0
    vanilla, octave = json.loads(capsys.readouterr().out)
    assert (vanilla["macs"], octave["macs"]) == (567_726_592, 317_153_920)  # the article's own
    assert vanilla["params"] == octave["params"]
    assert octave["macs_ratio"] == pytest.approx(317_153_920 / 567_726_592)


def test_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("oct_resnet18_small", "--layers", "--size", "32") == 0
    told = capsys.readouterr().out
    assert "layer2.0.conv1" in told
    assert "octave" in told


def test_costs_of_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profiled_paddle.py").write_text(
        "from paddle import nn\ndef build():\n"
        "    return nn.Sequential(nn.Conv2D(1, 32, 3, padding=1), *(nn.Conv2D(32, 32, 1) for _ in 'ab'))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run("profiled_paddle:build", "--size", "8", "--json") == 0
    vanilla, octave = json.loads(capsys.readouterr().out)
    assert vanilla["macs"] == 64 * 32 * (9 + 32 + 32)
    assert octave["macs"] < vanilla["macs"]
    assert run("profiled_paddle:build", "--num-classes", "3") == 2
    assert "leave it to the function" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("oct_resnet51",), "did you mean"),
        (("oct_resnet18", "--rounds", "3"), "--backend paddle leaves out"),
        (("oct_resnet18", "oct_resnet34", "--layers"), "give one name and one α"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


# ---- convert ---------------------------------------------------------------------------------------------


def convert(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["convert", *arguments, "--backend", "paddle"])
    return int(ended.value.code or 0)


def scores(net: nn.Layer) -> np.ndarray:
    net.eval()
    with paddle.no_grad():
        return net(paddle.ones([1, 3, 32, 32])).numpy()


def test_a_named_network_is_converted_and_read_back(tmp_path: Path) -> None:
    trained = create_model("oct_resnet18_small", 0, num_classes=7)
    paddle.save(trained.state_dict(), str(tmp_path / "mine.pdparams"))
    given = ("oct_resnet18_small", "--weights", str(tmp_path / "mine.pdparams"), "--num-classes", "7")
    out = tmp_path / "out"
    statistics = ("--mean", "0.5", "0.25", "0.75", "--std", "1", "1", "1")
    assert convert(*given, "--alpha", "0.25", "--size", "32", *statistics, "--out", str(out)) == 0
    net = load_converted(out)
    expected = create_model("oct_resnet18_small", 0.25, num_classes=7, downsample="stride")
    expected.set_state_dict(trained.state_dict())
    np.testing.assert_array_equal(scores(net), scores(expected))
    told = read_about(out)
    assert told["origin"] == {"kind": "paddle", "name": "oct_resnet18_small", "arguments": {"num_classes": 7}}
    assert told["input"] == {"mean": [0.5, 0.25, 0.75], "std": [1.0, 1.0, 1.0], "size": 32, "in_chans": 3}
    again = ("--plan", str(out / "plan.yaml"), "--out", str(tmp_path / "again"))
    assert convert(*given, *again) == 0
    np.testing.assert_array_equal(scores(load_converted(tmp_path / "again")), scores(net))


def test_a_function_is_converted_within_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_paddle.py").write_text(
        "import paddle\nfrom paddle import nn\ndef build():\n    paddle.seed(3)\n"
        "    return nn.Sequential(*(nn.Conv2D(c, 64, 3, padding=1) for c in (3, 64, 64, 64)))\n"
    )
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert convert("mine_paddle:build", "--budget", "0.7", "--size", "16", "--out", str(out)) == 0
    with pytest.raises(InputError, match="give model="):
        load_converted(out)
    module = importlib.import_module("mine_paddle") if "mine_paddle" in sys.modules else None
    assert module is not None
    net = load_converted(out, model=module.build())
    assert {layer.alpha for layer in net.sublayers() if hasattr(layer, "alpha")} > {0.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet51",), "did you mean"),
        (("resnet18", "--refit", "photos"), "--refit is given with --backend paddle"),
        (("resnet18", "--refit-images", "9"), "--refit-images is given with --backend paddle"),
        (("resnet18", "--budget", "0.6", "--target", "onnxruntime"), "--target is given with --backend"),
        (("resnet18", "--alpha", "0.5", "--budget", "0.6"), "choose one"),
        (("os:getcwd", "--num-classes", "3"), "leave it to the function"),
        (("os:getcwd",), "return a paddle.nn.Layer"),
        (("resnet18", "--weights", "none.pdparams"), "none.pdparams does not exist"),
        (("resnet18", "--weights", "a.safetensors", "--pretrained"), "choose one"),
    ],
)
def test_what_cannot_be_converted(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*arguments, "--out", str(tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert message in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["resnet18", "oct_resnet50"])
def test_weights_that_cannot_be_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any) -> Any:
        raise RuntimeError("Retry limit reached")

    monkeypatch.setattr("paddle.vision.models.resnet.get_weights_path_from_url", refuse)
    assert convert(name, "--pretrained", "--out", str(tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert f"weights of {name} cannot be had (Retry limit reached); try again with a connection, or" in told
    assert not (tmp_path / "out").exists()


# ---- models ----------------------------------------------------------------------------------------------


def models(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["models", *arguments])
    return int(ended.value.code or 0)


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert models("oct_resnet5*", "--backend", "paddle", "--json") == 0
    assert json.loads(capsys.readouterr().out) == ["oct_resnet50", "oct_resnet50_small"]
    assert models("lenet", "--backend", "paddle") == 2
    assert "'lenet' matches no network" in capsys.readouterr().err
    assert models("--costs", "--backend", "paddle") == 2
    assert "`octavize profile --backend paddle NAME` counts them" in capsys.readouterr().err


# ---- what is missing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "extra"), [({"onnxruntime"}, "deploy"), ({"torch"}, "paddle-deploy")])
def test_a_missing_runtime_is_brought_by_the_framework_at_hand(
    missing: set[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {*missing, "onnxruntime"}
    found = {name: object() for name in ("torch", "paddle")}
    hidden = dict.fromkeys(missing)
    monkeypatch.setattr(util, "find_spec", lambda name: (found | hidden).get(name))
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=re.escape(f"'octavize[{extra}]'")):
        load_runtime(tmp_path / "net.onnx")


@pytest.mark.skipif(util.find_spec("torch") is not None, reason="torch is here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "resnet18", "--out", "x"),
        ("profile", "oct_resnet18"),
        ("compare",),
        ("export", "oct_resnet18", "--to", "net.onnx"),
        ("models",),
    ],
)
def test_the_backend_at_hand_is_told(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "torch is not installed, and PaddlePaddle is: add --backend paddle" in capsys.readouterr().err
