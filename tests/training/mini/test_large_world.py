"""The world at 128 x 128: what is held out, directions, colours, looks, and a corpus that is read through a map."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data.corpus import Corpus
from training.data.latents import cached_latents, encode_clips
from training.data.mapped import Joined, mapped_member
from training.data.tokens import tokenize
from training.mini import autoencoder, captions, corpus, styles, world
from training.mini import family as mini
from training.mini.models3d import Model3D, Part, dyed
from training.mini.render import Renderer
from training.mini.worlds import base, large
from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.text_encoder import TextEncoder

LARGE = large.LARGE
WORLDS = pytest.mark.parametrize("of", [world.MINI, LARGE], ids=lambda w: w.name)
SMALL = replace(
    LARGE,
    objects={name: LARGE.objects[name] for name in ("horse", "red car")},
    motions={name: LARGE.motions[name] for name in ("left", "right")},
    places={name: LARGE.places[name] for name in ("grass", "wood")},
    held_out_rule=lambda i, j, k: i == k == 1,
    size=32,
)


def block(sides, color=(0.9, 0.1, 0.1), texture=None):
    """A box on the floor with a nose towards +z, as a model."""
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (0, 1) for z in (-0.5, 0.5)], np.float32) * sides
    nose = corners * np.array([0.3, 0.3, 0.6]) + np.array([0, 0.4 * sides[1], sides[2] / 2])
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [t for a, b, c, d in faces for t in (a, b, c, a, c, d)]
    points = np.concatenate([corners[triangles], nose[triangles]])
    normal = np.repeat(np.cross(points[1::3] - points[::3], points[2::3] - points[::3]), 3, axis=0)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    vertices = np.hstack([points, normal, points[:, :2]]).astype("f4")
    return Model3D(name="box", creator="", licence="", parts=[Part(vertices=vertices, color=color, texture=texture)])


@pytest.fixture(scope="module")
def renderer():
    return Renderer(64)


def drawn(renderer, motion, place="snow", count=2, thing="horse", **looks):
    model = block((0.6, 0.7, 0.5))
    of = base.Combination(thing, motion, place, LARGE.name)
    return corpus.render_combination(renderer, model, of, LARGE.floors(), count, **looks)


@WORLDS
def test_held_out_combinations_are_unseen_and_each_pair_is_seen(of):
    every, unseen, seen = of.combinations(), set(of.held_out()), of.training_combinations()
    assert len(every) == len(of.objects) * len(of.motions) * len(of.places) == len(unseen) + len(seen)
    assert not unseen & (set(seen) | {of.mirrored(c) for c in seen})
    assert 0.08 < len(unseen) / len(every) < 0.25
    for names, other in (("thing", "motion"), ("thing", "place"), ("motion", "place")):
        assert {(getattr(c, names), getattr(c, other)) for c in seen} == {
            (getattr(c, names), getattr(c, other)) for c in every
        }


def test_the_world_is_as_large_as_asked():
    assert 16 <= len({(t.library, t.number) for t in LARGE.objects.values()}) <= 24
    assert len(set(LARGE.motions.values())) >= 5 and len(LARGE.places) == 6
    assert (LARGE.size, LARGE.frames, LARGE.fps) == (128, 16, 8)
    assert len({c.caption for c in LARGE.combinations()}) == len(LARGE.combinations())


@WORLDS
def test_every_word_of_every_caption_is_known(of):
    tokens = captions.CaptionTokens(of)
    rows = TextEncoder(tokens.vocabulary).rows(tokenize([c.caption for c in of.combinations()]))
    assert (rows > 0).all()
    assert (tokens.full(torch.tensor([3]))[0] == tokenize([of.combinations()[3].caption])[0]).all()


@pytest.mark.parametrize("name", ["videolcm", "", "videolcm-mini-64"])
def test_an_unknown_world_is_named_with_those_there_are(name):
    with pytest.raises(ValueError, match=rf"no world '{name}'; allowed: videolcm-mini, videolcm-mini-128"):
        base.world_named(name)


def centre(silhouette):
    inside = silhouette > 127
    columns = np.arange(inside.shape[-1])
    return (inside * columns).sum((2, 3)) / inside.sum((2, 3))


def test_left_and_right_are_mirror_images_with_the_words_swapped(renderer):
    left, right = (centre(drawn(renderer, m, count=3)["silhouette"]) for m in ("left", "right"))
    assert (np.diff(left, axis=1).mean(1) < -0.8).all() and (np.diff(right, axis=1).mean(1) > 0.8).all()
    for c in LARGE.combinations():
        words, twin = c.caption.split(), LARGE.mirrored(c).caption.split()
        assert [{"left": "right", "right": "left"}.get(w, w) for w in words] == twin
        assert LARGE.mirrored(LARGE.mirrored(c)) == c


def test_the_object_faces_where_it_goes():
    for motion, sign in (("left", -1), ("right", 1)):
        path = large.poses(base.Combination("horse", motion, "sand", LARGE.name), np.random.default_rng(1))
        assert all(np.sin(p.yaw) * sign > 0.9 for p in path), "a yaw of a quarter turn faces +x"
    for motion, sign in (("towards", 1), ("away", -1)):
        path = large.poses(base.Combination("horse", motion, "sand", LARGE.name), np.random.default_rng(1))
        assert all(np.cos(p.yaw) * sign > 0.9 for p in path)
        assert (np.diff([p.position[2] for p in path]) * sign > 0).all()


def test_towards_grows_away_shrinks_and_jump_rises(renderer):
    area = {m: (drawn(renderer, m)["silhouette"] > 127).sum((2, 3)) for m in ("towards", "away")}
    assert (area["towards"][:, -1] > 2 * area["towards"][:, 0]).all()
    assert (area["away"][:, 0] > 2 * area["away"][:, -1]).all()
    rows = np.arange(64)[:, None]
    inside = drawn(renderer, "jump")["silhouette"] > 127
    height = (inside * rows).sum((2, 3)) / inside.sum((2, 3))
    assert (height.max(1) - height.min(1) > 6).all()


def test_only_an_orbit_moves_the_floor(renderer):
    for motion in large.MOTIONS:
        seen = drawn(renderer, motion, count=1)
        floor = (seen["silhouette"] == 0) & (seen["depth"] > 0.5)
        moved = np.abs(seen["motion"].astype(float)).max(-1)[floor].max()
        assert (moved > 0.5) == (motion == "orbit"), motion


def test_motion_of_an_orbit_is_the_pixels_motion(renderer):
    """Carried along their motion, the frame's pixels lie on the frame before."""
    seen = drawn(renderer, "orbit", place="carpet", count=1)
    clip, motion, depth = seen["clips"][0].astype(float), seen["motion"][0].astype(float), seen["depth"][0]
    y, x = np.mgrid[:64, :64]
    wrong, still = [], []
    for f in range(1, 16):
        from_y, from_x = (np.rint(a - motion[f, ..., i]).astype(int) for a, i in ((y, 1), (x, 0)))
        inside = (from_y >= 0) & (from_y < 64) & (from_x >= 0) & (from_x < 64) & (depth[f] > 1.2)
        before = clip[f - 1][from_y.clip(0, 63), from_x.clip(0, 63)]
        wrong.append(np.abs(clip[f] - before)[inside].mean())
        still.append(np.abs(clip[f] - clip[f - 1])[inside].mean())
    assert np.mean(wrong) < 0.75 * np.mean(still)


