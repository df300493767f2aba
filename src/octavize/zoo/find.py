"""Vanilla networks by whatever name the user has for them: a run of ours, torchvision, timm, own code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from octavize.convert.octavize import octavize
from octavize.convert.planner import Alpha
from octavize.convert.trace import image_shape
from octavize.errors import InputError, one_line, refuse_options, require_extra
from octavize.files import BEST, arguments_of_file, call_named
from octavize.plans.policies import exchange_of, policy_of
from octavize.zoo.checkpoint import load_checkpoint
from octavize.zoo.models import create_model, list_models
from octavize.zoo.weights import check_file, load_state, read_metadata

RUN = "the folder of a trained run"
BUILDERS = ("octavize", "torchvision", "timm")
"""Who builds networks by name, in the order in which they are asked."""


@dataclass(frozen=True)
class Origin:
    """How a vanilla network is built, in plain values: enough to build it again from a JSON file."""

    kind: str
    """`octavize` (`octavize models`), `torchvision`, `timm` or `function`."""
    name: str
    """Of the network, or `module:function`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the builder; none for a function."""

    def build(self, *, pretrained: bool = False) -> nn.Module:
        """The vanilla network, with its builder's own pretrained weights or with new ones.

        Raises:
            InputError: the builder refuses, or `module:function` does not lead to a network.
        """
        if self.kind == "function":
            return call_named(self.name, nn.Module)
        require_extra("timm" if self.kind == "octavize" else self.kind, "models")
        extra: dict[str, Any] = {"pretrained": True} if pretrained else {}
        if self.kind == "octavize":
            return create_model(self.name, 0, **self.arguments, **extra)
        try:
            if self.kind == "timm":
                import timm

                return timm.create_model(self.name, **self.arguments, **extra)
            from torchvision import models as zoo

            return zoo.get_model(self.name, weights="DEFAULT" if pretrained else None, **self.arguments)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            given = ", ".join(f"{key}={value!r}" for key, value in {**self.arguments, **extra}.items())
            raise InputError(
                f"model {self.name!r} cannot be built{given and f' with {given}'}: {one_line(error)}; "
                "check name and options"
            ) from error

    def octave(self, alpha: float, size: int | None = None, exchange: str | None = None) -> nn.Module:
        """The network at this α, with new weights: by the paper's policy if it is one of ours.

        Args:
            alpha: share of low channels.
            size: side in pixels of the images that it is planned for; None is its own. Networks of ours
                follow the paper's policy at any size.
            exchange: where the frequencies meet, see `octavize.plan`; None is the network's own.

        Raises:
            InputError: see `build`; α outside [0, 1]; or a network that does not run on such images.
        """
        if self.kind == "octavize":
            return create_model(self.name, alpha, exchange=exchange, **self.arguments)
        model = self.build()
        example = None if size is None else image_shape(model, size)
        # `module:name` may give the same network each time.
        inplace = self.kind != "function"
        return octavize(model, alpha, exchange=exchange, example=example, inplace=inplace)

    def exchange(self, exchange: str | None) -> str | dict[str, str] | None:
        """Where the frequencies meet, as `octavize` takes it: by the family's policy for networks of ours."""
        return exchange_of(self.name, exchange) if self.kind == "octavize" else exchange

    def alpha(self, share: float) -> Alpha:
        """A share of low channels as `octavize` takes it: by the paper's policy for networks of ours."""
        return policy_of(self.name, share) if self.kind == "octavize" else share


@dataclass(frozen=True)
class Vanilla:
    """A vanilla network that was found, built and given its weights."""

    origin: Origin
    model: nn.Module
    weights: str
    """Where its weights come from, for people."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of its input: `mean`, `std`, `size`, `normalize`, `in_chans`, `classes`."""
    recipe: Path | None = None
    """The recipe of the run that trained it."""


def find_vanilla(
    name: str,
    *,
    weights: str | Path | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
) -> Vanilla:
    """Find, build and load a vanilla network.

    Args:
        name: the folder of a run of `octavize train` or its best.safetensors; a name from `octavize models`,
            of torchvision or of timm (in this order; `timm:resnet50` and `torchvision:resnet50` choose); or
            `module:function`, which is called without arguments and returns the network.
        weights: state dict to load, .safetensors or whatever `torch.load(weights_only=True)` reads.
        pretrained: the builder's own pretrained weights (downloaded by torchvision or timm).
        num_classes: of the classifier; None is the builder's default.

    Raises:
        InputError: nothing of this name; both kinds of weights; weights that do not fit.
    """
    if weights is not None and pretrained:
        raise InputError(f"--weights {weights} and --pretrained are both given: choose one")
    run = run_checkpoint(name)
    if run is not None:
        options = {"--weights": weights, "--pretrained": pretrained or None, "--num-classes": num_classes}
        refuse_options(name, options)
        return _from_run(run)
    if weights is not None:
        check_file(weights)  # before the network, which takes seconds to build
    origin = find_origin(name, num_classes=num_classes, otherwise=RUN)
    if pretrained and origin.kind == "function":
        raise InputError(f"--pretrained is given and {name} is a function: let it load, or give --weights")
    model = origin.build(pretrained=pretrained)
    if weights is not None:
        load_state(model, weights)
    facts = _published_facts(origin, model) if pretrained else {}
    told = "pretrained" if pretrained else str(weights) if weights is not None else "as built"
    return Vanilla(origin, model, told, facts)


