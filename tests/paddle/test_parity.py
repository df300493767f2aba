"""The same network in torch and in Paddle: the same plan, outputs and gradients. Needs both frameworks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("timm")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import paddle  # noqa: E402

import octavize  # noqa: E402
import octavize.paddle as octavize_paddle  # noqa: E402
import paddle_paired as paired  # noqa: E402
import paddle_parity as parity  # noqa: E402
from octavize.files import write_json  # noqa: E402
from octavize.paddle.torch_names import torch_name  # noqa: E402
from paddle_networks import Pair, pairs  # noqa: E402

QUICK = ("resnet18", "shufflenet_v2_x0_5")
PAIRS = {pair.name: pair for pair in pairs()}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS]
GRADIENTS = {"alexnet": 1e-10}  # the one without adaptive_avg_pool2d


def octave(pair: Pair) -> tuple[Any, Any]:
    """The network in both frameworks, octave by the plan of each."""
    ours, theirs = pair.build()
    shape = (1, 3, pair.side, pair.side)
    plans = octavize.plan(ours, 0.5, example=shape), octavize_paddle.plan(theirs, 0.5, example=shape)
    assert parity.differences(*plans, torch_name(theirs)) == []
    assert any(d.alpha for d in plans[0].decisions)
    return octavize.octavize(ours, plans[0]), octavize_paddle.octavize(theirs, plans[1])


@pytest.mark.usual_min_low
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_the_same_in_both(name: str) -> None:
    ours, theirs = octave(PAIRS[name])
    batch = parity.images(PAIRS[name].side)
    found = parity.errors(ours, theirs, batch, "float32", "eval")
    assert found["output"] < 1e-5
    # Elsewhere float32 itself is further from float64, as rounding takes units across a ReLU's bend.
    limit = 1e-5 if name in QUICK else max(1e-5, 3 * max(parity.float32_alone(PAIRS[name])))
    assert max(found.values()) < limit
    ours, theirs = ours.double(), theirs.to(dtype="float64")
    for mode in ("eval", "train"):
        found = parity.errors(ours, theirs, batch, "float64", mode)
        assert found["output"] < 1e-10
        assert max(found.values()) < GRADIENTS.get(name, 1e-7)


def test_ten_steps_have_the_same_losses() -> None:
    ours, theirs = octave(PAIRS["shufflenet_v2_x0_5"])
    batch = parity.images(64)
    ours, theirs = ours.double(), theirs.to(dtype="float64")
    for optimizer in ("sgd", "adam"):
        octavize_paddle.weights.from_torch(theirs, {k: v.numpy() for k, v in ours.state_dict().items()})
        assert parity.losses(ours, theirs, batch, optimizer) < 1e-4


@pytest.mark.usual_min_low
def test_policies_give_both_the_same_network() -> None:
    for name in ("oct_mobilenet_v1", "oct_mobilenet_v2", "oct_resnet26"):
        ours, theirs = octavize.create_model(name, 0.5), octavize_paddle.create_model(name, 0.5)
        shapes = (1, 3, 64, 64)
        left = octavize.plan(ours, octave_alphas(ours), example=shapes)
        right = octavize_paddle.plan(theirs, octave_alphas(theirs), example=shapes)
        assert left.macs_after == right.macs_after
        assert [d.alpha for d in left.decisions] == [d.alpha for d in right.decisions]


def test_cifar_resnets_are_the_same_in_both() -> None:
    ours = octavize.create_model("oct_cifar_resnet20", num_classes=7, in_chans=1)
    theirs = octavize_paddle.create_model("oct_cifar_resnet20", num_classes=7, in_chans=1)
    state = {key: value.numpy() for key, value in ours.state_dict().items()}
    octavize_paddle.weights.from_torch(theirs, state)
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype("float32")
    expected = ours.eval()(torch.from_numpy(x)).detach().numpy()
    theirs.eval()
    np.testing.assert_allclose(theirs(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)
    rename = torch_name(theirs)
    assert {rename(n): a for n, a in octave_alphas(theirs).items()} == octave_alphas(ours)


def octave_alphas(net: Any) -> dict[str, float]:
    named = net.named_modules() if hasattr(net, "named_modules") else net.named_sublayers()
    return {name: layer.alpha for name, layer in named if hasattr(layer, "alpha")}


def test_the_page_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = {"output": 1e-6, "input_grad": 2e-6, "grad": 3e-6}
    modes = [f"{d}_{m}" for d in ("float32", "float64") for m in ("eval", "train")]
    row = {
        "model": "net",
        "side": 64,
        "plan_differs": ["conv"],
        "aligned": "it pads",
        "float32_alone": [1.0, 2.0],
    }
    for kind in parity.KINDS:
        row |= {f"{kind}_{mode}": errors for mode in modes} | {f"{kind}_sgd": 0.0, f"{kind}_adam": 1.0}
    versions = dict.fromkeys(("octavize", "torch", "torchvision", "paddle"), "1")
    monkeypatch.setattr(parity, "DATA", tmp_path / "parity.json")
    write_json(parity.DATA, {"versions": versions, "not_shared": {"other": "two"}, "networks": [row]})
    page = parity.page("")
    assert "| net | 64 | conv | 1e-06 / 1e-06 | 3e-06 / 3e-06 |" in page
    assert "* net: it pads." in page
    assert "* other: two." in page
    assert "Not measured yet: mobilenet_v1, resnet18" in page


# ---- the paired training --------------------------------------------------------------------------------

TINY = paired.Settings(32, 10, 1, batch=8, width_mobilenet_v1=0.25, width_resnet50=0.125)


def tiny_images() -> Any:
    from octavize.data.images import Split, assemble

    pixels = torch.randint(0, 255, (40, 3, 32, 32), dtype=torch.uint8)
    split = Split(pixels, torch.arange(40) % 10)
    return assemble("tiny", [f"c{i}" for i in range(10)], split, split, split)


@pytest.mark.parametrize("start", paired.STARTS)
def test_a_pair_starts_and_steps_alike(start: str) -> None:
    images = tiny_images()
    found = [
        paired.train(paired.Run("resnet50", 0.5, framework, start, 0), TINY, images)
        for framework in paired.FRAMEWORKS
    ]
    first = [run["train_loss"][0] for run in found]
    np.testing.assert_allclose(first[0], first[1], rtol=1e-4)
    assert found[0]["test"][0]["loss"] == pytest.approx(found[1]["test"][0]["loss"], rel=1e-3)
    assert len(found[0]["train_loss"]) == 5


def test_runs_are_kept_and_drawn(tmp_path: Path) -> None:
    images = tiny_images()
    (tmp_path / "runs").mkdir()
    for framework in paired.FRAMEWORKS:
        run = paired.Run("mobilenet_v1", 0.0, framework, "torch", 0)
        write_json(tmp_path / f"runs/{run.name}.json", paired.train(run, TINY, images))
    write_json(tmp_path / "settings.json", {"epochs": 1})
    paired.summarize(tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert (tmp_path / "table.md").read_text().count("MobileNetV1 | vanilla") == 1
