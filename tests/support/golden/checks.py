"""What is compared in each kind of reference file. Each check yields results; the name's beginning is the kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from precision import UNIT_64, Exact, distance, exactly, named, without_rounding
from reference import Reference, Result, argument_of, cases_of, network_of
from torch import Tensor, nn

from videolcm_core.diffusion.consistency import boundary_scalings
from videolcm_core.diffusion.prediction import to_x_0
from videolcm_core.diffusion.samplers import sample_ddim, sample_lcm
from videolcm_core.diffusion.schedule import (
    Schedule,
    ddim_timesteps,
    lcm_timesteps,
    make_betas,
    rescale_zero_terminal_snr,
)
from videolcm_core.networks.layers import sinusoidal_embedding
from videolcm_core.networks.vgen.unet3d import UNet3D

_TIME = "act.time_embed"
Check = Callable[[Reference], Iterator[Result]]

_PREDICTIONS = {
    "v": "v",
    "v_prediction": "v",
    "eps": "eps",
    "epsilon": "eps",
    "x0": "x_0",
    "x_0": "x_0",
    "sample": "x_0",
}


@torch.no_grad()
def check_unet(reference: Reference) -> Iterator[Result]:
    """Every recorded call, as video and as frames; activations of the recorded case."""
    network = network_of(reference)
    # Recorded as floats; as whole numbers their features are tables, the same on both sides.
    x, t = reference.get("in.x"), reference.get("in.t").long()
    shaken: Exact | None = None
    recorded_case = reference.metadata.get("recorded_case")
    # The case with most inputs first: what rounding makes of it, it makes of those that leave some of its steps out.
    for case, arguments in sorted(cases_of(reference), key=lambda c: (c[0] != recorded_case, -len(c[1]))):
        inputs = {argument: reference.get(f"in.{name}") for argument, name in arguments.items()}
        context = inputs.pop("y", None)
        recorded = recorded_case == case

        def call(case=case, context=context, inputs=inputs, recorded=recorded) -> dict[str, Tensor]:
            along: dict[str, Tensor] = {}
            hooks = _record(network, reference, along) if recorded else []
            out = network(x, t, context, **inputs)
            for hook in hooks:
                hook.remove()
            # Their features of timesteps were a table of their own.
            return {f"out.{case}": out, **{k: v for k, v in along.items() if k != _TIME}}

        ours = call()
        exact = shaken.of_another(exactly(call)) if shaken else without_rounding(call, copies=1, plain=ours)
        shaken = shaken or exact
        for name, value in ours.items():
            yield from reference.judge_one(name if name.startswith("out.") else f"{case} {name}", name, value, exact)
        if recorded and _TIME in reference.tensors:
            yield from reference.judge(lambda: {_TIME: _time_embedding(network, t)}, f"{case} ", tables=True)
        frames = _as_frames(network, x, t, context, inputs)
        yield Result(f"{case} (frames)", distance(frames, exact.values[f"out.{case}"]), exact.bound(f"out.{case}"))


def _time_embedding(network: UNet3D, t: Tensor) -> Tensor:
    return network.time_embed(sinusoidal_embedding(t, network.config.model_channels))


def _as_frames(network: UNet3D, x: Tensor, t: Tensor, context: Tensor | None, inputs: dict[str, Tensor]) -> Tensor:
    frames = x.shape[2]
    flat = {name: value.transpose(1, 2).flatten(0, 1) if value.ndim == 5 else value for name, value in inputs.items()}
    out = network(x.transpose(1, 2).flatten(0, 1), t, context, num_frames=frames, **flat)
    return out.unflatten(0, (-1, frames)).transpose(1, 2)


def _record(network: nn.Module, reference: Reference, into: dict[str, Tensor]) -> list[Any]:
    """Hooks that keep the outputs of the modules whose activations are stored."""
    hooks = []
    for name in reference.tensors:
        if name.startswith("act."):
            module = network.get_submodule(_module_name(name))

            def keep(_: nn.Module, __: Any, output: Tensor, name: str = name) -> None:
                into[name] = output

            hooks.append(module.register_forward_hook(keep))
    return hooks


def _module_name(activation: str) -> str:
    name = activation[len("act.") :]
    return f"{name[len('stc.') :]}_embedding_after" if name.startswith("stc.") else name


def check_sampler_lcm(reference: Reference) -> Iterator[Result]:
    """Traces of the multistep sampler with a recorded network, step by step."""
    for name in sorted(reference.tensors):
        if match := re.fullmatch(r"timesteps\.n(\d+)", name):
            yield reference.same(name, name, lcm_timesteps(int(match[1]), _original_steps(reference)))
        elif match := re.fullmatch(r"alphas_cumprod\.zsnr([01])", name):
            yield from reference.judge(
                lambda name=name, zero=match[1] == "1": _table(reference, name, zero), tables=True
            )
        elif match := re.fullmatch(r"(\w+)\.n(\d+)\.final", name):
            yield from _lcm_trace(reference, match[1], int(match[2]))


def _table(reference: Reference, name: str, zero_snr: bool) -> dict[str, Tensor]:
    return {name: Schedule.create(_beta_schedule(reference), zero_snr).alphas_cumprod}


def _beta_schedule(reference: Reference) -> str:
    found = reference.metadata.get("beta_schedule", "scaled_linear")
    return "scaled_linear" if found == "linear_sd" else str(found)


def _original_steps(reference: Reference) -> int:
    return int(reference.metadata.get("original_steps", 50))


def _lcm_trace(reference: Reference, name: str, steps: int) -> Iterator[Result]:
    case = f"{name}.n{steps}"
    timesteps = lcm_timesteps(steps, _original_steps(reference))
    yield reference.same(f"{case}.timesteps", f"{case}.timesteps", timesteps)
    # The noise schedule belongs to what is judged: its float32 table is divided by at high noise.
    yield from reference.judge(lambda: _lcm_values(reference, name, case, timesteps), copies=4, tables=True)


def _lcm_values(reference: Reference, name: str, case: str, timesteps: Tensor) -> dict[str, Tensor]:
    kind, zero_snr = (name[: -len("_zsnr")], True) if name.endswith("_zsnr") else (name, False)
    prediction = _PREDICTIONS[kind]
    schedule = Schedule.create(_beta_schedule(reference), zero_snr)
    stored = {key: reference.get(f"{case}.{key}") for key in ("x_in", "model_out", "noise")}
    seen: dict[str, list[Tensor]] = {key: [] for key in ("x_in", "x0", "denoised", "x_prev")}

    def network(x: Tensor, t: Tensor) -> Tensor:
        output = stored["model_out"][len(seen["x_in"])]
        seen["x_in"].append(x)
        seen["x0"].append(to_x_0(prediction, output, x, schedule.alpha_t(t[0]), schedule.sigma_t(t[0])))
        return output

    def keep(index: int, t: Tensor, x: Tensor, denoised: Tensor) -> None:
        seen["denoised"].append(denoised)
        seen["x_prev"].append(x)

    final = sample_lcm(network, stored["x_in"][0], timesteps, schedule, prediction, stored["noise"], callback=keep)
    c_skip, c_out = boundary_scalings(timesteps)
    got = {key: torch.stack(values) for key, values in seen.items()} | {
        "c_skip": c_skip,
        "c_out": c_out,
        "alpha_cumprod": schedule.alphas_cumprod[timesteps],
        "final": final,
    }
    return {f"{case}.{key}": value for key, value in got.items()}


def check_sampler_ddim(reference: Reference) -> Iterator[Result]:
    """The trace of the guided DDIM sampler with recorded networks, and the float64 schedules."""
    # Both sides in float64: what rounding does to these tables, in units of float64.
    yield from reference.judge(lambda: _ddim_tables(reference), tables=True, unit=UNIT_64)
    steps = len(reference.get("timesteps"))
    yield reference.same("timesteps", "timesteps", ddim_timesteps(steps))
    schedule = Schedule.create(_beta_schedule(reference), dtype=torch.float64)
    yield from reference.judge(lambda: _ddim_values(reference, steps, schedule))


def _ddim_tables(reference: Reference) -> dict[str, Tensor]:
    plain = make_betas(_beta_schedule(reference))
    zero = rescale_zero_terminal_snr(plain)
    return {
        "betas64": zero,
        "alphas_cumprod64": torch.cumprod(1 - zero, 0),
        "alphas_cumprod64_no_zsnr": torch.cumprod(1 - plain, 0),
    }


def _ddim_values(reference: Reference, steps: int, schedule: Schedule) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {"x_in": [], "x0": [], "x_prev": []}

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen["x_in"].append(x)
        return reference.get("v_cond")[len(seen["x_in"]) - 1]

    def uncond_network(x: Tensor, t: Tensor) -> Tensor:
        return reference.get("v_uncond")[len(seen["x_in"]) - 1]

    def keep(index: int, t: Tensor, x: Tensor, denoised: Tensor) -> None:
        seen["x_prev"].append(x)
        seen["x0"].append(denoised)

    final = sample_ddim(
        network,
        reference.get("noise"),
        steps,
        schedule,
        guidance_scale=float(reference.metadata.get("guide_scale", 9.0)),
        uncond_model=uncond_network,
        callback=keep,
    )
    return {key: torch.stack(values) for key, values in seen.items()} | {"final": final}


def _conditioned(network: UNet3D, context: Tensor, conditions: dict[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, t: network(x, t, context, **conditions)


def _conditions(reference: Reference) -> dict[str, Tensor]:
    """Stored tensors that are inputs of the network beside latents, noise and text."""
    other = {"y", "y_negative", "noise", "latents", "final", "timesteps", "step_noise"}
    names = [name for name in reference.tensors if "." not in name and name not in other]
    return {argument_of(name): reference.get(name) for name in names}


def check_e2e_lcm(reference: Reference) -> Iterator[Result]:
    """Whole consistency sampling runs: latents after every step."""
    network = _conditioned(network_of(reference), reference.get("y"), _conditions(reference))
    prediction = _PREDICTIONS[str(reference.metadata.get("prediction", "v"))]
    schedule = Schedule.create(_beta_schedule(reference))
    runs = {name.rpartition(".")[0] for name in reference.tensors if name.rpartition(".")[2] == "final"}
    shaken: Exact | None = None
    # The longest first: the others take a part of its steps, at the same noise levels.
    for run in sorted(runs, key=lambda run: -len(reference.tensors[f"{run}.timesteps" if run else "timesteps"])):
        prefix = f"{run}." if run else ""
        want = reference.get(f"{prefix}timesteps")
        timesteps = lcm_timesteps(len(want), _original_steps(reference))
        yield reference.same(f"{prefix}timesteps", f"{prefix}timesteps", timesteps)
        noise_name = f"{prefix}step_noise"
        step_noise = reference.get(noise_name) if noise_name in reference.tensors else None

        def sample(prefix=prefix, timesteps=timesteps, step_noise=step_noise) -> dict[str, Tensor]:
            latents: list[Tensor] = []
            final = sample_lcm(
                network,
                reference.get(f"{prefix}noise"),
                timesteps,
                schedule,
                prediction,
                step_noise,
                callback=lambda index, t, x, denoised: latents.append(x),
            )
            return {f"{prefix}latents": torch.stack(latents), f"{prefix}final": final}

        ours = named(sample())
        exact = shaken.of_another(exactly(sample)) if shaken else without_rounding(sample, copies=1, plain=ours)
        shaken = shaken or exact
        for name, value in ours.items():
            if name in reference.tensors:
                yield from reference.judge_one(name, name, value, exact)


def check_e2e_ddim(reference: Reference) -> Iterator[Result]:
    """A whole guided DDIM run of a teacher: latents after every step."""
    network, conditions = network_of(reference), _conditions(reference)
    # The authors' negative branch keeps spatial conditions and replaces the image embedding by zeros.
    negative = {name: torch.zeros_like(v) if name == "image" else v for name, v in conditions.items()}
    schedule = Schedule.create(_beta_schedule(reference), dtype=torch.float64)

    def sample() -> dict[str, Tensor]:
        latents: list[Tensor] = []
        final = sample_ddim(
            _conditioned(network, reference.get("y"), conditions),
            reference.get("noise"),
            len(reference.get("latents")),
            schedule,
            _PREDICTIONS[str(reference.metadata.get("prediction", "v"))],
            float(reference.metadata.get("guide_scale", 9.0)),
            _conditioned(network, reference.get("y_negative"), negative),
            callback=lambda index, t, x, denoised: latents.append(x),
        )
        return {"latents": torch.stack(latents), "final": final}

    ours = named(sample())
    exact = without_rounding(sample, copies=1, plain=ours)
    for name, value in ours.items():
        if name in reference.tensors:
            yield from reference.judge_one(name, name, value, exact)
