"""Layers refitted in closed form, against least squares written out by hand."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from octavize import InputError, OctConv2d, OctTensor, calibrate, octavize
from octavize import refit as refit_and_polish
from octavize.calibration import polish as polishing
from octavize.calibration.walk import Ended, Walk
from octavize.convert.inputs import Inputs

refit = partial(refit_and_polish, epochs=0)


def images(count: int = 24, side: int = 17, seed: int = 0, channels: int = 3) -> Tensor:
    """Smooth maps with noise, (count, channels, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn(count, channels, 5, 5, generator=generator)
    noise = torch.randn(count, channels, side, side, generator=generator)
    return F.interpolate(smooth, size=side, mode="bilinear") + 0.3 * noise


@pytest.fixture(autouse=True)
def _same_weights_no_threads_left() -> Iterator[None]:
    torch.manual_seed(0)
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def vanilla_of(net: nn.Module) -> nn.Module:
    return octavize(net, 0, example=(1, 3, 17, 17)).eval()


@torch.no_grad()
def error(net: nn.Module, vanilla: nn.Module, x: Tensor) -> float:
    wanted = vanilla(x)
    return float((net(x) - wanted).square().mean() / wanted.var())


def fitted(x: Tensor, y: Tensor, start: Tensor, ridge: float, constant: bool = True) -> Tensor:
    """Least squares by `lstsq`: the ridge is rows of its own, which ask for the weights as they were.

    Args:
        x: (rows, columns), float64, the last of them 1 if there is a constant.
        y: (rows, outputs).
        start: (columns, outputs).
    """
    squares = x.square().sum(0)
    own = squares[:-1] if constant else squares
    pull = torch.full_like(squares, float(ridge * own.mean() + 1e-6 * own.max()))
    if constant:
        pull[-1] = 1e-6 * squares[-1]
    root = pull.sqrt()[:, None]
    return torch.linalg.lstsq(torch.cat([x, torch.diag(root[:, 0])]), torch.cat([y, root * start])).solution


def rows(x: Tensor, kernel: int = 1, padding: int = 0, stride: int = 1) -> Tensor:
    """The windows of a map, one a row, (N · pixels, C · kernel²)."""
    return F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)


def up(x: Tensor, size: int) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :size, :size]


def test_weights_are_those_of_least_squares() -> None:
    """Two octave layers: both halves of both, with everything written out in float64."""
    make = OctConv2d(3, 8, 3, padding=1, alpha=0.5)
    read = OctConv2d(8, 6, 3, padding=1, alpha=0.5)
    net = nn.Sequential(make, read, OctConv2d(6, 2, 1, alpha=0)).double().eval()
    vanilla = vanilla_of(net)
    x = images().double()
    before = copy.deepcopy(net)
    done = {(f"{each.name} {each.half}"): each for each in refit(net, [x]).layers}
    assert list(done) == ["0 low", "1 high", "1 low", "2 all"]  # the high half of the first was right
    torch.testing.assert_close(make.weight[:4], before[0].weight[:4], rtol=0, atol=0)

    def check(
        layer: nn.Module, old: nn.Module, channels: slice, read: Tensor, wanted: Tensor, name: str
    ) -> None:
        one = torch.ones(len(read), 1).double()
        start = torch.cat([old.weight[channels].flatten(1), old.bias[channels, None]], 1).T
        target = wanted.transpose(0, 1).flatten(1).T
        v = fitted(torch.cat([read, one], 1), target, start, done[name].ridge)
        got = torch.cat([layer.weight[channels].flatten(1), layer.bias[channels, None]], 1).T
        torch.testing.assert_close(got, v, rtol=1e-6, atol=1e-8)

    with torch.no_grad():
        y = vanilla[0](x)
        low = F.avg_pool2d(x, 2, ceil_mode=True)
        check(
            make, before[0], slice(4, 8), rows(low, 3, 1), F.avg_pool2d(y[:, 4:], 2, ceil_mode=True), "0 low"
        )
        got, y = make(x), vanilla[1](y)
        high, low = got.high, got.low
        # U repeats what the low windows give, so the windows are repeated.
        windows = F.unfold(low, 3, padding=1).view(len(x), -1, 9, 9)
        both = torch.cat([rows(high, 3, 1), up(windows, 17).flatten(2).transpose(1, 2).flatten(0, 1)], 1)
        check(read, before[1], slice(0, 3), both, y[:, :3], "1 high")
        pooled = torch.cat([F.avg_pool2d(high, 2, ceil_mode=True), low], 1)
        wanted = F.avg_pool2d(y[:, 3:], 2, ceil_mode=True)
        check(read, before[1], slice(3, 6), rows(pooled, 3, 1), wanted, "1 low")


