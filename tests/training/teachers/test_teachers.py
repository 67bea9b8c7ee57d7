"""Every file and folder that a teacher may come in gives the network that was written."""

import json
from dataclasses import asdict, replace

import precision
import pytest
import torch
from precision import UNIT_64, distance
from safetensors.torch import save_file

from training.mini import family as mini
from training.students import LcmSettings, export_diffusers
from training.students.diffusers_folder import diffusers_config
from training.teachers import load_teacher
from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.text_encoder import TextConfig, TextEncoder
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

TEXT = UNetConfig(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_scales=(1.0,),
    context_dim=32,
    num_heads=1,
)
WORDS = torch.tensor([320, 550, 1929, 49406, 49407])
SMALL_TEXT = TextConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)


def filled(module, seed=0):
    """Random weights everywhere: zero layers would hide a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05 + (parameter.ndim == 1))
    return module.train(False).requires_grad_(False)


def inputs(config):
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(1, 4, 2, 4, 4, generator=generator)
    return x, torch.tensor([500]), torch.randn(1, 3, config.context_dim, generator=generator)


def assert_same(teacher, network):
    x, t, context = inputs(network.config)
    with torch.no_grad():
        assert torch.equal(teacher.network(x, t, context), network(x, t, context))
    assert not teacher.network.training and not any(p.requires_grad for p in teacher.network.parameters())


CASES = {
    "tf-t2v": (replace(TEXT, conditions=frozenset({"image"})), "tf-t2v", "v", True),
    "tf-t2v compositional": (
        replace(TEXT, conditions=frozenset({"image", "depth", "sketch"})),
        "videocomposer",
        "v",
        True,
    ),
    "first videocomposer": (
        replace(TEXT, conditions=frozenset({"image", "depth"}), num_image_tokens=1),
        "videocomposer",
        "eps",
        False,
    ),
    "modelscope": (replace(TEXT, concat_channels=0), "modelscope", "eps", False),
}


@pytest.mark.parametrize("case", CASES)
def test_authors_files(tmp_path, case):
    config, family, prediction, zero_terminal_snr = CASES[case]
    network = filled(UNet3D(config))
    path = tmp_path / "non_ema_1000.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}, "step": 1000}, path)
    teacher = load_teacher(path)
    assert_same(teacher, network)
    assert (teacher.settings.family, teacher.prediction) == (family, prediction)
    assert teacher.zero_terminal_snr == zero_terminal_snr == bool(teacher.schedule.alphas_cumprod[-1] == 0)
    assert teacher.conditions == tuple(sorted(config.conditions)) and teacher.config.dropout == 0.1
    assert (
        teacher.text is None and teacher.autoencoder is None and teacher.schedule.alphas_cumprod.dtype == torch.float64
    )


def test_a_safetensors_file_says_what_it_predicts_and_an_option_wins(tmp_path):
    network, path = filled(UNet3D(replace(TEXT, concat_channels=0))), tmp_path / "modelscope_v.safetensors"
    metadata = {"videolcm.prediction": "v", "videolcm.zero_terminal_snr": "true", "videolcm.fps": "12"}
    save_file(network.state_dict(), path, metadata)
    teacher = load_teacher(path)
    assert teacher.prediction == "v" and teacher.zero_terminal_snr and teacher.settings.fps == 12
    assert load_teacher(path, prediction="eps").prediction == "eps"
    with pytest.raises(ValueError, match=r"predicts 'noise'; allowed: v, eps, x_0"):
        load_teacher(path, prediction="noise")
    low = load_teacher(path, dtype=torch.bfloat16)
    assert {p.dtype for p in low.network.parameters()} == {torch.bfloat16}


def test_a_folder_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    config = UNetConfig(
        model_channels=32,
        channel_mult=(1, 1, 1, 1),
        num_res_blocks=1,
        attention_scales=(1.0, 0.5, 0.25),
        context_dim=32,
        num_heads=8,
        head_dim=16,
        concat_channels=0,
    )
    network = filled(UNet3D(config))
    theirs = diffusers.UNet3DConditionModel(
        block_out_channels=(32,) * 4, layers_per_block=1, cross_attention_dim=32, attention_head_dim=16
    )
    own = network.state_dict()
    weights = {other: own[key] for key, other in vgen_to_diffusers(own).items()}
    theirs.load_state_dict({k: v.squeeze(-1) if v.ndim == 3 else v for k, v in weights.items()})
    theirs.save_pretrained(tmp_path / "pipe" / "unet")
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path / "pipe" / "scheduler")
    teacher = load_teacher(tmp_path / "pipe")
    x, t, context = torch.randn(1, 4, 2, 8, 8), torch.tensor([500]), torch.randn(1, 3, 32)
    with torch.no_grad():
        # Their features of timesteps are tables of their own, so these are computed in float64 too. At 1 x 1 a group is
        # one value, normalised to 0: its rounding is divided by sqrt(1e-5), the epsilon, and float32 says nothing. A
        # residual block normalises twice, so that float64's rounding comes out 1e5 times as large.
        exact = precision.without_rounding(lambda: teacher.network(x, t, context), tables=True)
        others = precision.exactly(lambda: theirs.train(False)(x, t, context).sample, tables=True)
        assert distance(others[""], exact.values[""]) <= 1e-5**-1 * exact.bound() * UNIT_64 / precision.UNIT
        x, context = x.double(), context.double()
        want = theirs.double()(x, t, context).sample
    assert teacher.config.head_dim == 16
    assert teacher.settings.family == "diffusers" and teacher.prediction == "v" and not teacher.zero_terminal_snr
    changed = network.state_dict() | {"out.2.bias": torch.full((4,), 0.5)}
    settings = LcmSettings(original_steps=40)
    made = export_diffusers(tmp_path / "out", changed, teacher, recipe={}, settings=settings, dtype=torch.float32)
    student = diffusers.UNet3DConditionModel.from_pretrained(made / "unet").double()
    with torch.no_grad():
        shift = student(x, t, context).sample - want
    # In float64 the rest is the same; a sum of 9 x 32 products that begins at another bias is rounded otherwise.
    bias = own["out.2.bias"].double().view(1, 4, 1, 1, 1).expand_as(shift)
    assert distance(shift, 0.5 - bias) <= 2 * (9 * 32 / 2) ** 0.5 * UNIT_64 * want.abs().max()
    scheduler = diffusers.LCMScheduler.from_pretrained(made / "scheduler")
    assert (scheduler.config.prediction_type, scheduler.config.original_inference_steps) == ("v_prediction", 40)
    again = load_teacher(made, student=True)
    assert again.config == teacher.config and again.settings.original_steps == 40
    with pytest.raises(ValueError, match="got a consistency student"):  # the export says so beside the folders
        load_teacher(made)
    with pytest.raises(ValueError, match=r"encoders for depth and 1 heads .* Export one safetensors file"):
        diffusers_config(replace(TEXT, conditions=frozenset({"depth"})), "t.pth")
    (tmp_path / "pipe" / "scheduler" / "scheduler_config.json").unlink()
    assert load_teacher(tmp_path / "pipe" / "unet").prediction == "eps"  # nobody says: as ModelScope's


@pytest.fixture(scope="module")
def all_in_one(tmp_path_factory):
    unet, text = filled(UNet3D(TEXT)), filled(TextEncoder(WORDS, SMALL_TEXT))
    tensors = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    tensors |= {f"cond_stage_model.{k}": v for k, v in text.state_dict().items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in TinyAutoencoder().state_dict().items()}
    metadata = {
        "videolcm.family": "videolcm-mini",
        "videolcm.prediction": "v",
        "videolcm.sampling": "teacher",
        "videolcm.text_config": json.dumps(asdict(SMALL_TEXT)),
    }
    path = tmp_path_factory.mktemp("all") / "mini.safetensors"
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, path, metadata)
    return path, unet, text


def test_an_all_in_one_file_brings_its_encoders(all_in_one):
    path, unet, text = all_in_one
    teacher = load_teacher(path)
    assert_same(teacher, unet)
    ids = torch.tensor([[49406, 320, 1929] + [49407] * 74])
    with torch.no_grad():
        assert torch.equal(teacher.text(ids), text(ids))
    assert teacher.config.dropout == 0 and teacher.settings.latent_scale == 1
    assert teacher.autoencoder.encode(torch.rand(1, 3, 16, 16)).shape == (1, 4, 2, 2)


def test_a_running_checkpoint_gives_its_average(tmp_path):
    model = mini.TextVideoModel(WORDS)
    state = {"average": filled(model, 1).state_dict(), "model": filled(mini.TextVideoModel(WORDS), 2).state_dict()}
    torch.save({"step": 7, "task": state}, tmp_path / "teacher.pt")
    teacher = load_teacher(tmp_path / "teacher.pt")
    assert_same(teacher, model.unet)
    assert all(torch.equal(v, model.text.state_dict()[k]) for k, v in teacher.text.state_dict().items())
    torch.save({"step": 7, "task": {"model": state["model"]}}, tmp_path / "other.pt")
    assert_same(load_teacher(tmp_path / "other.pt"), filled(mini.TextVideoModel(WORDS), 2).unet)
    torch.save({"step": 7, "task": {"discriminator": state["model"]}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="wrong teacher other.pt: .* holds discriminator and releases none of them"):
        load_teacher(tmp_path / "other.pt")
    torch.save({"step": 7, "task": {"student": model.unet.state_dict()}}, tmp_path / "student.pt")
    with pytest.raises(ValueError, match="got a consistency student"):
        load_teacher(tmp_path / "student.pt")
    assert_same(load_teacher(tmp_path / "student.pt", student=True), model.unet)
    torch.save({"step": 7, "task": {"student": {"x.lora_A.weight": torch.zeros(1)}}}, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match="got a running checkpoint with the adapters of a LoRA"):
        load_teacher(tmp_path / "lora.pt", student=True)


def test_a_student_is_no_teacher_unless_it_is_asked_for(all_in_one, tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "student.safetensors"
    metadata = {"videolcm.sampling": "lcm", "videolcm.text_config": json.dumps(asdict(SMALL_TEXT))}
    save_file(load_file(all_in_one[0]), path, metadata)
    with pytest.raises(ValueError, match=r"got a consistency student; allowed: .*Give the teacher"):
        load_teacher(path)
    assert load_teacher(path, student=True).settings.sampling == "lcm"


WRONG = {
    "Stable Diffusion 1.x": {"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 768)},
    "missing keys": {k: v for k, v in UNet3D(TEXT).state_dict().items() if k != "out.0.bias"},
    "NaN or infinite": UNet3D(TEXT).state_dict() | {"out.0.bias": torch.full((64,), float("nan"))},
    "a dictionary without tensors": {"answer": 42},
}


@pytest.mark.parametrize("got", WRONG)
def test_a_wrong_file_is_named_with_what_is_allowed(tmp_path, got):
    torch.save(WRONG[got], tmp_path / "file.pth")
    with pytest.raises(ValueError, match=rf"wrong teacher file.pth: got .*{got}.*; allowed: .*TF-T2V"):
        load_teacher(tmp_path / "file.pth")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="wrong teacher .*nowhere.pth: got no such file"):
        load_teacher(tmp_path / "nowhere.pth")
