"""What is compared of MCM's sampling, and of its JSON files: chosen frames, timesteps, names in LoRA files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from mcm import Values
from reference import Reference, Result
from torch import Tensor

from training.methods.parts.frame_choice import any_frames, one_of_each_part
from training.students.lora_files import KOHYA_PREFIX, PEFT_PREFIX
from videolcm_core.diffusion.samplers import sample_lcm
from videolcm_core.diffusion.schedule import Schedule, lcm_timesteps


def check_lcm_sampling(reference: Reference) -> Iterator[Result]:
    """Sampling runs with a recorded network, at the settings of each model."""
    for name in sorted({n.partition(".")[0] for n in reference.tensors}):
        timesteps, scaling, schedule = _sampling_of(reference, name)
        yield reference.same(f"{name}.timesteps", f"{name}.timesteps", timesteps)

        def run(name: str = name, timesteps: Tensor = timesteps, scaling: float = scaling, kind: str = schedule):
            noise = [reference.get(f"{name}.noise{i}") for i in range(len(timesteps) - 1)]
            outputs = iter([reference.get(f"{name}.eps{i}") for i in range(len(timesteps))])
            found: Values = {}

            def keep(index: int, t: Tensor, x: Tensor, denoised: Tensor) -> None:
                found[f"{name}.x{index + 1}"], found[f"{name}.denoised{index}"] = x, denoised

            sample_lcm(
                lambda x, t: next(outputs),
                reference.get(f"{name}.x0"),
                timesteps,
                Schedule.create(kind, zero_terminal_snr=False),
                "eps",
                lambda x, index: noise[index],
                callback=keep,
                timestep_scaling=scaling,
            )
            return found

        # The noise schedule belongs to what is judged: its float32 table is divided by at high noise.
        yield from reference.judge(run, copies=8, tables=True)


def _sampling_of(reference: Reference, name: str) -> tuple[Tensor, float, str]:
    """Timesteps, factor on time and schedule of a model, by its name: MCM's have 4 and 50 original steps."""
    model, original = re.fullmatch(r"([a-z]+)(\d*)", name).groups()  # type: ignore[union-attr]
    steps = len(reference.tensors[f"{name}.timesteps"])
    timesteps = lcm_timesteps(steps, int(original or 50))
    return timesteps, 10.0 if model == "animatelcm" else 4.0, "scaled_linear" if model == "modelscope" else "linear"


def check_frame_sampling(reference: Reference) -> Iterator[Result]:
    """Frames that a seed of Python's own generator chooses."""
    for name, recorded in reference.metadata["values"].items():
        seed, frames, count = map(int, re.fullmatch(r"seed(\d+)_n(\d+)_k(\d+)", name).groups())  # type: ignore[union-attr]
        for theirs, choose in {"tsn_sample": one_of_each_part, "random_sample": any_frames}.items():
            yield _equal(f"{name} {theirs}", choose(frames, count, Random(seed)), recorded[theirs])


def check_lcm_timesteps(reference: Reference) -> Iterator[Result]:
    """Timesteps of consistency sampling, of every length on every grid."""
    for name, recorded in reference.metadata["values"].items():
        original, steps = map(int, re.fullmatch(r"orig(\d+)_steps(\d+)", name).groups())  # type: ignore[union-attr]
        yield _equal(name, lcm_timesteps(steps, original).tolist(), recorded)


def check_kohya_keys(reference: Reference) -> Iterator[Result]:
    """Names in a LoRA file of kohya's kind for those of peft's; the recorded lists may end before their end."""
    peft = [key for key in reference.metadata["peft_keys"] if key != "..."]
    modules = dict.fromkeys(key.removeprefix(PEFT_PREFIX).partition(".lora_")[0] for key in peft)
    names = [KOHYA_PREFIX + module.replace(".", "_") for module in modules]
    parts = ("alpha", "lora_down.weight", "lora_up.weight")
    found = [f"{name}.{part}" for name in names for part in parts]
    recorded = [key for key in reference.metadata["kohya_keys"] if key != "..."]
    yield _equal("kohya_keys", found[: len(recorded)], recorded[: len(found)])
    each = reference.metadata["n_peft"] / 2 * len(parts)
    yield _equal("names of all modules", each, reference.metadata["n_kohya"])


def _equal(case: str, ours: Any, recorded: Any) -> Result:
    return Result(case, float(ours != recorded), 0.0, "" if ours == recorded else f"{ours} instead of {recorded}")
