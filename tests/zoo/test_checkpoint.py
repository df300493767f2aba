"""Weights and resume checkpoints: they come back as they were, and nothing foreign is trusted or executed."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers.training import CLASSES, MODEL, make_folder, tiny

from octavize.errors import InputError
from octavize.training.runs import Run
from octavize.training.train import load_images, train_run
from octavize.zoo.checkpoint import build_model, check_resumable, load_checkpoint
from octavize.zoo.models import create_model
from octavize.zoo.weights import save_weights

FACTS = {
    "model": MODEL,
    "alpha": 0.5,
    "classes": list(CLASSES),
    "in_chans": 1,
    "arguments": {"width": 0.125},
    "epoch": 4,
}


class Trap:
    """A pickle that makes a file when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save_weights(path, build_model(MODEL, 0.5, 2, 1, {"width": 0.125}), FACTS)
    return path


def test_weights_come_back_with_their_network(tmp_path: Path) -> None:
    model = build_model(MODEL, 0.5, 2, 1, {"width": 0.125}).to(memory_format=torch.channels_last).eval()
    save_weights(tmp_path / "w.safetensors", model, FACTS)
    loaded, metadata = load_checkpoint(tmp_path / "w.safetensors")
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), model(images))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    assert metadata == FACTS
    assert not loaded.training


def test_a_training_run_leaves_all_facts(tmp_path: Path) -> None:
    recipe = tiny(epochs=1)
    images = load_images(recipe, make_folder(tmp_path / "data"))
    out = tmp_path / "out"
    train_run(Run(MODEL, 0.5, 0), recipe, images, out)
    model, metadata = load_checkpoint(out / "best.safetensors")
    assert metadata["classes"] == list(CLASSES)
    assert (metadata["size"], metadata["in_chans"], metadata["normalize"]) == (16, 3, True)
    assert metadata["mean"] == list(images.mean)
    assert metadata["version"]
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 2)


@pytest.mark.parametrize("keep", [0, 5, 200, -100])
def test_weights_cut_short(weights: Path, keep: int) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"best\.safetensors is cut short.*: train again or copy it again"):
        load_checkpoint(weights)


def test_weights_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors does not exist: give the path"):
        load_checkpoint(tmp_path / "none.safetensors")


def test_weights_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="was not written by octavize"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_their_own_network(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, create_model("oct_resnet18", num_classes=2), FACTS)
    with pytest.raises(InputError, match="does not fit its network"):
        load_checkpoint(path)


def test_a_pickle_in_place_of_weights_is_not_executed(tmp_path: Path) -> None:
    path, trap = tmp_path / "best.safetensors", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(InputError, match="not a safetensors file"):
        load_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("pack", [lambda x: pickle.dumps(x), lambda x: _torch_bytes({"state_dict": x})])
def test_a_foreign_pickle_to_resume_from_is_not_executed(pack: Any, tmp_path: Path) -> None:
    path, trap = tmp_path / "last.ckpt", tmp_path / "executed"
    path.write_bytes(pack(Trap(trap)))
    with pytest.raises(InputError, match=r"last\.ckpt is cut short or not ours .*: delete it"):
        check_resumable(path, {"model": MODEL})
    assert not trap.exists()


def test_a_checkpoint_of_another_program_or_run(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(InputError, match="was not written by octavize: delete it"):
        check_resumable(path, {"model": MODEL})
    torch.save({"octavize": {"model": "oct_resnet50", "seed": 0}, "epoch": 0}, path)
    with pytest.raises(InputError, match=r"belongs to another run \(other model\)"):
        check_resumable(path, {"model": MODEL, "seed": 0})


def test_a_run_does_not_resume_from_a_truncated_checkpoint(tmp_path: Path) -> None:
    recipe = tiny(epochs=1)
    images = load_images(recipe, make_folder(tmp_path / "data"))
    out = tmp_path / "out"
    out.mkdir()
    (out / "last.ckpt").write_bytes(_torch_bytes({"octavize": {}})[:-40])
    with pytest.raises(InputError, match=r"last\.ckpt is cut short"):
        train_run(Run(MODEL, 0.5, 0), recipe, images, out)
    assert [p.name for p in out.iterdir()] == ["last.ckpt"]


def _torch_bytes(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_shared_weights_are_written_under_both_names(tmp_path: Path) -> None:
    layer = torch.nn.Conv2d(4, 4, 1)
    save_weights(tmp_path / "tied.safetensors", torch.nn.Sequential(layer, layer), {})
    kept = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(kept["0.weight"], layer.weight)
    assert torch.equal(kept["1.weight"], layer.weight)


def test_a_state_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    class Counting(torch.nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"count": 1}

    with pytest.raises(InputError, match="'_extra_state' in its state dict, a dict"):
        save_weights(tmp_path / "extra.safetensors", Counting(2, 2), {})
