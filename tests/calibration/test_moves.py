"""How far the loss of a low channel moves a network's outputs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from octavize import calibrate
from octavize.calibration.coupling import stand_in
from octavize.calibration.energy import measure_energy
from octavize.calibration.moves import Moves
from octavize.convert.inputs import Inputs
from octavize.errors import InputError


class Net(nn.Module):
    """Two convolutions that read one map, of which one counts a hundred times as much as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.much = nn.Conv2d(4, 4, 3, padding=1)
        self.little = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x), inplace=True)
        x = F.relu(self.much(x)) + 0.01 * F.relu(self.little(x))
        return self.head((x * x).mean((2, 3)))


def images(n: int = 5) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def lost(x: torch.Tensor) -> torch.Tensor:
    """x − U(P(x)), by means of cells of two by two."""
    return x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")


def seeded() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def test_a_move_is_the_jacobian_times_the_loss():
    net = seeded()
    moves = Moves(stand_in(net))
    moves.run(Inputs((images(),)))
    x = F.relu(net.stem(images()))
    much, little = net.much(x), net.little(x)

    def rest(read: torch.Tensor) -> torch.Tensor:
        """The output as a function of what `much` reads, image by image."""
        y = F.relu(net.much(read)) + 0.01 * F.relu(little)
        return net.head((y * y).mean((2, 3)))

    jacobian = torch.autograd.functional.jacobian(lambda read: rest(read).sum(0), x).squeeze(0)
    product = jacobian * lost(x)
    by_image = product.sum((2, 3)).square() + product.square().sum((2, 3))
    assert much.shape == little.shape
    # The random direction gives each image a positive weight, the same for all channels.
    found = moves.moved["much"]
    single = []
    for image in range(5):
        one = Moves(stand_in(net))
        one.run(Inputs((images()[image : image + 1],)))
        single.append(one.moved["much"] / one.moved["much"].sum())
    for image, share in enumerate(single):
        expected = (by_image[image] / by_image[image].sum()).double()
        torch.testing.assert_close(share, expected.detach(), rtol=1e-4, atol=1e-7)
    assert (found > 0).all()


def test_what_counts_little_moves_little_and_a_reader_counts_alone():
    energy = measure_energy(seeded(), [images(64)]).convolutions
    much, little = energy["much"].output().sum(), energy["little"].output().sum()
    assert 0 < little < 1e-3 * much
    assert 0.1 < energy["much"].damage().sum() / energy["little"].damage().sum() < 10  # their sizes are alike


def test_outputs_of_another_scale_count_alike():
    class Two(Net):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, x):
            x = F.relu(self.stem(x))
            return {"a": self.much(x), "b": (self.scale * self.little(x), "not a tensor", x.argmax())}

    moved = {}
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        moved[scale] = measure_energy(Two(scale).eval(), [images(8)]).convolutions["little"].output()
    torch.testing.assert_close(moved[1.0], moved[1000.0], rtol=1e-3, atol=0)


def test_a_network_that_no_gradient_passes_through_names_the_remedy():
    class Silent(Net):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(InputError, match='score="damage"'):
        calibrate(Silent(), [images()], 0.5, example=(1, 3, 8, 8))
    calibrate(Silent(), [images()], 0.5, example=(1, 3, 8, 8), score="damage")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_measures_where_gradients_are_off(mode):
    net = seeded()
    with mode():
        found = measure_energy(net, [images()]).convolutions["much"].output()
    torch.testing.assert_close(found, measure_energy(net, [images()]).convolutions["much"].output())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_low_channels_come_where_they_count_little():
    """With a budget, α goes to the layers whose channels move the outputs least."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.much, self.little = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.after_much = nn.Conv2d(16, 16, 3, padding=1)
            self.after_little = nn.Conv2d(16, 16, 3, padding=1)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            x = F.relu(self.stem(x))
            y = F.relu(self.after_much(F.relu(self.much(x))))
            z = F.relu(self.after_little(F.relu(self.little(x))))
            return self.head((y + 0.01 * z).square().mean((2, 3)))

    torch.manual_seed(0)
    found = calibrate(Branches().eval(), [images(16)], budget=0.5, min_low=0)
    assert found.alphas["little"] > 0.8
    assert found.alphas["much"] < 0.2
