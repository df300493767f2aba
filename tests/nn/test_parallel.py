"""Parallel training finds the halves of maps: FSDP2 on blocks computes what one process computes."""

from __future__ import annotations

import copy
import dataclasses
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.helpers.maps import make
from torch import Tensor, nn
from torch.distributed.utils import _apply_to_tensors

from octavize import OctTensor, octavize


def test_halves_are_found_and_replaced() -> None:
    x = make((1, 1, 2, 2), 5, 4)
    assert [field.name for field in dataclasses.fields(x)][:2] == ["high", "low"]
    y = dataclasses.replace(x, high=x.high + 1)
    assert isinstance(y, OctTensor)
    assert torch.equal(y.high, x.high + 1)
    assert y.low is x.low
    assert y.channel_layout == x.channel_layout
    half: Any = _apply_to_tensors(lambda tensor: tensor.half(), (x, {"map": x}))
    assert half[0].dtype == half[1]["map"].low.dtype == torch.float16
    assert half[0].shape == x.shape


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1) for _ in "ab")
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.norm(self.a(x)).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1))
        self.blocks = nn.Sequential(*(Block(16) for _ in range(3)))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def steps(net: nn.Module, x: Tensor) -> list[float]:
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.1), []
    for _ in range(3):
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def shard_and_train(rank: int, port: int, bf16: bool) -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = Net()
    if bf16:  # torch's batch norms do not take bfloat16 beside float32 statistics on the CPU
        for block in net.blocks:
            block.norm = nn.GroupNorm(4, 16)
    net = octavize(net, 0.5, min_low=0, example=(1, 3, 16, 16))
    x, alone, halves = torch.randn(2, 3, 16, 16), copy.deepcopy(net), []
    net.blocks[0].register_forward_hook(lambda module, args, output: halves.append(type(output)))
    settings: dict[str, Any] = {"reshard_after_forward": True}
    if bf16:
        settings["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    for block in net.blocks:
        fully_shard(block, **settings)
    fully_shard(net, **settings)
    losses, expected = steps(net, x), steps(alone, x)
    assert halves == [OctTensor] * 3
    tolerance = 3e-2 if bf16 else 1e-6
    assert losses == pytest.approx(expected, rel=0.1 if bf16 else 1e-6)
    for own, other in zip(net.parameters(), alone.parameters(), strict=True):
        whole = own.full_tensor().detach()  # pyright: ignore[reportAttributeAccessIssue]
        torch.testing.assert_close(whole, other.detach(), rtol=tolerance, atol=tolerance)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed training")
@pytest.mark.parametrize("bf16", [False, True])
def test_sharded_blocks_train_as_one_process_does(bf16: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(shard_and_train, args=(port, bf16), nprocs=2)
