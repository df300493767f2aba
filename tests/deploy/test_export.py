"""Exported files: the same outputs as the network, whatever the batch (and the size), and what they know."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.helpers.deploy import octave, shaken, small
from torch import nn
from torchvision import models as zoo

import octavize
from octavize import InputError, load_runtime
from octavize.convert.inputs import Inputs
from octavize.deploy import export as e
from octavize.deploy.formats import onnx
from octavize.deploy.predict import predict
from octavize.deploy.quantize import agreement
from octavize.deploy.runtime import Runner

NEEDS = {
    ".pt2": (),
    ".onnx": ("onnx", "onnxscript", "onnxruntime"),
    ".xml": ("onnx", "onnxscript", "openvino"),
}
ABOUT = {"classes": ["cat", "chien", "猫", "<&>"], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}


def formats(slow: bool = True) -> list[Any]:
    """All formats, skipped where a package is missing; by default only PyTorch's is quick."""
    found = []
    for suffix, modules in NEEDS.items():
        missing = [m for m in modules if find_spec(m) is None]
        marks = [pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")]
        found.append(pytest.param(suffix, marks=marks + [pytest.mark.slow] * (slow and suffix != ".pt2")))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each format's file of one octave network; exporting is the slow part."""
    made: dict[str, Path] = {}

    def file(suffix: str) -> Path:
        if suffix not in made:
            path = tmp_path_factory.mktemp("files") / f"model{suffix}"
            error = octavize.export(octave(), path, (1, 3, 15, 18), metadata=ABOUT)
            assert 0 <= error < 1e-5
            made[suffix] = path
        return made[suffix]

    return file


@pytest.mark.parametrize("suffix", formats(slow=False))
def test_outputs_metadata_and_refusals(suffix: str, files: Any) -> None:
    runner = load_runtime(files(suffix), threads=1, trust=True)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 15, 18)
        with torch.no_grad():
            expected = octave()(x).numpy()
        np.testing.assert_allclose(runner(x), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(runner(x.numpy()), runner(x))
    assert runner.metadata == {
        **ABOUT,
        "alpha": 0.5,
        "octavize": octavize.__version__,
        "input_shape": [1, 3, 15, 18],
        "dynamic_batch": True,
        "dynamic_size": False,
        "smallest_size": 1,
        "precision": "float32",
    }
    with pytest.raises(InputError, match=r"shape \(1, 3, 16, 18\), but .* takes \(any, 3, 15, 18\)"):
        runner(torch.randn(1, 3, 16, 18))
    left = {file.name for file in files(suffix).parent.iterdir()}
    assert left == ({"model.xml", "model.bin"} if suffix == ".xml" else {f"model{suffix}"})


@pytest.mark.parametrize("suffix", formats())
def test_any_size(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    octavize.export(octave(), path, (1, 3, 16, 16), dynamic_size=True)
    runner = load_runtime(path, trust=True)
    for shape in ((1, 3, 16, 16), (2, 3, 17, 31), (4, 3, 40, 9)):
        x = torch.randn(shape)
        with torch.no_grad():
            np.testing.assert_allclose(runner(x), octave()(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", formats())
@pytest.mark.parametrize("name", ["oct_mobilenet_v1_small", "oct_resnet50"])
@pytest.mark.parametrize("alpha", [0, 0.5])
def test_networks_of_the_registry(name: str, alpha: float, suffix: str, tmp_path: Path) -> None:
    model = shaken(octavize.create_model(name, alpha, num_classes=5))
    assert octavize.export(model, tmp_path / f"model{suffix}", (1, 3, 64, 64)) < 1e-4


def test_free_axes_of_onnx_are_named(tmp_path: Path) -> None:
    import onnx as onnx_file

    path = tmp_path / "n.onnx"
    octavize.export(octave(), path, (1, 3, 32, 32), dynamic_size=True)
    graph = onnx_file.load(path).graph
    [given], [output] = graph.input, graph.output
    dims = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    assert output.type.tensor_type.shape.dim[0].dim_param == "batch"
    known = {d.dim_param for v in graph.value_info for d in v.type.tensor_type.shape.dim}
    assert not any(re.search(r"\bs\d+\b", name) for name in known)


def test_the_network_is_left_alone(tmp_path: Path) -> None:
    model = octave().double().train()
    octavize.export(model, tmp_path / "model.pt2", (2, 3, 8, 8), dynamic_batch=False)
    assert model.training
    assert next(model.parameters()).dtype == torch.float64
    assert load_runtime(tmp_path / "model.pt2", trust=True).metadata["dynamic_batch"] is False


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return octavize.octavize(small(), 0.25, example=(1, 3, 8, 8)).eval()

    monkeypatch.setattr(e, "freeze_layers", wrong)
    path = tmp_path / "model.pt2"
    path.write_text("old")
    with pytest.raises(InputError, match=r"is not written: its outputs differ .* more than 0.0001"):
        octavize.export(octave(), path, (1, 3, 8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_text() == "old"


class Reading(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if float(x.mean()) > 0 else x


@pytest.mark.parametrize(
    ("name", "shape", "settings", "words"),
    [
        ("model.pt", (1, 3, 8, 8), {}, r"model.pt is none of .onnx, .xml, .pt2: give a name"),
        ("no/model.pt2", (1, 3, 8, 8), {}, "folder that does not exist"),
        ("model.pt2", (3, 8), {}, r"example=\(3, 8\) is the shape of no map"),
        ("model.pt2", None, {}, "example=None is neither"),
        ("model.pt2", (1, 5, 8, 8), {}, "does not run on an input of shape"),
        ("model.pt2", (1, 3, 8, 8), {"metadata": {"mean": object()}}, "metadata cannot be written as JSON"),
        ("model.pt2", (1, 3, 8, 8), {"metadata": {"inputs": "RGB"}}, "metadata has inputs, .*: leave it out"),
        ("model.pt2", (1, 3, 8, 8), {"metadata": {"octavize": 1}}, "metadata has octavize, .*: leave it out"),
    ],
)
def test_bad_input(name: str, shape: Any, settings: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        octavize.export(octave(), tmp_path / name, shape, **settings)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_without_hooks_and_says_so_once(tmp_path: Path) -> None:
    model = octave()
    plain = model(x := torch.randn(2, 3, 8, 8)).detach()
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    hook = model.get_submodule(first).register_forward_hook(lambda module, args, y: 2 * y)
    with pytest.warns(UserWarning, match=rf"a hook on its layer '{first}': a file is without hooks") as told:
        octavize.export(model, tmp_path / "model.pt2", (1, 3, 8, 8))
    assert sum("hook" in str(each.message) for each in told) == 1
    assert not torch.allclose(model(x), plain, rtol=1e-2)
    np.testing.assert_allclose(
        load_runtime(tmp_path / "model.pt2", trust=True)(x), plain, rtol=1e-4, atol=1e-5
    )
    with pytest.warns(UserWarning, match=rf"a hook on its layer '{first}': the frozen network is without"):
        octavize.freeze(model, (1, 3, 8, 8))
    hook.remove()


def test_a_network_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be exported \(.*\): .*a branch on values") as caught:
        e.export_program(Reading(), (1, 3, 8, 8), True, False)
    assert "\n" not in str(caught.value)


class Several(nn.Module):
    """Returns maps, numbers without a row an image, and whole numbers; or what `what` says instead."""

    def __init__(self, what: str = "") -> None:
        super().__init__()
        self.what = what
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.register_buffer("anchors", torch.arange(8.0).reshape(4, 2))

    def forward(self, x: Any) -> Any:
        y = self.a(x)
        if self.what == "octave":
            return [y, y]
        y = self.b(y)
        if self.what == "none":
            return y, None
        return {"input": y, "boxes": [self.anchors * 2, y.mean((2, 3))], "class": y.argmax(1)}


@pytest.mark.parametrize("suffix", formats())
def test_several_outputs(suffix: str, tmp_path: Path) -> None:
    net = octavize.octavize(Several(), 0.5, example=(1, 3, 16, 16)).eval()
    path, x = tmp_path / f"n{suffix}", torch.randn(3, 3, 16, 16)
    assert octavize.export(net, path, (1, 3, 16, 16)) < 1e-5
    with torch.no_grad():
        expected = net(x)
    runner = load_runtime(path, trust=True)
    found = runner(x)
    assert list(found) == runner.outputs == ["output.input", "boxes.0", "boxes.1", "class"]
    wanted = [expected["input"], *expected["boxes"], expected["class"]]
    for name, want in zip(runner.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[name], want.numpy(), atol=1e-5)
    for got, want in zip(runner.all(x), found.values(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_octave_outputs_are_written_dense(tmp_path: Path) -> None:
    vanilla = nn.Sequential(*(nn.Conv2d(n, 32, 3, padding=1) for n in (3, 32, 32)))
    net = octavize.octavize(vanilla, 0.5, example=(1, 3, 16, 16)).eval()[:2]
    x = torch.randn(2, 3, 16, 16)
    octavize.export(net, tmp_path / "n.pt2", (1, 3, 16, 16))
    with torch.no_grad():
        y = net(x)
    assert isinstance(y, octavize.OctTensor), "or the test tests nothing"
    got = load_runtime(tmp_path / "n.pt2", trust=True)(x)
    np.testing.assert_allclose(got, y.to_dense().numpy(), atol=1e-5)


def test_a_wrong_output_among_several_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(self: Runner, *batch: Any) -> Any:
        *others, last = right(self, *batch)
        return [*others, last + 1]

    right = Runner.all
    monkeypatch.setattr(Runner, "all", spoiled)
    with pytest.raises(InputError, match="not written: its outputs differ"):
        octavize.export(Several(), tmp_path / "n.pt2", (1, 3, 16, 16))
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_no_file_can_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model Several returns None as output\.1: let it return tensors"):
        octavize.export(Several("none"), tmp_path / "n.pt2", (1, 3, 16, 16))


def test_files_of_several_outputs_do_not_classify(tmp_path: Path) -> None:
    path = tmp_path / "n.pt2"
    octavize.export(Several(), path, (1, 3, 16, 16))
    runner = load_runtime(path, trust=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "image.png")
    for ask in (
        lambda: predict(runner, [tmp_path / "image.png"]),
        lambda: agreement(Several(), runner, [torch.randn(1, 3, 16, 16)]),
    ):
        with pytest.raises(InputError, match=r"answers with .*boxes\.0, .*: give a classifier"):
            ask()


@pytest.mark.parametrize(("alpha", "least"), [pytest.param(0, 5, marks=pytest.mark.slow), (0.5, 9)])
def test_any_size_has_a_smallest(alpha: float, least: int, tmp_path: Path) -> None:
    """A CIFAR ResNet halves twice, its octave layers once more."""
    model = octavize.create_model("oct_cifar_resnet20", alpha, num_classes=5, width=0.5).eval()
    octavize.export(model, tmp_path / "any.pt2", (1, 3, 20, 20), dynamic_size=True)
    runner = load_runtime(tmp_path / "any.pt2", trust=True)
    assert runner.metadata["smallest_size"] == least
    for size in ((least, least), (least, 33)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            np.testing.assert_allclose(runner(x), model(x).numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=f"takes sizes from {least} pixels on"):
        runner(torch.randn(1, 3, least - 1, 20))
    with pytest.raises(InputError, match=r"leaves a map of a single pixel: .* give a larger one, such as "):
        octavize.export(model, tmp_path / "small.pt2", (1, 3, 4, 4), dynamic_size=True)


class UNet(nn.Module):
    """Two steps down, two up, and skips."""

    def __init__(self, up: str) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.middle, self.grow = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.up, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.how = up

    def larger(self, x: Any, skip: Any) -> Any:
        if self.how == "deconvolution":
            return self.grow(x)
        if self.how == "padded":
            x = self.grow(x)
            rest = [n - m for n, m in zip(skip.shape[:1:-1], x.shape[:1:-1], strict=True)]  # or too much
            return F.pad(x, [part for n in rest for part in (n // 2, n - n // 2)])
        if self.how == "factor":
            return F.interpolate(x, scale_factor=2, mode="bilinear")
        return F.interpolate(x, size=skip.shape[2:], mode=self.how)

    def forward(self, x: Any) -> Any:
        one = F.relu(self.first(x))
        two = F.relu(self.down(F.max_pool2d(one, 2)))
        x = F.relu(self.middle(F.max_pool2d(two, 3, 2, 1)))
        x = F.relu(self.up(torch.cat([self.larger(x, two), two], 1)))
        return self.last(torch.cat([self.larger(x, one), one], 1))


@pytest.mark.parametrize("alpha", [pytest.param(0, marks=pytest.mark.slow), 0.5])
@pytest.mark.parametrize(
    ("up", "step"),
    [
        *(("nearest", 1), ("factor", 4)),
        *(
            pytest.param(*of, marks=pytest.mark.slow)
            for of in [("bilinear", 1), ("deconvolution", 4), ("padded", 1)]
        ),
    ],
)
def test_any_size_that_the_network_takes(up: str, step: int, alpha: float, tmp_path: Path) -> None:
    """No call depends on the parity of a size, and only sizes that the network takes are tried."""
    torch.manual_seed(0)
    model = octavize.octavize(UNet(up), alpha, example=(1, 3, 24, 24), min_low=0).eval()
    assert e.size_step(model, Inputs((torch.zeros(1, 3, 24, 24),))) == step
    assert octavize.export(model, tmp_path / "net.pt2", (1, 3, 24, 24), dynamic_size=True) < 1e-5
    runner = load_runtime(tmp_path / "net.pt2", trust=True)
    assert runner.metadata["smallest_size"] % step == 0
    for height, width in ((6, 8), (7, 9), (5, 6)):
        x = torch.randn(2, 3, step * height, step * width)
        if min(x.shape[2:]) >= runner.metadata["smallest_size"]:
            with torch.no_grad():
                np.testing.assert_allclose(runner(x), model(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_network_that_crops_at_odd_sizes_stays_octave() -> None:
    torch.manual_seed(0)
    model = octavize.octavize(UNet("padded"), 0.5, example=(1, 3, 24, 24), min_low=0, strict=True).eval()
    frozen = octavize.freeze(model, (1, 3, 24, 24))
    for size in ((24, 24), (23, 25), (22, 21), (9, 11)):
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(frozen(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime not installed")
@pytest.mark.parametrize("size", [23, 24])
def test_windows_with_gaps(size: int, tmp_path: Path) -> None:
    """As in NASNet: pooling by every other pixel."""
    body = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)),
        *(nn.AvgPool2d(1, 2), nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1)),
    )
    model = octavize.octavize(body, 0.5, example=(1, 3, size, size), min_low=0).eval()
    assert octavize.export(model, tmp_path / "net.onnx", (1, 3, size, size)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("up", ["nearest", "factor"])
def test_files_of_any_size(up: str, suffix: str, tmp_path: Path) -> None:
    if find_spec("openvino" if suffix == ".xml" else "onnxruntime") is None:
        pytest.skip("the runtime is not installed")
    model = octavize.octavize(UNet(up), 0.5, example=(1, 3, 24, 24), min_low=0).eval()
    assert octavize.export(model, tmp_path / f"net{suffix}", (1, 3, 24, 24), dynamic_size=True) < 1e-5


class Reordered(nn.Module):
    """Convolutions that read channels in a new order, which is not its own inverse."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.one, self.two, self.three = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3)
        self.register_buffer("order", torch.tensor([1, 2, 3, 4, 5, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.one(x)).index_select(self.axis, self.order)
        return self.two(x)[:, :, 1:-1, 1:-1] + self.three(x)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino not installed")
@pytest.mark.parametrize("axis", [1, -3])
def test_openvino_keeps_the_order_of_channels(axis: int, tmp_path: Path) -> None:
    """By itself it moves the order into the weights of the convolutions, the wrong way round."""
    assert octavize.export(Reordered(axis), tmp_path / "net.xml", (1, 3, 8, 8)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_channel_shuffle(suffix: str, tmp_path: Path) -> None:
    """The files differ by less than a hundredth of what the image changes: here that is little itself."""
    if find_spec("openvino" if suffix == ".xml" else "onnxruntime") is None:
        pytest.skip("the runtime is not installed")
    torch.manual_seed(0)
    model = octavize.octavize(zoo.get_model("shufflenet_v2_x0_5"), 0.5, example=(1, 3, 64, 64)).eval()
    path = tmp_path / f"net{suffix}"
    assert octavize.export(model, path, (1, 3, 64, 64)) < 1e-5
    x = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        wanted = model(x).numpy()
    off = np.abs(load_runtime(path)(x) - wanted).max()
    assert off < 0.01 * np.abs(wanted - wanted.mean(0)).max()


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino not installed")
def test_threads_do_not_mix_up_answers(files: Any) -> None:
    runner = load_runtime(files(".xml"), threads=1, trust=True)
    inputs = [torch.randn(1, 3, 15, 18) for _ in range(8)]
    expected = [runner(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for got, wanted in zip(pool.map(runner, inputs), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_no_answer_of_another_batch(files: Any) -> None:
    runner = load_runtime(files(".pt2"), trust=True)
    runner._run = lambda batch: [np.zeros((2, 4), np.float32)]
    with pytest.raises(InputError, match="made 2 outputs of 3 inputs"):
        runner(torch.randn(3, 3, 15, 18))


def test_users_settings_do_not_matter(tmp_path: Path) -> None:
    model = octave()
    model.register_forward_hook(lambda module, args, output: output + 100)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            octavize.export(model, tmp_path / "model.pt2", (1, 3, 8, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert load_runtime(tmp_path / "model.pt2", trust=True).metadata["alpha"] == 0.5


def test_a_frozen_network_is_exported_with_its_alpha(tmp_path: Path) -> None:
    octavize.export(octavize.freeze(octave(0.25), (1, 3, 8, 8)), tmp_path / "model.pt2", (1, 3, 8, 8))
    assert load_runtime(tmp_path / "model.pt2", trust=True).metadata["alpha"] == 0.25


@pytest.mark.parametrize("about", ["no JSON", "{}", "[1]", "3"])
def test_metadata_of_somebody_else(about: str) -> None:
    with pytest.raises(InputError, match="was not written by octavize"):
        Runner(Path("model.onnx"), lambda batch: batch, about)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "FORMAT", replace(onnx.FORMAT, needed_to_write=("no_such_module",)))
    with pytest.raises(
        InputError, match=r"no_such_module is not installed: run `pip install 'octavize\[deploy\]'`"
    ):
        octavize.export(octave(), tmp_path / "model.onnx", (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("model.tflite", "", "is none of .onnx, .xml, .pt2"),
        ("model.pt2", None, "does not exist"),
        ("model.pt2", "no archive", "cannot be read"),
    ],
)
def test_files_that_are_none(name: str, text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_runtime(tmp_path / name, trust=True)
    assert "\n" not in str(caught.value)


def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(InputError, match="was not written by octavize"):
        load_runtime(tmp_path / "model.pt2", trust=True)


def test_threads_are_checked(files: Any) -> None:
    with pytest.raises(InputError, match="threads=0"):
        load_runtime(files(".pt2"), threads=0, trust=True)
