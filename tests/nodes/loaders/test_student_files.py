"""Files that the training package exports, in the real host: its loaders, its LoRA, its own readers and savers."""

import pytest
import torch

from training.students import LoraOptions, export_lora_kohya, export_lora_peft, export_student, lora_student
from training.teachers import load_teacher


@pytest.fixture(scope="module")
def base(host, unet_state_dict, checkpoint_tensors, write_model):
    """A teacher without encoders, as the authors' files are."""
    return write_model("tf-t2v.safetensors", unet_state_dict, None)


def folder(host):
    return host.base / "models" / "videolcm"


def trained(teacher, alpha=8):
    with torch.inference_mode(False):
        student = lora_student(teacher, LoraOptions(rank=4, alpha=alpha, temporal_convs=True))
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in student.trainable():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return student


def predict(model, x, context):
    """The network's own output, patches applied as the host applies them for a run."""
    from comfy import model_management

    model_management.load_models_gpu([model], force_full_load=True)
    out = model.model.diffusion_model(x, torch.tensor([700.0]), context)
    return out.float()


@pytest.fixture(scope="module")
def student(host, base):
    return trained(load_teacher(folder(host) / base))


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(6)
    return torch.randn(1, 4, 3, 8, 8, generator=generator), torch.randn(1, 7, 32, generator=generator)


@pytest.fixture(scope="module")
def merged(host, base, student, inputs):
    """Weights and output of the merged student."""
    state = student.effective_state()
    network = load_teacher(folder(host) / base).network
    network.load_state_dict(state)
    with torch.no_grad():
        return state, network(inputs[0], torch.tensor([700]), inputs[1])


def load(host, name):
    return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="fp32", sampling="auto")[0]


def test_the_hosts_lora_loader_gives_the_merged_weights(host, base, student, merged, inputs):
    export_lora_kohya(host.base / "models" / "loras" / "kohya.safetensors", student, dtype=torch.float32)
    model = load(host, base)
    before = predict(model, *inputs)
    patched = host.run("LoraLoaderModelOnly", model=model, lora_name="kohya.safetensors", strength_model=1.0)[0]
    assert len(patched.patches) == sum(1 for _ in student.network.modules() if hasattr(_, "lora_A"))
    got = predict(patched, *inputs)
    assert (got - before).abs().max() > 1e-2
    assert torch.allclose(got, merged[1], atol=1e-5 * float(merged[1].abs().max()))
    weights = patched.model.diffusion_model.state_dict()
    assert all(torch.allclose(weights[k].float(), v, atol=1e-5) for k, v in merged[0].items())


def test_our_lora_node_takes_the_peft_file(host, base, student, merged, inputs):
    export_lora_peft(host.base / "models" / "loras" / "peft", student)
    patched = host.run(
        "VideoLCMLoraLoader", model=load(host, base), lora_name="peft/adapter_model.safetensors", strength_model=1.0
    )[0]
    assert torch.allclose(predict(patched, *inputs), merged[1], atol=1e-5 * float(merged[1].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("alpha", [1, 4, 32])
def test_one_student_is_one_model_in_every_form(host, base, dtype, alpha):
    """kohya's file, peft's folder and the merged weights, whatever alpha is to the rank."""
    student = trained(load_teacher(folder(host) / base), alpha)
    loras, merged = host.base / "models" / "loras", student.effective_state()
    before = load_teacher(folder(host) / base).network.state_dict()
    export_lora_kohya(loras / "form.safetensors", student, dtype=dtype)
    export_lora_peft(loras / "form", student, dtype=dtype)
    forms = {
        "kohya": ("VideoLCMLoraLoader", "form.safetensors"),
        "peft": ("VideoLCMLoraLoader", "form/adapter_model.safetensors"),
        "core": ("LoraLoaderModelOnly", "form.safetensors"),
    }
    for form, (node, name) in forms.items():
        patched = host.run(node, model=load(host, base), lora_name=name, strength_model=1.0)[0]
        weights = weights_of(patched)
        for key, wanted in merged.items():
            # Each factor of the difference is rounded once to the file's precision, the sum to float32.
            size = (wanted - before[key]).abs().max()
            bound = 2 * torch.finfo(dtype).eps * float(size) * 4 + 4 * torch.finfo(torch.float32).eps
            worst = float((weights[key].float() - wanted).abs().max())
            assert worst <= bound * max(1.0, float(wanted.abs().max())), (form, key, worst, bound)
    assert max(float((merged[k] - before[k]).abs().max()) for k in merged) > 0.01 * alpha / 4


def weights_of(model):
    from comfy import model_management

    model_management.load_models_gpu([model], force_full_load=True)
    return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}


def test_the_loader_reads_an_exported_student(host, base, student, merged, inputs):
    import comfy.utils

    path = folder(host) / "student.safetensors"
    teacher = load_teacher(folder(host) / base)
    export_student(path, merged[0], teacher, recipe={"name": "test"}, dtype=torch.float32)
    model = load(host, path.name)
    options = model.model.model_sampling.options
    assert options.distilled and options.prediction == "v" and options.zero_terminal_snr
    assert torch.allclose(predict(model, *inputs), merged[1], atol=1e-5 * float(merged[1].abs().max()))
    tensors, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    assert set(tensors) == set(merged[0]) and metadata["videolcm.base"] == base
    host.run("ModelSave", model=model, filename_prefix="again")
    saved = next((host.base / "output").glob("again*.safetensors"))
    again, _ = comfy.utils.load_torch_file(str(saved), return_metadata=True)
    found = {k.removeprefix("model.diffusion_model."): v for k, v in again.items()}
    assert all(torch.equal(found[k].float(), v) for k, v in merged[0].items())


def test_a_student_of_an_all_in_one_teacher_loads_whole(host, teacher, prompt):
    teacher = load_teacher(folder(host) / "tiny-teacher.safetensors")
    state = teacher.network.state_dict() | {"out.2.bias": torch.full((4,), 0.25)}
    export_student(folder(host) / "whole.safetensors", state, teacher, recipe={})
    model, clip, vae = host.run("VideoLCMCheckpointLoader", ckpt_name="whole.safetensors")[:3]
    assert model.model.model_sampling.options.distilled
    assert torch.equal(model.model.diffusion_model.state_dict()["out.2.bias"].float(), state["out.2.bias"])
    given = host.run("CLIPTextEncode", clip=clip, text="a dog")[0][0][0]
    assert torch.allclose(given, prompt("a dog")[0][0], atol=2e-3)
    assert vae.decode(torch.zeros(1, 4, 8, 8)).shape[-3:] == (64, 64, 3)
