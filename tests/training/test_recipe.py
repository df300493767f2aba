"""Recipes: what ships, what YAML may say, and what every mistake is answered with."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.training import refusal

from octavize.errors import InputError
from octavize.training.recipe import SHIPPED, Recipe, dump_recipe, load_recipe, read_recipe


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "copy.yaml"
    path.write_text(dump_recipe(recipe), "utf-8")
    assert recipe.name == name
    assert load_recipe(path) == recipe


def test_article_is_the_article() -> None:
    recipe = load_recipe("article")
    assert (recipe.data, recipe.size, recipe.optimizer, recipe.lr) == ("cifar10", 224, "adam", 1e-3)
    assert (recipe.schedule, recipe.epochs, recipe.label_smoothing) == ("constant", 12, 0)
    assert (recipe.normalize, recipe.flip, recipe.crop_padding) == (False, False, 0)
    assert recipe.batch_size_of("oct_mobilenet_v1") == 768
    assert recipe.batch_size_of("oct_resnet50") == 256


def test_overrides_replace_and_none_leaves_alone() -> None:
    recipe = load_recipe("cifar", epochs=3, lr=None, seeds=[4, 5])
    assert (recipe.epochs, recipe.lr, recipe.seeds) == (3, 0.1, (4, 5))


def test_first_matching_pattern_counts() -> None:
    recipe = Recipe(models=("oct_resnet50", "oct_resnet18"), epochs={"*50": 2, "*": 7}, lr={"*": 0.5})
    assert (recipe.epochs_of("oct_resnet50"), recipe.epochs_of("oct_resnet18")) == (2, 7)
    assert recipe.lr_of("oct_resnet18") == 0.5


def test_arguments_of_all_matching_patterns_are_merged() -> None:
    recipe = Recipe(model_arguments={"oct_*": {"drop_rate": 0.1}, "*mobilenet*": {"width": 0.5}})
    assert recipe.arguments_of("oct_mobilenet_v1") == {"drop_rate": 0.1, "width": 0.5}
    assert recipe.arguments_of("oct_resnet50") == {"drop_rate": 0.1}


def test_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("lr: 1e-3\nweight_decay: 5e-4\n", "utf-8")
    recipe = load_recipe(path)
    assert (recipe.lr, recipe.weight_decay, recipe.name) == (1e-3, 5e-4, "r")


def test_differences_name_the_settings() -> None:
    assert Recipe(lr=0.1, epochs=3).differences(Recipe(lr=0.2, epochs=3)) == ["lr"]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"alphas": [0, 1.5]}, ("alpha", "1.5", "0 to 1")),
        ({"alphas": []}, ("alphas", "at least one")),
        ({"alphas": [0.5, 0.5]}, ("alphas", "once")),
        ({"seeds": [-1]}, ("seed", "-1", "at least 0")),
        ({"epochs": 0}, ("epochs", "0", "at least 1")),
        ({"epochs": 2.5}, ("epochs", "2.5", "whole number")),
        ({"epochs": {"oct_resnet*": 3}}, ("epochs", "oct_mobilenet_v1", "'*' matches")),
        ({"epochs": {"*": 3, "oct_mobilenet*": 8}}, ("epochs", "oct_mobilenet*", "put '*' last")),
        ({"batch_size": {"*": 0}}, ("batch_size[*]", "0", "at least 1")),
        ({"lr": 0}, ("lr", "0", "above 0")),
        ({"lr": "fast"}, ("lr", "'fast'", "number")),
        ({"lr": True}, ("lr", "True", "number")),
        ({"momentum": 2}, ("momentum", "2", "0 to 1")),
        ({"weight_decay": float("nan")}, ("weight_decay", "nan", "from 0 up")),
        ({"val_fraction": 0}, ("val_fraction", "0.01 to 0.9")),
        ({"schedule": "cosin"}, ("schedule", "'cosin'", "cosine")),
        ({"precision": "8"}, ("precision", "'8'", "bf16-mixed")),
        ({"flip": "maybe"}, ("flip", "'maybe'", "true or false")),
        ({"crop_padding": -4}, ("crop_padding", "-4")),
        ({"size": 0}, ("size", "0")),
        ({"size": 16.0}, ("size", "16.0", "whole number of at least 1")),
        ({"seeds": [True]}, ("seed is True", "whole number")),
        ({"seeds": None}, ("seeds is None", "a list")),
        ({"name": 3}, ("name is 3", "text")),
        ({"exchange": "all"}, ("exchange='all'", "block:high_to_low", "low_to_high")),
        ({"epochs": {1: 3}}, ("a key of epochs is 1", "text")),
        ({"sheddule": "cosine"}, ("unknown setting 'sheddule'", "choose from alphas, batch_size")),
        ({"lr": 0, "epochs": 0, "name": 1}, ("name is 1: give text (and 2 more)",)),
        ({"alphas": [2]}, ("alpha is 2: give a number from 0 to 1",)),
        ({"model_arguments": {"width": 0.5}}, ("model_arguments[width]", "0.5", "a mapping, such as")),
    ],
)
def test_every_wrong_setting_is_named_with_value_and_remedy(
    settings: dict[str, Any], parts: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        Recipe(**settings)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert "\n" not in str(caught.value)
    assert ("more)" in str(caught.value)) == (len(settings) > 1)


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe)])
def test_no_shape_of_a_setting_costs_more_than_one_line(name: str) -> None:
    shapes = [None, 3, 0.5, True, "text", [], [1], [None], [{}], {}, {"a": 1}, {"a": None}, {"*": {}}, {1: 2}]
    refused = 0
    for shape in shapes:
        told = refusal(lambda shape=shape: Recipe(**{name: shape}))
        assert "\n" not in told
        refused += bool(told)
    assert refused


def test_unknown_names_come_first() -> None:
    with pytest.raises(InputError, match=r"^unknown setting 'lrr'.* \(and 2 more\)$"):
        Recipe(**{"epochs": 0, "size": 0, "lrr": 1})


def test_what_is_no_path_is_no_recipe() -> None:
    with pytest.raises(InputError, match=r"^recipe None: give one of quick, .* or a YAML file's path$"):
        load_recipe(None)  # type: ignore[arg-type]


def test_the_first_mistake_of_a_list_stands_for_itself() -> None:
    with pytest.raises(InputError, match=r"alpha is 'x': give a number from 0 to 1 \(and 1 more\)$"):
        Recipe(**{"alphas": ["x", 2]})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lr: [", ("not valid YAML", "mend")),
        ("just words", ("holds no settings", "epochs: 10")),
        ("learning_rate: 0.1", ("unknown setting 'learning_rate'", "lr")),
        ("1: 2", ("unknown setting '1'", "lr")),
        ("epochs: 0", ("epochs is 0", "at least 1")),
        ("lr: 1\nepochs: 2\nlr: 2", ("'lr' is there twice, again in line 3: keep one",)),
        ("batch_size: {a: 1, '*': 2, a: 3}", ("'a' is there twice, again in line 1: keep one",)),
        (
            "model_arguments: {oct_resmet*: {width: 0.5}}",
            ("'oct_resmet*'", "none of the networks oct_m", "mend"),
        ),
    ],
)
def test_wrong_files(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert all(part in str(caught.value) for part in (str(path), *parts)), caught.value
    assert "\n" not in str(caught.value)


def test_a_key_may_replace_one_that_is_merged_in(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model_arguments: {'*': &a {x: 1, y: 2}, '*50': {<<: *a, x: 3}}", "utf-8")
    assert load_recipe(path).model_arguments["*50"] == {"x": 3, "y": 2}


def test_arguments_may_be_of_any_network_of_the_recipe_or_of_the_call(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    arguments = {"oct_resnet50": {"width": 0.5}, "oct_resnet18": {"width": 0.5}}
    path.write_text(dump_recipe(Recipe(model_arguments=arguments)), "utf-8")
    recipe = load_recipe(path, models=["oct_resnet18"])  # the file's networks have the other pattern
    assert recipe.arguments_of("oct_resnet18") == {"width": 0.5}
    with pytest.raises(InputError, match="'oct_resnet18' that matches none of the networks oct_mobilenet_v1"):
        load_recipe(path, models=["oct_mobilenet_v1"])
    path.write_text(dump_recipe(recipe), "utf-8")  # as the run folder of one of the networks has it
    assert read_recipe(path) == recipe


def test_a_missing_recipe_lists_those_that_ship() -> None:
    with pytest.raises(InputError, match="recipe nonsense does not exist: give one of quick, article, cifar"):
        load_recipe("nonsense")


def test_binary_is_not_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="YAML"):
        load_recipe(path)
