"""Octave networks in the rest of PyTorch: compiling, exporting, copying, saving, distributing."""

from __future__ import annotations

import copy
import io
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.models import efficientnet
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from octavize import OctConv2d, OctTensor, create_model, octavize

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

NETWORKS = {"oct_resnet26": {}, "oct_mobilenet_v1": {"width": 0.5}}


def network(name: str, train: bool = False) -> nn.Module:
    torch.manual_seed(0)
    start = {"zero_init_last": False} if "resnet" in name else {}
    return create_model(name, 0.5, num_classes=5, **NETWORKS[name], **start).train(train)


def image(n: int = 2, size: int = 48) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of one training step."""
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return y.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-3) -> None:
    assert list(a) == list(b)
    for name in a:
        scale = b[name].abs().max().item()
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance * scale + 1e-6, msg=name)


# ---- compiling and exporting ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compiles_as_one_graph(name: str, train: bool) -> None:
    torch._dynamo.reset()
    model = network(name, train)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager" if train else "eager")
    if train:
        y, gradients = step(compiled, image())
        expected, wanted = step(twin, image())
        close({n.removeprefix("_orig_mod."): g for n, g in gradients.items()}, wanted)
        for (key, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, msg=key)
    else:
        with torch.no_grad():
            y, expected = compiled(image()), twin(image())
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_with_inductor(name: str) -> None:
    torch._dynamo.reset()
    model = network(name)
    with torch.no_grad():
        y = torch.compile(model, fullgraph=True)(image())
        torch.testing.assert_close(y, model(image()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_exports(name: str) -> None:
    model = network(name)
    program = torch.export.export(model, (image(),))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image()), model(image()))
    assert {n for n, _ in program.named_parameters()} == {n for n, _ in model.named_parameters()}


def test_exports_with_a_free_batch_size() -> None:
    model = network("oct_mobilenet_v1")
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (image(3),), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image(5)), model(image(5)))


def test_exports_arithmetic_with_a_free_size() -> None:
    """A free size is a SymInt, which is a number to a tensor and must be one to an OctTensor."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = OctConv2d(3, 4, 1, alpha=0.5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (y / x.shape[0]).mean((2, 3))

    model = Scaled().eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (image(3, 8),), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(image(5, 8)), model(image(5, 8)))


# ---- copies and files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_compute_the_same(name: str, how: str) -> None:
    model = network(name)
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    with torch.no_grad():
        assert torch.equal(twin(image()), model(image()))
    assert [m.alpha for m in twin.modules() if isinstance(m, OctConv2d)]
    y, gradients = step(twin.train(), image())
    expected, wanted = step(model.train(), image())
    assert torch.equal(y, expected)
    close(gradients, wanted)


def test_state_dict_on_disk_is_the_vanilla_one(tmp_path: Path) -> None:
    model = network("oct_mobilenet_v1")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    vanilla = efficientnet._gen_mobilenet_v1("mobilenetv1_100", channel_multiplier=0.5, num_classes=5)
    vanilla.load_state_dict(weights)
    again = octavize(vanilla, {"*": 0.5, "blocks.3.5.conv_pw": 0, "blocks.4.*": 0}).eval()
    with torch.no_grad():
        assert torch.equal(again(image()), model(image()))


# ---- modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_inference_mode(name: str) -> None:
    model = network(name)
    with torch.no_grad():
        expected = model(image())
    with torch.inference_mode():
        y = model(image())
    assert torch.equal(y, expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("train", [False, True])
def test_channels_last_and_autocast(name: str, train: bool) -> None:
    model = network(name, train)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(image())
        torch.testing.assert_close(
            twin(image().to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-4
        )
    with torch.autocast("cpu", torch.bfloat16):
        y, gradients = step(twin, image())
    assert y.dtype == torch.bfloat16
    assert all(g.isfinite().all() for g in gradients.values())


# ---- gradient checkpointing -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_timms_gradient_checkpointing(name: str) -> None:
    model: Any = network(name).train()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()  # the second forward would update running statistics again
    y, wanted = step(model, image())
    model.set_grad_checkpointing(True)
    again, gradients = step(model, image())
    torch.testing.assert_close(again, y)
    close(gradients, wanted)


def test_checkpoint_of_a_block_that_reads_an_octave_map() -> None:
    """The shared P(high) must not be kept from the first forward to the recomputation."""
    torch.manual_seed(0)
    first, second = OctConv2d(4, 8, 3, padding=1, alpha=0.5), OctConv2d(8, 8, 3, padding=1, alpha=0.5)

    def gradients(block: Any) -> list[Tensor]:
        x = first(image(1, 8)[:, [0, 1, 2, 0]])
        y = block(x)
        assert isinstance(y, OctTensor)
        parameters = [*first.parameters(), *second.parameters()]
        return list(torch.autograd.grad(y.to_dense().square().sum(), parameters))

    wanted = gradients(second)
    got = gradients(lambda x: checkpoint(second, x, use_reentrant=False))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


# ---- two processes ----------------------------------------------------------------------------------------


def _train_one_half(rank: int, name: str, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = DistributedDataParallel(network(name))
    _, gradients = step(model, image(4)[2 * rank : 2 * rank + 2])
    torch.save({n.removeprefix("module."): g for n, g in gradients.items()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_have_the_gradient_of_the_joined_batch(name: str, tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_train_one_half, (name, port, str(tmp_path)), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    # In evaluation mode batch norm does not mix images, so the mean over processes is half the joined sum.
    _, joined = step(network(name), image(4))
    close(ours, theirs, 0)
    close(ours, {n: g / 2 for n, g in joined.items()})
