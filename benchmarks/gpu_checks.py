"""Whether octave layers and networks compute on a device what they compute in float64 on the CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import octavize
from gpu_device import NEEDS_CUDA, capture, free, is_cuda, whole_float32
from gpu_layers import CHANNELS, Case, cases, layer_of
from octavize import OctTensor
from octavize.errors import one_line

LAYER_TOLERANCE = 1e-4
NETWORK_TOLERANCE = 1e-3
"""Largest difference from the reference, as a share of its largest value, in each tensor."""
NETWORK = "oct_cifar_resnet20"
NETWORK_EXCHANGES = ("every", "block:high_to_low", "stage", "none")
BATCH = 2

Check = Callable[[str], float]
"""Takes a device and returns the largest error; raises `LeftOut` where the device cannot run it."""


class LeftOut(Exception):
    """Why a check is not made on this device."""


def checks(*, whole: bool = True) -> dict[str, tuple[Check, float]]:
    """All checks by name, each with its tolerance. Without `whole`, no network is compiled."""
    found = {name: (partial(_case, case), LAYER_TOLERANCE) for name, case in cases().items()}
    networks: dict[str, Check] = {}
    for exchange in NETWORK_EXCHANGES:
        told = f"{NETWORK}, {exchange}"
        networks |= {
            f"{told}: evaluation": partial(_network, exchange, train=False),
            f"{told}: training": partial(_network, exchange, train=True),
            f"{told}: channels-last": partial(_network, exchange, train=True, channels_last=True),
            f"{told}: autocast bf16 is finite": partial(_autocast, exchange),
            f"{told}: CUDA graph, forward": partial(_graph_forward, exchange),
            f"{told}: CUDA graph, training": partial(_graph_training, exchange),
        }
    if whole:
        compiled = partial(_compiled, lambda: _net("every"), (4, 3, 32, 32))
        networks[f"{NETWORK}, every: torch.compile, training"] = compiled
    networks["three layers: torch.compile, training"] = partial(_compiled, _three_layers, (2, 8, 8, 8))
    return found | {name: (check, NETWORK_TOLERANCE) for name, check in networks.items()}


def last_checks() -> dict[str, tuple[Check, float]]:
    """Those that come after everything else.

    Scattered channels are picked by indices that come from the CPU, which a graph may not capture; and a
    capture that fails leaves torch's memory in a state in which later ones fail too.
    """
    return {"scattered channels: CUDA graph": (_graph_scattered, LAYER_TOLERANCE)}


def run_checks(
    device: str, chosen: Mapping[str, tuple[Check, float]], seed: int = 0
) -> Iterator[dict[str, Any]]:
    """A row for each check; one that fails does not stop the rest."""
    with whole_float32():
        for name, (check, tolerance) in chosen.items():
            torch.manual_seed(seed)
            row: dict[str, Any] = {"check": name, "outcome": "passed", "error": None, "why": None}
            try:
                error = check(device)
                row["error"] = error if math.isfinite(error) else None
                if not error <= tolerance:
                    row |= {"outcome": "failed", "why": f"error {error:.2g}, tolerance {tolerance:g}"}
            except LeftOut as reason:
                row |= {"outcome": "left out", "why": str(reason)}
            except Exception as problem:  # whatever it is, it is listed
                row |= {"outcome": "failed", "why": f"{type(problem).__name__}: {one_line(problem)}"}
            yield row | {"tolerance": tolerance}


# ---- layers ------------------------------------------------------------------------------------------------


def _case(case: Case, device: str) -> float:
    layer, x = case.layer(), _input(case)
    reference = gradients(layer, x, "cpu", torch.float64)
    return worst(gradients(layer, x, device, torch.float32, channels_last=case.channels_last), reference)


def _input(case: Case) -> Tensor | OctTensor:
    x = torch.randn(BATCH, CHANNELS, *case.size)
    if case.alpha is None:
        return x
    x = OctTensor.from_dense(x, case.alpha)
    return OctTensor(x.high, x.low, channel_layout=(1,) * CHANNELS) if case.scattered else x


# ---- outputs and gradients, and how far they are from others -----------------------------------------------


def gradients(
    module: nn.Module,
    x: Tensor | OctTensor,
    device: str,
    dtype: torch.dtype,
    *,
    channels_last: bool = False,
) -> dict[str, Tensor | None]:
    """Outputs of a copy of a module, and the gradients of its inputs and parameters, all by name."""
    module = copy.deepcopy(module).to(device, dtype)
    x = x.to(device, dtype)
    if channels_last:
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = x.contiguous(memory_format=torch.channels_last)
    inputs = [half.detach().requires_grad_() for half in halves(x)]
    if isinstance(x, OctTensor):
        y = module(OctTensor(*inputs, channel_layout=x.channel_layout))
    else:
        y = module(inputs[0])
    return _backward(module, halves(y), inputs)


def _backward(
    module: nn.Module, outputs: Sequence[Tensor], inputs: Sequence[Tensor]
) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    depend = [y for y in outputs if y.requires_grad]  # a half without channels may depend on nothing
    outer = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y) for y in depend]
    torch.autograd.backward(depend, outer)
    found = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    found |= {f"gradient of input {i}": x.grad for i, x in enumerate(inputs)}
    return found | {f"gradient of {name}": p.grad for name, p in module.named_parameters()}


def halves(x: Tensor | OctTensor) -> tuple[Tensor, ...]:
    return (x.high, x.low) if isinstance(x, OctTensor) else (x,)


def worst(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> float:
    """The largest difference of any tensor, as a share of the largest value expected there."""
    if found.keys() != expected.keys():
        raise AssertionError(f"results are {', '.join(found)}, expected are {', '.join(expected)}")
    errors = [0.0]
    for name, y in expected.items():
        x = found[name]
        if x is None or y is None:
            errors.append(0.0 if x is y else math.inf)
        elif x.shape != y.shape:
            raise AssertionError(f"{name} has shape {tuple(x.shape)}, expected is {tuple(y.shape)}")
        elif y.numel():
            x, y = x.detach().double().cpu(), y.detach().double().cpu()
            largest = y.abs().max().item()
            errors.append((x - y).abs().max().item() / (largest or 1.0))
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


# ---- networks ----------------------------------------------------------------------------------------------


def _net(exchange: str) -> nn.Module:
    """The network with two changes, without which its gradients could not be compared.

    New norms multiply the end of every block by zero, and hide it. And the gradient of a ReLU jumps at zero:
    of a million values one lies so near that rounding decides.
    """
    net = octavize.create_model(NETWORK, 0.5, num_classes=10, exchange=exchange)
    for module in list(net.modules()):
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU(child.inplace))
    return net


def _three_layers() -> nn.Module:
    """From a plain map, on an octave map, and back to scores."""
    conv = octavize.OctConv2d
    first = conv(8, 8, 3, padding=1, bias=False)  # before a norm, the gradient of a bias is but noise
    layers = (first, nn.BatchNorm2d(8), nn.ReLU(), conv(8, 8, 3, stride=2, padding=1))
    return nn.Sequential(*layers, conv(8, 8, 1, alpha=0), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _images() -> Tensor:
    return torch.randn(4, 3, 32, 32)


def _network(exchange: str, device: str, *, train: bool, channels_last: bool = False) -> float:
    net, x = _net(exchange).train(train), _images()
    reference = gradients(net, x, "cpu", torch.float64)
    return worst(gradients(net, x, device, torch.float32, channels_last=channels_last), reference)


def _autocast(exchange: str, device: str) -> float:
    """Nothing but finite numbers: 0 if so."""
    net = _net(exchange).to(device)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        loss = F.cross_entropy(net(_images().to(device)), torch.zeros(4, dtype=torch.long, device=device))
    loss.backward()
    values = [loss, *(p.grad for p in net.parameters() if p.grad is not None)]
    return 0.0 if all(bool(value.isfinite().all()) for value in values) else math.inf


def _graph_forward(exchange: str, device: str) -> float:
    return _replayed(_net(exchange).eval(), _images(), device)


def _graph_scattered(device: str) -> float:
    case = Case(layer_of(2), (9, 7), scattered=True)
    return _replayed(case.layer(), _input(case), device)


def _replayed(module: nn.Module, x: Tensor | OctTensor, device: str) -> float:
    """A replayed graph against eager, on another input than was captured."""
    _need_cuda(device)
    module, x = module.to(device), x.to(device)
    results: list[tuple[Tensor, ...]] = []

    def fresh() -> Tensor | OctTensor:
        """A map remembers what was pooled of it, which the graph then would not do."""
        return OctTensor(*halves(x), channel_layout=x.channel_layout) if isinstance(x, OctTensor) else x

    with torch.no_grad():
        replay = capture(lambda: results.append(halves(module(fresh()))))
        for half in halves(x):
            half.normal_()
        replay()
        return worst(_numbered(results[-1]), _numbered(halves(module(fresh()))))


def _graph_training(exchange: str, device: str) -> float:
    _need_cuda(device)
    net, x = _net(exchange).to(device), _images().to(device)
    outputs: list[Tensor] = []

    def step() -> None:
        net.zero_grad()
        y = net(x)
        outputs.append(y.detach())  # which keeps no nodes of backward from one call to the next
        y.square().mean().backward()

    def found() -> dict[str, Tensor]:
        grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        return {"output": outputs[-1].clone(), **grads}

    replay = capture(step)
    x.normal_()
    replay()
    replayed = found()
    step()
    return worst(replayed, found())


def _compiled(make: Callable[[], nn.Module], shape: Sequence[int], device: str) -> float:
    module, x = make().to(device), torch.randn(tuple(shape)).to(device)
    compiled: Any = torch.compile(copy.deepcopy(module), fullgraph=True, dynamic=False)
    try:
        found = _backward(compiled._orig_mod, [compiled(x)], [])
        return worst(found, _backward(module, [module(x)], []))
    finally:
        free(device)


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(i): tensor for i, tensor in enumerate(tensors)}


def _need_cuda(device: str) -> None:
    if not is_cuda(device):
        raise LeftOut(NEEDS_CUDA)