def block(*layers: nn.Module, channels: int = 8) -> nn.Module:
    """A network around some layers, with an octave layer before them and a layer that merges after them."""
    first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.ReLU())
    return nn.Sequential(first, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)).eval()


class Concatenated(nn.Module):
    """Two octave layers side by side, so that low channels lie between high ones."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.deep(torch.cat([self.one(x), self.two(x)], 1)))


KINDS: dict[str, Callable[[], list[nn.Module]]] = {
    "dense": lambda: [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()],
    "norm and clamp": lambda: [nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()],
    "grouped": lambda: [nn.Conv2d(8, 8, 3, padding=1, groups=2)],
    "depthwise": lambda: [nn.Conv2d(8, 8, 3, padding=1, groups=8)],
    "depthwise multiplied": lambda: [nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.Conv2d(16, 8, 1)],
    "strided": lambda: [nn.Conv2d(8, 8, 3, padding=1, stride=2)],
    "strided depthwise": lambda: [nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)],
    "strided grouped": lambda: [nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=2)],
    "dilated": lambda: [nn.Conv2d(8, 8, 3, padding=2, dilation=2)],
    "reflected": lambda: [nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")],
    "same": lambda: [nn.Conv2d(8, 8, 3, padding="same")],
    "even and same": lambda: [nn.Conv2d(8, 8, 2, padding="same")],
    "transposed": lambda: [nn.ConvTranspose2d(8, 8, 2, stride=2)],
    "transposed grouped": lambda: [nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=2)],
    "transposed depthwise": lambda: [nn.ConvTranspose2d(8, 8, 3, padding=1, groups=8)],
    "transposed with more": lambda: [
        nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, bias=False)
    ],
    "concatenated": lambda: [Concatenated()],
    "plain": lambda: [nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)],  # a valid 3×3 stays vanilla
}


CASES = [
    (kind, downsample, exchange)
    for kind in KINDS
    for downsample in (("pool", "stride") if "strided" in kind else ("pool",))
    for exchange in ("both", "high_to_low", "low_to_high", "none")
]


@pytest.mark.parametrize(("kind", "downsample", "exchange"), CASES)
def test_every_kind_of_layer_comes_closer(kind: str, downsample: str, exchange: str) -> None:
    vanilla = block(*KINDS[kind]())
    net = octavize(vanilla, 0.5, example=(1, 3, 17, 17), downsample=downsample, exchange=exchange, min_low=0)
    x, before = images(), copy.deepcopy(net)
    done = refit(net, [x])
    assert not done.left
    own = {name for name, m in net.named_modules() if isinstance(m, nn.modules.conv._ConvNd)}
    assert {each.name for each in done.layers} == own - {"0.0"}  # which reads the images
    assert all(each.after <= each.before * (1 + 1e-5) for each in done.layers)
    assert error(net, vanilla, x) < 0.9 * error(before, vanilla, x)
    other = images(seed=1)
    assert error(net, vanilla, other) < error(before, vanilla, other)


def test_weights_with_their_channels_last_are_written_alike() -> None:
    found = []
    for memory in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = octavize(block(*KINDS["depthwise"]()), 0.5).eval().to(memory_format=memory)
        refit(net, [images()], epochs=0)
        found.append(net.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dims", [1, 3])
def test_sound_and_video(dims: int) -> None:
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    layers = [
        conv(3, 8, 3, padding=1),
        nn.ReLU(),
        conv(8, 8, 3, padding=1, stride=2),
        nn.ReLU(),
        conv(8, 4, 1),
    ]
    vanilla = nn.Sequential(*layers, nn.Flatten(2)).eval()
    x = torch.randn(12, 3, *[9] * dims)
    net = octavize(vanilla, 0.5, example=(1, 3, *[9] * dims), min_low=0)
    before = copy.deepcopy(net)
    done = refit(net, [x])
    assert not done.left
    assert error(net, vanilla, x) < error(before, vanilla, x)


def test_batches_and_memory_do_not_matter() -> None:
    vanilla = block(*KINDS["dense"](), *KINDS["strided"]()).double()
    x, nets = images(20).double(), []
    # 1e-4 GiB has room for one of the batches of the first layers, and for more of the last.
    for batches, memory in (([x], 4), ([x[:9], x[9:13], x[13:]], 4), ([x], 0), ([x], 1e-4)):
        net = octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0)
        refit(net, batches, memory=memory)
        nets.append(net.state_dict())
    for state in nets[1:]:
        for key, value in state.items():
            torch.testing.assert_close(value, nets[0][key], rtol=1e-6, atol=1e-8)


class Twice(nn.Module):
    """A layer that is called twice, on maps that differ."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1))
        self.shared = nn.Conv2d(8, 8, 1, bias=False)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(self.first(x)).relu()))


