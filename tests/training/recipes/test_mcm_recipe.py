"""MCM's recipes: the numbers of the paper and of the authors' scripts, and what is refused."""

import argparse
from dataclasses import fields, replace

import pytest

from training.methods.parts.adversary import ADVERSARIAL_LOSSES
from training.methods.parts.features import FEATURES
from training.recipes import add_recipe_arguments, resolve_recipe
from training.recipes.mcm import RECIPES, MCMRecipe

SHARED = {
    "original_steps": 50,
    "w_low": 5.0,
    "w_high": 15.0,
    "timestep_scaling": 4.0,
    "huber_c": 0.001,
    "motion": "learned",
    "lambda_real": 0.5,
    "adversarial_weight": 1.0,
    "disc_frames": 2,
    "head_ema": 0.95,
    "learning_rate": 5e-6,
    "batch": 128,
    "images": 0,
    "features": "dinov2_s14",
    "feature_size": 224,
    "disc_text": "own",
    "average_ema": 0.0,
    "release": "student",
    "weight_decay": 0.0,
    "penalty_limit": 100.0,
    "penalty_factor": 5.0,
    "penalty_wait": 500,
    "real_decoded": False,
}
COMPOSITION = {
    # arXiv 2406.06890, section 4 and appendix.
    "paper": SHARED
    | {
        "adversarial_loss": "hinge",
        "penalty_weight": 0.0,
        "disc_rate": 5e-5,
        "rate_schedule": "constant",
        "clip_norm": 0.0,
        "steps": 30_000,
    },
    # The three published scripts, with the defaults of the arguments they do not give.
    "authors": SHARED
    | {
        "adversarial_loss": "wgan",
        "penalty_weight": 1e-5,
        "disc_rate": 1e-4,
        "rate_schedule": "cosine",
        "warmup": 500,
        "clip_norm": 10.0,
        "precision": "fp16",
        "real_by_part": True,
        "frame_stride": 8,
        "crop_area": 0.75,
        "image_crop_area": 0.5,
        "save_steps": 500,
        "steps": 38_554,
    },
}


@pytest.mark.parametrize("name", COMPOSITION)
def test_a_recipe_is_composed_as_its_source_says(name):
    settings = RECIPES[name]().settings()
    assert {k: settings[k] for k in COMPOSITION[name]} == COMPOSITION[name]
    assert settings["name"] == name


def test_names_in_the_recipe_are_those_of_the_parts():
    assert set(MCMRecipe.choices["adversarial_loss"]) == set(ADVERSARIAL_LOSSES)
    assert set(MCMRecipe.choices["features"]) == set(FEATURES)


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, "mcm")
    return resolve_recipe(parser.parse_args(list(arguments)), "mcm")


OWN = [f for f in fields(MCMRecipe) if f.name in MCMRecipe.__annotations__ and f.name not in ("choices", "images")]


@pytest.mark.parametrize("field", OWN, ids=lambda f: f.name)
def test_every_field_can_be_replaced(field):
    given = {
        "motion": "difference",
        "adversarial_loss": "bce",
        "features": "alexnet",
        "features_file": "dino",
        "feature_size": "28",
        "disc_text": "clip",
        "disc_text_file": "clip.bin",
        "augments": "false",
        "head_ema": "0.5",
        "lambda_real": "0.25",
    }.get(field.name, "true" if field.type == "bool" else "7")
    changed = parse("--recipe", "paper", f"--{field.name.replace('_', '-')}", given)
    before = RECIPES["paper"]().settings()
    assert {k for k, v in changed.settings().items() if before[k] != v} == {field.name}
    assert str(getattr(changed, field.name)).lower().removesuffix(".0") == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion": "flow"}, "motion is 'flow'; allowed: raw, difference"),
        ({"images": 1}, "images is 1; allowed for MCM: 0"),
        ({"w_low": 9.0, "w_high": 5.0}, "w_low is 9.0 and w_high 5.0; allowed: 0 <= w_low <= w_high"),
        ({"w_low": -1.0}, "allowed: 0 <= w_low"),
        ({"lambda_real": 1.5}, "lambda_real is 1.5; allowed: 0 to 1"),
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1.0; allowed: 0 or more"),
        ({"penalty_weight": -1.0}, "penalty_weight is -1.0; allowed: 0 or more"),
        ({"disc_frames": 0}, "disc_frames is 0; allowed: 1 or more"),
        ({"disc_group": 0}, "disc_group is 0; allowed: 1 or more"),
        ({"feature_size": 0}, "feature_size is 0; allowed: 1 or more"),
        ({"disc_rate": 0.0}, "disc_rate is 0.0; allowed: above 0"),
        ({"head_ema": 1.0}, "head_ema is 1.0; allowed: 0 up to"),
        ({"features": "clip"}, "features is 'clip'; allowed: dinov2_s14, vgg16, inception, alexnet"),
        (
            {"feature_size": 225},
            "feature_size is 225 .* allowed: 28 or more, a multiple of 14. Give --feature-size 224",
        ),
        ({"features": "vgg16", "feature_size": 31}, "feature_size is 31 .* vgg16's; allowed: 32 or more. Give"),
        ({"disc_text": "t5"}, "disc_text is 't5'; allowed: own, clip"),
    ],
)
def test_wrong_values_say_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["paper"](), **changes)


def test_the_discriminators_rate_follows_the_students_schedule():
    paper, authors = RECIPES["paper"](), RECIPES["authors"]()
    assert [paper.disc_rate_at(i) for i in (0, 100, 29_999)] == pytest.approx([5e-5] * 3)
    assert authors.disc_rate_at(0) == 0.0 and authors.disc_rate_at(500) == pytest.approx(1e-4)
    assert authors.disc_rate_at(38_554) == pytest.approx(0.0, abs=1e-12)
    assert paper.w == 10.0
