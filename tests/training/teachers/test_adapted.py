"""A LoRA on a teacher, and an autoencoder in a file of its own."""

import pytest
import tiny_training as tiny
import torch
from safetensors.torch import save_file

from training.students import LoraOptions, export_lora_kohya, export_lora_peft, lora_student
from training.teachers import Teacher, load_autoencoder, with_lora
from videolcm_core.files.settings import FileSettings
from videolcm_core.networks.autoencoder import TinyAutoencoder


def teacher_of(network):
    return Teacher(network=network, config=tiny.CONFIG, file="base.safetensors", settings=FileSettings())


def moved_student():
    student = lora_student(tiny.tiny_teacher(), LoraOptions(rank=3), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in student.network.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return student


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_a_teacher_with_a_lora_is_the_merged_network(tmp_path, layout):
    student = moved_student()
    if layout == "kohya":
        path = export_lora_kohya(tmp_path / "lora.safetensors", student, dtype=torch.float32)
    else:
        path = export_lora_peft(tmp_path / "peft", student) / "adapter_model.safetensors"
    base = teacher_of(tiny.tiny_teacher().network)
    adapted = with_lora(base, path)
    assert adapted.file == f"base.safetensors + {path.name}"
    for name, value in student.effective_state().items():
        torch.testing.assert_close(adapted.network.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_a_lora_of_another_network_is_refused_and_changes_nothing(tmp_path):
    save_file(
        {
            "lora_unet_elsewhere.lora_down.weight": torch.ones(2, 8),
            "lora_unet_elsewhere.lora_up.weight": torch.ones(8, 2),
        },
        tmp_path / "other.safetensors",
    )
    base = teacher_of(tiny.tiny_teacher().network)
    before = {name: value.clone() for name, value in base.network.state_dict().items()}
    with pytest.raises(ValueError, match="1 layers that do not fit base.safetensors, such as .*elsewhere"):
        with_lora(base, tmp_path / "other.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"none\.safetensors"):
        with_lora(base, tmp_path / "none.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in base.network.state_dict().items())


def test_an_autoencoder_comes_out_of_a_file_of_its_own(tmp_path):
    torch.manual_seed(0)
    model = TinyAutoencoder()
    save_file({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "vae.safetensors")
    loaded = load_autoencoder(tmp_path / "vae.safetensors")
    frames = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded.encode(frames), model.encode(frames), atol=2e-2, rtol=2e-2)
    save_file({"x": torch.ones(2)}, tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="autoencoder"):
        load_autoencoder(tmp_path / "none.safetensors")
