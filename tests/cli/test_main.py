"""The command line: what it prints, and that a mistake costs one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from PIL import Image
from tests.helpers.cli import run
from tests.helpers.study import FAST
from tests.helpers.training import MODEL, tiny

from octavize.cli.options import per_model, spread
from octavize.errors import InputError
from octavize.training.recipe import dump_recipe, load_recipe

COMMANDS = ("compare", "train", "bands", "models", "profile")


@pytest.fixture
def tiny_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_recipe(tiny(epochs=1, alphas=[0.5])), "utf-8")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"octavize {command}" in out
    assert "Example" in out


def test_top_level_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("profile", "oct_resnet18", "--alpha", "abc"), ("--alpha", "abc", "--help")),
        (("profile", "oct_resnet18", "--size", "0"), ("--size", "0", "--help")),
        (("profile", "--nonsense"), ("--nonsense", "octavize profile --help")),
        (("summary", "oct_resnet18"), ("'summary'", "see octavize --help")),
        (("train", "oct_resnet18_small", "--alpha", "0", "0.5"), ("2 runs", "octavize compare")),
    ],
)
def test_wrong_options_cost_one_line(
    arguments: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words)


def test_a_list_ends_where_its_values_end() -> None:
    assert spread(["train", "--epochs", "1", "oct_resnet18"]) == ["train", "--epochs", "1", "oct_resnet18"]
    assert spread(["--alpha=0", "0.5", "name"]) == ["--alpha=0", "--alpha", "0.5", "name"]


def test_bands_does_not_overwrite_its_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.png"
    Image.new("RGB", (16, 16)).save(path)
    before = path.read_bytes()
    code, _, err = run(capsys, "bands", path, "--out", path)
    assert (code, "overwritten" in err) == (2, True)
    assert path.read_bytes() == before
    code, _, err = run(capsys, "bands", path, "--out", path / "x.png")
    assert (code, err.count("\n"), "Traceback" in err) == (2, 1, False)


@pytest.mark.parametrize("where", ["file", "below a file"])
def test_out_that_cannot_be_a_folder(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    out = file if where == "file" else file / "x"
    code, _, err = run(capsys, "train", "oct_resnet18_small", "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert str(file) in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert (code, out.split()[0]) == (0, "octavize")


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    heavy = "{'lightning', 'matplotlib', 'timm', 'torchvision'}"
    code = f"import sys, octavize.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "models")
    names = json.loads(run(capsys, "models", "--json")[1])
    assert code == 0
    assert out.split() == names
    assert "oct_resnet50" in names


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "profile",
        "oct_mobilenet_v1",
        "--alpha",
        0,
        0.5,
        "--size",
        32,
        "--rounds",
        1,
        "--threads",
        1,
    )
    code, out, _ = run(capsys, *arguments, "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert [row["alpha"] for row in rows] == [0, 0.5]
    assert rows[1]["macs"] < rows[0]["macs"]
    assert run(capsys, *arguments)[0] == 0


def test_profile_of_networks_by_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("torchvision:resnet18", "timm:resnet18", "oct_resnet18")
    code, out, _ = run(capsys, "profile", *names, "--size", 64, "--rounds", 1, "--num-classes", 7, "--json")
    vanilla = [row for row in json.loads(out)["rows"] if row["alpha"] == 0]
    octave = [row for row in json.loads(out)["rows"] if row["alpha"] == 0.5]
    assert code == 0
    assert [row["model"] for row in octave] == list(names)
    assert len({row["macs"] for row in vanilla}) == len({row["params"] for row in vanilla}) == 1
    independent = torchvision.models.resnet18(num_classes=7)
    assert vanilla[0]["params"] == sum(p.numel() for p in independent.parameters())
    assert octave[0]["macs"] == octave[1]["macs"] < octave[2]["macs"]  # the paper's policy spares layers


def test_a_plan_is_made_for_the_size_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fixed_size_nets.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    convolutions = [nn.Conv2d(n, 8, 3, padding=1) for n in (1, 8, 8)]\n"
        "    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(8 * 12 * 12, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("profile", "fixed_size_nets:build", "--size", 12, "--rounds", 1)
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["size"], found["batch"]) == (12, 1)
    assert [row["channels"] for row in found["rows"]] == [1, 1]
    plain, octave = (row["macs"] for row in found["rows"])
    assert octave < plain
    code, out, err = run(capsys, *arguments, "--layers", "--csv")
    assert code == 0, err
    assert "4×6×6" in out
    code, _, err = run(capsys, "profile", "fixed_size_nets:build", "--size", 16)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not run on an input of shape (1, 1, 16, 16): give an example (--size) it runs on" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("profile", "inception_v3", "--size", 75),
            "in training mode, give larger images (--size) or more of them",
        ),
        (("profile", "torchvision:r3d_18"), "is unknown: give a name of torchvision's"),
        (("profile", "timm:resnet5O"), "did you mean resnet50"),
        (("profile", "runs/mine"), "or module:function\n"),
        (("convert", "mine", "--out", "o"), "or module:function, or the folder of a trained run\n"),
    ],
)
def test_remedies_of_networks_that_cannot_be_had(
    arguments: tuple[object, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert told in err.splitlines(keepends=True)[-1]


def test_a_missing_library_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("octavize.zoo.find.find_spec", lambda name: None if name == "timm" else name)
    _, _, err = run(capsys, "profile", "resnet5O")
    assert err.endswith("; for timm, `pip install 'octavize[models]'`\n")


@pytest.mark.parametrize(
    ("command", "default"),
    [("train", "0.5"), ("adapt", "0.5"), ("export", "0.5"), ("bench", "0.125 0.25 0.5 0.75")],
)
def test_help_shows_defaults(command: str, default: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, command, "--help")
    assert f"[default: {default}]" in " ".join(out.replace("│", " ").split())


def test_profile_is_readable_where_the_terminal_is_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = run(capsys, "profile", "oct_mobilenet_v1", "--layers", "--size", 32)
    assert "…" not in out
    assert "blocks.0.0.conv_dw" in out


def test_warnings_take_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "profile", "timm:convnext_tiny", "--alpha", 0.5, "--size", 32, "--rounds", 1)
    assert code == 0
    assert err.startswith("Warning: octavize changed no layer of ")
    assert err.count("\n") == 1


def test_profile_layers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "profile", "oct_mobilenet_v1", "--layers", "--size", 32, "--csv")
    assert code == 0
    assert len(out.splitlines()) > 20
    assert "conv_stem" in out


def test_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, out = tmp_path / "p.png", tmp_path / "bands.png"
    Image.radial_gradient("L").convert("RGB").resize((48, 40)).save(image)
    code, printed, _ = run(capsys, "bands", image, "--out", out)
    assert code == 0
    assert "%" in printed
    assert out.stat().st_size > 1000


def test_compare_passes_every_option_on(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from octavize.training.compare import compare

    assert compare.__kwdefaults__
    monkeypatch.setitem(compare.__kwdefaults__, "timing", FAST)
    monkeypatch.setattr("octavize.training.results.installed_runtimes", list)
    out = tmp_path / "out"
    arguments = ["--out", out, "--data", "folder", "--data-dir", data_dir, "--size", 16]
    arguments += ["--model", "oct_mobilenet_v1_small", "oct_mobilenet_v1", "--alpha", 0, 0.5, "--seed", 3]
    arguments += ["--epochs", "*small=1", "*=2", "--batch-size", 8, "--optimizer", "adam", "--lr", "1e-3"]
    arguments += ["--schedule", "constant", "--limit-train", 16, "--accelerator", "cpu", "--devices", 1]
    arguments += ["--set", "model_arguments={'*': {width: 0.125}}", "--set", "flip=false", "--threads", 1]
    code, printed, _ = run(capsys, "compare", *arguments)
    assert code == 0
    assert "report" in printed
    recipe = load_recipe(out / "recipe.yaml")
    assert recipe.models == ("oct_mobilenet_v1_small", "oct_mobilenet_v1")
    assert (recipe.alphas, recipe.seeds, recipe.epochs) == ((0, 0.5), (3,), {"*small": 1, "*": 2})
    assert (recipe.optimizer, recipe.lr, recipe.schedule, recipe.flip) == ("adam", 1e-3, "constant", False)
    assert (out / "report.html").exists()


def test_train_twice(
    tiny_yaml: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", MODEL, "--recipe", tiny_yaml, "--data-dir", data_dir, "--out", tmp_path / "out")
    code, printed, _ = run(capsys, *command)
    assert code == 0
    assert "test accuracy" in printed
    assert (tmp_path / "out" / "best.safetensors").exists()
    code, _, told = run(capsys, *command)
    assert code == 0
    assert "finished before" in told


def test_an_interrupt_says_how_to_go_on(
    tiny_yaml: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from octavize.training.module import Classifier

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "training_step", interrupt)
    code, _, err = run(
        capsys, "train", MODEL, "--recipe", tiny_yaml, "--data-dir", data_dir, "--out", tmp_path / "out"
    )
    assert code == 130
    assert err.splitlines()[-1] == "Interrupted: the same command goes on from the last finished epoch"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("compare", "--recipe", "nonsense"), ("recipe nonsense", "quick, article, cifar")),
        (("compare", "--model", "oct_resnet51"), ("oct_resnet51", "unknown", "oct_resnet50")),
        (("train", "resnet50"), ("resnet50", "unknown")),
        (("compare", "--alpha", "0", "1.5"), ("alpha", "1.5", "0 to 1")),
        (("compare", "--alpha", "-0.5"), ("alpha", "-0.5", "0 to 1")),
        (("compare", "--seed", "-1"), ("seed", "-1")),
        (("compare", "--epochs", "0"), ("epochs", "0", "at least 1")),
        (("compare", "--epochs", "many"), ("epochs", "'many'", "oct_resnet*=6")),
        (("compare", "--epochs", "3", "oct_res*=6"), ("epochs", "pattern=number")),
        (("compare", "--batch-size", "0"), ("batch_size", "0")),
        (("compare", "--lr", "-1"), ("lr", "-1")),
        (("compare", "--optimizer", "sdg"), ("optimizer", "'sdg'", "adamw")),
        (("compare", "--schedule", "cosin"), ("schedule", "'cosin'", "cosine")),
        (("compare", "--precision", "8"), ("precision", "'8'", "bf16-mixed")),
        (("compare", "--devices", "99", "--accelerator", "gpu"), ("devices=99", "change")),
        (("compare", "--strategy", "wish"), ("strategy=wish", "change")),
        (("compare", "--set", "flip"), ("--set", "'flip'", "name=value")),
        (("compare", "--set", "flop=1"), ("unknown setting 'flop'", "flip")),
        (("compare", "--set", "flip=["), ("--set", "'flip=['")),
        (("compare", "--set", "model_arguments={'*': {a: 1, a: 2}}"), ("'a' is there twice", "keep one")),
        (("compare", "--set", "model_arguments={'oct_resmet*': {}}"), ("'oct_resmet*'", "leave it out")),
        (("compare", "--data", "cifar11"), ("cifar11", "cifar10")),
        (("compare", "--data", "folder"), ("data_dir",)),
        (("compare", "--data", "folder", "--data-dir", "nowhere"), ("nowhere",)),
        (("profile", "oct_resnet51"), ("oct_resnet51", "unknown", "did you mean oct_resnet50")),
        (("profile", "oct_resnet50", "--alpha", "2"), ("alpha", "2")),
        (("profile", "oct_resnet50", "oct_resnet18", "--layers"), ("--layers", "one name")),
        (("profile", "oct_resnet50", "--json", "--csv"), ("--json", "--csv", "choose one")),
        (("bands", "nothing.png"), ("nothing.png",)),
    ],
)
def test_mistakes_cost_one_line(
    arguments: tuple[str, ...],
    parts: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("Error: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert all(part in err for part in parts), err
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.parametrize("arguments", [("profile",), ("compare", "--size", "big"), ("compare", "--nonsense")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_a_run_folder_of_another_recipe(
    tiny_yaml: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").write_text(dump_recipe(tiny(lr=0.3)), "utf-8")
    code, _, err = run(
        capsys, "compare", "--recipe", tiny_yaml, "--data-dir", data_dir, "--out", tmp_path / "out"
    )
    assert code == 2
    assert "another recipe" in err
    assert "--restart" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("profile a --alpha 0 0.5 --size 64", "profile a --alpha 0 --alpha 0.5 --size 64"),
        ("profile --alpha 0 0.5 a", "profile --alpha 0 --alpha 0.5 a"),
        ("compare --model a b --seed 1 2", "compare --model a --model b --seed 1 --seed 2"),
        ("compare -m a b", "compare -m a -m b"),
        ("compare --alpha 0 --alpha 0.5", "compare --alpha 0 --alpha 0.5"),
        ("compare --epochs x*=1 y*=2", "compare --epochs x*=1 --epochs y*=2"),
        ("profile a b --size 64 c", "profile a b --size 64 c"),
        ("profile --alpha 0 a 1", "profile --alpha 0 a 1"),
        ("bands 1.png --out 2.png", "bands 1.png --out 2.png"),
    ],
)
def test_options_take_several_values(line: str, expected: str) -> None:
    assert spread(line.split()) == expected.split()
    assert spread(spread(line.split())) == spread(line.split())


def test_numbers_per_network() -> None:
    assert per_model("epochs", None, int) is None
    assert per_model("epochs", ["8"], int) == 8
    assert per_model("lr", ["a*=1e-3", "*=0.1"], float) == {"a*": 1e-3, "*": 0.1}
    with pytest.raises(InputError, match=r"epochs is '2\.5'"):
        per_model("epochs", ["2.5"], int)
