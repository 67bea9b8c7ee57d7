"""A LoRA student that begins at another LoRA."""

import pytest
import tiny_training as tiny
import torch
from safetensors.torch import load_file, save_file

from training.students import LoraOptions, export_lora_kohya, export_lora_peft, lora_student, start_at


def student(rank=3, seed=1, alpha=None):
    return lora_student(tiny.tiny_teacher(), LoraOptions(rank=rank, alpha=alpha), seed=seed)


@pytest.fixture
def first():
    made, generator = student(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.trainable():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_it_begins_where_the_other_ended_whatever_its_alpha(tmp_path, first, layout, alpha):
    if layout == "kohya":
        path = export_lora_kohya(tmp_path / "l.safetensors", first, dtype=torch.float32)
    else:
        path = export_lora_peft(tmp_path / "peft", first)
    second = student(seed=7, alpha=alpha)
    start_at(second, path)
    expected = first.effective_state()
    for name, value in second.effective_state().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    assert all(p.requires_grad for p in second.trainable())


def test_another_rank_other_layers_and_more_than_matrices_are_refused(tmp_path, first):
    path = export_lora_kohya(tmp_path / "l.safetensors", first, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"rank 3 in .*; allowed: a LoRA of rank 4 on the \d+ layers that train"):
        start_at(student(rank=4), path)
    tensors = load_file(path)
    module = next(iter(tensors)).partition(".")[0]
    fewer = {key: value for key, value in tensors.items() if not key.startswith(f"{module}.")}
    save_file(fewer, tmp_path / "fewer.safetensors")
    with pytest.raises(ValueError, match="1 layers that are missing, others or more"):
        start_at(student(), tmp_path / "fewer.safetensors")
    dora = tensors | {f"{module}.dora_scale": torch.ones(len(tensors[f"{module}.lora_up.weight"]), 1)}
    save_file(dora, tmp_path / "dora.safetensors")
    with pytest.raises(ValueError, match="layers that are missing, others or more"):
        start_at(student(), tmp_path / "dora.safetensors")
