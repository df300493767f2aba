"""`octavize convert` and `octavize adapt` on the command line, and the folders they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.cli import run
from tests.helpers.training import MODEL, make_folder, tiny
from torch import nn

from octavize import InputError, create_model, load_converted, octavize
from octavize.plans.policies import policy_of
from octavize.training.recipe import dump_recipe
from octavize.zoo.checkpoint import build_model
from octavize.zoo.find import find_vanilla
from octavize.zoo.weights import load_state, save_weights

OWN = "oct_cifar_resnet20"
NETS = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )

def deep():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )

def text():
    return "no network"

def wrong():
    raise KeyError("oops")

def leaves():
    raise SystemExit(3)

def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    name = f"nets_{tmp_path.name}"  # modules are remembered: each test has one of its own
    Path(f"{name}.py").write_text(NETS)


@pytest.fixture
def nets(tmp_path: Path) -> str:
    return f"nets_{tmp_path.name}"


@pytest.mark.parametrize("command", ["convert", "adapt"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"octavize {command}" in out
    assert "Example" in out


def test_convert_a_network_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys,
        "convert",
        OWN,
        "--alpha",
        0.25,
        "--num-classes",
        7,
        "--size",
        32,
        "--downsample",
        "pool",
        "--out",
        "o",
    )
    assert code == 0
    assert "all layers" in out
    assert {p.name for p in Path("o").iterdir()} == {"plan.yaml", "weights.safetensors", "network.json"}
    net = load_converted("o")
    # The paper's policy, as for a network of that name from the start.
    twin = create_model(OWN, 0.25, num_classes=7).eval()
    twin.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), twin(x))


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18", "torchvision:resnet18"])
def test_convert_with_weights(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    vanilla = find_vanilla(name, num_classes=3).model.eval()
    state = {f"module.{k}": v for k, v in vanilla.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, "w.pth")
    command = (
        "convert",
        name,
        "--weights",
        "w.pth",
        "--num-classes",
        3,
        "--size",
        64,
        "--alpha",
        0.5,
        "--downsample",
        "pool",
    )
    assert run(capsys, *command, "--out", "o")[0] == 0
    net, x = load_converted(tmp_path / "o"), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(net(x), octavize(vanilla, 0.5, example=x)(x))
        assert not torch.allclose(net(x), vanilla(x))
    code, _, err = run(capsys, *command, "--out", "o")
    assert code == 2
    assert "holds other files" in err


def test_a_plan_may_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    first = ("convert", "resnet18", "--alpha", 0.125, "--size", 64)
    assert run(capsys, *first, "--out", "a")[0] == 0
    assert run(capsys, "convert", "resnet18", "--plan", "a/plan.yaml", "--out", "b")[0] == 0
    assert Path("a/plan.yaml").read_text() == Path("b/plan.yaml").read_text()
    assert Path("a/plan.yaml").read_text().count("downsample: stride") == 20, "the command's own default"


def test_a_function_is_not_run_by_a_file(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "convert", f"{nets}:build", "--size", 16, "--out", "o")[0] == 0
    with pytest.raises(InputError, match=rf"{nets}:build, which is not run unasked: give model="):
        load_converted("o")
    net = load_converted("o", model=find_vanilla(f"{nets}:build").model)
    kept = load_file("o/weights.safetensors")
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda o: (o / "network.json").unlink(), "has no network.json"),
        (lambda o: (o / "network.json").write_text("{"), "network.json is damaged"),
        (lambda o: (o / "plan.yaml").unlink(), "plan.yaml.*no such file"),
        (lambda o: (o / "plan.yaml").write_text("a: 1"), "plan"),
        (lambda o: (o / "weights.safetensors").write_bytes(b"123"), "is cut short"),
        (lambda o: save_weights(o / "weights.safetensors", nn.Linear(2, 2), {}), "does not fit"),
    ],
)
def test_a_damaged_folder_is_named(damage: object, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "convert", OWN, "--size", 32, "--out", "o")[0] == 0
    assert callable(damage)
    damage(Path("o"))
    with pytest.raises(InputError, match=words) as caught:
        load_converted("o")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("convert", "resnet51"), ("resnet51", "unknown", "module:function")),
        (("convert", "timm:resnet51"), ("resnet51", "a name of timm's")),
        (("convert", "vit_b_16"), ("vit_b_16", "no layer")),
        (("convert", "NETS:dense"), ("no convolution",)),
        (("convert", "NETS:text"), ("returned a str", "torch.nn.Module")),
        (("convert", "NETS:wrong"), ("KeyError", "oops")),
        (("convert", "NETS:leaves"), ("NETS:leaves", "SystemExit")),
        (("convert", "NETS:missing"), ("NETS:missing", "AttributeError")),
        (("convert", "no_such_module:build"), ("no_such_module", "ModuleNotFoundError")),
        (("convert", "NETS:build", "--num-classes", 3), ("--num-classes", "function")),
        (("convert", "NETS:build", "--pretrained"), ("--pretrained", "function")),
        (("convert", "resnet18", "--weights", "none.pth"), ("none.pth", "do not exist")),
        (("convert", "resnet18", "--weights", "text.pth"), ("text.pth", "cannot be read")),
        (("convert", "resnet18", "--weights", "other.safetensors"), ("do not fit ResNet",)),
        (("convert", "resnet18", "--weights", "text.pth", "--pretrained"), ("--weights", "--pretrained")),
        (("convert", "resnet18", "--alpha", 2), ("alpha", "2")),
        (("convert", "resnet18", "--plan", "none.yaml"), ("none.yaml",)),
        (("convert", "resnet18", "--plan", "text.pth"), ("text.pth",)),
        (("convert", "resnet18", "--plan", "none.yaml", "--alpha", 0.5), ("--plan", "choose one")),
        (("convert", "resnet18", "--plan", "none.yaml", "--size", 32), ("--size is 32", "--plan none.yaml")),
        (("convert", "resnet18", "--plan", "p.yaml", "--downsample", "pool"), ("--downsample is pool",)),
        (("convert", "resnet18", "--downsample", "max"), ("downsample='max'",)),
        (("convert", "NETS:deep", "--refit", "images"), ("--refit is given", "give --mean and --std")),
        (("convert", "NETS:none", "--refit", "folder"), ("folder folder holds no images",)),
        (("convert", "NETS:none", "--refit", "nowhere"), ("folder nowhere does not exist",)),
        (("convert", "NETS:none", "--alpha", 2), ("alpha=2",)),
        (("convert", "NETS:none", "--mean", 0.5, 0.5, 0.5), ("--mean=[0.5, 0.5, 0.5] comes without --std",)),
        (("convert", "NETS:none", "--mean", 125, 125, 125, "--std", 60, 60, 60), ("divide it by 255",)),
        (("adapt", "NETS:none", "--std", 0.5, 0.5, 0.5), ("--std=[0.5, 0.5, 0.5] comes without --mean",)),
        (("convert", "NETS:none", "--budget", 2), ("budget=2",)),
        (("convert", "NETS:none", "--exchange", "up"), ("exchange='up'",)),
        (("convert", "NETS:deep", "--refit-images", 9), ("--refit-images is 9 without --refit",)),
        (("convert", "NETS:deep", "--refit-epochs", 0), ("--refit-epochs is 0 without --refit",)),
        (("convert", "folder"), ("folder", "best.safetensors")),
        (("convert", "octave.safetensors"), ("octave already", "--alpha 0")),
        (("convert", "none.safetensors"), ("none.safetensors", "does not exist")),
        (("adapt", "resnet18"), ("no trained weights", "--weights FILE")),
        (("adapt", "resnet51"), ("resnet51", "unknown")),
        (("adapt", "NETS:build", "--distil", 2), ("distil", "2")),
        (("adapt", "NETS:build", "--alpha", 2), ("alpha", "2")),
        (("adapt", "NETS:build", "--set", "flop=1"), ("unknown setting 'flop'",)),
        (("adapt", "NETS:build", "--arbitrary", "--threads", 1), ("does not run", "(1, 1, 32, 32)")),
    ],
)  # fmt: skip
def test_mistakes_cost_one_line(
    arguments: tuple[object, ...], parts: tuple[str, ...], nets: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.pth").write_text("not weights")
    Path("folder").mkdir()
    make_folder(Path("images"), 2, 2)
    save_file({"weight": torch.zeros(3)}, "other.safetensors")
    facts = {
        "model": MODEL,
        "alpha": 0.5,
        "classes": ["a", "b"],
        "in_chans": 3,
        "arguments": {"width": 0.125},
    }
    save_weights(Path("octave.safetensors"), build_model(MODEL, 0.5, 2, 3, {"width": 0.125}), facts)
    code, _, err = run(capsys, *(str(a).replace("NETS", nets) for a in arguments), "--out", "out")
    assert code == 2
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
    assert all(part.replace("NETS", nets) in err for part in parts), err
    assert not Path("out").exists()


def test_convert_refits_on_a_folder_of_images(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_folder(Path("images"))
    torch.manual_seed(0)
    state = find_vanilla(f"{nets}:deep").model.state_dict()
    torch.save(state, "mine.pth")
    command = ["convert", f"{nets}:deep", "--weights", "mine.pth", "--size", 16, "--alpha", 0.5]
    command += ["--mean", 0.5, 0.4, 0.3, "--std", 0.2, 0.2, 0.1]
    command += ["--refit", "images", "--refit-images", 10, "--refit-epochs", 1]
    code, out, err = run(capsys, *command, "--out", "o")
    assert code == 0, err
    assert "fitted on 10 images" in out
    assert "1 epochs of gradient" in out
    assert "measured on 10 images, ordered by output" in out  # the channels are calibrated, too
    net, made = (
        load_converted("o", model=find_vanilla(f"{nets}:deep").model),
        load_file("o/weights.safetensors"),
    )
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in state.items()}
    assert json.loads(Path("o/network.json").read_text("utf-8"))["input"]["std"] == [0.2, 0.2, 0.1]
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 2)
    # A plan is followed as it is, and its order of channels is not chosen anew.
    command = ["convert", f"{nets}:deep", "--weights", "mine.pth", "--mean", 0.5, 0.4, 0.3]
    command += ["--std", 0.2, 0.2, 0.1, "--plan", "o/plan.yaml"]
    more = ("--refit", "images", "--refit-images", 10, "--refit-epochs", 1)
    code, _, err = run(capsys, *command, *more, "--out", "p")
    assert code == 0, err
    again = load_file("p/weights.safetensors")
    assert all(torch.equal(again[k], v) for k, v in made.items())
    code, _, err = run(capsys, *command, "--out", "q")
    assert code == 0, err
    assert any(not torch.equal(load_file("q/weights.safetensors")[k], v) for k, v in made.items())


def test_a_plan_of_another_network(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "convert", "resnet18", "--size", 64, "--out", "a")[0] == 0
    code, _, err = run(capsys, "convert", f"{nets}:build", "--plan", "a/plan.yaml", "--out", "b")
    assert code == 2
    assert "plan" in err
    assert len(err.splitlines()) == 1
    assert not Path("b").exists()


def test_adapt_a_run_and_its_octave_network(capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(Path("images"))
    Path("tiny.yaml").write_text(dump_recipe(tiny(epochs=1)), "utf-8")
    machine = ("--data-dir", data, "--accelerator", "cpu", "--threads", 1)
    assert (
        run(capsys, "train", MODEL, "--alpha", 0, "--recipe", "tiny.yaml", *machine, "--out", "run")[0] == 0
    )
    command = ("adapt", "run", "--arbitrary", "--alpha", 0.25, "--epochs", 1, "--lr", 0.01, "--batch-size", 8)
    code, out, _ = run(capsys, *command, *machine, "--out", "o")
    assert code == 0
    assert "norms measured anew" in out
    assert "epoch 1" in out
    results = json.loads(Path("o/results.json").read_text("utf-8"))
    assert (results["recipe"]["lr"], results["recipe"]["batch_size"]) == (0.01, 8)
    assert results["recipe"]["crop_padding"] == tiny().crop_padding
    assert load_converted("o")(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


def test_adapt_a_network_of_ones_own(nets: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(Path("images"))
    torch.save(find_vanilla(f"{nets}:build").model.state_dict(), "mine.pth")
    command = ["adapt", f"{nets}:build", "--weights", "mine.pth", "--arbitrary", "--no-distil", "--out", "o"]
    command += ["--data", "folder", "--data-dir", data, "--size", 16, "--epochs", 1, "--accelerator", "cpu"]
    command += ["--mean", 0.5, 0.4, 0.3, "--std", 0.2, 0.2, 0.1, "--threads", 1, "--set", "val_fraction=0.2"]
    code, out, err = run(capsys, *command)
    assert code == 0, err
    assert "vanilla" in out
    results = json.loads(Path("o/results.json").read_text("utf-8"))
    assert results["data"]["mean"] == [0.5, 0.4, 0.3]
    assert results["adaptation"]["distil"] == 0
    assert json.loads(Path("o/network.json").read_text("utf-8"))["input"]["std"] == [0.2, 0.2, 0.1]


def test_pretrained_is_asked_of_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real download is not part of the tests; what is asked of timm and torchvision is."""
    import timm
    from torchvision import models as zoo

    asked = []
    net = timm.create_model("resnet18")
    monkeypatch.setattr(timm, "create_model", lambda name, **given: asked.append((name, given)) or net)
    monkeypatch.setattr(zoo, "get_model", lambda name, **given: asked.append((name, given)) or net)
    by_timm = find_vanilla("timm:resnet18", pretrained=True)
    by_torchvision = find_vanilla("resnet18", pretrained=True)
    assert asked == [("resnet18", {"pretrained": True}), ("resnet18", {"weights": "DEFAULT"})]
    assert by_timm.facts == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": 224}
    assert by_torchvision.facts == by_timm.facts


def test_a_trap_among_weights_is_not_executed(tmp_path: Path) -> None:
    import os
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    Path("w.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="cannot be read as plain tensors"):
        load_state(nn.Linear(1, 1), "w.pth")
    assert not Path("executed").exists()


def test_policies_are_those_of_the_named_networks() -> None:
    assert policy_of("oct_resnet50_small", 0.25) == {"*": 0.25, "layer4.*": 0}
    with pytest.raises(InputError, match="unknown"):
        policy_of("oct_resnet51", 0.25)
