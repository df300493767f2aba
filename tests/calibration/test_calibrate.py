"""Energy above half the sampling rate, and channels put in its order."""

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octavize import Plan, calibrate, octavize, plan
from octavize.calibration.coupling import find_coupling
from octavize.calibration.energy import measure_energy
from octavize.calibration.reorder import Channels, Reordering, best_order
from octavize.convert.order import apply_order, order_of
from octavize.errors import InputError


def reorder_channels(model, loader, low, *, example, score="damage", max_images=2000) -> Reordering:
    channels = Channels(model, find_coupling(model, example))
    energies = measure_energy(model, loader, score=score, max_images=max_images)
    permutation, report = best_order(channels, energies, low, score, example)
    apply_order(model, permutation)
    return report


def checkerboard(n: int) -> torch.Tensor:
    """(n, n) of 1 and −1: all its energy is at the highest frequency."""
    i = torch.arange(n)
    return 1.0 - 2.0 * ((i[:, None] + i) % 2)


def lost(x: torch.Tensor) -> torch.Tensor:
    """‖x − U(P(x))‖² of each channel of (N, C, H, W), pixel by pixel and cell by cell."""
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    for c in range(x.shape[1]):
        for i in range(0, x.shape[2], 2):
            for j in range(0, x.shape[3], 2):
                cell = x[:, c, i : i + 2, j : j + 2].double()
                total[c] += (cell - cell.mean((1, 2), keepdim=True)).square().sum()
    return total