def test_calls_of_one_layer_are_fitted_together() -> None:
    vanilla = Twice().eval()
    net = octavize(vanilla, 0.5, example=(1, 3, 16, 16), min_low=0).double()
    vanilla = vanilla_of(net)
    old, x = net.shared.weight.detach().flatten(1).clone(), images(side=16).double()
    seen: list[tuple[OctTensor, Tensor]] = []
    done = refit(net, [x])
    (ridge,) = (each.ridge for each in done.layers if (each.name, each.half) == ("shared", "low"))
    # The first layer is refitted already; the shared one reads its output, and its own with the old weights.
    again = copy.deepcopy(net)
    again.shared.weight.data = old.view_as(again.shared.weight)
    again.shared.register_forward_hook(lambda m, args, y: seen.append(args[0]))
    made: list[Tensor] = []
    vanilla.shared.register_forward_hook(lambda m, args, y: made.append(y))
    with torch.no_grad():
        again(x), vanilla(x)
    read = torch.cat([rows(torch.cat([F.avg_pool2d(s.high, 2), s.low], 1)) for s in seen])
    wanted = torch.cat([F.avg_pool2d(y[:, 4:], 2).transpose(0, 1).flatten(1).T for y in made])
    v = fitted(read, wanted, old[4:].T, ridge, constant=False)
    torch.testing.assert_close(net.shared.weight[4:].flatten(1).T, v, rtol=1e-6, atol=1e-8)
    plain = Twice().eval()
    plain.first = nn.Conv2d(3, 8, 1)  # the layer's first input is a plain map
    net = octavize(plain, {"*": 0, "shared": 0.5}, example=(1, 3, 16, 16))
    with pytest.warns(UserWarning, match="'shared' alone: its calls read maps that are split in different"):
        assert list(refit(net, [images(side=16)]).left) == ["shared"]


