"""Train a teacher on your own clips: ``python -m training.mini.pretrain_clips --clips DIR --out FILE --export FILE``.

As `pretrain`, but with the words of your captions and the embedded autoencoder. The exported file is a teacher for
``python -m training.distill --teacher FILE --clips DIR``. The same command resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor

from ..data import latents
from ..data.batches import Batches, BatchOptions, SourceBatches
from ..data.decode import FrameSampling
from ..data.mixing import Ratio
from ..data.opening import DataSpec, caption_vocabulary, open_batches
from ..engine.caches import digest_of, fingerprint
from ..engine.commands import run_command
from ..engine.identity import Identity, told
from ..engine.loop import LoopOptions, run
from ..engine.processes import open_accelerator
from ..engine.trackers import check_tracker
from ..teachers import load_teacher
from . import family as mini
from .pretrain import TeacherTask, add_teacher_arguments, teacher_numbers

DROP_TEXT, UNKNOWN_WORDS = 0.1, 0.02  # as for the corpus


class ClipTeacherTask(TeacherTask):
    """v-prediction on `Batches` of token ids, first on single frames, then on frames and clips, 1 : 3.

    Args:
        stills: batches of images.
        joint: batches of clips and images.
        vocabulary: sorted CLIP ids of the captions' words.
        options: of the command.
        accelerator: of this process.
    """

    def __init__(
        self,
        stills: Batches,
        joint: Batches,
        vocabulary: Tensor,
        options: argparse.Namespace,
        accelerator: Accelerator | None = None,
    ) -> None:
        nothing = latents.LatentClips(latents=torch.empty(0, 4, 1, 1, 1), labels=torch.empty(0).long())
        super().__init__(nothing, options, mini.TextVideoModel(vocabulary), accelerator)
        self.stills, self.joint, self.index = stills, joint, 0

    def step(self, index: int, generator: torch.Generator) -> Mapping[str, float]:
        """One step."""
        self.index = index
        return super().step(index, generator)

    def batch(self, frames_only: bool, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents ``[B, 4, F, h, w]`` (F 1 for frames), caption ids ``[B, 77]`` and which clips they are."""
        batches = self.stills if self.index < self.options.image_steps else self.joint
        batch = batches.batch(self.index, range(batches.size(self.index)))
        if batch.images != frames_only:
            raise RuntimeError(f"step {self.index} asks for {'frames' if frames_only else 'clips'} and got the other.")
        return batch.latents, batch.context, batch.extra["index"]


def export(checkpoint: Path, start: Path, out: Path, sampling: FrameSampling) -> None:
    """Write the averaged teacher with the autoencoder and preview colours of ``start``."""
    trained, parts = load_teacher(checkpoint), mini.load_all_in_one(start)
    with safe_open(start, "pt") as file:
        known = file.metadata()
    colors = {k: known[f"videolcm.{k}"] for k in ("latent_rgb_factors", "latent_rgb_bias") if f"videolcm.{k}" in known}
    size = {n: getattr(sampling, n) for n in ("width", "height", "frames", "fps")}
    assert trained.text is not None
    mini.export(out, trained.network, trained.text, parts.autoencoder, "teacher", **colors, **size)  # type: ignore[arg-type]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of clips and images with captions")
    parser.add_argument("--shards", help="WebDataset shards, in place of --clips")
    parser.add_argument("--cache", type=Path, help="folder for latents, made first; none: encoded in every step")
    parser.add_argument(
        "--start",
        type=Path,
        default=Path("models/videolcm-mini-teacher.safetensors"),
        help="all-in-one file whose autoencoder is used",
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoint (.pt); resumed when it exists")
    parser.add_argument("--export", type=Path, help="all-in-one .safetensors file to write at the end")
    for name, default in (("frames", 16), ("fps", 8), ("width", 64), ("height", 64)):
        parser.add_argument(f"--{name}", type=float if name == "fps" else int, default=default)
    add_teacher_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    o = _parser().parse_args(arguments)
    check_tracker(o.tracker)
    torch.manual_seed(o.seed)
    accelerator = open_accelerator()
    sampling = FrameSampling(frames=o.frames, fps=o.fps, width=o.width, height=o.height)
    spec = DataSpec(clips=o.clips, shards=o.shards, cache=o.cache, sampling=sampling)
    autoencoder = mini.load_all_in_one(o.start).autoencoder

    def batches(ratio: Ratio, *, quiet: bool = False) -> SourceBatches:
        options = BatchOptions(
            batch=o.batch,
            image_batch=o.image_batch,
            ratio=ratio,
            seed=o.seed,
            ids=True,
            drop_text=DROP_TEXT,
            unknown_words=UNKNOWN_WORDS,
        )
        return open_batches(spec, options, autoencoder=autoencoder, device=accelerator.device, quiet=quiet)

    joint, stills = batches(Ratio()), batches(Ratio(images=1, clips=0), quiet=True)
    events = o.out.with_suffix("") / "events"
    data = {f"--{n}": str(v) for n in ("clips", "shards", "cache") if (v := getattr(o, n)) is not None}
    vocabulary = caption_vocabulary(spec)
    identity = Identity(
        fixed={
            "autoencoder": fingerprint(autoencoder),
            "words": digest_of({"vocabulary": vocabulary}),
            **told(o, "frames", "width", "height"),
        },
        data=data | told(o, "fps", "seed") | teacher_numbers(o),
    )
    loop = LoopOptions(
        checkpoint=o.out, identity=identity, steps=o.steps, seed=o.seed, tracker=o.tracker, events=events
    )
    run(ClipTeacherTask(stills, joint, vocabulary, o, accelerator), loop, accelerator)
    if accelerator.is_main_process and (left := joint.left_out()):
        print(left)
    if o.export is not None and accelerator.is_main_process:
        export(o.out, o.start, o.export, sampling)
        print(o.export)


if __name__ == "__main__":
    run_command(main)
