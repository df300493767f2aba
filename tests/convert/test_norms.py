"""Batch norm measured anew: the statistics are those computed by hand, and nothing else is touched."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from octavize import InputError, create_model, export, octavize, reestimate_norms
from octavize.bench.profile import count_macs, measure
from octavize.convert.norms import norm_shift
from octavize.nn.conv import OctConv2d
from octavize.nn.tensor import OctTensor

torch.manual_seed(0)
IMAGES = torch.randn(23, 3, 8, 8)
BATCHES = list(IMAGES.split(5))  # the last one holds 3


class Net(nn.Module):
    """A convolution, a norm, dropout, and a norm behind it that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.twice = nn.BatchNorm2d(4, momentum=None)
        self.unused = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.conv(x)))
        return self.twice(self.twice(x) + 1)


def weighted(values: list[Tensor], counts: list[int]) -> Tensor:
    return sum((v * n for v, n in zip(values, counts, strict=True)), torch.zeros(4)) / sum(counts)


def stats(batch: Tensor) -> tuple[Tensor, Tensor]:
    channels = batch.transpose(0, 1).flatten(1)
    return channels.mean(1), channels.var(1)


def test_statistics_are_those_computed_by_hand() -> None:
    net = Net()
    with torch.no_grad():
        maps = [net.conv(batch) for batch in BATCHES]
    assert reestimate_norms(net, BATCHES) == 23
    counts = [len(batch) for batch in BATCHES]
    torch.testing.assert_close(net.norm.running_mean, weighted([stats(m)[0] for m in maps], counts))
    torch.testing.assert_close(net.norm.running_var, weighted([stats(m)[1] for m in maps], counts))
    # The second use of `twice` sees a mean of 1 and a variance of 1: half of the average.
    torch.testing.assert_close(net.twice.running_mean, torch.full((4,), 0.5), atol=1e-3, rtol=1e-3)


def test_octave_maps_count_at_their_own_resolution() -> None:
    split, merge = OctConv2d(3, 4, 3, padding=1, alpha=0.5), OctConv2d(4, 2, 1, alpha=0)
    net = nn.Sequential(split, nn.BatchNorm2d(4), merge)
    with torch.no_grad():
        maps = [net[0](batch) for batch in BATCHES]
    assert reestimate_norms(net, [(batch, None) for batch in BATCHES]) == 23
    assert isinstance(maps[0], OctTensor)
    means = [torch.cat([stats(m.high)[0], stats(m.low)[0]]) for m in maps]
    variances = [torch.cat([stats(m.high)[1], stats(m.low)[1]]) for m in maps]
    counts = [len(batch) for batch in BATCHES]
    torch.testing.assert_close(net[1].running_mean, weighted(means, counts))
    torch.testing.assert_close(net[1].running_var, weighted(variances, counts))


def flags(model: nn.Module) -> list[tuple[str, bool, Any, int]]:
    modules = model.named_modules()
    return [(n, m.training, getattr(m, "momentum", None), len(m._forward_pre_hooks)) for n, m in modules]


@pytest.mark.parametrize("frozen", [False, True])
def test_flags_momenta_hooks_and_weights_come_back(frozen: bool) -> None:
    pytest.importorskip("timm")
    net = octavize(create_model("oct_mobilenet_v2", width=0.25, num_classes=4, drop_rate=0.3), 0.5).train()
    if frozen:
        net.eval()
        net.get_submodule("blocks.1").train()
    before = flags(net)
    weights = {k: v.clone() for k, v in net.named_parameters()}
    x = torch.randn(6, 3, 32, 32)
    assert reestimate_norms(net, [x]) == 6
    assert flags(net) == before
    assert all(torch.equal(v, weights[k]) for k, v in net.named_parameters())
    assert all(p.grad is None for p in net.parameters())
    again = {k: v.clone() for k, v in net.state_dict().items()}
    reestimate_norms(net, [x])  # dropout and stochastic depth are off: the same again
    assert all(torch.equal(v, again[k]) for k, v in net.state_dict().items())