def find_origin(name: str, *, num_classes: int | None = None, otherwise: str = "") -> Origin:
    """Who builds the network of this name.

    Args:
        name, num_classes: see `find_vanilla`; here a folder is no name.
        otherwise: what else the caller takes, for the remedy.

    Raises:
        InputError: nothing of this name.
    """
    arguments = {} if num_classes is None else {"num_classes": num_classes}
    kinds, plain = _asked(name)
    prefixed = plain != name
    if ":" in name and not prefixed:
        if num_classes is not None:
            raise InputError(f"--num-classes is given and {name} is a function: leave it to the function")
        return Origin("function", name)
    if prefixed:
        require_extra(kinds[0], "models")
    kind = _kind_of(plain, kinds)
    if kind is not None:
        return Origin(kind, plain, arguments)
    close = get_close_matches(plain, dict.fromkeys(n for kind in kinds for n in _names(kind)), n=3)
    told = f"did you mean {', '.join(close)}? Or give" if close else "give"
    names = f"a name of {kinds[0]}'s" if prefixed else "a name from `octavize models`, of torchvision or timm"
    allowed = ", or ".join(filter(None, [names] if prefixed else [names, "module:function", otherwise]))
    missing = [kind for kind in kinds if find_spec(kind) is None]
    install = f"; for {' and '.join(missing)}, `pip install 'octavize[models]'`" if missing else ""
    raise InputError(f"model {name!r} is unknown: {told} {allowed}{install}")


def origin_of_file(path: str | Path, told: Any) -> Origin:
    """Who builds the network of a file, by what the file tells; see `trusted.py`.

    Raises:
        InputError: a kind or a name that is not among those that `find_origin` knows, or other arguments.
        TypeError: no origin at all.
    """
    origin = Origin(**told)
    if origin.kind not in (*BUILDERS, "function"):
        raise InputError(
            f"file {path} wants a network of {origin.kind!r}: a file may name one of {', '.join(BUILDERS)}, "
            "or a function; convert the network again"
        )
    if origin.kind in BUILDERS:
        require_extra("timm" if origin.kind == "octavize" else origin.kind, "models")
        if not (isinstance(origin.name, str) and _builds(origin.kind, origin.name)) or ":" in origin.name:
            raise InputError(
                f"file {path} wants {origin.kind} to build {origin.name!r}, which is none of its own names: "
                "build the network in Python, and give it as model="
            )
    return replace(origin, arguments=arguments_of_file(path, origin.arguments))


def is_name(name: str) -> bool:
    """Whether a network is built by this name, even if a folder is called so too."""
    kinds, plain = _asked(name)
    return os.sep not in name and _kind_of(plain, kinds) is not None


def run_checkpoint(name: str, *others: str) -> Path | None:
    """The weights file, if `name` is a run of ours; None if it is something else.

    Args:
        others: what else the caller takes in a folder, for the message.

    Raises:
        InputError: it is a folder without a run.
    """
    path = Path(name)
    if path.suffix == ".safetensors":
        return path
    if (path / BEST).is_file():
        return path / BEST
    if not path.is_dir() or is_name(name):
        return None
    runs = sorted(p.parent.name for p in path.glob(f"runs/*/{BEST}"))
    remedy = f"give one of its runs, {path}/runs/{runs[0]} …" if runs else f"give {RUN}"
    raise InputError(f"model {name} is a folder without {' or '.join((BEST, *others))}: {remedy}")


def _from_run(path: Path) -> Vanilla:
    facts = read_metadata(path)
    if facts.get("alpha") != 0:
        raise InputError(
            f"model {path} is octave already (alpha {facts.get('alpha')}): give a vanilla run (--alpha 0)"
        )
    model, facts = load_checkpoint(path)
    in_chans = {} if facts["in_chans"] == 3 else {"in_chans": facts["in_chans"]}
    arguments = {"num_classes": len(facts["classes"]), **in_chans, **facts["arguments"]}
    # Of `train`, or of `compare`, whose runs lie two folders below.
    recipes = (path.parent / "recipe.yaml", path.parent.parent.parent / "recipe.yaml")
    recipe = next((p for p in recipes if p.is_file()), None)
    return Vanilla(Origin("octavize", facts["model"], arguments), model, str(path), facts, recipe)


def _published_facts(origin: Origin, model: Any) -> dict[str, Any]:
    """How the input of published weights is normalized."""
    if origin.kind == "torchvision":
        from torchvision import models as zoo

        chosen: Any = zoo.get_model_weights(origin.name).DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
        transform = chosen.transforms()
        return {"mean": list(transform.mean), "std": list(transform.std), "size": transform.crop_size[0]}
    told = getattr(model, "pretrained_cfg", None)
    if not told:
        return {}
    return {"mean": list(told["mean"]), "std": list(told["std"]), "size": told["input_size"][-1]}


def _names(kind: str) -> list[str]:
    """The names by which somebody builds networks; none if it is not installed."""
    if kind == "octavize":
        return list_models()
    if find_spec(kind) is None:
        return []
    if kind == "timm":
        import timm

        return timm.list_models()
    from torchvision import models as zoo

    return zoo.list_models(module=zoo)


def _asked(name: str) -> tuple[tuple[str, ...], str]:
    """Who may build a network of this name, and its name there: `timm:resnet18` asks timm alone."""
    prefix, colon, rest = name.partition(":")
    return ((prefix,), rest) if colon and prefix in BUILDERS else (BUILDERS, name)


def _kind_of(name: str, kinds: Iterable[str]) -> str | None:
    """The first who builds a network of this name."""
    return next((kind for kind in kinds if _builds(kind, name)), None)


def _builds(kind: str, name: str) -> bool:
    if kind != "timm" or find_spec("timm") is None:
        return name in _names(kind)
    import timm

    return timm.is_model(name)  # also old names, and those with the tag of their weights