@pytest.mark.parametrize("texture", [None, np.full((4, 4, 3), (20, 90, 200), np.uint8)])
@pytest.mark.parametrize("color", [(0.85, 0.08, 0.07), (0.98, 0.80, 0.08), (0.10, 0.22, 0.88)])
def test_dye_changes_coloured_parts_alone(texture, color):
    before = block((1, 1, 1), color=(0.1, 0.4, 0.8), texture=texture)
    after = dyed(before, color).parts[0]
    shown = np.array(after.color) if texture is None else after.texture.mean((0, 1)) / 255
    assert np.abs(shown - color).max() < 0.15 and after.vertices is before.parts[0].vertices
    grey = block((1, 1, 1), color=(0.5, 0.5, 0.52))
    assert dyed(grey, color).parts[0] is grey.parts[0]


def test_each_dyed_object_has_its_colours_word():
    dyes = [(n, t) for n, t in LARGE.objects.items() if t.tint is not None]
    assert len(dyes) == 9
    for name, thing in dyes:
        color = name.split()[0]
        r, g, b = thing.tint
        assert {"red": r > 2 * max(g, b), "yellow": min(r, g) > 3 * b, "blue": b > 2 * max(r, g)}[color]
        assert thing.caption == f"a {name}"


@pytest.mark.parametrize("style", styles.STYLES)
def test_a_look_changes_pixels_and_nothing_else(renderer, style):
    model, of = block((0.6, 0.7, 0.5)), base.Combination("horse", "spin", "grass", LARGE.name)
    rng, floors = np.random.default_rng(3), LARGE.floors()
    poses, scenes = LARGE.poses(of, rng)[:2], LARGE.scenes(of, floors, rng)[:2]
    frames, layers = renderer.clip(model, poses, scenes), renderer.layers(model, poses, scenes)
    kept = frames.copy(), layers.depth.copy()
    looked = styles.STYLES[style](frames, layers)
    assert looked.shape == frames.shape and looked.dtype == np.uint8
    assert np.abs(looked.astype(int) - frames).mean() > 15
    assert (frames == kept[0]).all() and (layers.depth == kept[1]).all(), "the arguments are left as they were"
    others = [s for n, s in styles.STYLES.items() if n != style]
    assert all(np.abs(o(frames, layers).astype(int) - looked).mean() > 15 for o in others)


