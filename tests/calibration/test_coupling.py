"""Permuting coupled channels never changes what a network computes."""

import copy
import random
import threading
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.channels import movable, permute
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from octavize.calibration.coupling import Coupling, find_coupling
from octavize.convert.trace import CONVOLUTIONS
from octavize.errors import InputError

FAST = ["resnet18", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "timm:res2net50_26w_4s"]
FAST += ["oct_cifar_resnet20"]
TORCHVISION = """
    resnet50 resnext50_32x4d mobilenet_v2 efficientnet_b0 regnet_y_400mf vgg11_bn googlenet inception_v3
    mnasnet0_5 convnext_tiny squeezenet1_1 alexnet
"""
TIMM = """
    seresnet50 mobilenetv1_100 ghostnet_100 hrnet_w18_small dla34 cspresnet50 ese_vovnet19b_dw repvgg_a0
    convnextv2_atto edgenext_xx_small mixnet_s selecsls42b xception41 legacy_xception nf_resnet50 dpn68
    skresnet18 regnety_002
"""
SLOW = [*TORCHVISION.split(), *[f"timm:{name}" for name in TIMM.split()], "oct_mobilenet_v1"]
NETWORKS = [*FAST, *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]]
SIDE = {"inception_v3": 96, "oct_cifar_resnet20": 32}
# Convolutions that make the network's output; and a network whose every weight is standardized, so computed.
STAY = {
    "squeezenet1_1": "classifier.1",
    "timm:dla34": "fc",
    "timm:dpn68": "classifier",
    "timm:nf_resnet50": "",
}


def build(name: str) -> nn.Module:
    if name.startswith("oct_"):
        from octavize import create_model

        return create_model(name, alpha=0)
    if name.startswith("timm:"):
        return pytest.importorskip("timm").create_model(name.removeprefix("timm:"))
    heads = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(pytest.importorskip("torchvision").models, name)(weights=None, **heads)