def test_after_it_evaluation_normalizes_the_images_it_saw() -> None:
    pytest.importorskip("timm")
    net = octavize(create_model("oct_mobilenet_v1", 0, width=0.25, num_classes=4), 0.5).eval()
    x = torch.randn(8, 3, 64, 64)
    reestimate_norms(net, [x])
    norm = next(m for m in net.modules() if isinstance(m, _BatchNorm))
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        net(x)
    dense = seen[0]
    torch.testing.assert_close(norm.running_mean, dense.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_a_layer_out_of_reach_keeps_its_statistics() -> None:
    net = Net()
    net.unused.running_mean.fill_(3)
    reestimate_norms(net, BATCHES)
    assert net.unused.running_mean.tolist() == [3] * 4


def test_so_many_images_and_no_more() -> None:
    read: list[int] = []

    def loader() -> Any:
        for i, batch in enumerate(BATCHES):
            read.append(i)
            yield batch

    net, other = Net(), Net()
    other.load_state_dict(net.state_dict())
    assert reestimate_norms(net, loader(), max_images=7) == 7
    assert read == [0, 1]
    reestimate_norms(other, [IMAGES[:5], IMAGES[5:7]])
    torch.testing.assert_close(net.norm.running_var, other.norm.running_var)


def test_a_network_without_batch_norm_reads_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False))
    assert reestimate_norms(net, iter(())) == 0


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (3, ("loader is a int", "DataLoader")),
        ([], ("loader yields no image",)),
        ([{"cat": IMAGES}], ("loader yields a dict", "pixel_values")),
        ([()], ("loader yields a tuple",)),
        ([("cat.png", 1)], ("loader yields a tuple",)),
        ([IMAGES[0, 0]], ("shape (8, 8)", "batches (N, C, …)")),
        ([(255 * IMAGES).byte()], ("torch.uint8", "floating point")),
        ([IMAGES * float("nan")], ("not finite",)),
        ([torch.ones_like(IMAGES), IMAGES[:, :, :1, :1].expand_as(IMAGES)], ("of one color each",)),
        ([1e30 * IMAGES], ("not finite, or too large for float32",)),
        ([IMAGES[:, :2]], ("shape (23, 2, 8, 8)", "Net does not run")),
    ],
)
def test_bad_loaders_cost_one_line_and_change_nothing(loader: Any, words: tuple[str, ...]) -> None:
    net = Net().train()
    before, state = flags(net), {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        reestimate_norms(net, loader)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value).splitlines()) == 1
    assert flags(net) == before
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_a_loader_that_yields_once_is_refused_before_anything_changes() -> None:
    net = Net()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(
        InputError, match=r"loader is a generator, which yields its batches once, .*DataLoader"
    ):
        reestimate_norms(net, (batch for batch in [IMAGES]), vanilla=Net())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert reestimate_norms(net, (batch for batch in [IMAGES])) == len(IMAGES)


@pytest.mark.parametrize("count", [0, 1, True, 2.5, None])
def test_bad_number_of_images(count: Any) -> None:
    with pytest.raises(InputError, match="max_images="):
        reestimate_norms(Net(), BATCHES, max_images=count)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_take_the_dtype_of_the_network(dtype: torch.dtype) -> None:
    assert reestimate_norms(Net().to(dtype), BATCHES) == len(IMAGES)


def test_a_norm_called_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(input=x)

    net = Keyword()
    assert reestimate_norms(net, BATCHES) == len(IMAGES)
    assert net.norm.running_mean is not None
    torch.testing.assert_close(net.norm.running_mean, IMAGES.mean((0, 2, 3)))


def test_names_are_no_networks() -> None:
    name: Any = "resnet50"
    for call in (
        lambda: reestimate_norms(name, []),
        lambda: octavize(name),
        lambda: count_macs(name, (1, 3, 8, 8)),
        lambda: measure({"a": name}, (1, 3, 8, 8)),
        lambda: export(name, "x.pt2", (1, 3, 8, 8)),
    ):
        with pytest.raises(InputError, match="model is 'resnet50', no torch"):
            call()


def test_the_shift_is_that_computed_by_hand() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)).eval()
    net[0].running_mean.fill_(0.5)
    net[2].running_var.fill_(4.0)
    x, shifts = IMAGES, []
    for norm, seen in ((net[0], x), (net[2], net[:2](x))):
        deviation = (norm.running_var + norm.eps).sqrt()
        shift = (seen.mean((0, 2, 3)) - norm.running_mean) / deviation
        shifts.append(float(shift.square().mean().sqrt().detach()))
    quartile = min(shifts) + 0.75 * (max(shifts) - min(shifts))
    assert norm_shift(net, [x[:5], x[5:]]) == pytest.approx(quartile, rel=1e-4)
    assert norm_shift(nn.Conv2d(3, 4, 1), [x]) is None


def test_the_vanilla_network_is_the_control() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    reestimate_norms(net, BATCHES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reestimate_norms(Net(), BATCHES, vanilla=net)
    with pytest.warns(UserWarning, match="the vanilla network's maps, too, lie .* deviations off"):
        reestimate_norms(Net(), [batch + 1 for batch in BATCHES], vanilla=net)
