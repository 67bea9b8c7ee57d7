"""AnimateLCM at its real size in the host, with random weights: sizes of the files, seconds and memory.

``python tests/tools/measure_real_size.py FOLDER`` writes files with the names, keys, shapes and precision of the
published ones into FOLDER (4.1 GB, kept for the next run), loads them through nodes of the host and the pack and
samples 4 steps of 16 x 512 x 512. Random weights give noise: only sizes and costs are measured.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tools")]

import torch  # noqa: E402
from in_process_host import load_host  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

CHECKPOINT = "checkpoints/v1-5-random-fp16.safetensors"
MOTION = "animatediff_models/AnimateLCM_sd15_t2v.ckpt"
LORA = "loras/AnimateLCM_sd15_t2v_lora.safetensors"
PUBLISHED = {CHECKPOINT: 2.13e9, MOTION: 1.81e9, LORA: 134.6e6}
"""Bytes of the published files, as their pages give them (two or three digits)."""
VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def drawn(shapes: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights small enough that activations stay finite."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for key, value in shapes.items():
        is_norm = value.ndim == 1 and key.endswith("weight")
        spread = 0.5 / max(1, value[0].numel()) ** 0.5 if value.ndim > 1 else 0.0
        made[key] = (spread * torch.randn(value.shape, generator=generator) + is_norm).to(dtype)
    return made


def write_files(models: Path) -> None:
    """Write what is not there yet."""
    from videolcm_core.networks.animatediff.motion import MotionConfig, MotionNetwork

    if not (models / CHECKPOINT).exists():
        save(drawn(checkpoint_shapes(), torch.float16), models / CHECKPOINT)
    if not (models / MOTION).exists():
        network = MotionNetwork(MotionConfig(), device=torch.device("meta"))
        save(drawn(network.state_dict(), torch.float32), models / MOTION)
    if not (models / LORA).exists():
        save(drawn(lora_shapes(), torch.float16), models / LORA)


def save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".ckpt":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)


def checkpoint_shapes() -> dict[str, Tensor]:
    """Stable Diffusion 1.5, all in one."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet
    from videolcm_core.networks.text_encoder import TextConfig, TextEncoder

    with torch.device("meta"):
        words = torch.zeros(49407, dtype=torch.int32)
        config = TextConfig(hidden_size=768, num_hidden_layers=12, intermediate_size=3072, num_attention_heads=12)
        text = TextEncoder(words, config).state_dict()
        parts = {
            "model.diffusion_model.": SD15UNet(SD15Config()).state_dict(),
            "cond_stage_model.": {key: value for key, value in text.items() if key != "vocabulary"},
            "first_stage_model.": AutoencoderKL(ddconfig=VAE, embed_dim=4).state_dict(),
        }
    return {prefix + key: value for prefix, part in parts.items() for key, value in part.items()}


def lora_shapes() -> dict[str, Tensor]:
    """AnimateLCM's spatial LoRA: rank 64 on the 278 layers of the UNet, without alpha."""
    from videolcm_core.families.animatediff.lora import ANIMATELCM_RANK, lcm_targets
    from videolcm_core.networks.animatediff.unet import SD15Config, SD15UNet

    shapes = SD15UNet(SD15Config(), device=torch.device("meta")).state_dict()
    made = {}
    for own, module in lcm_targets(shapes).items():
        out, *rest = shapes[f"{own}.weight"].shape
        stem = "lora_unet_" + module.replace(".", "_")
        made[f"{stem}.lora_down.weight"] = torch.empty(ANIMATELCM_RANK, *rest, device="meta")
        made[f"{stem}.lora_up.weight"] = torch.empty(out, ANIMATELCM_RANK, *(1 for _ in rest[1:]), device="meta")
    return made


def timed(what: str, run: Callable[[], Any]) -> Any:
    """Run, and print seconds and the process's peak of memory so far."""
    start = time.monotonic()
    result = run()
    seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {seconds:.1f} s, peak {peak:.2f} GiB", flush=True)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"), help="to compute in")
    options = parser.parse_args()
    base = options.folder.resolve()
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    host = load_host(ROOT, base)
    from comfy.cli_args import args

    args.bf16_unet = options.dtype == "bf16"
    timed("files written", lambda: write_files(base / "models"))
    for name, published in PUBLISHED.items():
        size = (base / "models" / name).stat().st_size
        print(f"{name}: {size:,} bytes, published {published:,.0f}: {size / published - 1:+.2%}")

    def run(node_id: str, **inputs: Any) -> Any:
        node = host.NODE_CLASS_MAPPINGS[node_id]
        if hasattr(node, "define_schema"):
            return node.EXECUTE_NORMALIZED(**inputs).result
        return getattr(node(), node.FUNCTION)(**inputs)

    with torch.inference_mode():
        sample(run, options.size, options.steps)


def sample(run: Callable[..., Any], size: int, steps: int) -> None:
    """Load, sample and print what each part took."""
    name = Path(CHECKPOINT).name
    model, clip, _ = timed("checkpoint loaded", lambda: run("CheckpointLoaderSimple", ckpt_name=name))
    loaded = {"motion_name": Path(MOTION).name, "weight_dtype": "default"}
    motion = timed("motion modules loaded", lambda: run("VideoLCMMotionLoader", **loaded)[0])
    chosen = {"sampling": "auto", "group_norm": "auto", "scale": 1.0}
    model = run("VideoLCMMotionApply", model=model, motion_module=motion, **chosen)[0]
    lora = {"lora_name": Path(LORA).name, "strength_model": 0.8}
    model = timed("LoRA applied", lambda: run("VideoLCMLoraLoader", model=model, **lora)[0])
    print(f"UNet patches {len(model.patches)}, motion modules {motion.network.config}")
    text = timed("prompt encoded", lambda: run("CLIPTextEncode", clip=clip, text="a boat on a lake")[0])
    latent = run("VideoLCMEmptyLatent", width=size, height=size, frames=16)[0]
    inputs = {"model": model, "positive": text, "latent": latent, "seed": 1, "steps": steps}
    rest = {"cfg": 1.0, "strength": 1.0, "noise_device": "cpu"}
    out = timed(f"{steps} steps of 16 x {size} x {size}", lambda: run("VideoLCMSampler", **inputs, **rest)[0])
    samples = out["samples"]
    print(f"latents {list(samples.shape)}, finite {bool(samples.isfinite().all())}, std {samples.std():.2f}")


if __name__ == "__main__":
    main()
