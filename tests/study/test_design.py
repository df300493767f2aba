"""What a study's file may say, which cells and runs follow from it, and what mistakes are answered with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.study import tiny_study
from tests.helpers.training import refusal

from octavize.errors import InputError
from octavize.study.design import Planned, distinct, plan_study
from octavize.study.load import SHIPPED, load_study
from octavize.study.model import merged
from octavize.training.runs import Run

FACTORS: dict[str, Any] = {
    "rate": {"constant": {"schedule": "constant"}, "cosine": {"schedule": "cosine"}},
    "size": {"native": {"size": 16}, "large": {"size": 24}, "huge": {"size": 32}},
    "bias": {"off": {"octave_bias": False}, "on": {"octave_bias": True}},
}


def cells(folder: Path, **design: Any) -> list[str]:
    return [cell.name for cell in tiny_study(folder, factors=FACTORS, design=design).cells]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies_plan_runs_that_can_be_trained(name: str) -> None:
    study = load_study(name)
    places = plan_study(study, {})
    assert len(places) == len(study.seeds) * len(study.models) * len(study.cells) * len(study.arms)
    assert {place.seed for place in places} == ({0} if name == "networks" else {0, 1, 2})
    full = name in ("networks", "rate", "resolution", "size")
    assert {p.recipe.arguments_of(p.model).get("width") for p in places} == {None if full else 0.5}
    assert study.arm(study.reference).settings == {"alpha": 0}


def test_the_article_is_the_article_except_for_size() -> None:
    study = load_study("article")
    first = study.cells[0]
    assert first.name == "article"
    octave = next(p for p in plan_study(study, {}) if p.arm == "octave" and p.cell == first).recipe
    assert (octave.optimizer, octave.lr, octave.schedule, octave.epochs) == ("adam", 1e-3, "constant", 6)
    assert octave.batch_size_of(study.models[0]) == 768 // 2  # half the epochs, as many steps
    assert (octave.octave_bias, octave.normalize, octave.flip, octave.crop_padding) == (True, False, False, 0)
    assert (octave.initializer, octave.depthwise_initializer) == ("framework", "framework")


def test_real_images_are_matched_and_tested_in_the_time_of_deployment() -> None:
    study = load_study("resolution")
    assert study.deploy
    assert (study.deploy.runtime, study.deploy.precisions) == ("openvino", ("float32", "bf16", "int8"))
    matched = {arm.name: arm.match for arm in study.arms if arm.match}
    assert {match.to for match in matched.values()} == {"openvino"}
    assert {(match.arm, match.by) for match in matched.values()} == {
        (arm, by) for arm in ("α=0.5, once a block, down", "α=0.5, every layer") for by in ("size", "width")
    }
    first = plan_study(study, {})[0].recipe
    assert (first.data, first.size, first.precision) == ("folder", 128, "bf16-mixed")


def test_a_full_grid(tmp_path: Path) -> None:
    found = cells(tmp_path, kind="factorial")
    assert len(found) == len(set(found)) == 2 * 3 * 2
    assert found[0] == "rate=constant, size=native, bias=off"


def test_one_factor_at_a_time_and_back(tmp_path: Path) -> None:
    bases = {"plain": {"bias": True}, "fine": {"rate": "cosine", "size": "huge", "bias": False}}
    found = cells(tmp_path, kind="one_at_a_time", bases=bases)
    assert found == [
        "plain", "plain, rate=cosine", "plain, size=large", "plain, size=huge", "plain, bias=off",
        "fine", "fine, rate=constant", "fine, size=native", "fine, size=large", "fine, bias=on",
    ]  # fmt: skip
    alone = cells(tmp_path, kind="one_at_a_time", bases={"plain": {}}, also={"fine": bases["fine"]})
    assert alone[-1] == "fine"
    assert len(alone) == 1 + 4 + 1
    with pytest.raises(InputError, match=r"also has again.*plain"):
        cells(tmp_path, kind="one_at_a_time", bases={"plain": {}}, also={"again": {}})


def test_the_bases_come_first_with_all_their_seeds(tmp_path: Path) -> None:
    bases = {"plain": {}, "fine": {"rate": "cosine", "size": "huge"}}
    study = tiny_study(
        tmp_path, factors=FACTORS, seeds=[0, 1], design={"kind": "one_at_a_time", "bases": bases}
    )
    order = list(dict.fromkeys((place.seed, place.cell.name) for place in plan_study(study, {})))
    assert order[:4] == [(0, "plain"), (0, "fine"), (1, "plain"), (1, "fine")]
    assert len(order) == 2 * len(study.cells)
    assert [seed for seed, _ in order[4:]] == sorted(seed for seed, _ in order[4:])


def test_a_list(tmp_path: Path) -> None:
    found = cells(tmp_path, kind="list", cells=[{}, {"rate": "cosine", "size": "huge"}])
    assert found == ["rate=constant, size=native, bias=off", "rate=cosine, size=huge, bias=off"]


def by_arm(places: list[Planned]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for place in places:
        found.setdefault(place.arm, set()).add(place.slug)
    return found


def test_places_that_differ_in_nothing_the_network_has_share_a_run(tmp_path: Path) -> None:
    factors = {"bias": FACTORS["bias"], "exchange": {"both": {}, "none": {"exchange": "none"}}}
    study = tiny_study(tmp_path, factors=factors, seeds=[0])
    slugs = by_arm(plan_study(study, {}))
    assert {arm: len(found) for arm, found in slugs.items()} == {"vanilla": 1, "octave": 4}
    assert len(distinct(plan_study(study, {}))) == 5
    initial = {"initial": {"framework": {"initializer": "framework"}, "he": {"initializer": "he"}}}
    drawn = tiny_study(tmp_path, factors=initial, seeds=[0])
    assert {arm: len(found) for arm, found in by_arm(plan_study(drawn, {})).items()} == {
        "vanilla": 1,
        "octave": 2,
    }
    depthwise = {"depthwise": {"he": {"depthwise_initializer": "he"}, "builder": {}}}
    without = tiny_study(tmp_path, factors=depthwise, seeds=[0], models=["oct_cifar_resnet20"])
    assert {arm: len(found) for arm, found in by_arm(plan_study(without, {})).items()} == {
        "vanilla": 1,
        "octave": 1,
    }


def test_a_run_keeps_its_folder_when_the_study_grows(tmp_path: Path) -> None:
    small = {p.slug for p in plan_study(tiny_study(tmp_path, seeds=[0]), {})}
    grown = tiny_study(tmp_path, seeds=[0, 1], factors={"rate": FACTORS["rate"]})
    assert small <= {p.slug for p in plan_study(grown, {})}


def test_arms_factors_and_matches_are_merged(tmp_path: Path) -> None:
    arms = {"vanilla": {"alpha": 0}, "thin": {"alpha": 0, "arguments": {"drop_rate": 0.1}}}
    study = tiny_study(tmp_path, arms=arms, factors={"size": FACTORS["size"]}, seeds=[3])
    thinner = {"alpha": 0, "arguments": {"width": 0.2}, "size": 9}
    found = {f"{study.models[0]} thin": {"settings": thinner}}
    place = next(p for p in plan_study(study, found) if p.arm == "thin" and p.cell == study.cells[2])
    assert place.run == Run(study.models[0], 0.0, 3)
    assert place.recipe.size == 9  # the arm's, over the factor's
    assert place.recipe.arguments_of(study.models[0]) == {"width": 0.2, "drop_rate": 0.2}
    assert merged({"arguments": {"a": 1}, "x": 1}, {"arguments": {"b": 2}}) == {
        "arguments": {"a": 1, "b": 2},
        "x": 1,
    }


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"arms": {"vanilla": {"alfa": 0}}}, "arm vanilla: unknown setting 'alfa': choose from"),
        ({"arms": {"vanilla": {"alphas": [0]}}}, "arm vanilla sets alphas: use model, alpha"),
        ({"reference": "plain"}, "reference is 'plain': name one of the arms, vanilla or octave"),
        (
            {"reference": "thin", "arms": {"thin": {"match": "thin"}}},
            "reference is 'thin', which is matched: give it an alpha",
        ),
        ({"arms": {"vanilla": {}, "octave": {"alpha": 0.5}}}, "arm vanilla has no alpha: give it one"),
        ({"arms": {"vanilla": {"alpha": 0}, "t": {"match": "oct"}}}, "arm t matches 'oct'"),
        (
            {"arms": {"vanilla": {"alpha": 0}, "t": {"match": "vanilla", "by": "depth"}}},
            "arm t: by is 'depth': choose from 'width' or 'size'",
        ),
        (
            {"arms": {"vanilla": {"alpha": 0}, "t": {"match": "vanilla", "to": "onnx"}}},
            "arm t: to is 'onnx': choose from macs, time, onnxruntime, openvino",
        ),
        ({"deploy": {"runtime": "torch"}}, "deploy[runtime] is 'torch': choose from onnxruntime, openvino"),
        ({"deploy": {"precisions": ["int8"]}}, "deploy[runtime] is missing: add it"),
        (
            {"deploy": {"runtime": "onnxruntime", "precisions": ["int8", "bf16"]}},
            "precisions has 'bf16': onnxruntime has float32, int8",
        ),
        (
            {"deploy": {"runtime": "openvino", "precisions": []}},
            "deploy[precisions] is []: give at least one",
        ),
        ({"deploy": {"runtime": "openvino", "batch": 1}}, "unknown setting 'batch' in deploy: choose from"),
        ({"factors": {"rate": {"constant": {}}}}, "factors[rate] is {'constant': {}}: give at least 2"),
        (
            {"factors": {"rate": {"a": {}, "b": {"sheddule": 1}}}},
            "rate=b: unknown setting 'sheddule': choose from",
        ),
        (
            {"factors": FACTORS, "design": {"kind": "taguchi"}},
            "design[kind] is 'taguchi': choose from 'factorial', ",
        ),
        ({"factors": FACTORS, "design": {"kind": "one_at_a_time"}}, "design has no bases"),
        (
            {"factors": FACTORS, "design": {"kind": "list", "cells": [{"rate": "linear"}]}},
            "cell 1 has rate='linear': choose from constant, cosine",
        ),
        ({"factors": FACTORS, "design": {"kind": "list", "cells": [{"speed": 1}]}}, "none of the factors"),
        ({"seeds": [1, 1]}, "give each value once"),
        ({"color": "red"}, "unknown setting 'color': choose from about, arms"),
        ({"set": {"epochs": 0}}, "epochs is 0"),
        ({"recipe": "nothing"}, "recipe nothing does not exist"),
        ({"recipe": {"epochs": 1}}, "recipe is {'epochs': 1}: give text, such as cifar or the path"),
        ({"set": {"seeds": [1]}}, "set has seeds"),
        ({"seeds": 3}, "seeds is 3: give a list"),
        ({"seeds": [[1]]}, "seed is [1]: give a whole number"),
        ({"models": "oct_resnet50"}, "models is 'oct_resnet50': give a list"),
        ({"about": None}, "about is None: give text"),
        (
            {"set": {"schedule": "cosin", "epochs": 0}},
            "epochs is 0: give a whole number of at least 1 (and 1 more)",
        ),
        ({"design": "factorial"}, "design is 'factorial': give a mapping, such as {kind: factorial}"),
        ({"design": {1: 2}}, "unknown setting 1 in design: choose from also, bases"),
        ({"arms": {"v": {"alpha": 0, "model": None}}}, "arm v: model is None: give text"),
        ({"design": None}, "design is None: give a mapping, such as {kind: factorial}"),
        ({"arms": {}}, "arms is {}: give at least one"),
        ({"arms": ["vanilla"]}, "arms is ['vanilla']: give a mapping"),
        ({"arms": {1: {}, "1": {}}}, "'1' is there twice, give each name once"),
        ({"arms": {"vanilla": {"alpha": "x"}}}, "arm vanilla: alpha is 'x'"),
        ({"arms": {"vanilla": {"arguments": [1]}}}, "arm vanilla: arguments is [1]: give a mapping"),
        ({"arms": {"a": {"arguments": {"exchange": "none"}}}}, "has exchange among the arguments"),
        ({"arms": {"a": {"limit_train": 3}}}, "arm a sets limit_train: all runs see the same images"),
        (
            {"set": {"model_arguments": {"*": {"downsample": "stride"}}}},
            "model_arguments of * has downsample",
        ),
        (
            {"set": {"model_arguments": {"oct_resmet*": {"width": 0.5}}}},
            "a pattern 'oct_resmet*' that matches none of the networks oct_mobilenet_v1_small: mend it",
        ),
        ({"factors": {"rate": None}}, "factors[rate] is None: give a mapping"),
        ({"factors": FACTORS, "design": {"bases": {"a": {}}}}, "design has bases"),
        (
            {"factors": FACTORS, "design": {"kind": "list", "cells": ["a"]}},
            "design[cells] is 'a': give a mapping",
        ),
        (
            {"factors": FACTORS, "design": {"sort": 1}},
            "unknown setting 'sort' in design: choose from also, bases",
        ),
        (
            {"factors": FACTORS, "design": {"kind": "one_at_a_time", "bases": {"a": {}}, "also": 3}},
            "design[also] is 3: give a mapping, such as {article: {rate: constant}}",
        ),
        (
            {"factors": {"size": FACTORS["size"]}, "arms": {"v": {"alpha": 0}, "t": {"match": "v"}}},
            "factor size changes what a network costs, but arm t is matched",
        ),
    ],
)
def test_mistakes(entries: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        tiny_study(tmp_path, **entries)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


SHAPES = [None, 3, 0.5, True, "text", [], [1], [None], [{}], {}, {"a": 1}, {"a": None}, {1: 2}, float("nan")]
ENTRIES = (
    *(("recipe",), ("models",), ("arms",), ("about",), ("set",), ("seeds",), ("reference",), ("factors",)),
    *(("design",), ("design", "kind"), ("design", "bases"), ("design", "also"), ("design", "cells")),
    *(("arms", "vanilla"), ("factors", "rate"), ("factors", "rate", "constant"), ("set", "model_arguments")),
    *(("deploy",), ("deploy", "runtime"), ("deploy", "precisions"), ("arms", "vanilla", "to")),
    *(("arms", "vanilla", key) for key in ("alpha", "arguments", "model", "size", "match")),
)


@pytest.mark.parametrize("kind", ["factorial", "one_at_a_time", "list"])
@pytest.mark.parametrize("path", ENTRIES, ids=".".join)
def test_no_shape_of_an_entry_costs_more_than_one_line(
    path: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    refused = 0
    for shape in SHAPES:
        entries: dict[str, Any] = {
            "arms": {"vanilla": {"alpha": 0}, "octave": {"alpha": 0.5}},
            **{"set": {"epochs": 1}, "factors": copy.deepcopy(FACTORS), "design": {"kind": kind}},
            "deploy": {"runtime": "openvino"},
        }
        place = entries
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = shape
        told = refusal(lambda entries=entries: tiny_study(tmp_path, **entries))
        assert "\n" not in told
        refused += bool(told)
    assert refused


def test_what_is_no_path_is_no_study() -> None:
    with pytest.raises(InputError, match=r"^study None: give one of article, .* or a YAML file's path$"):
        load_study(None)  # type: ignore[arg-type]


def test_arguments_may_be_of_a_network_that_an_arm_sets(tmp_path: Path) -> None:
    arms = {"vanilla": {"alpha": 0}, "other": {"alpha": 0, "model": "oct_resnet18_small"}}
    study = tiny_study(tmp_path, arms=arms, set={"model_arguments": {"oct_resnet18*": {"width": 0.5}}})
    widths = {p.arm: p.recipe.arguments_of(p.recipe.models[0]) for p in plan_study(study, {})}
    assert widths == {"vanilla": {}, "other": {"width": 0.5}}


@pytest.mark.parametrize("text", ["{", "3", "recipe: quick", None, "recipe: quick\nrecipe: cifar"])
def test_what_is_no_study(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        load_study(path)
