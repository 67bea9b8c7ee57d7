"""The world of the embedded model: what is held out, how captions become tokens, how clips are drawn."""

import io
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch

from training.data.tokens import tokenize
from training.mini import captions, corpus, world
from training.mini.models3d import read_model
from training.mini.render import Renderer
from videolcm_core.networks.text_encoder import TextEncoder


def test_held_out_combinations_are_never_trained_on_even_mirrored():
    unseen, seen = set(world.held_out()), set(world.training_combinations())
    assert len(unseen) == 32
    assert not unseen & (seen | {corpus.mirrored(c) for c in seen})


def test_every_pair_of_attributes_is_seen_in_training():
    seen = world.training_combinations()
    assert min(Counter((c.thing, c.motion) for c in seen).values()) >= 1
    assert len({(c.thing, c.motion) for c in seen}) == len(world.OBJECTS) * len(world.MOTIONS)
    assert len({(c.thing, c.place) for c in seen}) == len(world.OBJECTS) * len(world.PLACES)
    assert len({(c.motion, c.place) for c in seen}) == len(world.MOTIONS) * len(world.PLACES)


def test_tokens_are_clips():
    # ids of CLIP's published vocabulary
    assert tokenize(["A  teddy bear"])[0, :6].tolist() == [49406, 320, 11798, 4298, 49407, 49407]
    assert tokenize(["word " * 200]).shape == (1, 77)
    assert tokenize([""])[0].tolist() == [49406] + [49407] * 76


def test_unknown_words_share_one_row():
    tokens = captions.CaptionTokens()
    encoder = TextEncoder(tokens.vocabulary)
    known, strange = encoder.rows(tokenize(["a horse on grass"])), encoder.rows(tokenize(["a zeppelin on grass"]))
    assert (known[0, :5] > 0).all()
    assert strange[0, 2] == 0 and (strange[0, [0, 1]] == known[0, [0, 1]]).all()


def test_caption_forms_are_drawn_with_their_shares():
    tokens = captions.CaptionTokens()
    labels = torch.arange(160).repeat(20)
    ids = tokens.draw(labels, torch.Generator().manual_seed(1), unknown=0.0)
    empty = (ids[:, 1] == 49407).float().mean()
    full = (ids == tokens.full(labels)).all(1).float().mean()
    assert empty == pytest.approx(0.10, abs=0.02)
    assert full == pytest.approx(0.79, abs=0.03)


@pytest.fixture
def cube_library(tmp_path):
    """A furniture library with one red cube."""
    corners = [(x, y, z) for x in (-2, 2) for y in (0, 4) for z in (-2, 2)]
    faces = [(1, 2, 4, 3), (5, 7, 8, 6), (1, 5, 6, 2), (3, 4, 8, 7), (1, 3, 7, 5), (2, 6, 8, 4)]
    obj = "mtllib cube.mtl\nusemtl red\n" + "".join(f"v {x} {y} {z}\n" for x, y, z in corners)
    obj += "".join("f " + " ".join(map(str, f)) + "\n" for f in faces)
    path = tmp_path / "Test.sh3f"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "name#1=Cube\nmodel#1=/cube/cube.obj\ncreator#1=Nobody\n")
        archive.writestr("cube/cube.obj", obj)
        archive.writestr("cube/cube.mtl", "newmtl red\nKd 0.9 0.1 0.1\n")
    return path


def test_a_model_is_read_triangulated_and_normalised(cube_library):
    model = read_model(cube_library, 1)
    points = model.parts[0].vertices
    assert (model.name, model.creator, len(points)) == ("Cube", "Nobody", 36)
    np.testing.assert_allclose(points[:, :3].min(0), [-0.5, 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(points[:, :3].max(0), [0.5, 1, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match="no model number 2"):
        read_model(cube_library, 2)


@pytest.mark.parametrize(("motion", "sign"), [("left", -1), ("right", 1)])
def test_rendered_objects_move_as_their_caption_says(cube_library, motion, sign):
    model, renderer = read_model(cube_library, 1), Renderer(world.SIZE)
    combination = world.Combination("snowman", motion, "snow")
    drawn = corpus.render_combination(renderer, model, combination, world.floor_images(), 2)
    clips = drawn["clips"]
    assert clips.shape == (2, world.FRAMES, 64, 64, 3)
    red = clips[..., 0].astype(int) - clips[..., 1] > 60
    columns = np.arange(64)
    centre = (red * columns).sum((2, 3)) / red.sum((2, 3))
    assert (sign * np.diff(centre, axis=1).mean(1) > 1.0).all()
    again = corpus.render_combination(renderer, model, combination, world.floor_images(), 2)
    assert all((drawn[name] == again[name]).all() for name in drawn)
    # The true layers tell the same: the silhouette lies on the red pixels, and the motion is that of their centre.
    inside = drawn["silhouette"] > 127
    assert (inside & red).sum() > 0.6 * inside.sum() and (red & ~inside).sum() < 0.1 * inside.sum()
    moved = drawn["motion"].astype(float)
    assert not moved[:, 0].any() and not moved[~(drawn["silhouette"] > 0)].any()
    mean = (moved[..., 0] * inside).sum((2, 3)) / inside.sum((2, 3))
    whole = ~(red[..., :2].any((2, 3)) | red[..., -2:].any((2, 3)))
    assert whole.any()
    step = np.diff(centre, axis=1)
    assert np.abs(mean[:, 1:] - step)[whole[:, 1:] & whole[:, :-1]].max() < 0.6
    assert np.abs((moved[..., 1] * inside).sum((2, 3)) / inside.sum((2, 3))).max() < 0.4
    depth = drawn["depth"].astype(float)
    assert (depth[:, :, -1].mean() > 1.0) and depth[:, :, 0].mean() < 0.05 and 0.7 < depth[inside].mean() < 1.6


def test_a_missing_library_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="sweethome3d-furniture"):
        corpus.load_models(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="corpus.json is missing"):
        corpus.load_corpus(tmp_path, [world.Combination("horse", "left", "grass")])
    corpus.write_index(corpus.corpus_of(tmp_path))
    with pytest.raises(FileNotFoundError, match="horse_left_grass.npz"):
        corpus.load_corpus(tmp_path, [world.Combination("horse", "left", "grass")])


def test_texture_rows_start_at_the_bottom(cube_library):
    from PIL import Image

    image = Image.new("RGB", (2, 2), (0, 0, 0))
    image.putpixel((0, 1), (255, 0, 0))  # lower left
    data = io.BytesIO()
    image.save(data, "PNG")
    with zipfile.ZipFile(cube_library, "a") as archive:
        archive.writestr("other/t.png", data.getvalue())
        archive.writestr("other/o.obj", "mtllib o.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 3/1\n")
        archive.writestr("other/o.mtl", "newmtl m\nmap_Kd t.png\n")
    from training.mini.models3d import _read_obj

    with zipfile.ZipFile(cube_library) as archive:
        texture = _read_obj(archive, "other/o.obj")[0].texture
    assert texture[0, 0].tolist() == [255, 0, 0]
