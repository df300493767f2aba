"""Files in bf16 and int8: what they compute, what they are quantized on, and what is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.helpers.deploy import octave
from torch import Tensor, nn

from octavize import InputError, export, load_runtime, octavize
from octavize.deploy.images import find_images, spread_out
from octavize.deploy.lowering import batches_of
from octavize.deploy.quantize import PoolsAsConvolutions, agreement, outputs_of

SHAPE = (1, 3, 16, 16)
IMAGES = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LOWERED = [
    pytest.param(
        suffix, precision, marks=pytest.mark.skipif(not all(map(find_spec, needs)), reason="not installed")
    )
    for suffix, precision, needs in (
        (".xml", "bf16", ("openvino", "onnxscript")),
        (".xml", "int8", ("openvino", "onnxscript", "nncf")),
        (".onnx", "int8", ("onnxruntime", "onnxscript")),
    )
]


@pytest.mark.parametrize(("suffix", "precision"), LOWERED)
def test_a_file_in_low_precision_agrees_with_its_network(suffix: str, precision: str, tmp_path: Path) -> None:
    net, path = octave(), tmp_path / f"net{suffix}"
    images = IMAGES[:32] if precision == "int8" else None
    error = export(net, path, SHAPE, precision=precision, calibration=images, metadata={"classes": ["a"]})
    assert error < 1e-5  # in float32, before
    runner = load_runtime(path, threads=1, trust=True)
    assert (runner.metadata["precision"], runner.metadata["classes"]) == (precision, ["a"])
    with torch.no_grad():
        wanted = net(IMAGES).numpy()
    difference = np.abs(runner(IMAGES) - wanted).max() / np.abs(wanted).max()
    assert 1e-6 < difference < 0.1  # it is rounded, and not broken
    found = agreement(
        net, runner, IMAGES[32:].split(5), labels=torch.from_numpy(wanted).argmax(1)[32:].tolist()
    )
    assert (found.images, found.before) == (16, 1.0)
    assert found.same == found.after
    assert found.same >= 0.9
    left = {file.name for file in tmp_path.iterdir()}
    assert left == ({"net.xml", "net.bin"} if suffix == ".xml" else {"net.onnx"})


@pytest.mark.skipif(not find_spec("nncf"), reason="not installed")
def test_no_average_of_integers_is_left(tmp_path: Path) -> None:
    import openvino

    def kinds(precision: str) -> set[str]:
        path = tmp_path / f"{precision}.xml"
        images = IMAGES if precision == "int8" else None
        export(octave(), path, SHAPE, precision=precision, calibration=images)
        return {op.get_type_name() for op in openvino.Core().read_model(path).get_ops()}

    assert "AvgPool" in kinds("float32")
    assert "AvgPool" not in kinds("int8")


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (7, 7)])
def test_pools_as_convolutions_are_the_same_function(size: tuple[int, int]) -> None:
    x = torch.randn(2, 5, *size).double()
    settings: Any = ((2, 2), (2, 2), 0, True, False)
    with PoolsAsConvolutions():
        found = F.avg_pool2d(x, *settings)
    torch.testing.assert_close(found, F.avg_pool2d(x, *settings))


def test_batches_for_calibration() -> None:
    def batches() -> Any:
        yield IMAGES[:5], torch.zeros(5)  # a loader's, with labels
        yield IMAGES[5:10]

    found = batches_of(batches(), (4, 3, 16, 16))
    np.testing.assert_array_equal(np.concatenate(found), IMAGES[:8])
    assert sum(map(len, batches_of(IMAGES.numpy(), SHAPE, most=10))) == 10


@pytest.mark.parametrize(
    ("suffix", "precision", "calibration", "words"),
    [
        (".pt2", "int8", IMAGES, r"precision='int8': \.pt2 \(PyTorch\) has float32"),
        (".onnx", "bf16", IMAGES, r"precision='bf16': \.onnx \(ONNX Runtime\) has float32, int8"),
        (".onnx", "int4", IMAGES, "precision='int4'"),
        (".onnx", "int8", None, "calibration is not given: int8 needs images"),
        (
            ".onnx",
            "int8",
            IMAGES[:, :2],
            r"calibration has \(48, 2, 16, 16\): give images of \(N, 3, 16, 16\)",
        ),
        (".onnx", "int8", IMAGES[:0], "calibration has 0 images"),
        (".onnx", "int8", ["x"], "calibration has 'x'"),
        (".onnx", "int8", IMAGES.byte(), "calibration is of torch.uint8: give images prepared as"),
        (".onnx", "int8", IMAGES / 0, "calibration has values that are not finite"),
    ],
)
def test_bad_input(suffix: str, precision: str, calibration: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        export(octave(), tmp_path / f"net{suffix}", SHAPE, precision=precision, calibration=calibration)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="not installed")
def test_a_layer_that_the_quantizer_cannot_take_is_told_in_one_line(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, 2, groups=2)).eval()
    with pytest.raises(
        InputError, match=r"precision='int8': ONNX Runtime's quantizer fails .*export it as"
    ) as e:
        export(net, tmp_path / "net.onnx", SHAPE, precision="int8", calibration=IMAGES)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not find_spec("nncf"), reason="not installed")
def test_outputs_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    class Explodes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.conv(x).mean((2, 3)) * 1e3).exp().log()

    with pytest.raises(InputError, match=r"not (finite|written)"):
        export(Explodes(), tmp_path / "net.xml", SHAPE, precision="int8", calibration=1e6 * IMAGES)
    assert not list(tmp_path.iterdir())


def folder(tmp_path: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_folders_named_as_classes_are_labels(tmp_path: Path) -> None:
    images = folder(tmp_path, ["cat", "dog", "cat", "dog"])
    assert find_images(images, ["dog", "cat", "eel"], 3).labels == [1, 1, 0, 0]
    assert find_images(images, None, 2).labels == [0, 0, 1, 1]  # as many as there are outputs
    assert find_images(images, ["x", "y", "z"], 3).labels is None
    (images / "cat" / "sub").mkdir()
    next((images / "cat").glob("*.*")).rename(images / "cat" / "sub" / "deep.jfif")
    (images / "cat" / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"1 not read, .*: cat.notes\.txt"):
        assert find_images(images, ["dog", "cat", "eel"], 3).labels == [1, 1, 0, 0]
    (images / "cat" / "notes.txt").unlink()
    assert find_images(images, None, 2).labels == [0, 0, 1, 1]
    seen, unseen = spread_out(find_images(images, None, 2), 2)
    assert (seen.labels, unseen.labels) == ([0, 1], [0, 1])
    assert not set(seen.paths) & set(unseen.paths)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        find_images(tmp_path, None, 2)
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "no", None, 2)


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="not installed")
@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool2d(2, 2, 1)])
@pytest.mark.parametrize("alpha", [0, 0.5])
def test_averages_that_are_the_networks_own(pool: nn.Module, alpha: float, tmp_path: Path) -> None:
    """Padded they are no octave's pool, and of an octave map no plain average."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), pool, nn.Conv2d(8, 8, 1)]
    net = octavize(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), alpha, example=SHAPE).eval()
    error = export(net, tmp_path / "net.onnx", SHAPE, precision="int8", calibration=IMAGES)
    assert error < 1e-5


@pytest.mark.skipif(not find_spec("openvino"), reason="not installed")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_images_that_nothing_is_quantized_on_are_refused(precision: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"calibration is given: {precision} needs no images"):
        export(octave(), tmp_path / "net.xml", SHAPE, precision=precision, calibration=IMAGES)


def test_a_single_output_tells_no_classes_apart() -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    assert outputs_of(nn.Sequential(*head, nn.Linear(3, 1)), SHAPE) is None
    assert outputs_of(nn.Sequential(*head, nn.Linear(3, 2)), SHAPE) == 2
    assert outputs_of(nn.Conv2d(3, 4, 1), SHAPE) is None


class Named(nn.Sequential):
    def forward(self, input: torch.Tensor) -> Any:
        return {"out": super().forward(input)}


@pytest.mark.skipif(not find_spec("onnxruntime"), reason="not installed")
def test_a_dict_of_scores_agrees_with_its_file(tmp_path: Path) -> None:
    net = Named(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    assert outputs_of(net, SHAPE) == 2
    export(net, tmp_path / "net.onnx", SHAPE)
    found = agreement(net, load_runtime(tmp_path / "net.onnx"), [torch.randn(SHAPE)], [0])
    assert (found.images, found.same, found.before) == (1, 1.0, found.after)
