"""What each recipe is made of, and that every field can be replaced."""

import argparse
from dataclasses import fields, replace

import pytest

from training.recipes import add_recipe_arguments, find_recipes, resolve_recipe
from training.recipes.videolcm import RECIPES, VideoLCMRecipe

COMPOSITION = {
    # arXiv 2312.09109, section 4.1.
    "paper": {
        "learning_rate": 1e-5,
        "rate_schedule": "constant",
        "images": 1,
        "videos": 3,
        "w": 9.0,
        "uncond": "empty",
        "original_steps": 50,
        "huber_c": 0.001,
        "target_ema": 0.95,
        "average_ema": 0.0,
        "release": "student",
        "steps": 4000,
        "clip_norm": 0.0,
        "weight_decay": 0.0,
        "image_key_scale": 1.0,
        "grid_draw": "uniform",
        "teacher_dropout": False,
        "target_dropout": False,
    },
    # train_videolcm_t2v_entrance.py and videolcm_t2v_train.yaml.
    "authors": {
        "learning_rate": 3e-5,
        "rate_schedule": "cosine",
        "warmup": 10,
        "rate_steps": 1_000_000,
        "images": 0,
        "w": 9.0,
        "uncond": "negative",
        "original_steps": 50,
        "huber_c": 0.001,
        "target_ema": 0.95,
        "average_ema": 0.0,
        "release": "student",
        "clip_norm": 0.0,
        "image_key_scale": 0.5,
        "teacher_dropout": True,
        "target_dropout": True,
        "precision": "fp16",
        "solver_precision": "float64",
        "batch": 64,
        "save_steps": 50,
    },
    "mini": {
        "learning_rate": 2e-4,
        "rate_schedule": "stable_decay",
        "warmup": 20,
        "rate_decay": 0.3,
        "batch": 10,
        "image_batch": 80,
        "steps": 800,
        "images": 1,
        "videos": 3,
        "image_temporal": False,
        "w": 2.0,
        "uncond": "empty",
        "grid_draw": "stratified",
        "clip_norm": 1.0,
        "target_ema": 0.95,
        "average_ema": 0.99,
        "release": "average",
        "precision": "bf16",
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_composed_as_its_source_says(name):
    settings = RECIPES[name]().settings()
    assert {k: settings[k] for k in COMPOSITION[name]} == COMPOSITION[name]
    assert settings["name"] == name


def test_the_authors_negative_prompt_is_theirs():
    assert RECIPES["authors"]().negative_prompt.startswith("Distorted, discontinuous, Ugly")
    assert RECIPES["paper"]().negative_prompt == ""


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return resolve_recipe(parser.parse_args(list(arguments)))


@pytest.mark.parametrize("field", [f for f in fields(VideoLCMRecipe) if f.name != "name"], ids=lambda f: f.name)
def test_every_field_can_be_replaced(field):
    given = {
        "rate_schedule": "cosine",
        "uncond": "negative",
        "negative_prompt": "ugly",
        "grid_draw": "stratified",
        "precision": "no",
        "teacher_precision": "float16",
        "solver_precision": "float64",
        "release": "target",
        "target_ema": "0.5",
        "average_ema": "0.5",
        "image_temporal": "false",
    }.get(field.name, "true" if field.type == "bool" else "7")
    changed = parse("--recipe", "paper", f"--{field.name.replace('_', '-')}", given)
    before = RECIPES["paper"]().settings()
    differing = {k for k, v in changed.settings().items() if before[k] != v}
    assert differing == {field.name} and str(getattr(changed, field.name)).lower().removesuffix(".0") == given


def test_guidance_of_the_ablation():
    assert [parse("--recipe", "paper", "--w", w).w for w in ("5", "9", "15")] == [5.0, 9.0, 15.0]


def test_wrong_values_say_what_is_allowed():
    with pytest.raises(ValueError, match="target_ema is 1.0; allowed: 0 up to"):
        parse("--target-ema", "1")
    with pytest.raises(ValueError, match="average_ema is 0"):
        parse("--recipe", "paper", "--release", "average")
    with pytest.raises(ValueError, match="uncond is 'none'; allowed: empty, negative"):
        replace(RECIPES["mini"](), uncond="none")


def test_learning_rates():
    authors, paper, mini = (RECIPES[n]() for n in ("authors", "paper", "mini"))
    # The authors' first update has rate 0; the cosine is so long that nothing of it is seen.
    assert authors.rate(0) == 0 and authors.rate(5) == pytest.approx(1.5e-5)
    assert authors.rate(10) == pytest.approx(3e-5) and authors.rate(32_000) == pytest.approx(3e-5, rel=0.01)
    assert authors.rate(1_000_000) == pytest.approx(0, abs=1e-12)
    assert {paper.rate(i) for i in (0, 1, 3999)} == {1e-5}
    assert mini.rate(0) == pytest.approx(1e-5) and mini.rate(550) == 2e-4 and mini.rate(799) < 4e-6


def test_recipes_are_found_by_the_name_of_their_method():
    assert find_recipes("videolcm") is RECIPES
    with pytest.raises(ValueError, match="no recipes of 'magic'"):
        find_recipes("magic")
