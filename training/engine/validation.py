"""What the student makes while it trains: fixed prompts in few steps, beside the teacher's many steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .caches import cached, fingerprint
from .trackers import Tracker

Decode = Callable[[Tensor], Tensor]
"""Latents ``[N, 4, F, h, w]`` to uint8 ``[N, F, H, W, 3]``."""


class Previewed(Protocol):
    """The part of a task that previews need; see `task.MethodTask`."""

    accelerator: Any
    method: Any
    scale: Any

    def released_state(self) -> Mapping[str, Tensor]:
        """The weights that would be exported."""


class Validation:
    """Sample sheets of a run, in its folder ``samples``; a `loop.Hook` calls it.

    Args:
        task: gives the weights that would be released.
        teacher: for comparison; sampled once, and kept in the folder.
        scenes: what to make, with ``prompts``; see `methods.parts.previews.Scenes`.
        folder: for the sheets.
        decode: to pixels; None shows three latent channels as colours.
        steps: numbers of student steps.
        teacher_steps: of the teacher's sampler.
        fps: of the moving image.

    Raises:
        ValueError: parameters are spread over processes.
    """

    def __init__(
        self,
        task: Previewed,
        teacher: Any,
        scenes: Any,
        folder: Path,
        decode: Decode | None,
        *,
        steps: Sequence[int] = (1, 2, 4),
        teacher_steps: int = 25,
        fps: int = 8,
    ) -> None:
        if task.scale.shard:
            raise ValueError(
                "samples while training need a whole network on a process, and parameters are spread (FSDP). Leave "
                "--validate-every out and look at the checkpoints with training.evaluate."
            )
        self.task, self.teacher, self.scenes, self.folder = task, teacher, scenes, folder
        self.decode, self.steps, self.teacher_steps, self.fps = decode, tuple(steps), teacher_steps, fps
        self.network: nn.Module | None = None
        # Of the teacher as it is before the run: nothing that happens to the live network changes it.
        self.inputs = {
            "format": 2,
            "teacher": fingerprint(teacher.network),
            "prediction": teacher.prediction,
            "schedule": teacher.schedule.alphas_cumprod,
            "prompts": list(scenes.prompts),
            "text": scenes.text,
            "uncond": scenes.uncond,
            "noise": scenes.noise,
            "conditions": {name: list(pair) for name, pair in scenes.conditions.items()},
            "recipe": {k: str(v) for k, v in task.method.recipe.settings().items() if k in ("w", "negative_prompt")},
            "steps": teacher_steps,
        }

    def __call__(self, made: int, tracker: Tracker | None) -> None:
        """Make and write the sheet after ``made`` steps; every process must call it, the first one draws."""
        state = self.task.released_state()
        if not self.task.accelerator.is_main_process:
            return
        with torch.random.fork_rng(devices=[]):
            columns = {f"teacher {self.teacher_steps}": self.teacher_clips()}
            columns |= {f"{n} step{'s' if n > 1 else ''}": self.student_clips(state, n) for n in self.steps}
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet = contact_sheet(columns, self.scenes.prompts)
        save_image(sheet, self.folder / f"step_{made:06d}.png")
        save_moving(columns, self.folder / f"step_{made:06d}.webp", self.fps)
        if tracker is not None:
            tracker.image(made, "samples", torch.from_numpy(sheet))

    @torch.no_grad()
    def student_clips(self, state: Mapping[str, Tensor], steps: int) -> Tensor:
        """Clips of the student, uint8 ``[N, F, H, W, 3]``."""
        device = self.task.accelerator.device
        if self.network is None:
            # In the teacher's precision: a preview needs no more, and it is one copy of the network beside the others.
            self.network = copy.deepcopy(self.teacher.network).train(False)
        self.network.load_state_dict({k: v.to(device) for k, v in state.items()})
        self.network.to(device)
        with self.task.accelerator.autocast():
            latents = self.task.method.sample(self.network, self.scenes, steps, device)
        return (self.decode or latent_colors)(latents)

    @torch.no_grad()
    def teacher_clips(self) -> Tensor:
        """Clips of the teacher, sampled in the first validation."""
        device = self.task.accelerator.device

        def make() -> dict[str, Any]:
            with self.task.accelerator.autocast():
                latents = self.task.method.sample_teacher(self.scenes, self.teacher_steps, device)
            return {"latents": latents.cpu()}

        latents = cached(self.folder, "teacher", self.inputs, make, alone=True)["latents"]
        return (self.decode or latent_colors)(latents.to(device))


def latent_colors(latents: Tensor) -> Tensor:
    """The first three latent channels as colours, enlarged 8 times, where there is no autoencoder."""
    pixels = (latents[:, :3].float().clamp(-3, 3) / 6 + 0.5).permute(0, 2, 3, 4, 1)
    return (pixels.repeat_interleave(8, 2).repeat_interleave(8, 3) * 255).round().byte().cpu()


def decoder(autoencoder: nn.Module | None, device: torch.device) -> Decode | None:
    """Decoding with an autoencoder that has ``decode`` of frames; None without one."""
    if autoencoder is None:
        return None

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        parameter = next(autoencoder.parameters())
        frames = latents.transpose(1, 2).flatten(0, 1).to(parameter)
        pixels = torch.cat([autoencoder.decode(part).float().cpu() for part in frames.split(8)])  # type: ignore[operator]
        pixels = pixels.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        return pixels.unflatten(0, (len(latents), latents.shape[2]))

    return decode


def contact_sheet(columns: Mapping[str, Tensor], prompts: Sequence[str], frames: int = 3) -> np.ndarray:
    """An image: a row of each prompt, in it some frames of every kind of clip.

    Args:
        columns: uint8 ``[N, F, H, W, 3]`` by name.
        prompts: N texts.
        frames: of each clip.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    from PIL import Image, ImageDraw

    first = next(iter(columns.values()))
    chosen = np.unique(np.linspace(0, first.shape[1] - 1, frames).round().astype(int))
    height, width, label, gap = first.shape[2], first.shape[3], 14, 6
    block = len(chosen) * width + gap
    sheet = Image.new("RGB", (len(columns) * block, label + len(prompts) * (height + label)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (name, clips) in enumerate(columns.items()):
        draw.text((column * block + 2, 1), name, fill="black")
        for row, prompt in enumerate(prompts):
            top = label + row * (height + label)
            if column == 0:
                draw.text((2, top + 1), prompt[: len(columns) * block // 6], fill="black")
            for place, frame in enumerate(chosen):
                image = Image.fromarray(clips[row, frame].numpy())
                sheet.paste(image, (column * block + place * width, top + label))
    return np.array(sheet)


def save_image(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG."""
    from PIL import Image

    Image.fromarray(pixels).save(path)


def save_moving(columns: Mapping[str, Tensor], path: Path, fps: int) -> None:
    """Write an animated WebP: prompts as rows, kinds of clip as columns."""
    from PIL import Image

    rows = torch.cat(list(columns.values()), dim=3)  # side by side: [N, F, H, W * columns, 3]
    frames = [Image.fromarray(np.concatenate(list(frame.numpy()))) for frame in rows.transpose(0, 1)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, quality=80)
