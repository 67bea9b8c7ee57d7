"""What the student makes while it trains: fixed prompts at 1, 2 and 4 steps, beside the teacher's many steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from videolcm_core.diffusion.samplers import sample_ddim, sample_lcm
from videolcm_core.diffusion.schedule import lcm_timesteps

from .files import save_atomically
from .networks import Conditions, Predictor
from .task import BatchesLike, DistillationTask, TeacherLike
from .trackers import Tracker

Decode = Callable[[Tensor], Tensor]
"""Latents ``[N, 4, F, h, w]`` to uint8 ``[N, F, H, W, 3]``."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What is asked for in every validation.

    Attributes:
        prompts: N texts, for the labels.
        context: ``[N, L, D]``.
        uncond: ``[1, L, D]``.
        noise: ``[N, 4, F, h, w]``, where every sampler begins.
        conditions: of the N scenes.
    """

    prompts: tuple[str, ...]
    context: Tensor
    uncond: Tensor
    noise: Tensor
    conditions: Conditions

    @classmethod
    def of(cls, batches: BatchesLike, uncond: Tensor, prompts: Sequence[str], count: int, seed: int) -> Scenes:
        """Scenes of given prompts, or of the first clips' captions and conditions without any.

        Raises:
            ValueError: prompts are given and the data has no text encoder.
        """
        count = min(len(prompts) or count, batches.size(0))
        first = batches.batch(0, range(count))
        context, conditions = first.context, first.extra.get("conditions", {})
        shown = tuple(prompts)[:count] or tuple(first.extra.get("captions", [f"clip {i}" for i in range(count)]))
        if prompts:
            context = torch.cat([batches.uncond_context(p) for p in shown])
        noise = torch.randn(first.latents.shape, generator=torch.Generator().manual_seed(seed))
        return cls(prompts=shown, context=context, uncond=uncond, noise=noise, conditions=conditions)


class Validation:
    """Pictures of a run, in its folder ``samples``; a `loop.Hook` calls it.

    Args:
        task: gives the weights that would be released.
        teacher: for comparison; sampled once, and kept in the folder.
        scenes: what to make.
        folder: for the pictures.
        decode: to pixels; None shows three latent channels as colours.
        steps: numbers of student steps.
        teacher_steps: of DDIM.
        fps: of the moving picture.

    Raises:
        ValueError: parameters are spread over processes.
    """

    def __init__(
        self,
        task: DistillationTask,
        teacher: TeacherLike,
        scenes: Scenes,
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
        self.decode, self.steps, self.teacher_steps, self.fps = (
            decode or latent_colors,
            tuple(steps),
            teacher_steps,
            fps,
        )
        self.network: nn.Module | None = None

    def __call__(self, made: int, tracker: Tracker | None) -> None:
        """Make and write the pictures after ``made`` steps; every process must call it, the first one draws."""
        state = self.task.released_state()
        if not self.task.accelerator.is_main_process:
            return
        random = torch.get_rng_state()
        columns = {f"teacher {self.teacher_steps}": self.teacher_clips()}
        columns |= {f"{n} step{'s' if n > 1 else ''}": self.student_clips(state, n) for n in self.steps}
        torch.set_rng_state(random)
        self.folder.mkdir(parents=True, exist_ok=True)
        sheet = contact_sheet(columns, self.scenes.prompts)
        save_picture(sheet, self.folder / f"step_{made:06d}.png")
        save_moving(columns, self.folder / f"step_{made:06d}.webp", self.fps)
        if tracker is not None:
            tracker.picture(made, "samples", torch.from_numpy(sheet))

    @torch.no_grad()
    def student_clips(self, state: Mapping[str, Tensor], steps: int) -> Tensor:
        """Clips of the student, uint8 ``[N, F, H, W, 3]``."""
        task, recipe = self.task, self.task.recipe
        device = task.accelerator.device
        if self.network is None:
            # In the teacher's precision: a picture needs no more, and it is one copy of the network beside the others.
            self.network = copy.deepcopy(self.teacher.network).train(False)
        self.network.load_state_dict({k: v.to(device) for k, v in state.items()})
        self.network.to(device)
        schedule = self.teacher.schedule.to(device, torch.float32)
        generator = torch.Generator().manual_seed(recipe.seed + steps)
        latents = sample_lcm(
            self._model(self.network, self.scenes.context),
            self.scenes.noise.to(device),
            lcm_timesteps(steps, recipe.original_steps, num_timesteps=schedule.num_timesteps),
            schedule,
            self.teacher.prediction,
            timestep_scaling=recipe.timestep_scaling,
            step_noise=lambda x, _: torch.randn(x.shape, generator=generator).to(x),
        )
        return self.decode(latents)

    @torch.no_grad()
    def teacher_clips(self) -> Tensor:
        """Clips of the teacher, sampled in the first validation."""
        path = self.folder / "teacher.pt"
        if path.exists():
            kept = torch.load(path, weights_only=True)
            if kept["prompts"] == list(self.scenes.prompts) and kept["w"] == self.task.recipe.w:
                return kept["clips"]
        device, recipe = self.task.accelerator.device, self.task.recipe
        network = self.teacher.network
        mode = network.training
        network.train(False)
        latents = sample_ddim(
            self._model(network, self.scenes.context),
            self.scenes.noise.to(device),
            self.teacher_steps,
            self.teacher.schedule.to(device, torch.float32),
            self.teacher.prediction,
            1.0 + recipe.w,
            self._model(network, self.scenes.uncond.expand_as(self.scenes.context)),
        )
        network.train(mode)
        clips = self.decode(latents)
        save_atomically({"prompts": list(self.scenes.prompts), "w": recipe.w, "clips": clips}, path)
        return clips

    def _model(self, network: nn.Module, context: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        device, predictor = self.task.accelerator.device, Predictor(network)
        context = context.to(device)
        conditions = {k: (i.to(device), p.to(device)) for k, (i, p) in self.scenes.conditions.items()}

        def model(x: Tensor, t: Tensor) -> Tensor:
            with self.task.accelerator.autocast():
                return predictor(x, t, context, conditions)

        return model


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
    """A picture: a row of each prompt, in it some frames of every kind of clip.

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


def save_picture(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG."""
    from PIL import Image

    Image.fromarray(pixels).save(path)


def save_moving(columns: Mapping[str, Tensor], path: Path, fps: int) -> None:
    """Write an animated WebP: prompts as rows, kinds of clip as columns."""
    from PIL import Image

    rows = torch.cat(list(columns.values()), dim=3)  # side by side: [N, F, H, W * columns, 3]
    frames = [Image.fromarray(np.concatenate(list(frame.numpy()))) for frame in rows.transpose(0, 1)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, quality=80)
