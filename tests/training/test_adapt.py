"""Adapting a trained network end to end: stages, resuming, the teacher, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers.training import MODEL, tiny
from torch import Tensor, nn

from octavize import InputError, Plan, load_converted, octavize
from octavize.convert.order import order_of
from octavize.training import adapt as adapt_module
from octavize.training import prepare as prepare_module
from octavize.training.adapt import adapt, fine_tuning_recipe
from octavize.training.distil import Distiller, EpochTests, soft_loss
from octavize.training.inputs import TrainingInputs
from octavize.training.metrics import read_metrics
from octavize.training.prepare import Adaptation
from octavize.training.recipe import dump_recipe
from octavize.training.runs import Run
from octavize.training.train import load_images, train_run
from octavize.zoo.find import Vanilla, find_vanilla
from octavize.zoo.weights import load_state

HOW = Adaptation(alpha=0.5, calibrate=False, norm_images=16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The folder of a vanilla run."""
    out, recipe = tmp_path_factory.mktemp("vanilla") / "run", tiny(alphas=[0])
    train_run(Run(MODEL, 0, 0), recipe, load_images(recipe, data_dir), out)
    (out / "recipe.yaml").write_text(dump_recipe(recipe), "utf-8")
    return out


@pytest.fixture
def source(run: Path) -> Vanilla:
    return find_vanilla(str(run))


def recipe(**given: Any) -> Any:
    return fine_tuning_recipe(tiny(), MODEL, 0, {"epochs": 2, **given})


def go(source: Vanilla, out: Path, data_dir: Path, how: Adaptation = HOW, **given: Any) -> dict[str, Any]:
    return adapt(source, recipe(**given), how, out, data_dir=data_dir)


def comparable(results: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in results.items() if k not in ("train_seconds", "environment")}


