"""What is compared in AnimateLCM's small reference files: parts of its code, and formulas that only the paper has."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from reference import Reference, Result
from safetensors.torch import save_file
from torch import Tensor

from videolcm_core.diffusion.consistency import loss_weights, pseudo_huber
from videolcm_core.diffusion.edm import EDMGrid
from videolcm_core.diffusion.schedule import Schedule
from videolcm_core.diffusion.solvers import teacher_free_step
from videolcm_core.files.lora import read_lora
from videolcm_core.files.lora_fit import fit_layers, lora_names, merged_state
from videolcm_core.media.colours import match_colours
from videolcm_core.networks.animatediff.image_encoder import ImageEncoder
from videolcm_core.networks.animatediff.positions import positional_encoding


@torch.no_grad()
def check_image_encoder(reference: Reference) -> Iterator[Result]:
    """The encoder of a first frame: features of every level, and the sinusoid of frame numbers."""
    names = [name for name in reference.tensors if name.startswith("sd.")]
    encoder = ImageEncoder(tuple(reference.metadata["channels"]))
    encoder.load_state_dict({name.removeprefix("sd."): reference.get(name) for name in names})
    x, scale = reference.get("x"), float(reference.metadata["motion_scale"])
    frames = x.shape[2]

    def encode() -> dict[str, Tensor]:
        features = encoder(x.transpose(1, 2).flatten(0, 1), frames, scale)
        return {f"feature{i}": f.unflatten(0, (-1, frames)).transpose(1, 2) for i, f in enumerate(features)}

    yield from reference.judge(encode)
    width = reference.tensors["pos_embedding"].shape[-1]
    yield from reference.judge(lambda: {"pos_embedding": positional_encoding(frames, width)}, tables=True)


@torch.no_grad()
def check_lora_merge(reference: Reference) -> Iterator[Result]:
    """AnimateLCM's LoRA merged into weights of diffusers' names."""
    before, after, lora = (_part(reference, part) for part in ("before.", "after.", "lora."))
    modules = {key.removesuffix(".weight"): key.removesuffix(".weight") for key in before if key.endswith(".weight")}
    with tempfile.TemporaryDirectory() as folder:
        save_file(lora, path := Path(folder) / "lora.safetensors")
        shapes = {key: tuple(value.shape) for key, value in before.items()}
        fit = fit_layers(read_lora(path), lora_names(modules), shapes)
    yield Result("layers that fit nothing", float(len(fit.unknown) + len(fit.misshapen)), 0.0)
    strength = float(reference.metadata["user_alpha"])

    def merge() -> dict[str, Tensor]:
        merged = merged_state(before, fit, strength)
        return {f"after.{key}": merged[key] for key in fit.changes}

    yield from reference.judge(merge)
    for key in sorted(set(after) - set(fit.changes)):
        yield reference.same(f"after.{key}", f"after.{key}", before[key])


def check_colours(reference: Reference) -> Iterator[Result]:
    """Frames with the mean colours of an image, to the last bit."""
    image, frame = (reference.get(name).flip(-1) for name in ("src_bgr", "target_bgr"))
    matched = match_colours(frame[None], image)[0].flip(-1)
    yield reference.same("out_bgr", "out_bgr", matched)


@torch.no_grad()
def check_edm(reference: Reference) -> Iterator[Result]:
    """Noise levels of AnimateLCM-SVD, what belongs to each, a step of the teacher and the loss."""
    low, high, rho = reference.metadata["sigma"]
    index, sample = reference.get("indices"), reference.get("sample")

    def grid() -> EDMGrid:
        return EDMGrid.create(int(reference.metadata["N"]), low, high, rho, dtype=torch.float32)

    def tables() -> dict[str, Tensor]:
        names = ("sigmas", "timesteps", "weights", "c_in", "c_out", "c_skip")
        of_next = grid().weights[(index + 1).clamp(max=grid().num - 1)]
        return {name: getattr(grid(), name) for name in names} | {"weights_next_clamped": of_next}

    yield from reference.judge(tables, copies=8, tables=True)
    # The authors draw a level for each video of a batch, all alike.
    yield from reference.judge(lambda: {"probs": torch.full((grid().num,), 1.0) / grid().num}, copies=8, tables=True)
    output, target = reference.get("model_output"), reference.get("target")

    def step() -> dict[str, Tensor]:
        denoised = grid().denoised(output, sample, index)
        loss = (grid().weights[index] * pseudo_huber(denoised, target)).mean()
        return {"denoised": denoised, "x_next": grid().euler_step(denoised, sample, index, index + 1), "loss": loss}

    yield from reference.judge(step, copies=8)


def check_paper_formulas(reference: Reference) -> Iterator[Result]:
    """The pair of noised latents without a teacher, and the weights of the loss."""
    x_0, eps, t_next, t = (reference.get(name) for name in ("x0", "eps", "t_next", "t"))
    schedule = Schedule.create("linear", zero_terminal_snr=False)

    def pair() -> dict[str, Tensor]:
        x = schedule.add_noise(x_0, eps, t_next)
        return {"x_t_next": x, "x_t": teacher_free_step(x, x_0, t_next, t, schedule)}

    yield from reference.judge(pair)
    yield from reference.judge(lambda: {"x_t": schedule.add_noise(x_0, eps, t)}, "the same noise: ")
    n = reference.get("n")
    for name in sorted(reference.tensors):
        if match := re.fullmatch(r"lambda_d([\d.]+)_g([\d.]+)", name):
            delta, gamma = map(float, match.groups())
            yield from reference.judge(
                lambda name=name, d=delta, g=gamma: {name: loss_weights(n, int(n.max()), d, g)}, copies=8, tables=True
            )


def _part(reference: Reference, prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin so, without it."""
    names = [name for name in reference.tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): reference.get(name) for name in names}
