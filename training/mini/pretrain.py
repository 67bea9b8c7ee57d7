"""Train the teacher: first on single frames, then on clips (with frames mixed in).

``python -m training.mini.pretrain --corpus DIR --autoencoder FILE --out FILE``; the same command resumes.

A teacher that is there goes on with other clips, as a large one is fine-tuned, with ``--start`` and ``--frozen-text``:
``--corpus runs/mcm/clips --autoencoder runs/mcm/decoder.pt --start models/videolcm-mini-teacher.safetensors``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor

from videolcm_core.diffusion.prediction import velocity
from videolcm_core.networks.autoencoder import TinyAutoencoder
from videolcm_core.networks.vgen.unet3d import UNetConfig

from ..data import latents
from ..data.corpus import Corpus
from ..engine.caches import digest_of, file_digest, fingerprint
from ..engine.commands import run_command
from ..engine.files import released_state
from ..engine.followers import update_ema
from ..engine.identity import Identity, told
from ..engine.loop import LoopOptions, run
from ..engine.processes import average_gradients, open_accelerator, share
from ..engine.progress import bin_means, bin_sums
from ..engine.rates import set_learning_rate, warmup_stable_decay
from ..engine.trackers import TRACKERS, check_tracker
from ..networks.vgen import Conditions, encode_conditions
from . import captions, world
from . import family as mini
from .worlds.base import World, world_named


def stratified_timesteps(count: int, generator: torch.Generator, power: float) -> Tensor:
    """Timesteps spread over the schedule, one in each of ``count`` equal parts, leaning to high noise.

    Args:
        count: how many.
        generator: draws the place in each part.
        power: 1 is uniform; below 1 prefers high noise, where layout and motion are decided.

    Returns:
        long ``[count]`` in 0..999.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (u**power * 1000).long().clamp(max=999)


