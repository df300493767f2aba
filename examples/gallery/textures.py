"""A small network for the gallery: a CIFAR ResNet-20 trained on the textures for a minute or two.

The textures are 4,000 gray patches of 32 pixels in ten classes, cut from photographs that come with
scikit-image, and 1,000 test patches from other places of the same photographs.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from octavize import create_model
from octavize.data.textures import PHOTOGRAPHS, STD_RANGE, texture_patches

EPOCHS = int(os.environ.get("GALLERY_EPOCHS", "8"))
"""Of training; the figures in docs/ have 8."""
KEPT = Path("runs/gallery")
"""Trained weights: the scripts share them."""
Data = tuple[Tensor, Tensor]


def textures() -> tuple[Data, Data]:
    """Training and test patches, (N, 1, 32, 32) of zero mean and unit deviation, and their classes."""
    found = texture_patches(32)

    def prepared(split: str) -> Data:
        patches, labels = map(torch.from_numpy, found[split])
        return patches * (2 * STD_RANGE / 255) - STD_RANGE, labels

    return prepared("train"), prepared("test")


def trained(alpha: float) -> nn.Module:
    """The network, in evaluation mode: trained the first time, read from `KEPT` later."""
    torch.manual_seed(0)
    # Not strict: Grad-CAM reads maps as arrays, which are dense.
    net = create_model("oct_cifar_resnet20", alpha, strict=False, num_classes=len(PHOTOGRAPHS), in_chans=1)
    path = KEPT / f"textures-alpha{alpha:g}-epochs{EPOCHS}.safetensors"
    if path.is_file():
        net.load_state_dict(load_file(path))
        return net.eval()
    train, test = textures()
    fit(net, train, EPOCHS)
    print(f"α = {alpha:g}: test accuracy {accuracy(net, test):.1%} after {EPOCHS} epochs")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(net.state_dict(), path)
    return net


def fit(net: nn.Module, train: Data, epochs: int, rate: float = 0.1) -> None:
    """SGD with Nesterov's momentum, batches of 64, a rate that rises and falls once."""
    images, labels = train
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.SGD(net.parameters(), rate, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            batch = images[chosen].flip(-1) if torch.rand(()) < 0.5 else images[chosen]
            loss = F.cross_entropy(net(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.2f}")
    net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, test: Data) -> float:
    """Share of the test patches whose class comes first."""
    images, labels = test
    answers = torch.cat([net.eval()(batch).argmax(1) for batch in images.split(250)])
    return float((answers == labels).float().mean())