class Residual(nn.Module):
    """Two blocks that add to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for each in self.blocks:
            x = (x + each(x)).relu()
        return x.mean((2, 3))


def test_a_sum_is_wanted_as_a_whole() -> None:
    """What the shortcut lacks, the layer that is added to it makes up for."""
    vanilla = Residual().eval()
    net = octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0)
    with torch.no_grad():
        net.stem[1].bias += 1.0  # an error of the shortcut
    broken, x = copy.deepcopy(net), images()
    names = ("blocks.0.0", "blocks.1.0")
    for name in ("0", "1"):  # leave the layer that makes the error
        net.stem[int(name)].weight.requires_grad_(False)
    done = {(each.name, each.half): each for each in refit(net, [x], vanilla=octavize(vanilla, 0)).layers}
    assert all(
        done[name, half].after < 0.3 * done[name, half].before for name in names[:1] for half in ("low",)
    )
    assert error(net, vanilla, x) < 0.1 * error(broken, vanilla, x)


def test_constants_go_where_they_belong() -> None:
    def columns(*layers: nn.Module) -> tuple[int, nn.Module]:
        net = octavize(block(*layers), 0.5, example=(1, 3, 17, 17), min_low=0)
        before = copy.deepcopy(net)
        found = {each.name: each.columns for each in refit(net, [images()]).layers}
        return found["1"], (net, before)

    bare = nn.Conv2d(8, 8, 1, bias=False)
    count, (net, before) = columns(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    assert count == 9
    assert not torch.equal(net[2].running_mean, before[2].running_mean)
    count, (net, before) = columns(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert count == 9
    assert not torch.equal(net[1].bias, before[1].bias)
    torch.testing.assert_close(net[2].running_mean, before[2].running_mean, rtol=0, atol=0)
    assert columns(bare, nn.ReLU())[0] == 8
    norm = nn.BatchNorm2d(8)
    count, (net, before) = columns(copy.deepcopy(bare), norm, nn.Conv2d(8, 8, 1, bias=False), norm)
    assert count == 8  # the norm has another reader
    torch.testing.assert_close(net[2].running_mean, before[2].running_mean, rtol=0, atol=0)


@pytest.mark.parametrize("epochs", [0, 2])
def test_the_network_stays_what_it_was(epochs: int) -> None:
    vanilla = block(*KINDS["dense"](), nn.Dropout(0.5), *KINDS["depthwise"]())
    net = octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0)
    net.train()
    net[2].eval()
    net[1].weight.requires_grad_(False)
    calls: list[int] = []
    net[1].register_forward_hook(lambda *_: calls.append(1))
    flags = [(name, m.training, len(m._forward_hooks)) for name, m in net.named_modules()]
    parameters = {name: (id(p), p.shape, p.dtype, p.requires_grad) for name, p in net.named_parameters()}
    shapes = {k: (v.shape, v.dtype) for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    refit(net, [images()], epochs=epochs)
    assert torch.equal(torch.get_rng_state(), state)
    assert [(name, m.training, len(m._forward_hooks)) for name, m in net.named_modules()] == flags
    assert {n: (id(p), p.shape, p.dtype, p.requires_grad) for n, p in net.named_parameters()} == parameters
    assert {k: (v.shape, v.dtype) for k, v in net.state_dict().items()} == shapes
    assert all(p.grad is None for p in net.parameters())
    assert not calls
    vanilla.load_state_dict(net.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    vanilla = block(*KINDS["dense"]()).to(dtype)
    net = octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0)
    before = copy.deepcopy(net)
    done = refit(net, [images()])
    assert done.layers
    assert not done.left
    assert {v.dtype for v in net.state_dict().values() if v.is_floating_point()} == {dtype}
    assert error(net, vanilla, images().to(dtype)) < error(before, vanilla, images().to(dtype))


def test_a_network_is_refitted_again_to_the_vanilla_one() -> None:
    trained, x = block(*KINDS["dense"]()), images()
    plan = calibrate(trained, [x], 0.5, example=(1, 3, 17, 17), min_low=0)
    net, vanilla = octavize(trained, plan), octavize(octavize(trained, plan), 0, example=(1, 3, 17, 17))
    before = error(net, trained, x)
    refit(net, [x])
    done = refit(net, [x], vanilla=vanilla)
    assert error(net, trained, x) < before
    assert all(each.after <= each.before * (1 + 1e-5) for each in done.layers)


def test_what_cannot_be_refitted_is_told() -> None:
    normed, tied = weight_norm(nn.Conv2d(8, 8, 1)), nn.Conv2d(8, 8, 1)
    other = nn.Conv2d(8, 8, 1)
    other.weight = tied.weight
    last = nn.Conv2d(8, 8, 1)
    net = octavize(block(normed, tied, other, last), 0.5, example=(1, 3, 17, 17), min_low=0)
    before = copy.deepcopy(net.state_dict())
    with pytest.warns(UserWarning, match="refit left layer") as told:
        done = refit(net, [images()])
    assert done.left == {
        "1": "its weight is computed from other parameters",
        "2": "it shares its weights with 3",
        "3": "it shares its weights with 2",
    }
    assert sum("refit left layer" in str(each.message) for each in told) == 3
    assert "1 was left alone: its weight is computed" in str(done)
    assert {each.name for each in done.layers} == {"0.2", "4"}
    after = net.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith(("0.2", "4")))


def test_layers_that_share_memory_are_left() -> None:
    vanilla = block(*KINDS["dense"](), *KINDS["dense"]())
    a, b = (m for m in vanilla[1:] if isinstance(m, nn.Conv2d) and m.weight.shape == vanilla[1].weight.shape)
    b.weight.data = a.weight.data
    net = octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0, inplace=True)  # copies share nothing
    with pytest.warns(UserWarning, match="shares its weights"):
        done = refit(net, [images()])
    assert len(done.left) == 2


def test_images_of_another_kind_and_few_images_are_warned_of() -> None:
    vanilla = block(*KINDS["dense"]())
    vanilla[0].insert(1, nn.BatchNorm2d(4))
    x = images()
    vanilla.train()
    for _ in range(100):
        vanilla(x)
    vanilla.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = refit(octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0), [x])
    assert done.shift == pytest.approx(0, abs=0.01)
    with pytest.warns(UserWarning, match="of another kind than those it was trained on"):
        refit(octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0), [x + 2])
    with pytest.warns(UserWarning, match="2 images are few for"):
        refit(octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0), [x[:2, :, :5, :5]])


def test_a_trained_network_agrees_more() -> None:
    """Stripes of two directions and three widths, told apart by a network that was trained on them."""

    def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(6, (count,), generator=generator)
        grid = torch.arange(24.0)
        phase = 6.3 * torch.rand(count, 1, 1, generator=generator)
        along = torch.where((label % 2 == 0)[:, None, None], grid[None, :, None], grid[None, None, :])
        wave = torch.sin(along * (0.5 + 0.4 * (label // 2))[:, None, None] + phase).expand(count, 24, 24)
        noise = torch.randn(count, 3, 24, 24, generator=generator)
        return wave[:, None] + noise, label

    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6))
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(150):
        x, label = stripes(32, step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), label).backward()
        optimizer.step()
    net.eval()
    seen, (unseen, label) = stripes(64, 1000)[0], stripes(400, 2000)
    octave = octavize(net, calibrate(net, [seen], 0.5, example=(1, 3, 24, 24))).eval()

    def agreement() -> float:
        with torch.no_grad():
            return float((octave(unseen).argmax(1) == net(unseen).argmax(1)).float().mean())

    before = agreement()
    refit(octave, [seen])
    refitted = agreement()
    assert before < 0.92
    assert refitted > before + 0.05


def test_epochs_of_gradient_come_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polishing, "RATE", 1e-4)
    vanilla, x = Residual().eval(), images(32)
    nets = [octavize(vanilla, 0.5, example=(1, 3, 17, 17), min_low=0) for _ in range(3)]
    nets[1].blocks[0][0].weight.requires_grad_(False)
    done = [refit(net, [x], epochs=epochs) for net, epochs in zip(nets, (0, 10, 10), strict=True)]
    assert done[0].polished is None
    assert done[2].layers == done[0].layers
    assert done[1].left == {"blocks.0.0": "its weights are frozen"}
    for net, told in zip(nets[1:], done[1:], strict=True):
        assert told.polished.epochs == 10
        assert told.polished.after < told.polished.before
        assert error(net, vanilla, x) < error(nets[0], vanilla, x)
        assert "10 epochs of gradient: answers" in str(told)
    assert torch.equal(nets[1].blocks[0][0].weight, vanilla.blocks[0][0].weight)
    assert not torch.equal(nets[2].blocks[0][0].weight, nets[0].blocks[0][0].weight)


def test_epochs_that_lead_away_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polishing, "RATE", 10.0)
    nets = [octavize(Residual().eval(), 0.5, example=(1, 3, 17, 17), min_low=0)]
    nets.append(copy.deepcopy(nets[0]))
    done = [refit(net, [images()], epochs=epochs) for net, epochs in zip(nets, (0, 1), strict=True)]
    assert done[1].polished.after == done[1].polished.before
    assert all(torch.equal(v, nets[0].state_dict()[k]) for k, v in nets[1].state_dict().items())


def test_the_distance_is_that_computed_by_hand() -> None:
    scores, wanted = torch.randn(5, 4), torch.randn(5, 4)
    octave, dense = OctTensor.from_dense(torch.randn(2, 4, 6, 6), 0.25), torch.randn(2, 4, 6, 6)
    p, q = wanted.softmax(1), scores.softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() + (scores - wanted).square().mean() / wanted.var()
    low = (octave.low - F.avg_pool2d(dense[:, 3:], 2)).square().mean()
    apart = (0.75 * (octave.high - dense[:, :3]).square().mean() + 0.25 * low) / dense.var()
    found = polishing.distance(([scores], [octave, dense]), ([wanted], [dense, dense]))
    torch.testing.assert_close(found, expected + apart / 2)
    torch.testing.assert_close(polishing.distance(([octave], []), ([dense], [])), apart)


def test_images_are_flipped_and_shifted() -> None:
    x = torch.arange(60 * 60.0).view(1, 1, 60, 60).expand(40, 1, 60, 60)
    y = polishing.augmented(x, torch.Generator().manual_seed(1))
    assert y.shape == x.shape
    inner = y[:, 0, 10:50, 10:50]
    steps = {float(step) for step in (inner[:, :, 1:] - inner[:, :, :-1]).unique()}
    assert steps == {1.0, -1.0}  # some are flipped, and no pixel is made up
    down = {int(image[:, 0].min() // 60) - 10 for image in inner}
    assert len(down) == 1  # all are shifted alike
    assert abs(down.pop()) <= 3
    sound = torch.randn(2, 3, 50)
    assert polishing.augmented(sound, torch.Generator()) is sound


class Chooses(nn.Module):
    """Takes another path for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.two if x.device.type != "meta" and float(x.mean()) < 0 else self.one
        return layer(self.first(x)).mean((2, 3))