@torch.no_grad()
def randomized(model: nn.Module) -> nn.Module:
    """In float64, every channel told from every other: also where a fresh network has zeros and ones."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        else:
            tensor.copy_(noise * (1.5 / fan_in) ** 0.5 if fan_in > 1 else noise * 0.3 + 1)
    return model


def shuffled(model: nn.Module, coupling: Coupling) -> nn.Module:
    """A copy with every interchangeable set in random order."""
    generator = torch.Generator().manual_seed(2)
    model = copy.deepcopy(model)
    permute(model, coupling, [torch.randperm(len(s), generator=generator) for s in coupling.sets])
    return model


@torch.no_grad()
def check(model: nn.Module, *shape: int) -> Coupling:
    """The network computes the same when every interchangeable set is shuffled."""
    model = randomized(model)
    coupling = find_coupling(model, shape)
    x = torch.randn(2, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected, actual = model(x), shuffled(model, coupling)(x)
    assert expected.std() > 1e-6, "an output that does not depend on the weights shows nothing"
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))
    return coupling


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same_with_channels_shuffled(name):
    side = SIDE.get(name, 64)
    model = build(name)
    coupling = check(model, 1, 3, side, side)
    stays = STAY.get(name)
    for path, conv in model.named_modules():
        if isinstance(conv, CONVOLUTIONS):
            found = movable(coupling, f"{path}.weight", 0)
            share = sum(places > 1 for places in found) / len(found)
            if stays is not None and path.startswith(stays):
                assert share == 0, path
            else:
                assert share > 0.9, path


class Net(nn.Module):
    """Layers by keyword and a forward by function."""

    def __init__(self, forward, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def conv(c_in: int, c_out: int, kernel: int = 3, **kwargs) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, **kwargs)


def counts(coupling: Coupling, name: str, dim: int = 0) -> list[int]:
    return movable(coupling, f"{name}.weight", dim)


def test_chain_moves_rows_with_the_columns_that_read_them():
    model = Net(lambda m, x: m.b(torch.relu(m.a(x))), a=conv(3, 6), b=conv(6, 4))
    coupling = check(model, 1, 3, 8, 8)
    assert counts(coupling, "a") == counts(coupling, "b", 1) == [6] * 6
    assert counts(coupling, "a", 1) == [1] * 3, "the network's input"
    assert counts(coupling, "b") == [1] * 4, "the network's output"
    before = model.a.weight.detach().clone()
    order = torch.tensor([5, 0, 1, 2, 3, 4])
    permute(model, coupling, [order])
    assert torch.equal(model.a.weight, before[order])


def test_shared_module_and_residual_addition():
    def forward(m, x):
        x = m.a(x)
        for _ in range(3):
            x = x + torch.relu(m.shared(x))
        return m.out(x)

    coupling = check(Net(forward, a=conv(3, 6), shared=conv(6, 6), out=conv(6, 2)), 1, 3, 8, 8)
    assert counts(coupling, "a") == counts(coupling, "shared") == counts(coupling, "shared", 1) == [6] * 6


def test_tied_weights():
    model = Net(lambda m, x: m.out(m.c(torch.relu(m.b(m.a(x))))), a=conv(3, 6), b=conv(6, 6), c=conv(6, 6))
    model.out = conv(6, 2)
    model.c.weight = model.b.weight
    coupling = check(model, 1, 3, 8, 8)
    # Rows of b are columns of c, which is b: one channel before, between and after.
    assert counts(coupling, "b") == counts(coupling, "out", 1) == [6] * 6


def test_memory_shared_by_two_parameters_stays():
    model = Net(lambda m, x: m.c(torch.relu(m.b(m.a(x)))), a=conv(3, 6), b=conv(6, 6), c=conv(6, 6))
    randomized(model)
    model.c.weight = nn.Parameter(model.b.weight.data)
    coupling = find_coupling(model, (1, 3, 8, 8))
    assert counts(coupling, "b") == [1] * 6


def test_chunks_on_different_paths_stay_apart():
    def forward(m, x):
        left, right = m.a(x).chunk(2, 1)
        return m.out(torch.cat([left, m.b(right)], 1))

    coupling = check(Net(forward, a=conv(3, 8), b=conv(4, 4), out=conv(8, 2)), 1, 3, 8, 8)
    assert counts(coupling, "a") == [4] * 8


@pytest.mark.parametrize(
    "path", [torch.relu, lambda x: x.roll(1, 2), lambda x: F.max_pool2d(x, 3, 1, 1), lambda x: x.flip(3)]
)
def test_chunks_on_paths_without_parameters_stay_apart(path):
    def forward(m, x):
        left, right = m.a(x).chunk(2, 1)
        return m.out(torch.cat([left, path(right)], 1))

    coupling = check(Net(forward, a=conv(3, 8), out=conv(8, 2)), 1, 3, 8, 8)
    assert counts(coupling, "a") == [4] * 8


def test_groups_then_channel_shuffle():
    def forward(m, x):
        x = m.grouped(torch.relu(m.a(x)))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.out(m.again(x))

    layers = {"a": conv(3, 8), "grouped": conv(8, 8, groups=2), "again": conv(8, 8, groups=2)}
    check(Net(forward, **layers, out=conv(8, 2)), 1, 3, 8, 8)


def test_groups_move_whole():
    model = Net(lambda m, x: m.out(m.grouped(m.a(x))), a=conv(3, 8), grouped=conv(8, 12, groups=4))
    model.out = conv(12, 2)
    coupling = check(model, 1, 3, 8, 8)
    assert counts(coupling, "a") == [4] * 8
    assert counts(coupling, "out", 1) == [4] * 12


def test_flatten_then_linear():
    model = Net(lambda m, x: m.out(m.a(x).flatten(1)), a=conv(3, 5), out=nn.Linear(5 * 16, 3))
    assert counts(check(model, 1, 3, 4, 4), "a") == [5] * 5


def test_depthwise_with_multiplier_and_a_transposed_convolution():
    model = Net(
        lambda m, x: m.out(F.gelu(m.up(m.wide(m.a(x))))),
        a=conv(3, 4),
        wide=conv(4, 8, groups=4),
        up=nn.ConvTranspose2d(8, 6, 2, stride=2),
        out=conv(6, 2),
    )
    coupling = check(model, 1, 3, 8, 8)
    assert counts(coupling, "a") == [4] * 4
    assert counts(coupling, "up") == [4] * 8
    assert counts(coupling, "up", 1) == [6] * 6


def test_grouped_transposed_convolution():
    model = Net(
        lambda m, x: m.out(m.up(m.a(x))),
        a=conv(3, 8),
        up=nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4),
        out=conv(12, 2),
    )
    assert counts(check(model, 1, 3, 8, 8), "a") == [4] * 8


def test_attention_layer_scale_and_norms():
    def forward(m, x):
        x = m.a(x)
        x = x * torch.sigmoid(m.gate(x.mean((2, 3), keepdim=True)))
        x = m.norm(x) * m.gamma
        x = x + F.layer_norm(x.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)
        return m.out(F.prelu(x * x.mean(1, keepdim=True), m.slope))

    layers = {"a": conv(3, 6), "gate": conv(6, 6, 1), "norm": nn.GroupNorm(1, 6), "out": conv(6, 2)}
    scales = {"gamma": nn.Parameter(torch.ones(6, 1, 1)), "slope": nn.Parameter(torch.ones(6))}
    coupling = check(Net(forward, **layers, **scales), 1, 3, 8, 8)
    assert counts(coupling, "a") == counts(coupling, "gate") == [6] * 6


def test_group_norm_moves_groups():
    model = Net(lambda m, x: m.out(m.norm(m.a(x))), a=conv(3, 8), norm=nn.GroupNorm(4, 8), out=conv(8, 2))
    assert counts(check(model, 1, 3, 8, 8), "a") == [4] * 8


def test_writing_into_a_buffer_of_zeros():
    def forward(m, x):
        y = x.new_zeros(x.shape[0], 6, *x.shape[2:])
        y[:, :3] = m.a(x)
        y[:, 3:] += m.b(x)
        return m.out(y)

    coupling = check(Net(forward, a=conv(3, 3), b=conv(3, 3), out=conv(6, 2)), 1, 3, 8, 8)
    assert counts(coupling, "a") == counts(coupling, "b") == [3] * 3


def test_writing_into_the_networks_own_buffer():
    def forward(m, x):
        x = m.a(x)
        m.seen.mul_(0.5).add_(x.mean((0, 2, 3)))
        return m.out(torch.relu(m.b(x)))

    model = Net(forward, a=conv(3, 6), b=conv(6, 4), out=conv(4, 2)).double()
    model.register_buffer("seen", torch.zeros(6, dtype=torch.float64))
    coupling = find_coupling(model, (1, 3, 8, 8))
    assert counts(coupling, "b") == [4] * 4
    assert counts(coupling, "a") == [1] * 6, "written into what the network keeps"


def test_padded_shortcut():
    def forward(m, x):
        x = m.a(x)
        return m.out(m.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))

    coupling = check(Net(forward, a=conv(3, 4), b=conv(4, 8, stride=2), out=conv(8, 2)), 1, 3, 8, 8)
    assert counts(coupling, "b") == [4] * 8


def per_channel_constant(m, x):
    return m.out(torch.relu(m.a(x) + torch.arange(6.0, dtype=x.dtype)[:, None, None]))


def computed_weight(m, x):
    weight = m.a.weight / m.a.weight.norm()
    return m.out(torch.relu(F.conv2d(x, weight, padding=1)))


def sorted_channels(m, x):
    return m.out(m.a(x).sort(1).values)


def roll_through_channels(m, x):
    x = m.a(x)
    return m.out(x.flatten(1, 2).roll(1, 1).view_as(x))


def places_as_channels(m, x):
    x = m.a(x)[:, :, :2, :3]
    return m.out(x * x.mean(1).view(-1, 6, 1, 1))


def places_read_as_channels(m, x):
    return m.out(m.a(x)[:, :, :2, :3].mean(1).view(-1, 6, 1, 1))


STAYING = [per_channel_constant, computed_weight, sorted_channels, roll_through_channels, places_as_channels]
STAYING += [places_read_as_channels]


@pytest.mark.parametrize("forward", STAYING)
def test_what_is_not_understood_stays(forward):
    coupling = check(Net(forward, a=conv(3, 6), out=conv(6, 2)), 1, 3, 8, 8)
    assert counts(coupling, "out", 1) == [1] * 6


@pytest.mark.parametrize("places", [[1, 2, 0, 5, 3, 4], [1, 2, 0, 4, 5, 3], [3, 2, 1, 0, 5, 4]])
def test_channels_added_to_one_another_move_together(places):
    model = Net(lambda m, x: m.out(torch.relu(m.a(x)) + m.a(x)[:, places]), a=conv(3, 6), out=conv(6, 2))
    check(model, 1, 3, 8, 8)


def test_two_versions_of_a_channel_are_told_apart():
    def forward(m, x):
        x = m.a(x)
        return m.out(torch.cat([x.relu(), -x], 1)[:, [4, 1, 2, 3, 0, 5, 6, 7]])  # 0 and 4 are swapped

    coupling = check(Net(forward, a=conv(3, 4), out=conv(8, 2)), 1, 3, 8, 8)
    assert counts(coupling, "a") == [1, 3, 3, 3]


def test_spatial_attention_leaves_channels_free():
    def forward(m, x):
        x = m.a(x)
        q, k = m.q(x).flatten(2), m.k(x).flatten(2)
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return m.out(m.v(x).flatten(2) @ weights.transpose(1, 2))

    layers = {"a": conv(3, 6), "q": conv(6, 4, 1), "k": conv(6, 4, 1), "v": conv(6, 5, 1)}
    coupling = check(Net(forward, **layers, out=nn.Linear(64, 2)), 1, 3, 8, 8)
    assert counts(coupling, "a") == [6] * 6
    assert counts(coupling, "q") == counts(coupling, "k") == [4] * 4


def test_model_is_left_as_it_was():
    model = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2))
    model[1].eval()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    coupling = find_coupling(model, (1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert calls == []
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    parameters = list(model.parameters())
    permute(model, coupling, [torch.arange(len(s)).flip(0) for s in coupling.sets])
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(model[0].weight, before["0.weight"].flip(0))
    model(torch.randn(1, 3, 8, 8))
    assert calls == [1]


def watched() -> bool:
    """Whether operations of this thread are watched or rewritten."""
    return _get_current_dispatch_mode() is not None or torch._is_functional_tensor(torch.ones(1))


def test_only_this_thread_is_watched_and_only_while_the_network_runs():
    seen = []

    def forward(m, x):
        other = threading.Thread(target=lambda: seen.append(watched()))
        other.start()
        other.join()
        seen.append(watched())
        if len(x) > 1:
            raise ValueError("one image at a time")
        return m.a(x)

    model = Net(forward, a=conv(3, 6))
    find_coupling(model, (1, 3, 8, 8))
    assert (seen, watched()) == ([False, True], False)
    with pytest.raises(InputError, match="one image at a time"):
        find_coupling(model, (2, 3, 8, 8))
    assert not watched()


def test_outputs_in_a_dataclass_stay():
    @dataclass
    class Output:
        map: torch.Tensor

    model = Net(lambda m, x: Output(m.a(x)), a=conv(3, 6))
    assert counts(find_coupling(model, (1, 3, 8, 8)), "a") == [1] * 6


def test_an_example_that_does_not_run_is_named():
    with pytest.raises(InputError, match=r"Sequential does not run on an input of shape \(1, 4, 8, 8\)"):
        find_coupling(nn.Sequential(conv(3, 6)), (1, 4, 8, 8))


class RandomNet(nn.Module):
    """A network of random operations on random earlier maps (N, C, 6, 6), C in 4, 8 and 12."""

    def __init__(self, seed: int, steps: int = 9) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.layers = nn.ModuleList()
        self.steps = []
        widths = [self._layer(conv(3, 8))]
        self.steps.append((self.layers[0], 0))
        for _ in range(steps):
            i = self.rng.randrange(len(widths))
            step, width = self._step(widths[i], i, widths)
            self.steps.append((step, i))
            widths.append(width)
        self.out = conv(sum(widths), 2, 1)

    def _layer(self, layer: nn.Module) -> int:
        self.layers.append(layer)
        return getattr(layer, "out_channels", 0)

    def _step(self, c: int, i: int, widths: list[int]):
        kind = self.rng.choice(
            [
                "conv",
                "group",
                "depth",
                "relu",
                "roll",
                "move",
                "shuffle",
                "part",
                "add",
                "glue",
                "gate",
                "space",
                "norm",
                "twice",
            ]
        )
        same = self.rng.choice([j for j, width in enumerate(widths) if width == c])
        if kind in ("conv", "group", "depth"):
            groups = {"conv": 1, "group": 2, "depth": c}[kind]
            layer = conv(c, c if kind == "depth" else self.rng.choice([4, 8, 12]), groups=groups)
            return layer, self._layer(layer)
        if kind == "norm":
            layer = self.rng.choice(
                [nn.BatchNorm2d(c), nn.GroupNorm(2, c), nn.GroupNorm(1, c), nn.InstanceNorm2d(c)]
            )
            self._layer(layer)
            return layer, c
        if kind == "twice" and len(self.layers) > 1:
            layer = self.rng.choice([m for m in self.layers if isinstance(m, nn.Conv2d)])
            if layer.in_channels == c:
                return layer, layer.out_channels
        order = self.rng.sample(range(c), c)
        half = self.rng.choice([slice(None, c // 2), slice(c // 2, None), slice(None, None, 2)])
        if kind == "part" and c > 4:
            return lambda x, maps: torch.cat([x[:, half].relu(), x[:, half].neg()], 1), 2 * len(
                range(c)[half]
            )
        if kind == "glue" and 2 * c <= 12:
            return lambda x, maps: torch.cat([x, maps[same]], 1), 2 * c
        plain = {
            "roll": lambda x, maps: torch.cat([x[:, ::2].roll(1, 2), x[:, 1::2].flip(3)], 1),
            "move": lambda x, maps: x[:, order],
            "shuffle": lambda x, maps: F.channel_shuffle(x, 2),
            "add": lambda x, maps: x + maps[same],
            "gate": lambda x, maps: x * maps[same].mean((2, 3), keepdim=True).sigmoid(),
            "space": lambda x, maps: x * maps[same].amax(1, keepdim=True),
        }
        return plain.get(kind, lambda x, maps: F.leaky_relu(x, 0.1)), c

    def forward(self, x):
        maps: list[torch.Tensor] = []
        for step, i in self.steps:
            if isinstance(step, nn.Module):
                maps.append(step(maps[i] if maps else x))
            else:
                maps.append(step(maps[i], maps))
        return self.out(torch.cat(maps, 1))


@pytest.mark.parametrize("seed", [*range(40), 1293, 1294])
def test_random_networks_compute_the_same_with_channels_shuffled(seed):
    check(RandomNet(seed, steps=5 if seed > 1000 else 9), 1, 3, 6, 6)