class Kill(pl.Callback):
    """Ends fine-tuning in the middle of an epoch, as a kill would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")


def test_everything_is_written(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = go(source, out, data_dir)
    assert json.loads((out / "results.json").read_text("utf-8")) == json.loads(json.dumps(results))
    assert [(s["stage"], s["epoch"]) for s in results["stages"]] == [
        ("vanilla", 0),
        ("converted", 0),
        ("norms", 0),
        ("epoch", 1),
        ("epoch", 2),
    ]
    trained = json.loads((source.recipe.parent / "result.json").read_text("utf-8"))  # type: ignore[union-attr]
    assert results["stages"][0]["test_accuracy"] == trained["test_accuracy"]
    assert results["macs_after"] < results["macs_before"]
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["test_accuracy"]) for r in rows] == [s["test_accuracy"] for s in results["stages"]]
    assert (out / "accuracy.png").stat().st_size > 1000
    assert not (out / "training" / "last.ckpt").exists()
    metrics = read_metrics(out / "training")
    assert [r["val_accuracy"] for r in metrics] == [s["val_accuracy"] for s in results["stages"][3:]]


def test_refitting_takes_the_place_of_measuring_norms(
    source: Vanilla, data_dir: Path, tmp_path: Path
) -> None:
    how = Adaptation(alpha=0.5, calibrate=False, refit_images=8)
    results = go(source, tmp_path / "out", data_dir, how, epochs=1)
    assert [s["stage"] for s in results["stages"]] == ["vanilla", "converted", "refitted", "epoch"]
    again = go(source, tmp_path / "again", data_dir, Adaptation(alpha=0.0, refit_images=8), epochs=1)
    assert "refitted" not in [s["stage"] for s in again["stages"]]  # no layer is octave


def test_the_network_comes_back(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    results = go(source, tmp_path / "out", data_dir, epochs=1)
    net = load_converted(tmp_path / "out")
    kept = load_file(tmp_path / "out" / "weights.safetensors")
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    images = load_images(tiny(), data_dir)
    stage = prepare_module.evaluate(net, recipe(), images, adapt_module.HERE, "again")
    assert stage["test_accuracy"] == results["test_accuracy"]


def test_the_source_is_left_alone(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    before = {k: v.clone() for k, v in source.model.state_dict().items()}
    go(source, tmp_path / "out", data_dir, epochs=1)
    assert all(torch.equal(v, before[k]) for k, v in source.model.state_dict().items())


def test_fine_tuning_trains_in_training_mode(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    go(source, tmp_path / "out", data_dir, epochs=1)
    counts = {
        k: v.item()
        for k, v in load_file(tmp_path / "out" / "training" / "best.safetensors").items()
        if k.endswith("num_batches_tracked")
    }
    # One batch of 16 images to measure the norms anew, then as many as there are steps.
    images = load_images(tiny(), data_dir)
    assert set(counts.values()) == {1 + len(images.train) // recipe().batch_size}


def test_calibrated_channels_and_a_budget(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    results = go(source, tmp_path / "out", data_dir, Adaptation(alpha=None, budget=0.8, norm_images=16))
    assert results["macs_after"] <= 0.8 * results["macs_before"]
    kept = load_file(tmp_path / "out" / "weights.safetensors")
    net = load_converted(tmp_path / "out")
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    # Whoever reads the weights knows the order that they are in: it is not applied again.
    plan = Plan.load(tmp_path / "out" / "plan.yaml")
    assert plan.permutation is not None
    assert order_of(net) == plan.permutation.key
    vanilla = source.origin.build()
    load_state(vanilla, tmp_path / "out" / "weights.safetensors")
    octave = octavize(vanilla, plan)
    assert all(torch.equal(v, kept[k]) for k, v in octave.state_dict().items())
    load_state(vanilla, tmp_path / "out" / "training" / "best.safetensors")
    assert order_of(vanilla) == plan.permutation.key
    assert order_of(octavize(source.origin.build(), plan)) == plan.permutation.key


def test_killed_anywhere_it_ends_the_same(
    source: Vanilla, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = go(source, tmp_path / "quiet", data_dir)
    killed = tmp_path / "killed"
    for epoch in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(adapt_module, "EpochTests", lambda e=epoch: KillingTests(e))
            with pytest.raises(RuntimeError, match="killed"):
                go(source, killed, data_dir)
        assert not (killed / "results.json").exists()
    with monkeypatch.context() as patch:  # conversion is not made again
        patch.setattr(prepare_module, "octavize", lambda *_, **__: pytest.fail("converted again"))
        results = go(source, killed, data_dir)
    assert comparable(results) == comparable(expected)
    for name in ("weights.safetensors", "training/best.safetensors"):
        assert (killed / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()


class KillingTests(EpochTests, Kill):
    def __init__(self, epoch: int) -> None:
        EpochTests.__init__(self)
        self.epoch = epoch

    @property
    def state_key(self) -> str:
        return "EpochTests"


def test_a_second_call_trains_nothing(
    source: Vanilla, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = go(source, tmp_path / "out", data_dir, epochs=1)
    monkeypatch.setattr(adapt_module, "fine_tune", lambda *_: pytest.fail("trained again"))
    assert go(source, tmp_path / "out", data_dir, epochs=1) == json.loads(json.dumps(first))


def test_worse_than_at_the_start_is_not_kept(
    source: Vanilla, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune = adapt_module.fine_tune
    monkeypatch.setattr(adapt_module, "fine_tune", lambda *a: tune(*a) | {"val_accuracy": 0.0})
    results = go(source, tmp_path / "out", data_dir, epochs=1)
    assert results["best_epoch"] == 0
    assert results["test_accuracy"] == results["stages"][2]["test_accuracy"]
    state = load_converted(tmp_path / "out").state_dict()
    assert {v.item() for k, v in state.items() if k.endswith("num_batches_tracked")} == {1}


def test_another_question_needs_another_folder(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    go(source, tmp_path, data_dir, epochs=1)
    with pytest.raises(InputError, match=r"another adaptation \(other adaptation\).*--restart"):
        go(source, tmp_path, data_dir, replace(HOW, alpha=0.25), epochs=1)
    adapt(source, recipe(epochs=1), replace(HOW, alpha=0.25), tmp_path, data_dir=data_dir, restart=True)
    assert json.loads((tmp_path / "results.json").read_text())["adaptation"]["alpha"] == 0.25


def test_other_files_are_left_alone(source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(InputError, match="holds other files"):
        go(source, tmp_path, data_dir)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["stages.json", "vanilla.json", "results.json"])
def test_a_damaged_file_is_named(name: str, source: Vanilla, data_dir: Path, tmp_path: Path) -> None:
    go(source, tmp_path, data_dir, epochs=1)
    if name != "results.json":
        (tmp_path / "results.json").unlink()
    (tmp_path / name).write_text('{"stages"')
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        go(source, tmp_path, data_dir, epochs=1)


def test_images_of_other_classes_are_refused(source: Vanilla, tmp_path: Path) -> None:
    other = replace(recipe(), data="textures", size=32)
    stranger = replace(source, facts={**source.facts, "size": 32})
    with pytest.raises(InputError, match="was trained on"):
        adapt(stranger, other, HOW, tmp_path / "out")
    free = replace(source, facts={})
    with pytest.raises(InputError, match=r"does not run|10 classes"):
        adapt(free, other, HOW, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_without_anything_to_convert(data_dir: Path, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    source = Vanilla(find_vanilla("torch.nn:Identity").origin, model, "mine")
    with pytest.raises(InputError, match="convolution"):
        go(source, tmp_path / "out", data_dir)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": None}, "alpha and budget are both missing"),
        ({"distil": 2}, "distil is 2"),
        ({"temperature": 0}, "temperature is 0"),
        ({"norm_images": -1}, "norm_images is -1"),
        ({"refit_images": 1}, "refit_images is 1: give 2"),
        ({"alpha": None, "budget": -1}, "budget is -1: give a number above 0 to 1"),
        ({"alpha": None, "budget": math.inf}, "budget is inf: give a number above 0 to 1"),
        ({"downsample": "skip"}, "downsample is 'skip': choose from 'pool', 'stride' or 'pool_always'"),
        ({"calibration_images": 0.5}, r"calibration_images is 0\.5: give a whole number of at least 1"),
        ({"budget": 0.6}, "alpha is 0.5 and budget is 0.6: give one"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Adaptation(**settings)


def test_soft_loss_by_hand() -> None:
    scores, teacher = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = soft_loss(scores, teacher, 3.0)
    p, q = (teacher / 3).softmax(1), (scores / 3).softmax(1)
    torch.testing.assert_close(loss, 9 * (p * (p.log() - q.log())).sum(1).mean())
    loss.backward()
    assert teacher.grad is None
    torch.testing.assert_close(scores.grad, 3 * (q - p).detach() / 5)
    assert soft_loss(scores, scores, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_reaches_the_student_alone(source: Vanilla, data_dir: Path) -> None:
    images = load_images(recipe(), data_dir)
    student = find_vanilla(str(source.recipe.parent)).model  # type: ignore[union-attr]
    module = Distiller(student, images, recipe(), MODEL, 0, teacher=source.model, weight=1.0, temperature=2.0)
    nn.init.normal_(module.model.get_parameter("classifier.weight"))
    teacher = module._teacher[0]
    assert teacher is not None
    module.train()
    assert not any(m.training for m in teacher.modules())
    x, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    module.training_loss(x, module.model(x), labels).backward()
    assert all(p.grad is not None for p in module.model.parameters())
    assert all(p.grad is None for p in [*teacher.parameters(), *source.model.parameters()])
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any("teacher" in key for key in module.state_dict())
    assert len(list(module.parameters())) == len(list(student.parameters()))


def test_without_a_teacher_it_is_cross_entropy(source: Vanilla, data_dir: Path) -> None:
    images = load_images(recipe(), data_dir)
    settings: dict[str, Any] = {"weight": 0.0, "temperature": 2.0}
    module = Distiller(source.model, images, recipe(), MODEL, 0, teacher=source.model, **settings)
    scores, labels = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    expected = nn.functional.cross_entropy(scores, labels)
    torch.testing.assert_close(module.training_loss(torch.empty(0), scores, labels), expected)


def test_training_inputs_mix_the_classes_and_repeat(data_dir: Path) -> None:
    images = load_images(tiny(), data_dir)
    loader = TrainingInputs(images, tiny(), 12)
    first: list[tuple[Tensor, Tensor]] = list(loader)
    assert sum(len(labels) for _, labels in first) == 12
    assert set(torch.cat([labels for _, labels in first]).tolist()) == {0, 1}
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, loader, strict=True))
    assert first[0][0].dtype == torch.float32


def test_the_fine_tuning_recipe() -> None:
    trained = tiny(lr={"*": 0.1}, schedule="linear", crop_padding=3)
    made = fine_tuning_recipe(trained, MODEL, 4, {"lr": None, "epochs": 5})
    assert made.lr == pytest.approx(0.02)
    assert (made.epochs, made.schedule, made.crop_padding, made.seeds) == (5, "cosine", 3, (4,))
    assert fine_tuning_recipe(trained, MODEL, 0, {"lr": 0.5, "schedule": "constant"}).lr == 0.5


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mean": [0.5] * 5}, "5 values"),
        ({"std": [0.0] * 3}, "above 0"),
        ({"mean": [math.nan] * 3}, "finite"),
    ],
)
def test_bad_statistics_claim_no_folder(
    facts: dict[str, Any], words: str, source: Vanilla, data_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        go(replace(source, facts={**source.facts, **facts}), tmp_path / "out", data_dir)
    assert not (tmp_path / "out").exists()