class TeacherTask:
    """v-prediction with text dropped for guidance.

    Every process draws the whole step's batch and computes its share of it, so that N processes make the steps of one.
    """

    def __init__(
        self,
        data: latents.LatentClips,
        options: argparse.Namespace,
        model: mini.TextVideoModel | None = None,
        accelerator: Accelerator | None = None,
        of: World = world.MINI,
    ) -> None:
        self.data, self.options, self.accelerator = data, options, accelerator
        self.device = torch.device("cpu") if accelerator is None else accelerator.device
        self.tokens = captions.CaptionTokens(of)
        self.schedule = mini.schedule()
        self.model = (model or mini.TextVideoModel(self.tokens.vocabulary)).to(self.device)
        if getattr(options, "frozen_text", False):
            self.model.text.requires_grad_(False)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def state(self) -> dict[str, Any]:
        """Model, average and optimiser."""
        return {n: getattr(self, n).state_dict() for n in ("model", "average", "optimizer")}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        for name, value in state.items():
            getattr(self, name).load_state_dict(value)

    def batch(self, frames_only: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Random latents ``[B, 4, F, h, w]`` (F 1 for frames), caption ids ``[B, 77]`` and which clips they are."""
        count = self.options.image_batch if frames_only else self.options.batch
        chosen = torch.randint(len(self.data.labels), (count,), generator=generator)
        x_0, labels = self.data.latents[chosen], self.data.labels[chosen]
        if frames_only:
            frame = torch.randint(x_0.shape[2], (count, 1), generator=generator)
            x_0 = x_0[torch.arange(count)[:, None], :, frame].transpose(1, 2)
        ids = self.tokens.draw(labels, generator, shares=captions.FRAMES if frames_only else captions.CLIPS)
        return x_0.float(), ids, chosen

    def conditions(self, chosen: Tensor, samples: range, generator: torch.Generator) -> Conditions:
        """What ``samples`` of a batch, clips ``chosen``, are given beside the text: here nothing."""
        return {}

    def predict(self, x_t: Tensor, t: Tensor, ids: Tensor, given: Conditions, temporal: bool) -> Tensor:
        """The network's output for a batch; without ``temporal`` around the layers along time, for single frames."""
        unique, rows = torch.unique(ids, dim=0, return_inverse=True)
        concat = encode_conditions(self.model.unet, given, x_t) if given else None
        return self.model.unet(x_t, t, self.model.text(unique)[rows], concat=concat, temporal=temporal)

    def frames_only(self, index: int) -> bool:
        """Whether a step trains on single frames: the whole first phase, later every fourth step."""
        return index < self.options.image_steps or index % 4 == 3

    def share(self, count: int) -> range:
        """This process's samples of a batch: every n-th, so that each has all noise levels.

        Raises:
            ValueError: the batch cannot be divided evenly.
        """
        if self.accelerator is None:
            return range(count)
        share(count, 0, self.accelerator.num_processes, 1)
        return range(self.accelerator.process_index, count, self.accelerator.num_processes)

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One step."""
        o = self.options
        first_phase, frames_only = index < o.image_steps, self.frames_only(index)
        local, total = (index, o.image_steps) if first_phase else (index - o.image_steps, o.steps - o.image_steps)
        rate = warmup_stable_decay(local, total, peak=o.learning_rate, decay=0.1 if first_phase else 0.45)
        set_learning_rate(self.optimizer, rate)
        x_0, ids, chosen = self.batch(frames_only, generator)
        t = stratified_timesteps(len(x_0), generator, o.timestep_power)
        eps = torch.randn(x_0.shape, generator=generator)
        mine = self.share(len(x_0))
        given = self.conditions(chosen, mine, generator)
        x_0, ids, t, eps = (v[mine.start :: mine.step].to(self.device) for v in (x_0, ids, t, eps))
        x_t = self.schedule.add_noise(x_0, eps, t)
        target = velocity(x_0, eps, self.schedule.alpha_t(t), self.schedule.sigma_t(t))
        with torch.autocast(self.device.type, torch.bfloat16):
            output = self.predict(x_t, t, ids, given, not frames_only)
        errors = (output.float() - target).square().flatten(1).mean(1)
        loss = errors.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.accelerator, self.trained)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        update_ema(self.average, self.model, min(o.ema, (index + 1) / (index + 10)))
        kind = "frame" if frames_only else "clip"
        sums = bin_sums(errors, t)
        sums = sums if self.accelerator is None else self.accelerator.reduce(sums, "sum")
        mean, count = float(sums[0].sum() / sums[1].sum()), float(sums[1].sum())
        return {"loss": mean, kind: mean, **bin_means(sums), "rate": rate, "samples": count}


def first_leg(path: Path, config: UNetConfig = mini.UNET) -> mini.TextVideoModel:
    """The average that an earlier run of this command left, or an all-in-one file, to be trained on."""
    if path.suffix == ".safetensors":
        parts = mini.load_all_in_one(path)
        state = {f"{n}.{k}": v for n in ("unet", "text") for k, v in getattr(parts, n).state_dict().items()}
    else:
        state = released_state(path)
    model = mini.TextVideoModel(state["text.vocabulary"], config)
    model.load_state_dict(state)
    return model


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    """Numbers of a teacher's training, whatever its data."""
    parser.add_argument("--image-steps", type=int, default=3000, help="steps on single frames")
    parser.add_argument("--steps", type=int, default=8000, help="all steps, those on frames included")
    parser.add_argument("--batch", type=int, default=16, help="clips a step")
    parser.add_argument("--image-batch", type=int, default=128, help="frames a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--timestep-power", type=float, default=0.75)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--tracker", choices=TRACKERS, default="tensorboard", help="default: tensorboard")


def teacher_numbers(options: argparse.Namespace) -> dict[str, str]:
    """Numbers of a teacher's training, as its identity keeps them."""
    return told(options, "image_steps", "batch", "image_batch", "learning_rate", "timestep_power", "ema")


def export(path: Path, model: mini.TextVideoModel, autoencoder: TinyAutoencoder, start: Path | None, of: World) -> None:
    """Write an all-in-one file, with the preview colours of the file that was started from."""
    known: dict[str, str] = {}
    if start is not None and start.suffix == ".safetensors":
        with safe_open(start, "pt") as file:
            known = file.metadata()
    colors = {k: known[f"videolcm.{k}"] for k in ("latent_rgb_factors", "latent_rgb_bias") if f"videolcm.{k}" in known}
    path.parent.mkdir(parents=True, exist_ok=True)
    mini.export(path, model.unet, model.text, autoencoder, "teacher", of, **colors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True, help="checkpoint, or an all-in-one file")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint; resumed when it exists")
    parser.add_argument("--start", type=Path, help="first leg, whose average is trained on, or an all-in-one file")
    parser.add_argument("--frozen-text", action="store_true", help="the text encoder of --start stays as it is")
    parser.add_argument("--export", type=Path, help="all-in-one .safetensors file to write at the end")
    parser.add_argument("--export-autoencoder", type=Path, help="another one for that file, with the same encoder")
    add_teacher_arguments(parser)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line.

    Raises:
        ValueError: ``--frozen-text`` without ``--start``.
    """
    options = _parser().parse_args(arguments)
    if options.frozen_text and options.start is None:
        raise ValueError("--frozen-text keeps the text encoder of --start, which is not given; give it.")
    check_tracker(options.tracker)
    torch.manual_seed(0)
    accelerator = open_accelerator()
    corpus, autoencoder = Corpus.open(options.corpus), mini.read_autoencoder(options.autoencoder)
    data = latents.cached_latents(corpus, autoencoder, corpus.training)
    origin = "nothing" if options.start is None else file_digest(options.start)
    loop = LoopOptions(
        checkpoint=options.out,
        identity=Identity(
            fixed={"autoencoder": fingerprint(autoencoder), "start": origin}
            | (told(options, "frozen_text") if options.frozen_text else {}),
            data={"corpus": digest_of({"shards": corpus.digests(corpus.training)}), **teacher_numbers(options)},
        ),
        steps=options.steps,
        tracker=options.tracker,
        events=options.out.with_suffix("") / "events",
    )
    of = world_named(corpus.world)
    if options.start is None:
        model = mini.TextVideoModel(captions.CaptionTokens(of).vocabulary, mini.unet_of(of))
    else:
        model = first_leg(options.start, mini.unet_of(of))
    task = TeacherTask(data, options, model, accelerator, of)
    run(task, loop, accelerator)
    if options.export is not None and accelerator.is_main_process:
        exported = mini.read_autoencoder(options.export_autoencoder or options.autoencoder)
        export(options.export, task.average, exported, options.start, of)
        print(options.export)
    accelerator.end_training()


if __name__ == "__main__":
    run_command(main)
