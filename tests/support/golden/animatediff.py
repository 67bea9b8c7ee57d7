"""What is compared in AnimateDiff's and AnimateLCM's reference files: motion modules, the UNet around them, sampling.

Sizes come from the shape lists beside the files, frames and timesteps from the names of the tensors.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from animatediff_networks import LISTS, Networks, Probes, Values, forward, networks_of, recipe_weights
from precision import named, without_rounding
from reference import Reference, Result
from safetensors.torch import save_file
from torch import Tensor

from videolcm_core.diffusion.samplers import sample_lcm
from videolcm_core.diffusion.schedule import Schedule, lcm_timesteps
from videolcm_core.networks.animatediff.image_encoder import MOTION_SCALE
from videolcm_core.networks.animatediff.motion import MotionModule

_CASE = re.compile(r"y_(\d+)(?:_(\d+))?(?:_(.+))?")


@torch.no_grad()
def check_motion_module(reference: Reference) -> Iterator[Result]:
    """One module, under both conventions of the group norm, at every recorded length."""
    prefix = "weights.temporal_transformer."
    names = [name for name in reference.tensors if name.startswith(prefix)]
    weights = {name.removeprefix("weights."): reference.get(name) for name in names}
    tables = [value for name, value in weights.items() if name.endswith("pos_encoder.pe")]
    module = MotionModule(len(weights["temporal_transformer.norm.weight"]), tables[0].shape[1] if tables else 0)
    module.load_state_dict(weights)

    def run(frames: int, across_frames: bool) -> Tensor:
        x = reference.get(f"x_{frames}")
        out = module(x.transpose(1, 2).flatten(0, 1), frames, across_frames)
        return out.unflatten(0, (-1, frames)).transpose(1, 2)

    for frames in sorted({int(name[2:]) for name in reference.tensors if re.fullmatch(r"x_\d+", name)}):
        outs = {f"y_author_{frames}": False, f"y_diffusers_{frames}": True}
        yield from reference.judge(lambda o=outs, f=frames: {n: run(f, across) for n, across in o.items()})


@torch.no_grad()
def check_unet_forward(reference: Reference) -> Iterator[Result]:
    """The UNet with its motion modules, and what each of these returned."""
    networks, across = networks_of(reference), _is_across_frames(reference)
    order = re.findall(r"[\w.]*motion_modules\.\d+", reference.metadata.get("probe", "")) or networks.motion.names()
    cases = sorted(match.groups() for name in reference.tensors if (match := _CASE.fullmatch(name)))

    def call(case: tuple[Any, ...]) -> Values:
        frames, t, _ = case
        with Probes(networks.motion, order) as seen:
            y = forward(networks, reference, reference.get(f"x_{frames}"), int(t), across_frames=across)
        if sorted(seen) != sorted(networks.motion.names()):
            raise RuntimeError(f"{len(seen)} of {len(networks.motion.names())} motion modules ran")
        return {f"y_{frames}_{t}": y, f"probe_{frames}_{t}": torch.stack([seen[name] for name in order])}

    yield from judge_each(reference, (partial(call, case) for case in cases))


@torch.no_grad()
def check_i2v_forward(reference: Reference) -> Iterator[Result]:
    """Image to video: features of the first frame, and the UNet with them, with none, and with one per frame."""
    networks, x = networks_of(reference), reference.get("x")
    frames = x.shape[2]
    cases = [match.groups() for name in reference.tensors if (match := _CASE.fullmatch(name))]

    def encode(which: str | None) -> list[Tensor] | None:
        scale = re.fullmatch(r"scale(.+)", which or "")
        images = reference.get("img_latent_frames" if which == "frames" else "img_latent")
        images = images[:, :, None].expand(-1, -1, frames, -1, -1) if images.ndim == 4 else images
        latents = images.transpose(1, 2).flatten(0, 1)
        encoder = networks.motion.img_encoder
        return None if which == "no_image" else encoder(latents, frames, float(scale[1]) if scale else MOTION_SCALE)

    def call(case: tuple[Any, ...]) -> Values:
        t, _, which = case
        features = encode(which)
        found = {"_".join(filter(None, ("y", t, which))): forward(networks, reference, x, int(t), features)}
        if which is None and features is not None:
            kept = (feature.unflatten(0, (-1, frames)).transpose(1, 2)[:, :, [0, -1]] for feature in features)
            found.update({f"feature{level}": feature for level, feature in enumerate(kept)})
        return found

    # The plain case first: it has all that the others have.
    yield from judge_each(reference, [lambda case=case: call(case) for case in sorted(cases, key=lambda c: c[2] or "")])


@torch.no_grad()
def check_lora_forward(reference: Reference) -> Iterator[Result]:
    """The UNet with a LoRA on it and on the motion modules, at every recorded strength, and without."""
    networks, x, across = networks_of(reference), reference.get("x"), _is_across_frames(reference)
    lora = reference.path.parent / LISTS.findall(reference.metadata["lora"])[0]
    with tempfile.TemporaryDirectory() as folder:
        save_file(recipe_weights(lora), path := Path(folder) / f"{lora.stem}.safetensors")
        fit = networks.fit(path)

    def call(case: tuple[Any, ...]) -> Values:
        t, _, which = case
        merged = None if which == "without" else networks.merged(fit, float(which or 1.0))
        y = forward(networks, reference, x, int(t), across_frames=across, weights=merged)
        return {"_".join(filter(None, ("y", t, which))): y}

    cases = [match.groups() for name in reference.tensors if (match := _CASE.fullmatch(name))]
    yield from judge_each(reference, (partial(call, case) for case in cases))


@torch.no_grad()
def check_lcm_steps(reference: Reference) -> Iterator[Result]:
    """Whole sampling runs, with or without guidance and image: the first prediction, clean latents of every step."""
    networks, metadata = networks_of(reference), reference.metadata
    scale, schedule = float(metadata["guidance_scale"]), _schedule(metadata["beta"])
    timesteps = lcm_timesteps(int(metadata["steps"]), int(metadata["original_inference_steps"]))
    yield Result("timesteps", float(timesteps.tolist() != metadata["timesteps"]), 0.0)
    start = reference.get("start")
    noise = [reference.get(f"noise_{index}") for index in range(len(timesteps) - 1)]

    def sample() -> Values:
        found: Values = {}
        features = _features(networks, reference, start.shape[2])

        def predict(x: Tensor, t: Tensor) -> Tensor:
            eps = forward(networks, reference, x, int(t[0]), features, cond_only=scale <= 1.0)
            if scale > 1.0:
                uncond, cond = eps.chunk(2)
                eps = uncond + scale * (cond - uncond)
            found.setdefault("eps_0", eps)
            return eps

        def keep(index: int, t: Tensor, x: Tensor, denoised: Tensor) -> None:
            found[f"denoised_{index}"] = denoised

        found["final"] = sample_lcm(
            predict, start, timesteps, schedule, "eps", lambda x, index: noise[index], callback=keep
        )
        return found

    yield from judge_each(reference, [sample])


def check_closed_form(reference: Reference) -> Iterator[Result]:
    """The sampler alone, with a network that is a formula: every length on every grid."""
    start, mu = reference.get("start"), reference.get("mu")
    noises = {int(name[6:]): reference.get(name) for name in reference.tensors if re.fullmatch(r"noise_\d+", name)}
    for name in sorted(reference.tensors):
        if not (match := re.fullmatch(r"final_(\d+)_(\d+)", name)):
            continue
        original, steps = match.groups()
        timesteps = lcm_timesteps(int(steps), int(original))
        recorded = reference.metadata["timesteps"][f"{original}_{steps}"]
        yield Result(f"{name} timesteps", float(timesteps.tolist() != recorded), 0.0)

        def sample(name: str = name, original: str = original, timesteps: Tensor = timesteps) -> Values:
            schedule = _schedule(reference.metadata["beta"][original])

            def network(x: Tensor, t: Tensor) -> Tensor:
                a, s = schedule.alpha_t(t[0]), schedule.sigma_t(t[0])
                return s * (x - a * mu) / (a**2 * 0.36 + s**2) + 0.1 * torch.sin(2 * x + int(t[0]) / 200)

            return {name: sample_lcm(network, start, timesteps, schedule, "eps", lambda x, index: noises[index])}

        # The noise schedule belongs to what is judged: its float32 table is divided by at high noise.
        yield from reference.judge(sample, copies=4, tables=True)


def judge_each(reference: Reference, calls: Iterable[Callable[[], Values]]) -> Iterator[Result]:
    """Judge calls of networks, each by what float32 rounding makes of it."""
    for call in calls:
        ours = named(call())
        exact = without_rounding(call, copies=1, plain=ours)
        for name, value in ours.items():
            if name in reference.tensors:
                yield from reference.judge_one(name, name, value, exact)


def _features(networks: Networks, reference: Reference, frames: int) -> list[Tensor] | None:
    if networks.motion.img_encoder is None:
        return None
    image = reference.get("img_latent")
    return networks.motion.img_encoder(image.expand(frames, -1, -1, -1), frames)


def _schedule(beta: list[Any]) -> Schedule:
    start, end, kind = beta
    return Schedule.create(kind, zero_terminal_snr=False, beta_start=start, beta_end=end)


def _is_across_frames(reference: Reference) -> bool:
    """Which group norm the motion modules had: as the file says, else diffusers' for what diffusers computed."""
    said = str(reference.metadata.get("groupnorm", ""))
    return "across" in said if said else "UNetMotionModel" in str(reference.metadata.get("ref", ""))
