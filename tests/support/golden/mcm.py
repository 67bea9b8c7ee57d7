"""What is compared in MCM's reference files: its parts, and the assembly of one step from them.

Sizes come from the tensors, settings from the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from precision import distance, named, without_rounding
from reference import Reference, Result
from torch import Tensor, nn
from torch.nn import functional

from training.engine.followers import update_ema
from training.methods.parts.correlation import OUTSIDE, inside, local_correlation
from training.methods.parts.frequency import butterworth
from training.methods.parts.guidance_embedding import guidance_embedding
from training.methods.parts.motion import MOTIONS
from training.methods.parts.motion_head import HeadSize, MotionHead
from videolcm_core.diffusion.consistency import boundary_scalings, pseudo_huber
from videolcm_core.diffusion.prediction import to_eps, to_x_0
from videolcm_core.diffusion.schedule import Schedule, distillation_grid
from videolcm_core.diffusion.solvers import ddim_step

Values = dict[str, Tensor]

# The authors' names -> ours.
MOTION_NAMES = {
    "raw": "raw",
    "diff": "difference",
    "lcor": "local_correlation",
    "gcor": "correlation",
    "sgcor": "scaled_correlation",
    "freql": "low_frequency",
    "freqh": "high_frequency",
    "learn": "learned",
    "hlearn": "learned_large",
}
PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}


def check_motion(reference: Reference) -> Iterator[Result]:
    """Every representation of student and target: values, both distances and the gradient."""
    names = [match[1] for n in sorted(reference.tensors) if (match := re.fullmatch(r"huber\.(\w+)", n))]
    for name in names:
        if name == "lcor":
            yield from _local(reference)
        else:
            motion = MOTIONS[MOTION_NAMES[name]]
            yield from reference.judge(lambda n=name, m=motion: _motion_values(reference, n, m))
    sizes = tuple(reference.tensors["latent_student"].shape[-3:])

    def table() -> Values:
        stored = reference.tensors["lowpass_filter"]
        return {"lowpass_filter": butterworth(*sizes).expand(stored.shape).clone()}

    yield from reference.judge(table, tables=True)


def _motion_values(reference: Reference, name: str, represent: Callable[[Tensor], Tensor]) -> Values:
    # A leaf of the precision that is computed in.
    x = (reference.get("latent_student") + 0.0).detach().requires_grad_()
    one, other = represent(x), represent(reference.get("latent_target"))
    huber = huber_in_a_row(one, other, float(reference.metadata["huber_c"]))
    huber.backward()
    found = {"huber": huber, "l2": mean_in_a_row((one - other).square()), "grad_student": x.grad}
    found |= {"out_student": one, "out_target": other}
    kept = {f"{key}.{name}": value for key, value in found.items() if value is not None}
    return {key: value for key, value in kept.items() if key in reference.tensors}


def _local(reference: Reference) -> Iterator[Result]:
    """Local correlations: inside the image and what follows by rounding, outside exactly.

    The authors sample each window between the pixels, at places that are rounded; so the bound of their numbers is that
    of such a sampling.
    """
    out, radius = "out_student.lcor", int(reference.metadata["lcor_radius"])
    x = reference.get("latent_student")
    correlate = partial(local_correlation, radius=radius)
    good = inside(x.shape[3], x.shape[4], radius).expand(correlate(x).shape)
    if out in reference.tensors:
        yield Result(f"{out}, recorded outside", float((reference.get(out)[~good] != OUTSIDE).sum()), 0.0)
    yield Result(f"{out}, outside", float((correlate(x)[~good] != OUTSIDE).sum()), 0.0)

    def values(represent: Callable[[Tensor], Tensor]) -> Values:
        found = _motion_values(reference, "lcor", represent)
        # The marks outside would hide the rest.
        return found | ({out: found[out].view(good.shape)[good]} if out in found else {})

    ours, exact = named(values(correlate)), without_rounding(lambda: values(correlate))
    sampled = without_rounding(lambda: values(lambda x: sampled_correlation(x, radius)), tables=True)
    for name, value in ours.items():
        recorded = reference.get(name)
        recorded = recorded[good] if name == out else recorded
        yield Result(f"{name}, recorded", distance(recorded, exact.values[name]), sampled.bound(name))
        yield Result(name, distance(value, exact.values[name]), exact.bound(name))


def sampled_correlation(x: Tensor, radius: int) -> Tensor:
    """`local_correlation` by sampling each window at places given as shares of the image."""
    height, width = x.shape[3:]
    frames = x.transpose(1, 2)
    frame, following = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    offset = torch.arange(-radius, radius + 1).double()
    rows, columns = (torch.arange(n).double()[:, None] + offset for n in (height, width))
    y, x_ = (2.0 * (places / (places.shape[0] - 1)) - 1.0 for places in (rows, columns))
    around = (height, width, 2 * radius + 1, 2 * radius + 1)
    grid = torch.stack([x_[None, :, None].expand(around), y[:, None, :, None].expand(around)], -1)
    grid = grid.flatten(0, 1).flatten(1, 2).to(following.dtype)
    windows = functional.grid_sample(following, grid.expand(len(following), -1, -1, -1), align_corners=True)
    found = (frame.flatten(2).unsqueeze(3) * windows).sum(1) / x.shape[1] ** 0.5
    return found.masked_fill(~inside(height, width, radius), OUTSIDE)


def check_spatial_head(reference: Reference) -> Iterator[Result]:
    """Heads of both sizes with their twins: values, loss, gradients, and the twin's step."""
    for name in sorted({n.partition(".")[0] for n in reference.tensors if ".online." in n}):
        online, twin = (_head(reference, f"{name}.{part}.") for part in ("online", "target"))
        x, fresh = reference.get("x"), MotionHead(reference.tensors["x"].shape[1], MOTIONS[MOTION_NAMES[name]].head)
        yield Result(f"{name} as it begins", distance(fresh(x).detach(), x), 0.0)
        yield from reference.judge(lambda n=name, a=online, b=twin: _head_values(reference, n, a, b))

        def follow(name: str = name, online: MotionHead = online, twin: MotionHead = twin) -> Values:
            average, of = deepcopy(twin).to(own_precision()), deepcopy(online).to(own_precision())
            update_ema(average, of, float(reference.metadata["ema_rate"]))
            return {f"{name}.target_after_ema.{k}": v for k, v in average.state_dict().items()}

        yield from reference.judge(follow)


