"""VideoLCM Prompt Words: the words are those of the embedded models."""

import itertools
import re

import pytest
from safetensors import safe_open

import setup
from training.mini import world


@pytest.fixture(scope="module")
def words(host):
    return host.pack("nodes.tools.prompt_words")


def test_words_are_those_of_the_training(words):
    assert set(words.OBJECTS) == {thing.caption for thing in world.OBJECTS.values()}
    assert set(words.MOTIONS) == set(world.MOTIONS.values())
    assert set(words.PLACES) == set(world.PLACES.values())


@pytest.mark.parametrize("file", ["videolcm-mini", "videolcm-mini-teacher", "videolcm-mini-vcomposer"])
def test_files_know_the_words(host, words, file):
    """No token of any prompt is unknown to the text encoders that ship."""
    clip = host.run("VideoLCMCheckpointLoader", ckpt_name=f"{file}.safetensors")[1]
    with safe_open(setup.ROOT / "models" / f"{file}.safetensors", "pt") as tensors:
        known = set(tensors.get_tensor("cond_stage_model.vocabulary").tolist())
    for parts in itertools.product(words.OBJECTS, words.MOTIONS, words.PLACES):
        ids = {row[0] for row in clip.tokenize(host.run("VideoLCMPromptWords", **named(parts))[0])["l"][0]}
        assert ids <= known, parts


def named(parts):
    return dict(zip(("object", "motion", "place"), parts, strict=True))


def test_prompt_is_a_caption(host):
    prompt = host.run("VideoLCMPromptWords", object="a horse", motion="jumps up and down", place="on snow")
    assert prompt == ("a horse jumps up and down on snow",)


def test_each_word_can_be_shuffled(host):
    inputs = host.nodes.NODE_CLASS_MAPPINGS["VideoLCMPromptWords"].INPUT_TYPES()["required"]
    assert all(options["control_after_generate"] is True for _, options in inputs.values())


def test_model_card_lists_the_words(words):
    card = " ".join((setup.ROOT / "models" / "README.md").read_text().split())
    for name, entries in (("objects", words.OBJECTS), ("motions", words.MOTIONS), ("places", words.PLACES)):
        assert re.search(rf"- {name}: {', '.join(entries)}", card), name