def test_models_and_floors_are_told_apart_when_others_were_freed():
    """Identities of freed objects come again; what was drawn by them must not."""
    renderer, seen = Renderer(32), set()
    of = base.Combination("horse", "spin", "snow", LARGE.name)
    for shade in range(12):
        model = block((1, 1, 1), color=(shade / 12, 0.2, 0.9))
        clips = corpus.render_combination(renderer, model, of, LARGE.floors(), 1, layers=False)["clips"]
        seen.add(clips.tobytes())
        del model
    assert len(seen) == 12


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The corpus command on a smaller world, with boxes for its objects."""
    monkeypatch.setattr(base, "worlds", lambda: {SMALL.name: SMALL})
    boxes = {n: block((0.5, 0.6, 0.9), (0.8, 0.2 * i, 0.1)) for i, n in enumerate(SMALL.objects)}
    monkeypatch.setattr(corpus, "load_models", lambda folder, of: boxes)

    def run(*more, out=tmp_path / "corpus"):
        numbers = ["--clips", "2", "--held-out-clips", "1", "--world", SMALL.name, "--no-layers"]
        corpus.main(["--furniture", "x", "--out", str(out), *numbers, *more])
        return out

    return run


def test_a_killed_corpus_goes_on_to_the_same_bits(command, tmp_path):
    whole, cut = command(), command("--part", "1/3", out=tmp_path / "cut")
    done = sorted(cut.glob("*.npz"))
    assert 0 < len(done) < len(SMALL.combinations())
    done[0].write_bytes(done[0].read_bytes()[:5000])
    command(out=cut)
    listed = [json.loads((f / "corpus.json").read_text(encoding="utf-8")) for f in (whole, cut)]
    assert listed[0] == listed[1] and listed[0]["world"] == SMALL.name and listed[0]["width"] == 32
    assert corpus.world_of(cut) is SMALL
    assert all((whole / p.name).read_bytes() == p.read_bytes() for p in cut.glob("*.npz"))


def test_a_corpus_of_a_look_has_single_frames(command):
    out = command("--style", "toon")
    opened = Corpus.open(out)
    clips, _ = opened.clips(opened.training)
    assert opened.frames == 1 and clips.shape[1:] == (1, 32, 32, 3)


def test_mapped_clips_are_the_read_ones(command):
    opened = Corpus.open(command())
    read, labels = opened.clips(opened.training)
    mapped, again = opened.mapped(opened.training)
    assert labels == again and mapped.shape == read.shape
    assert all(isinstance(p, np.memmap) for p in mapped.parts), "nothing is read before it is asked for"
    assert (mapped[1:5] == read[1:5]).all() and (mapped[np.array([7, 0, 3])] == read[[7, 0, 3]]).all()
    assert (mapped[::4] == read[::4]).all() and mapped[3:3].shape == read[3:3].shape
    frames = mapped.frames()
    assert (frames[np.array([17, 40])] == read.reshape(-1, *read.shape[2:])[[17, 40]]).all()


@pytest.mark.parametrize("damage", ["gone", "cut", "another number of clips"])
def test_a_damaged_mapped_shard_is_said(command, damage):
    opened = Corpus.open(command())
    path = opened.folder / opened.shards[0].file
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        np.savez(path, clips=np.zeros((1, 16, 32, 32, 3), np.uint8))
    with pytest.raises((ValueError, FileNotFoundError), match=r"Repeat the command that rendered it"):
        opened.mapped(opened.training)


def test_compressed_members_are_not_mapped(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.savez(tmp_path / "a.npz", other=values, clips=values + 1)
    np.savez_compressed(tmp_path / "b.npz", clips=values)
    assert (mapped_member(tmp_path / "a.npz", "clips") == values + 1).all()
    assert mapped_member(tmp_path / "b.npz", "clips") is None
    joined = Joined([values, values + 1])
    assert (joined[:] == np.concatenate([values, values + 1])).all()


def test_latents_in_parts_are_those_at_once(command, monkeypatch):
    opened, model = Corpus.open(command()), TinyAutoencoder().train(False)
    clips, shown = opened.clips(opened.training)
    monkeypatch.setattr("training.data.latents.PART_BYTES", 3 * clips[0].nbytes)  # one shard a part
    data = cached_latents(opened, model, opened.training)
    assert len(list(opened.folder.glob("latents_*.pt"))) == len(opened.training)
    flipped = np.ascontiguousarray(clips[:, :, :, ::-1])
    expected = torch.cat([encode_clips(model, clips, batch=2), encode_clips(model, flipped, batch=2)])
    assert torch.allclose(data.latents.float(), expected.float(), atol=2e-2)
    assert data.labels.tolist() == shown + [opened.mirrored(label) for label in shown]


def test_crops_are_squares_of_the_frames():
    frames = np.arange(2 * 24 * 32 * 3, dtype=np.uint32).reshape(2, 24, 32, 3)
    squares = autoencoder.cropped(frames, 16, torch.Generator().manual_seed(1))
    assert squares.shape == (2, 16, 16, 3)
    assert all(
        (np.diff(s[..., 0], axis=0) == 96).all() and s.min() >= f.min() for s, f in zip(squares, frames, strict=True)
    )
    for side in (12, 32, -8):
        with pytest.raises(ValueError, match=rf"--crop is {side}; allowed: a multiple of 8 up to 24"):
            autoencoder.cropped(frames, side, torch.Generator())


@WORLDS
def test_the_files_settings_follow_the_world(of):
    told = mini.metadata("teacher", {}, of)
    sizes = {"width": of.size, "height": of.size, "frames": of.frames, "fps": of.fps}
    assert {n: float(told[f"videolcm.{n}"]) for n in sizes} == sizes
    assert mini.compositional_of(of).channel_mult == mini.unet_of(of).channel_mult
    assert len(mini.unet_of(of).channel_mult) == (3 if of is LARGE else 2)