def _head(reference: Reference, prefix: str) -> MotionHead:
    state = tensors_below(reference, prefix)
    channels, width = state["conv_out.weight"].shape[:2]
    layers = len({key.split(".")[1] for key in state if key.startswith("layers.")})
    head = MotionHead(channels, HeadSize(layers, state["layers.0.0.weight"].shape[-1], width))
    head.load_state_dict(state)
    return head


def _head_values(reference: Reference, name: str, online: MotionHead, twin: MotionHead) -> Values:
    online, twin = deepcopy(online).to(own_precision()), deepcopy(twin).to(own_precision())
    x = (reference.get("x") + 0.0).detach().requires_grad_()
    out = online(x)
    with torch.no_grad():
        goal = twin(reference.get("y") + 0.0)
    huber = huber_in_a_row(out, goal, float(reference.metadata["huber_c"]))
    huber.backward()
    found = {"out_online": out, "out_target": goal, "huber": huber, "grad_x": x.grad}
    found |= {f"grad.{key}": parameter.grad for key, parameter in online.named_parameters()}
    return {f"{name}.{key}": value for key, value in found.items() if value is not None}


def check_boundary(reference: Reference) -> Iterator[Result]:
    """Scalings of the consistency function at every recorded factor on time."""
    t = reference.get("timesteps")
    sigma = float(reference.metadata["sigma_data"])
    for name in sorted(n for n in reference.tensors if n != "timesteps"):
        part, _, scale = name.partition(".s")
        for index, row in _each(reference, name):

            def scaling(i: int = index, name: str = name, skips: bool = part == "c_skip", scale: str = scale) -> Values:
                return {name: boundary_scalings(t[i : i + 1], sigma, float(scale))[0 if skips else 1]}

            yield from row.judge(scaling, f"{int(t[index])}: ", copies=8, tables=True)


