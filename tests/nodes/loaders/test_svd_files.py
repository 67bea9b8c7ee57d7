"""AnimateLCM-SVD's published layout, diffusers', becomes a checkpoint of core's: both networks predict the same."""

import pytest
import torch
from precision import assert_same
from safetensors.torch import load_file, save_file

LEVELS = (32, 64, 128, 128)
CORE = {
    "image_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
    "num_head_channels": 16,
    "context_dim": 24,
    "adm_in_channels": 48,
    "num_classes": "sequential",
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "disable_temporal_crossattention": False,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "legacy": False,
}
FRAMES = 3
PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def authors(recipe_weights):
    """diffusers' network, whose names the authors' file has."""
    from diffusers import UNetSpatioTemporalConditionModel

    network = UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=LEVELS,
        cross_attention_dim=24,
        num_attention_heads=(2, 4, 8, 8),
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=48,
        num_frames=FRAMES,
    )
    network.load_state_dict(recipe_weights(network, 5))
    for name, module in network.named_modules():  # diffusers has 1e-6 in some blocks, Stability's code 1e-5 in all
        if ".resnets." in name and isinstance(module, torch.nn.GroupNorm):
            module.eps = 1e-5
    return network.train(False)


@pytest.fixture(scope="module")
def core():
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(**CORE, operations=comfy.ops.disable_weight_init).train(False)


@pytest.fixture
def files(authors, core, tmp_path):
    base = {PREFIX + key: torch.zeros_like(value) for key, value in core.state_dict().items()}
    base |= {"first_stage_model.a": torch.ones(2), "conditioner.embedders.0.b": torch.ones(3)}
    save_file(base, tmp_path / "svd_xt.safetensors")
    save_file({key: value.contiguous() for key, value in authors.state_dict().items()}, tmp_path / "unet.safetensors")
    return tmp_path / "svd_xt.safetensors", tmp_path / "unet.safetensors", tmp_path / "out.safetensors"


@pytest.fixture
def convert(host):
    return lambda *paths: host.pack("videolcm_core.families.svd.convert").main([str(path) for path in paths])


def test_the_converted_network_predicts_the_same(authors, core, files, convert):
    convert(*files)
    written = load_file(files[2])
    assert torch.equal(written["first_stage_model.a"], torch.ones(2)) and len(written) == len(core.state_dict()) + 2
    core.load_state_dict({key[len(PREFIX) :]: value for key, value in written.items() if key.startswith(PREFIX)})
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(FRAMES, 8, 8, 8, generator=generator)
    context = torch.randn(1, 1, 24, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]])

    def theirs():
        return authors(x[None], torch.tensor(0.7), context, ids).sample[0]

    def ours():
        from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

        return core(
            x,
            torch.full((FRAMES,), 0.7),
            context.repeat(FRAMES, 1, 1),
            timestep_embedding(ids.flatten(), 16).reshape(1, -1).repeat(FRAMES, 1).to(x),
            num_video_frames=FRAMES,
            image_only_indicator=torch.zeros(1, FRAMES),
        )

    assert_same(theirs, ours)


def test_the_two_files_the_other_way_round_are_refused(files, convert, capsys):
    base, unet, out = files
    for paths, expected in (((unet, unet, out), "no Stable Video Diffusion"), ((base, base, out), "no add_embedding")):
        with pytest.raises(SystemExit):
            convert(*paths)
        assert expected in capsys.readouterr().err
    assert not out.exists() and not list(out.parent.glob(".*"))


def test_nothing_is_written_over(files, convert, capsys):
    files[2].write_bytes(b"mine")
    with pytest.raises(SystemExit):
        convert(*files)
    assert "is there already" in capsys.readouterr().err and files[2].read_bytes() == b"mine"
