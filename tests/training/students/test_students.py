"""What trains, and the files of a finished student."""

import copy
import json

import pytest
import torch
from precision import UNIT, assert_same, distance
from safetensors import safe_open
from torch.func import functional_call

from training.students import (
    LcmSettings,
    LoraOptions,
    export_lora_kohya,
    export_lora_peft,
    export_student,
    full_student,
    lora_student,
    lora_tensors,
)
from training.teachers import load_teacher
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

CONFIG = UNetConfig(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_scales=(1.0,),
    context_dim=32,
    num_heads=1,
    conditions=frozenset({"depth"}),
)


def randomise(module, seed, scale=0.05):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    network = UNet3D(CONFIG)
    randomise(network, 1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(network.state_dict(), path)
    return load_teacher(path)


@pytest.fixture(scope="module")
def lora(teacher):
    student = lora_student(teacher, LoraOptions(rank=4, alpha=6, temporal_convs=True))
    randomise(student.network, 2)
    return student


BARE = UNet3D(CONFIG, device="meta").train(False)


def run(network, seed=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 2, 4, 4, generator=generator)
    context = torch.randn(2, 3, 32, generator=generator)
    was = getattr(network, "training", None)
    with torch.no_grad():
        out = (network if was is None else network.train(False))(x, torch.tensor([999, 19]), context)
    if was is not None:
        network.train(was)
    return out


def run_with(state):
    """What a plain network of these weights computes; they keep their precision."""
    return run(lambda *args: functional_call(BARE, state, args))


def test_a_full_student_begins_as_the_teacher_and_leaves_it_alone(teacher):
    student = full_student(teacher)
    assert torch.equal(run(student.network), run(teacher.network)) and student.network.training
    assert len(student.trainable()) == len(list(teacher.network.parameters()))
    before = copy.deepcopy(teacher.network.state_dict())
    with torch.no_grad():
        for parameter in student.trainable():
            parameter.add_(0.1)
    assert all(torch.equal(v, before[k]) for k, v in teacher.network.state_dict().items())
    assert torch.equal(run_with(student.effective_state()), run(student.network))


def test_a_lora_begins_without_effect_and_trains_its_adapters_only(teacher):
    student = lora_student(teacher, LoraOptions(rank=2))
    assert torch.equal(run(student.network), run(teacher.network))
    names = [n for n, p in student.network.named_parameters() if p.requires_grad]
    assert names and all(".lora_" in name for name in names) and len(names) == len(student.trainable())
    adapted = lora_tensors(student.network)
    assert not any("temopral_conv" in name or "depth" in name or name.startswith("out.") for name in adapted)
    endings = {
        "to_q",
        "proj_in",
        "proj_out",
        "in_layers.2",
        "out_layers.3",
        "emb_layers.1",
        "skip_connection",
        "op",
        "conv",
    }
    assert all(any(name.endswith(f".{e}") for name in adapted) for e in endings)
    out = student.network(torch.randn(1, 4, 2, 4, 4), torch.tensor([5]), torch.randn(1, 3, 32))
    out.square().mean().backward()
    assert all(p.grad is not None for p in student.trainable())
    assert all(p.grad is None for p in student.network.parameters() if not p.requires_grad)


def test_the_same_seed_gives_the_same_adapters(teacher):
    first, again, other = (lora_student(teacher, LoraOptions(rank=2), seed) for seed in (5, 5, 6))
    name = next(iter(lora_tensors(first.network)))
    downs = [lora_tensors(s.network)[name][0] for s in (first, again, other)]
    assert torch.equal(downs[0], downs[1]) and not torch.equal(downs[0], downs[2])


def test_merged_weights_compute_what_the_adapters_compute(lora, teacher):
    assert any("temopral_conv" in name for name in lora_tensors(lora.network))
    merged = lora.effective_state()
    assert list(merged) and set(merged) == set(teacher.network.state_dict())
    assert (run(lora.network) - run(teacher.network)).abs().max() > 1e-2
    # Merged weights are rounded once, as the adapters' products are: in float64 both are the same.
    assert_same(lambda: run(lora.network), lambda: run_with(lora.effective_state()))
    average = copy.deepcopy(lora.network)
    with torch.no_grad():
        for name, parameter in average.named_parameters():
            parameter.mul_(0.5 if ".lora_B" in name else 1)
    assert_same(lambda: run(average), lambda: run_with(lora.effective_state(average)))


def test_peft_reloads_its_folder_to_the_same_output(lora, teacher, tmp_path):
    from peft import PeftModel

    folder = export_lora_peft(tmp_path / "lora", lora)
    reloaded = PeftModel.from_pretrained(copy.deepcopy(teacher.network), str(folder))
    assert_same(lambda: run(lora.network), lambda: run(reloaded))
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 6


def test_kohya_matrices_multiply_to_the_change_of_the_weights(lora, teacher, tmp_path):
    path = export_lora_kohya(tmp_path / "lora.safetensors", lora, dtype=torch.float32, teacher=teacher)
    merged, original = lora.effective_state(), teacher.network.state_dict()
    with safe_open(path, "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    assert metadata["ss_network_dim"] == "4" and metadata["ss_network_alpha"] == "6"
    changed = [k for k in merged if not torch.equal(merged[k], original[k])]
    assert len(tensors) == 3 * len(changed)
    for key in changed:
        module = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
        up, down, alpha = (tensors[f"{module}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        change = (up.flatten(1) @ down.flatten(1)).reshape(original[key].shape) * alpha / len(down)
        # Sums of `rank` products and a weight, rounded on both sides.
        largest = original[key].abs().max() + len(down) * up.abs().max() * down.abs().max() * alpha / len(down)
        assert distance(original[key] + change, merged[key]) <= 2 * (len(down) + 3) * UNIT * largest


def test_wrong_lora_options_say_what_is_allowed(teacher):
    for options, message in (({"rank": 0}, "rank is 0"), ({"alpha": -1}, "alpha is -1"), ({"dropout": 1.0}, "dropout")):
        with pytest.raises(ValueError, match=rf"{message}.*; allowed"):
            LoraOptions(**options)
    with pytest.raises(
        ValueError, match=r"targets to_r fit no layer .* allowed: endings of module names, by default to_q"
    ):
        lora_student(teacher, LoraOptions(targets=("to_q", "to_r")))


def test_the_exported_file_says_how_to_sample_it(teacher, tmp_path):
    student = full_student(teacher)
    randomise(student.network, 8)
    path = export_student(
        tmp_path / "student.safetensors",
        student.effective_state(),
        teacher,
        recipe={"name": "paper", "steps": 10},
        settings=LcmSettings(w=5.0),
        dtype=torch.float32,
    )
    with safe_open(path, "pt") as file:
        metadata = {k.removeprefix("videolcm."): v for k, v in file.metadata().items()}
        assert set(file.keys()) == set(student.network.state_dict())
    assert metadata["base"] == "teacher.pth" and metadata["prediction"] == "v" and metadata["w"] == "5.0"
    assert (metadata["sampling"], metadata["sampler"], metadata["steps"]) == ("lcm", "lcm", "4")
    assert metadata["zero_terminal_snr"] == "true" and metadata["original_steps"] == "50"
    assert json.loads(metadata["recipe"]) == {"name": "paper", "steps": 10}
    again = load_teacher(path, student=True)
    assert torch.equal(run(again.network), run(student.network)) and again.conditions == ("depth",)


def test_an_unusable_student_is_not_written(teacher, tmp_path):
    state, path = full_student(teacher).effective_state(), tmp_path / "student.safetensors"
    for wrong, message in (
        ({k: v for k, v in state.items() if k != "out.2.bias"}, "missing keys out.2.bias"),
        (state | {"out.2.bias": torch.full((4,), 1e6)}, "NaN or infinite values in out.2.bias, in float16"),
    ):
        with pytest.raises(ValueError, match=message):
            export_student(path, wrong, teacher, recipe={})
    assert list(tmp_path.iterdir()) == []