def check_solver(reference: Reference) -> Iterator[Result]:
    """The schedule, the grid, conversions of the three predictions and a step of DDIM."""
    start, end, kind = reference.metadata["beta"]
    num = len(reference.tensors["alphas_cumprod"])
    grid, before = distillation_grid(int(reference.metadata["ddim_timesteps"]), num)
    yield reference.same("ddim_timesteps", "ddim_timesteps", grid)
    t, index = reference.get("timesteps"), reference.get("index")
    yield reference.same("timesteps of the indices", "timesteps", grid[index])
    output, x = reference.get("model_output"), reference.get("sample")

    def schedule() -> Schedule:
        return Schedule.create(kind, False, num_timesteps=num, beta_start=start, beta_end=end)

    def tables() -> Values:
        table, every = schedule(), torch.arange(num)
        return {
            "alphas_cumprod": table.alphas_cumprod,
            "alpha_schedule": table.alpha_t(every),
            "sigma_schedule": table.sigma_t(every),
            "ddim_alpha_cumprods": table.alphas_cumprod[grid],
            "ddim_alpha_cumprods_prev": table.alphas_cumprod[before],
        }

    yield from reference.judge(tables, copies=8, tables=True)

    def values() -> Values:
        table, found = schedule(), dict[str, Tensor]()
        alpha, sigma = table.alpha_t(t), table.sigma_t(t)
        for theirs, ours in PREDICTIONS.items():
            found[f"pred_x0.{theirs}"] = to_x_0(ours, output, x, alpha, sigma)
            found[f"pred_noise.{theirs}"] = to_eps(ours, output, x, alpha, sigma)
        pred_x_0, eps, previous = reference.get("step.pred_x0"), reference.get("step.pred_noise"), before[index]
        found["step.x_prev"] = ddim_step(pred_x_0, eps, table.alpha_t(previous), table.sigma_t(previous))
        return found | {"noise_added": table.add_noise(x, output, t)}

    yield from reference.judge(values, copies=8, tables=True)


def check_ema(reference: Reference) -> Iterator[Result]:
    """A moving average, step after step."""
    steps = sorted(int(n.removeprefix("after")) for n in reference.tensors if n.startswith("after"))

    def run() -> Values:
        average, source = (nn.ParameterList([nn.Parameter(reference.get(n) + 0.0)]) for n in ("target", "source"))
        found = {}
        for step in range(1, max(steps) + 1):
            update_ema(average, source, float(reference.metadata["rate"]))
            found[f"after{step}"] = average[0].detach().clone()
        return found

    yield from reference.judge(run, copies=8)


def check_guidance_embedding(reference: Reference) -> Iterator[Result]:
    """Features of the guidance scale, of every recorded width."""
    w = reference.get("w")
    for name in sorted(n for n in reference.tensors if n.startswith("emb")):
        for i, row in _each(reference, name):
            yield from row.judge(
                lambda n=name, i=i: {n: guidance_embedding(w[i : i + 1], int(n[3:]))},
                f"{w[i]:g}: ",
                copies=8,
                tables=True,
            )


def mean_in_a_row(x: Tensor) -> Tensor:
    """A mean whose terms are added up one after the other, the worst order that the recorded one may have."""
    return torch.dot(x.flatten(), torch.ones_like(x).flatten()) / x.numel()


def huber_in_a_row(one: Tensor, other: Tensor, c: float) -> Tensor:
    """The mean of the pseudo-Huber distance of all numbers."""
    return mean_in_a_row(pseudo_huber(one.reshape(-1, 1), other.reshape(-1, 1), c))


def _each(reference: Reference, name: str) -> Iterator[tuple[int, Reference]]:
    """A tensor row by row, where their sizes and so their bounds differ by much."""
    for index, row in enumerate(reference.get(name).split(1)):
        yield index, Reference(reference.path, reference.metadata, {name: row})


def own_precision() -> torch.dtype:
    """What float32 numbers are computed in here: gradients have the type of their parameters."""
    return (torch.zeros(1) + 0.0).dtype


def tensors_below(reference: Reference, prefix: str) -> Values:
    """Tensors whose names begin so, without it."""
    return {n.removeprefix(prefix): reference.get(n) for n in reference.tensors if n.startswith(prefix)}
