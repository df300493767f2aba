"""Octave networks by name: timm builds each, and `policies.py` says which layers are octave.

No architecture is written here. `oct_resnet50` is timm's `resnet50`, converted; at α = 0 it is the vanilla
network, bit for bit, so every baseline is the same code.
"""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import filter as match_names
from typing import Any

from torch import nn

from octavize.convert.octavize import octavize
from octavize.errors import InputError, number, require_extra, whole
from octavize.plans.policies import SMALL, exchange_of, policy_of
from octavize.split import check_alpha
from octavize.zoo.recipes import REGISTRY, SMALL_IMAGE, Recipe


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows and that match `pattern` (`oct_resnet*`), sorted.

    `…_small` is the same network with a stem for images of 32 pixels.
    """
    names = [*REGISTRY, *(f"{name}{SMALL}" for name, recipe in REGISTRY.items() if recipe.small_stem)]
    return sorted(match_names(names, pattern))


def usual_input(name: str) -> tuple[int, ...]:
    """(1, C, H, W) of the image that a named network is known for, or (1, C, T, H, W) of the clip.

    Raises:
        InputError: the name is unknown.
    """
    recipe = _find(name)
    return (1, *(SMALL_IMAGE if name.endswith(SMALL) else recipe.input))


def create_model(
    name: str,
    alpha: float = 0.5,
    *,
    num_classes: int = 1000,
    strict: bool = True,
    exchange: str | None = None,
    downsample: str | None = None,
    **builder_arguments: Any,
) -> nn.Module:
    """Build a named octave network.

    Args:
        name: one of `list_models()`.
        alpha: share of low channels in the octave layers; 0 is the vanilla network.
        num_classes: size of the classifier.
        strict: refuse dense fallbacks; these networks have none.
        exchange: where the frequencies meet, such as `block:high_to_low`, see `octavize.plan`. Default: that
            of its family in `policies.py`: in `every` layer, as in the paper.
        downsample: for its octave layers, see `OctConv2d`. Default: `pool`, as in the paper; in
            the official ResNet-152 `pool_always`.
        **builder_arguments: for timm's builder: `in_chans=1`, `pretrained=True` (the vanilla weights),
            `drop_path_rate=0.1` …; `width=0.75`, a multiple of the channels (of a ResNet's stages, not its
            stem).

    Returns:
        A network from (N, 3, H, W) to (N, num_classes), those for video from (N, 3, T, H, W), with the state
        dict of timm's or torchvision's network.

    Raises:
        InputError: the name, `downsample` or `exchange` is unknown, α is outside [0, 1], the builder does not
            take an argument, or timm is missing.
    """
    alpha = check_alpha(alpha)
    recipe = _find(name)
    require_extra("timm", "models")
    whole("num_classes", num_classes, 0)  # in timm, 0 asks for features
    whole("in_chans", builder_arguments.get("in_chans", 3), 1)
    width = builder_arguments.get("width", 1)
    number("width", width, 0, 8, above=True, meaning="a multiple of the channels")
    try:
        model = recipe.build(num_classes=num_classes, **builder_arguments)
    except TypeError as error:
        raise InputError(f"model {name!r} does not take these arguments: {error}") from error
    if name.endswith(SMALL) and recipe.small_stem:
        recipe.small_stem(model)
    return octavize(
        model,
        policy_of(name, alpha),
        exchange=exchange_of(name, exchange),
        downsample=recipe.downsample if downsample is None else downsample,
        strict=strict,
        inplace=True,
    )


def _find(name: str) -> Recipe:
    known = list_models()
    if name not in known:
        close = get_close_matches(name, known, n=3) or known
        raise InputError(f"model {name!r} is unknown: did you mean {', '.join(close)}?")
    return REGISTRY[name.removesuffix(SMALL)]
