"""The zoo: networks that `octavize` is held to, for the table of docs/zoo.md and for tests/zoo/test_zoo.py.

None of them is changed for it, and no weights are downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A network, the input it is usually given, and one as small as it can work on."""

    name: str
    library: str
    task: str
    build: Callable[[], nn.Module]
    usual: Shape
    small: Shape


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015): pooled down, transposed convolutions up, skips joined."""

    def __init__(self, width: int = 16, depth: int = 3, classes: int = 4) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_twice(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x if not skips else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


def _twice(a: int, b: int) -> nn.Sequential:
    layers = [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def networks() -> list[Network]:
    """All of them, grouped by task and library."""
    found = [_torchvision(name) for name in TORCHVISION.split()]
    found += [_segmentation(name) for name in SEGMENTATION.split()]
    found += [
        Network("fasterrcnn_resnet50_fpn.backbone", "torchvision", "detection", _fpn, *_squares(800, 128)),
        Network("unet", "benchmarks/networks.py", "segmentation", UNet, *_squares(256, 32)),
    ]
    found += [_video(name) for name in VIDEO.split()]
    return found + [_timm(name) for name in TIMM.split()]


def _squares(usual: int, small: int) -> tuple[Shape, Shape]:
    return (1, 3, usual, usual), (1, 3, small, small)


# ---- torchvision ----------------------------------------------------------------------------------------

TORCHVISION = """
    alexnet squeezenet1_1 vgg11_bn googlenet inception_v3 resnet18 resnet50 resnext50_32x4d wide_resnet50_2
    densenet121 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x1_0 mnasnet1_0
    efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf convnext_tiny
"""
SEGMENTATION = "fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large"
VIDEO = "r3d_18 r2plus1d_18 s3d"


def _torchvision(name: str) -> Network:
    def build() -> nn.Module:
        import torchvision

        settled = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, **settled)

    # The auxiliary head of Inception v3 needs the usual size in training.
    usual, small = (299, 299) if name == "inception_v3" else (224, 64)
    return Network(name, "torchvision", "classification", build, *_squares(usual, small))


def _segmentation(name: str) -> Network:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None, weights_backbone=None)

    return Network(name, "torchvision", "segmentation", build, *_squares(520, 64))


def _fpn() -> nn.Module:
    import torchvision

    detector = torchvision.models.get_model("fasterrcnn_resnet50_fpn", weights=None, weights_backbone=None)
    return detector.backbone


def _video(name: str) -> Network:
    def build() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    if name == "s3d":
        return Network(name, "torchvision", "video", build, (1, 3, 16, 224, 224), (1, 3, 16, 224, 224))
    return Network(name, "torchvision", "video", build, (1, 3, 16, 112, 112), (1, 3, 4, 64, 64))


# ---- timm -----------------------------------------------------------------------------------------------

# Small members of each family.
TIMM = """
    resnet10t resnet26t resnet50_gn resnetv2_50 resnetaa34d resnetblur18 resnetrs50 seresnet18 ecaresnet26t
    eca_resnet33ts gcresnet33ts resnext26ts bat_resnext26ts skresnet18 skresnext50_32x4d resnest14d
    legacy_seresnet18 nf_resnet26 resnetv2_50x1_bit
    res2net50_26w_4s res2next50 dla34 dla46_c dla60_res2net dpn48b dpn68 densenetblur121d rdnet_tiny
    cspresnet50 cspresnext50 cspdarknet53 cs3darknet_s darknet17
    vovnet39a ese_vovnet19b_dw hgnet_tiny hgnetv2_b0 hrnet_w18_small selecsls42b gernet_s
    inception_v4 inception_resnet_v2 xception41 legacy_xception
    mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 repvgg_a0
    efficientnet_es tf_efficientnetv2_b0 tf_efficientnet_cc_b0_4e mixnet_s mnasnet_small fbnetc_100
    spnasnet_100 hardcorenas_a lcnet_050 tinynet_e rexnet_100 ghostnet_100 ghostnetv2_100 repghostnet_050
    regnetx_002 regnety_002 regnetz_005 eca_nfnet_l0 dm_nfnet_f0 pnasnet5large nasnetalarge
    convnext_atto convnextv2_atto inception_next_atto convmixer_768_32 fasternet_t0 starnet_s1
    edgenext_xx_small fastvit_t8 repvit_m0_9 poolformer_s12 focalnet_tiny_srf mobilevit_xxs
    efficientvit_b0 shvit_s1 swiftformer_xs mambaout_femto vgg11_bn
"""
SMALL_SIDE = {"inception_v4": 96, "inception_resnet_v2": 96, "bat_resnext26ts": 256}


def _timm(name: str) -> Network:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False)

    return Network(name, "timm", "classification", build, (), (1, 3, *[SMALL_SIDE.get(name, 64)] * 2))
