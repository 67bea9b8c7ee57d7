"""A LoRA out of two networks: what it holds, that it loads, and what is refused."""

import copy

import pytest
import tiny_training as tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.mini import captions
from training.mini import family as mini
from training.students import extract
from videolcm_core.files.lora import read_lora
from videolcm_core.networks.autoencoder import TinyAutoencoder


def tuned_by(network, rank, seed=0):
    """A copy whose every weight matrix has moved by a matrix of a rank, and its biases."""
    tuned, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.ndim > 1:
                rows, columns = parameter.shape[0], parameter[0].numel()
                delta = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
                parameter += 0.01 * delta.view_as(parameter)
            else:
                parameter += 0.1
    return tuned


def test_a_difference_of_low_rank_is_held_whole_and_one_of_more_by_its_largest_part():
    base = tiny.tiny_teacher().network
    tuned = tuned_by(base, 3)
    found = extract.extract(base, tuned, 3)
    layers = [
        m
        for m in base.modules()
        if isinstance(m, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d)
    ]
    assert len(found) == len(layers)
    for name, (down, up, scale) in found.items():
        before, after = base.get_submodule(name).weight, tuned.get_submodule(name).weight
        again = (up.flatten(1) @ down.flatten(1)).view_as(before) * scale
        torch.testing.assert_close(before + again, after, atol=1e-5, rtol=1e-4)
        assert down.shape[1:] == before.shape[1:] and up.shape[:2] == (before.shape[0], len(down))
    whole, part = (extract.share(base, tuned, extract.extract(base, tuned, rank)) for rank in (3, 1))
    assert part < whole <= 1.0 + 1e-6


def test_networks_of_other_layers_and_equal_ones_are_refused():
    base = tiny.tiny_teacher().network
    with pytest.raises(ValueError, match="the networks are equal; allowed: a base and what was made of it"):
        extract.extract(base, copy.deepcopy(base), 2)
    with pytest.raises(ValueError, match="the networks have other layers, such as"):
        extract.extract(base, torch.nn.Sequential(torch.nn.Linear(2, 2)), 2)


def write_model(path, network_seed, moved):
    torch.manual_seed(0)
    model = mini.TextVideoModel(captions.CaptionTokens().vocabulary)
    network = tuned_by(model.unet, 2, network_seed) if moved else model.unet
    colors = {"latent_rgb_factors": [[0.0] * 3] * 4, "latent_rgb_bias": [0.0] * 3}
    mini.export(path, network, model.text, TinyAutoencoder(), "teacher", width=16, height=16, frames=4, **colors)


def test_the_command_writes_a_lora_and_what_it_gives(tmp_path, capsys):
    base, tuned, lora, merged = (tmp_path / f"{name}.safetensors" for name in ("base", "tuned", "lora", "merged"))
    write_model(base, 1, moved=False)
    write_model(tuned, 1, moved=True)
    files = ["--base", str(base), "--tuned", str(tuned), "--out", str(lora), "--merged", str(merged)]
    extract.main([*files, "--rank", "2"])
    assert "of the squared difference is in it" in capsys.readouterr().out
    before, after, written = load_file(base), load_file(tuned), load_file(merged)
    assert written.keys() == after.keys()
    for name, value in written.items():
        expected = after[name] if not name.startswith("model.") or value.ndim > 1 else before[name]
        torch.testing.assert_close(value.float(), expected.float(), atol=2e-3, rtol=2e-3)
    with safe_open(tuned, "pt") as one, safe_open(merged, "pt") as other:
        assert {k: v for k, v in one.metadata().items() if "hash" not in k}.items() <= other.metadata().items()
    with safe_open(lora, "pt") as file:
        known = file.metadata()
    assert known["ss_network_dim"] == "2" and known["videolcm.sampling"] == "teacher"
    assert len(read_lora(lora).layers) > 50
    with pytest.raises(ValueError, match="--rank is 0; allowed: 1 or more"):
        extract.main([*files, "--rank", "0"])
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="wrong teacher"):
        extract.main(["--base", str(base), "--tuned", str(tmp_path / "other.safetensors"), "--out", str(lora)])