@pytest.mark.parametrize("side", [8, 7])
def test_energy_of_a_known_signal(side):
    conv = nn.Conv2d(4, 2, 3, padding=1)
    x = torch.stack(
        [torch.ones(side, side), checkerboard(side), 3 * checkerboard(side), torch.zeros(side, side)]
    )
    energy = measure_energy(conv, [x[None]]).convolutions[""]
    torch.testing.assert_close(energy.total, x.double().square().sum((1, 2)))
    torch.testing.assert_close(energy.lost, lost(x[None]))
    if side == 8:
        assert energy.lost.tolist() == [0, 64, 9 * 64, 0]
        torch.testing.assert_close(energy.share(), energy.lost / ((64 + 64 + 9 * 64) / 4))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1, stride=2),
        nn.Conv2d(4, 6, 3, padding=1, groups=2),
        nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
        nn.ConvTranspose2d(4, 6, 2, stride=2),
        nn.Conv1d(4, 6, 3),
    ],
    ids=str,
)
def test_damage_is_the_expected_output_error_of_white_loss(conv):
    spatial = len(conv.kernel_size)
    x = torch.randn(3, 4, *[16] * spatial, generator=torch.Generator().manual_seed(0))
    energy = measure_energy(conv, [x]).convolutions[""]
    with torch.no_grad():
        y = conv(x)
        damage = energy.damage()
        for c in range(4):
            weight = conv.weight.double()
            if conv.transposed:
                norm = weight[c].square().sum()
            else:
                per_group = 4 // conv.groups
                rows = weight.chunk(conv.groups)[c // per_group]
                norm = rows[:, c % per_group].square().sum()
            out_per_in = y[:, 0].numel() / x[:, 0].numel()
            expected = energy.lost[c] * norm * out_per_in / y.double().square().sum()
            torch.testing.assert_close(damage[c], expected, rtol=1e-5, atol=0)


def test_calls_and_batches_add_up():
    conv = nn.Conv2d(2, 2, 3, padding=1)
    x = torch.randn(6, 2, 8, 8)
    whole = measure_energy(nn.Sequential(conv), [x]).convolutions["0"]
    parts = measure_energy(nn.Sequential(conv), [(x[:4], 0), [x[4:]], {"image": x}], max_images=6)
    assert parts.images == 6
    torch.testing.assert_close(parts.convolutions["0"].lost, whole.lost)
    torch.testing.assert_close(parts.convolutions["0"].damage(), whole.damage())


def test_measuring_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="does not run"):
        measure_energy(model, [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 8, 8)])
    assert [m.training for m in model] == [True, False, True]
    assert all(not m._forward_hooks for m in model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


class Separable(nn.Module):
    """Channels of known sharpness: `make` copies its smooth input to some, its sharp input to the others."""

    def __init__(self, sharp: list[int], channels: int = 8) -> None:
        super().__init__()
        self.make = nn.Conv2d(2, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.read = nn.Conv2d(channels, 3, 1)  # one pixel wide: octave is exact where the low half is smooth
        nn.init.zeros_(self.make.weight)
        for c in range(channels):
            self.make.weight.data[c, int(c in sharp)] = 1.0 + c / 10

    def forward(self, x):
        return self.read(self.norm(self.make(x)))


def images(n: int = 2) -> torch.Tensor:
    """(n, 2, 8, 8): one channel that loses nothing by being low, and one that loses all."""
    return torch.stack([torch.ones(8, 8), checkerboard(8)]).expand(n, 2, 8, 8)


@pytest.mark.parametrize("score", ["output", "damage", "share"])
def test_channels_that_lose_least_come_last(score):
    model = Separable(sharp=[1, 4, 6, 7])
    x = images()
    expected = model.eval()(x)
    model.train()
    report = reorder_channels(model, [x], {"make": 4}, example=(1, 2, 8, 8), score=score)
    is_sharp = model.make.weight[:, 1, 0, 0] > 0
    assert is_sharp.tolist() == [True] * 4 + [False] * 4
    assert model.training
    torch.testing.assert_close(model.eval()(x), expected)
    (made,) = report.convolutions
    assert made.after == pytest.approx(0, abs=1e-6)
    assert made.before > 0.4
    assert (made.name, made.channels, made.low, made.movable) == ("make", 8, 4, 8)
    assert report.images == 2
    assert "make" in str(report)
    assert "2 images" in str(report)


def test_octave_after_reordering_loses_nothing_where_the_low_half_is_smooth():
    model = Separable(sharp=[1, 4, 6, 7]).eval()
    x = images()
    head = nn.Sequential(nn.Conv2d(2, 2, 1), model).eval()  # what reads the input is not octave
    nn.init.dirac_(head[0].weight)
    nn.init.zeros_(head[0].bias)
    expected = head(x)
    alpha = {"*": 0, "1.make": 0.5}

    def error() -> float:
        with torch.no_grad():
            dense = octavize(head, alpha, example=(1, 2, 8, 8))(x)
        return float((dense - expected).detach().abs().max())

    before = error()
    reorder_channels(head, [x], {"1.make": 4}, example=(1, 2, 8, 8))
    after = error()
    assert before > 0.1
    assert after < 1e-5


def test_channels_that_are_not_low_stay():
    model = Separable(sharp=[1, 4, 6, 7])
    before = copy.deepcopy(model.state_dict())
    reorder_channels(model, [images()], {"make": 0}, example=(1, 2, 8, 8))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_all_consumers_lose_counts():
    """Channel 0 is smooth for one reader and sharp for another; the last two are smooth for both."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Conv2d(2, 4, 1, bias=False)
            self.one, self.two = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)
            self.scale = nn.Parameter(torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None, None])
            rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
            self.make.weight.data = rows[:, :, None, None]

        def forward(self, x):
            y = self.make(x)
            return self.one(y * self.scale) + F.adaptive_avg_pool2d(self.two(y), 1)

    model = Net()
    reorder_channels(model, [images()], {"make": 2}, example=(1, 2, 8, 8), score="share")
    assert (model.make.weight[2:, 1] == 0).all()


def test_residual_network_keeps_its_function():
    pytest.importorskip("torchvision")
    from torchvision.models import resnet18

    model = resnet18().double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
    low = {
        n: m.out_channels // 2 for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n != "conv1"
    }
    report = reorder_channels(model, [x], low, example=(1, 3, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)
    assert all(c.after < c.before or c.before == 0 for c in report.convolutions if c.name.endswith("conv1"))
    assert all(c.movable == c.channels for c in report.convolutions)


BAD_LOADERS = [
    (3, "loader is a int: give an iterable of batches"),
    ([], "loader yields no image: give one with at least one batch"),
    ([torch.empty(0, 2, 8, 8)], "loader yields no image"),
    (["a.png"], "loader yields a str: give batches that are a tensor"),
    ([(1, 2)], "loader yields a tuple: give batches"),
    ([{"x": torch.ones(1, 2, 8, 8)}], r"loader yields a dict with keys \['x'\]: give .*'pixel_values'"),
    ([torch.ones(8, 8)], r"loader yields torch.float32 of shape \(8, 8\): give"),
]


@pytest.mark.parametrize(("loader", "message"), BAD_LOADERS)
def test_bad_loaders_are_named(loader, message):
    with pytest.raises(InputError, match=message) as error:
        reorder_channels(Separable([0]), loader, {"make": 4}, example=(1, 2, 8, 8))
    assert "\n" not in str(error.value)


BAD_ARGUMENTS = [
    ({"score": "best"}, "score='best' is unknown: choose one of 'output', 'damage', 'share'"),
    ({"max_images": 0}, "max_images=0: give a whole number of at least 1"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        calibrate(Separable([0]), [images()], 0.5, example=(1, 2, 8, 8), **arguments)


def test_an_order_that_would_change_the_network_is_refused(monkeypatch):
    model = Separable(sharp=[1, 4, 6, 7])
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr("octavize.calibration.reorder.apply_order", lambda net, _: net.make.weight.mul_(2))
    with pytest.raises(RuntimeError, match=r"Separable was left alone: .* output would differ by"):
        reorder_channels(model, [images()], {"make": 4}, example=(1, 2, 8, 8))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# ---- planning and reordering in one ---------------------------------------------------------------------


def small_resnet() -> nn.Module:
    from octavize import create_model

    torch.manual_seed(0)
    return create_model("oct_cifar_resnet20", 0, num_classes=10).eval()


EXAMPLE = (1, 3, 32, 32)


def smooth_and_sharp() -> list[torch.Tensor]:
    noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return [F.interpolate(noise, size=32, mode="bilinear")]


def test_a_plan_carries_the_order_of_channels():
    model = small_resnet()
    before = copy.deepcopy(model.state_dict())
    made = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE)
    octave = octavize(model, made)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert {k: v.shape for k, v in octave.state_dict().items()} == {k: v.shape for k, v in before.items()}
    # The same vanilla function, in another order.
    again = small_resnet()
    again.load_state_dict(octave.state_dict())
    x = smooth_and_sharp()[0]
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)
        arbitrary = octavize(model, 0.5, example=EXAMPLE)
        errors = [(net(x) - model(x)).square().mean().sqrt() for net in (octave, arbitrary)]
    assert errors[0] < errors[1]


def test_the_plan_tells_what_it_keeps_and_saves_all(tmp_path):
    model = small_resnet()
    made = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE, downsample="stride")
    assert "lost after" in str(made)
    assert "measured on 8 images, ordered by output" in str(made)
    made.save(tmp_path / "plan.yaml")
    loaded = Plan.load(tmp_path / "plan.yaml")
    assert loaded == made
    # Each distinct order once: a convolution's rows, its norm's four vectors, and columns of its readers.
    assert made.permutation is not None
    orders = [order.places for order in made.permutation.orders]
    assert len(set(orders)) == len(orders)
    assert max(len(order.axes) for order in made.permutation.orders) >= 6
    states = [octavize(model, p).state_dict() for p in (made, loaded)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], v) for k, v in model.state_dict().items())


def test_the_paper_s_downsample_is_the_default_here_too():
    assert {
        d.downsample for d in calibrate(small_resnet(), smooth_and_sharp(), example=EXAMPLE).decisions
    } == {"pool"}


def test_an_order_is_applied_once():
    model = small_resnet()
    made = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE)
    once = octavize(model, made)
    wanted = once.state_dict()
    for again in (octavize(once, made), octavize(once, 0.25, example=EXAMPLE), copy.deepcopy(once)):
        assert all(torch.equal(wanted[k], v) for k, v in again.state_dict().items())
        assert order_of(again) == order_of(once) != ""
    edited = made.with_alphas({"stages.1.0.conv1_kxk.conv": 0.25})
    assert all(torch.equal(wanted[k], v) for k, v in octavize(once, edited).state_dict().items())
    assert "stages.1.0.conv1_kxk.conv" not in str(edited.reordering)


def test_an_order_for_other_weights_is_refused():
    model = small_resnet()
    first = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE)
    second = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE, score="share")
    assert first.permutation != second.permutation
    octave = octavize(model, first)
    before = copy.deepcopy(octave.state_dict())
    with pytest.raises(
        InputError, match=r"another order of channels .* calibrate this network anew"
    ) as error:
        octavize(octave, second, inplace=True)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[k], v) for k, v in octave.state_dict().items())
    with pytest.raises(InputError, match=r"is octave already.*calibrate the vanilla network"):
        calibrate(octave, smooth_and_sharp(), example=EXAMPLE)
    # A vanilla network that carries the first order gets one on top of it, which is for such a network only.
    vanilla = octavize(octave, 0, example=EXAMPLE)
    third = calibrate(vanilla, smooth_and_sharp(), 0.25, example=EXAMPLE)
    octavize(vanilla, third)
    with pytest.raises(InputError, match=r"another order of channels .* its first"):
        octavize(model, third)


@pytest.mark.parametrize(
    "again",
    [lambda net: net, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["itself", "copy", "pickled"],
)
def test_other_weights_are_in_no_known_order(again):
    model = small_resnet()
    made = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE)
    octave = again(octavize(model, made))
    assert order_of(octave) == made.permutation.key
    octave.load_state_dict(model.state_dict())
    assert order_of(octave) == ""
    # The plan's order is applied to the new weights, as to the network that had them.
    wanted = octavize(model, made).state_dict()
    ordered = octavize(octave, made)
    assert order_of(ordered) == made.permutation.key
    assert all(torch.equal(wanted[k], v) for k, v in ordered.state_dict().items())
    nn.ModuleList([ordered]).load_state_dict(nn.ModuleList([model]).state_dict())  # as part of another
    assert order_of(ordered) == ""


@pytest.mark.parametrize("trained", [False, True])
def test_weights_in_the_plan_s_order_are_not_put_in_order_again(trained, tmp_path):
    """They come from a file, and nothing but their sizes tells."""
    model = small_resnet()
    made = calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE)
    made.save(tmp_path / "plan.yaml")
    octave = octavize(model, made)
    if trained:
        with torch.no_grad():
            for p in octave.parameters():
                p.add_(0.03 * p.std() * torch.randn_like(p) if p.dim() > 1 else 0.1 * torch.randn_like(p))
    fresh = small_resnet()
    fresh.load_state_dict(octave.state_dict())
    octave.load_state_dict(octave.state_dict())
    before = copy.deepcopy(fresh.state_dict())
    for net in (fresh, octave):
        with pytest.raises(InputError, match=r"in the plan's order of channels already") as error:
            octavize(net, Plan.load(tmp_path / "plan.yaml"), inplace=True)
        assert "\n" not in str(error.value)
    assert all(torch.equal(before[k], v) for k, v in fresh.state_dict().items())
    # First the plan, then the weights: right, whatever the network held before.
    torch.manual_seed(1)
    for p in fresh.parameters():
        nn.init.normal_(p)
    planned = octavize(fresh, made)
    planned.load_state_dict(octave.state_dict())
    x = smooth_and_sharp()[0]
    assert torch.equal(planned(x), octave(x))


def test_an_order_of_another_network_is_refused():
    made = calibrate(small_resnet(), smooth_and_sharp(), 0.5, example=EXAMPLE)
    other = small_resnet()
    for name, module in other.named_modules():  # as many channels as the plan says, but another norm
        if isinstance(module, nn.BatchNorm2d):
            other.set_submodule(name, nn.BatchNorm2d(module.num_features, affine=False))
    with pytest.raises(InputError, match=r"another network: it puts 32 channels of .* in order"):
        octavize(other, made)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("places: ", "places: 0 ", 1), "does not list each channel once"),
        (lambda text: text.replace("places: ", "places: x ", 1), "holds what is no number"),
        (lambda text: text.replace("sizes: ", "sizes: 7 ", 1), "does not list each channel's size"),
        (lambda text: text.replace("orders:", "order:", 1), "lacks 'orders'"),
        (
            lambda text: re.sub(r"axes:\n    - \[.*\]\n", "axes:\n", text, count=1),
            "not as Plan.save wrote it",
        ),
    ],
)
def test_an_order_that_a_hand_has_spoilt_is_named(edit, words, tmp_path):
    path = tmp_path / "plan.yaml"
    calibrate(small_resnet(), smooth_and_sharp(), example=EXAMPLE).save(path)
    path.write_text(edit(path.read_text("utf-8")), "utf-8")
    with pytest.raises(InputError, match=words) as error:
        Plan.load(path)
    assert "\n" not in str(error.value)


def test_users_hooks_are_not_run():
    model, seen = small_resnet(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    calibrate(model, smooth_and_sharp(), 0.5, example=EXAMPLE)
    assert seen == []


def test_a_plan_is_followed_and_reported():
    model = small_resnet()
    made = plan(model, 0.25, exchange="low_to_high", downsample="stride", example=EXAMPLE)
    followed = calibrate(model, smooth_and_sharp(), plan=made)
    assert followed.decisions == made.decisions
    assert followed.input_shape == made.input_shape
    assert followed.reordering is not None
    assert all(c.after <= c.before + 1e-9 for c in followed.reordering.convolutions)
    assert followed.reordering.images == 8
    assert calibrate(model, smooth_and_sharp(), plan=followed) == followed


def test_a_budget_gives_the_channels_that_lose_least():
    model = small_resnet()
    made = calibrate(model, smooth_and_sharp(), budget=0.7, example=EXAMPLE)
    assert 0.6 < made.macs_ratio <= 0.7
    uniform = plan(model, budget=0.7, example=EXAMPLE)
    assert uniform.macs_ratio <= 0.7
    assert len(set(made.alphas.values())) > 3
    # Layers that add to one residual stream are low in the same channels: nothing falls back.
    octave = octavize(model, made, strict=True)
    assert octave(smooth_and_sharp()[0]).shape == (8, 10)
    assert octavize(small_resnet(), uniform)(smooth_and_sharp()[0]).shape == (8, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0.05}, "budget=0.05 cannot be reached: .* give at least that"),
        ({"budget": 2}, "budget=2: give a number above 0 to 1, the octave network's share"),
        ({"budget": "half"}, "budget='half': give a number above 0 to 1, the octave network's share"),
        ({"budget": 0.5, "alpha": 0.25}, "alpha=0.25 and budget=0.5: give one of them"),
        ({"budget": 0.5, "alpha": 0.5}, "alpha=0.5 and budget=0.5: give one of them"),
    ],
)
def test_bad_budgets_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        plan(small_resnet(), example=EXAMPLE, **arguments)
    with pytest.raises(InputError, match=message):
        calibrate(small_resnet(), smooth_and_sharp(), example=EXAMPLE, **arguments)


@pytest.mark.parametrize(
    "given",
    [
        {"alpha": 0.5},
        {"budget": 0.5},
        {"exchange": "both"},
        {"downsample": "stride"},
        {"example": (1, 3, 32, 32)},
    ],
)
def test_what_a_plan_has_is_not_given_beside_it(given):
    made = plan(small_resnet(), example=EXAMPLE)
    with pytest.raises(InputError, match=rf"^{next(iter(given))}.* and a plan are both given"):
        calibrate(small_resnet(), smooth_and_sharp(), plan=made, **given)


@pytest.mark.parametrize("given", [0.5, "plan.yaml", {"conv1": 0.5}])
def test_what_is_no_plan_is_named(given):
    with pytest.raises(InputError, match=r"^plan=.*: give an octavize\.Plan, such as Plan\.load\(path\)$"):
        calibrate(small_resnet(), smooth_and_sharp(), plan=given, example=EXAMPLE)


def test_what_yields_no_images_is_named():
    with pytest.raises(InputError, match="loader is a int"):
        calibrate(small_resnet(), 3, example=EXAMPLE)


def test_images_that_the_network_does_not_take_are_named():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    for images in (torch.randn(2, 1, 8, 8), torch.randn(5, 3, 8)):
        with pytest.raises(InputError, match="does not run"):
            calibrate(net, [images], example=(1, 3, 8, 8))


def test_a_plan_brings_its_input_shape():
    net = nn.Sequential(
        *(nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8)), nn.Flatten(), nn.Linear(8 * 64, 2)
    )
    decided = plan(net, 0.5, example=(1, 3, 8, 8))
    assert octavize(net, calibrate(net, [torch.randn(4, 3, 8, 8)], plan=decided))[1].alpha == 0.5
