"""Memory and control: partial loading, interrupts, copies that the host makes, LoRA patches."""

import pytest
import torch
from precision import UNIT, distance


def fresh(host, write_model, unet_state_dict, name="fresh.safetensors"):
    write_model(name, unet_state_dict, {"videolcm.prediction": "v", "videolcm.head_dim": "64"})
    return host.run("VideoLCMModelLoader", model_name=name, weight_dtype="default", sampling="auto")[0]


def test_every_layer_can_be_cast_on_the_fly(model):
    """The host streams weights only through its own layers; a module of another kind would stay behind."""
    holders = [m for m in model.model.diffusion_model.modules() if list(m.parameters(recurse=False))]
    assert holders and all(hasattr(m, "comfy_cast_weights") for m in holders)


def test_low_memory_offload(host, write_model, unet_state_dict, model, prompt, latent):
    """With room for a third of the weights the rest is cast layer by layer, to the same numbers."""
    loaded = fresh(host, write_model, unet_state_dict)
    x, t = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0)), torch.full((3,), 999.0)
    options = {"cond_or_uncond": [0]}
    context = prompt("a dog")[0][0]
    expected = model.model.diffusion_model(x, t, context, transformer_options=options)
    loaded.load(torch.device("cpu"), lowvram_model_memory=loaded.model_size() // 3)
    layers = [m for m in loaded.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
    streamed = sum(1 for m in layers if m.comfy_cast_weights)
    assert loaded.model.model_lowvram and 0 < streamed < len(layers)
    out = loaded.model.diffusion_model(x, t, context, transformer_options=options)
    assert torch.equal(out, expected)
    loaded.detach()


def test_interrupt_inside_a_network_call(host, model, prompt, latent, ksampler, monkeypatch):
    """The first layer after the interrupt raises: nobody waits for the end of a step."""
    import comfy.model_management as manager

    calls = []
    block = type(model.model.diffusion_model.middle_block[0])
    forward = block.forward

    def counted(self, *args):
        calls.append(1)
        if len(calls) == 1:
            manager.interrupt_current_processing(True)
        return forward(self, *args)

    monkeypatch.setattr(block, "forward", counted)
    with pytest.raises(manager.InterruptProcessingException):
        ksampler(model, prompt("a dog"), latent(), steps=4)
    assert len(calls) == 1
    manager.interrupt_current_processing(False)
    monkeypatch.undo()
    assert ksampler(model, prompt("a dog"), latent()).isfinite().all()


def test_copies_the_host_makes(model, checkpoint):
    """LoRA hooks and several GPUs need loaders that can be called again."""
    for patcher in (model, checkpoint[1].patcher):
        function, arguments = patcher.cached_patcher_init[:2]
        again = function(*arguments, disable_dynamic=True)
        theirs, ours = again.model.state_dict(), patcher.model.state_dict()
        assert set(theirs) == set(ours) and all(torch.equal(theirs[k], ours[k]) for k in ours)


def lora_for(host, write_model, names, rank=2, spelling="lora_up.weight,lora_down.weight"):
    """A LoRA file over ``names``: module name -> weight shape."""
    up, down = spelling.split(",")
    generator, tensors = torch.manual_seed(0), {}
    for name, shape in names.items():
        inner = 1
        for size in shape[1:]:
            inner *= size
        tensors[f"{name}.{up}"] = torch.randn(shape[0], rank, generator=generator) * 0.05
        tensors[f"{name}.{down}"] = torch.randn(rank, inner, generator=generator) * 0.05
    return tensors


@pytest.mark.parametrize("prefix", ["diffusion_model.{}", "lora_unet_{}"])
def test_core_lora_loader(host, model, unet_state_dict, write_model, prompt, latent, ksampler, prefix):
    weights = {
        k: v.shape
        for k, v in unet_state_dict.items()
        if k.endswith(("to_q.weight", "proj_in.weight", "conv1.2.weight"))
    }
    modules = {k.removesuffix(".weight"): s for k, s in weights.items()}
    flat = {prefix.format(k.replace(".", "_") if "_{}" in prefix else k): s for k, s in modules.items()}
    name = write_model("core_lora.safetensors", lora_for(host, write_model, flat), None, "loras")
    patched = host.run("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)[0]
    assert len(patched.patches) == len(weights)
    base = ksampler(model, prompt("a dog"), latent())
    assert not torch.equal(ksampler(patched, prompt("a dog"), latent()), base)
    assert torch.equal(ksampler(model, prompt("a dog"), latent()), base)


@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model."])
@pytest.mark.parametrize(
    "spelling", ["lora_B.weight,lora_A.weight", "lora_up.weight,lora_down.weight", "lora.up.weight,lora.down.weight"]
)
def test_diffusers_lora(host, model, unet_state_dict, write_model, prompt, latent, ksampler, prefix, spelling):
    own = host.pack("videolcm_core.families.vgen.keymaps").vgen_to_diffusers(list(unet_state_dict))
    chosen = {
        k: n
        for k, n in own.items()
        if k.endswith(("to_q.weight", "to_out.0.weight", "proj_in.weight", "skip_connection.weight"))
    }
    assert any(n.startswith("transformer_in.") for n in chosen.values())
    names = {prefix + n.removesuffix(".weight"): unet_state_dict[k].shape for k, n in chosen.items()}
    name = write_model("peft.safetensors", lora_for(host, write_model, names, spelling=spelling), None, "loras")
    patched = host.run("VideoLCMLoraLoader", model=model, lora_name=name, strength_model=0.5)[0]
    assert set(patched.patches) == {f"diffusion_model.{k}" for k in chosen}
    base = ksampler(model, prompt("a dog"), latent())
    assert not torch.equal(ksampler(patched, prompt("a dog"), latent()), base)
    assert torch.equal(ksampler(model, prompt("a dog"), latent()), base) and not model.patches


def test_lora_adds_what_it_says(host, model, unet_state_dict, write_model):
    key = "middle_block.2.transformer_blocks.0.attn1.to_q.weight"
    theirs = (
        host.pack("videolcm_core.families.vgen.keymaps")
        .vgen_to_diffusers(list(unet_state_dict))[key]
        .removesuffix(".weight")
    )
    tensors = lora_for(host, write_model, {theirs: unet_state_dict[key].shape}, spelling="lora_B.weight,lora_A.weight")
    name = write_model("one.safetensors", tensors, None, "loras")
    patched = host.run("VideoLCMLoraLoader", model=model, lora_name=name, strength_model=2.0)[0]
    found = patched.patch_weight_to_device(f"diffusion_model.{key}", return_weight=True)
    expected = unet_state_dict[key] + 2.0 * tensors[f"{theirs}.lora_B.weight"] @ tensors[f"{theirs}.lora_A.weight"]
    # A product of the LoRA's rank, a scale and a sum: each rounded by UNIT of the largest, on both sides.
    rank = tensors[f"{theirs}.lora_A.weight"].shape[0]
    change = 2.0 * tensors[f"{theirs}.lora_B.weight"].abs() @ tensors[f"{theirs}.lora_A.weight"].abs()
    assert distance(found, expected) <= 2 * (rank + 2) * UNIT * (unet_state_dict[key].abs() + change).max()


def test_lora_of_another_model(host, model, write_model):
    name = write_model("other.safetensors", {"lora_unet_something.lora_up.weight": torch.zeros(2, 2)}, None, "loras")
    with pytest.raises(ValueError, match=r"other.safetensors.*lora_unet_something.*none fits this model"):
        host.run("VideoLCMLoraLoader", model=model, lora_name=name, strength_model=1.0)


def test_lora_at_strength_zero_is_the_model(host, model, write_model):
    name = write_model("other.safetensors", {"x": torch.zeros(2)}, None, "loras")
    assert host.run("VideoLCMLoraLoader", model=model, lora_name=name, strength_model=0.0)[0] is model