def test_mistakes_are_named() -> None:
    net = block(*KINDS["dense"]())
    octave = octavize(net, 0.5, example=(1, 3, 17, 17), min_low=0)
    with pytest.raises(InputError, match="has no octave layer: octavize it first"):
        refit(net, [images()])
    with pytest.raises(InputError, match="all its parameters are frozen"):
        refit(copy.deepcopy(octave).requires_grad_(False), [images()])
    with pytest.raises(InputError, match=r"weights in bfloat16.*epochs=0"):
        refit(copy.deepcopy(octave).bfloat16(), [images()], epochs=1)
    with pytest.raises(InputError, match="images are of several sizes"):
        refit(octave, [images(), images(side=16)], epochs=1)
    with torch.inference_mode(), pytest.raises(InputError, match="refit runs inside"):
        refit(octave, [images()], epochs=1)
    with pytest.raises(InputError, match=r"vanilla: it is another network, as '.*' shows"):
        refit(octave, [images()], vanilla=nn.Conv2d(3, 3, 1))
    with pytest.raises(InputError, match=r"vanilla: its layer '0\.2' is octave"):
        refit(octave, [images()], vanilla=octave)
    plan = calibrate(net, [images()], 0.5, example=(1, 3, 17, 17), min_low=0)
    with pytest.raises(InputError, match="vanilla: its channels are in another order than those of model"):
        refit(octavize(net, plan), [images()], vanilla=net)
    for measure in (partial(refit, octave), partial(calibrate, net, example=(1, 3, 17, 17))):
        with pytest.raises(InputError, match="images that are of one color each"):
            measure([torch.rand(8, 3, 1, 1).expand(8, 3, 17, 17)])
    with pytest.raises(InputError, match="images: there is only one"):
        refit(octave, [images(1)])
    with pytest.raises(InputError, match="max_images=1: give a whole number of at least 2"):
        refit(octave, [images()], max_images=1)
    with pytest.raises(InputError, match="memory=-1: give a number from 0"):
        refit(octave, [images()], memory=-1)
    with pytest.raises(InputError, match="on which Sequential does not run"):
        refit(octave, [images(channels=4)])
    chooses = octavize(Chooses().eval(), 0.5, example=(1, 3, 8, 8), min_low=0)
    with pytest.raises(InputError, match=r"does not come to layer '(one|two)' for some of them"):
        refit(chooses, [images(8) + 5, images(8) - 5])


def test_a_walk_goes_from_layer_to_layer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    x = images(2)
    walk = Walk(net, Inputs((x,)), {"0": {0}, "2": {0}})
    assert walk.next().x is x
    with torch.no_grad():
        net[1].weight.zero_()  # counts from the next layer on
    torch.testing.assert_close(walk.next().x, net[1].bias.view(1, 4, 1, 1).expand(2, 4, 17, 17))
    with pytest.raises(Ended):
        walk.next()
    walk.close()
    broken = Walk(net, Inputs((images(2, channels=5),)), {"1": {0}})
    with pytest.raises(RuntimeError, match="channels"):
        broken.next()
    broken.close()
