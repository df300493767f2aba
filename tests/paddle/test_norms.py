"""Running statistics measured anew, against NumPy's; and what they leave as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from octavize.paddle import octavize
from octavize.paddle.norms import reestimate_norms

SIZES = (3, 5, 2)


class Net(nn.Layer):
    def __init__(self, norm: Any = nn.BatchNorm2D) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2D(3, 4, 3, padding=1), norm(4), nn.Dropout(0.5)
        self.unused = norm(4)

    def forward(self, x: Any) -> Any:
        return self.drop(self.norm(self.conv(x)))


def batches() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(2, 3, (n, 3, 8, 8)).astype(np.float32) for n in SIZES]


@pytest.mark.parametrize("kind", [nn.BatchNorm2D, nn.BatchNorm])
def test_averages_of_the_batches_weighted_by_images(kind: Any) -> None:
    net = Net(kind)
    net.norm._mean.set_value(np.full(4, np.nan, np.float32))
    net.norm.eval()
    before = [net.norm._momentum, net.training, net.norm.training, net.drop.training]
    unused = net.unused._mean.numpy(), net.unused._variance.numpy()
    reestimate_norms(net, batches(), lambda x: net(paddle.to_tensor(x)))
    maps = [net.conv(paddle.to_tensor(x)).numpy().astype(np.float64) for x in batches()]
    means, variances = ([getattr(y, what)((0, 2, 3)) for y in maps] for what in ("mean", "var"))
    np.testing.assert_allclose(net.norm._mean.numpy(), np.average(means, 0, SIZES), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.norm._variance.numpy(), np.average(variances, 0, SIZES), rtol=1e-4)
    assert before == [net.norm._momentum, net.training, net.norm.training, net.drop.training]
    np.testing.assert_array_equal(unused, (net.unused._mean.numpy(), net.unused._variance.numpy()))


def test_an_octave_network() -> None:
    """Each half is measured where it is stored."""
    layers = nn.Conv2D(3, 4, 3, padding=1), nn.Conv2D(4, 8, 3, padding=1), nn.BatchNorm2D(8)
    last = nn.Conv2D(8, 4, 3, padding=1)
    net = octavize(nn.Sequential(*layers, nn.ReLU(), last), example=(1, 3, 8, 8), min_low=0)
    reestimate_norms(net, batches(), lambda x: net(paddle.to_tensor(x)))
    maps = [net[:2](paddle.to_tensor(x)) for x in batches()]
    means = [np.concatenate([half.numpy().mean((0, 2, 3)) for half in (y.high, y.low)]) for y in maps]
    np.testing.assert_allclose(net[2]._mean.numpy(), np.average(means, 0, SIZES), rtol=1e-4, atol=1e-5)


def test_an_error_leaves_the_statistics() -> None:
    net = Net()
    before = net.norm._mean.numpy(), net.norm._variance.numpy(), net.norm._momentum

    def fail(x: np.ndarray) -> None:
        net(paddle.to_tensor(x))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        reestimate_norms(net, batches(), fail)
    np.testing.assert_array_equal(before[:2], (net.norm._mean.numpy(), net.norm._variance.numpy()))
    assert net.norm._momentum == before[2]
    assert net.training
