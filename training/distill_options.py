"""The options of a distillation, whatever the method."""

from __future__ import annotations

import argparse
from pathlib import Path

from .engine.trackers import TRACKERS
from .methods import method_names
from .recipes import add_recipe_arguments
from .recipes.base import CHOICES


def checkpoint_of(out: Path) -> Path:
    """The running checkpoint: ``out`` itself if it is named as a file, else in the folder."""
    return out if out.suffix == ".pt" else out / "checkpoint.pt"


def folder_of(out: Path) -> Path:
    """Where curves and images go: the run's folder, or one beside the checkpoint's file with its name."""
    return out.with_suffix("") if out.suffix == ".pt" else out


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of any distillation that are no numbers of the recipe."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the run, or its checkpoint (.pt); resumed")
    scale = parser.add_argument_group("scale", "how the work is laid out; results differ by rounding only")
    scale.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step, one after the other")
    scale.add_argument("--checkpointing", action="store_true", help="compute activations twice, keep less memory")
    scale.add_argument("--compile", action="store_true", help="torch.compile the networks")
    scale.add_argument("--shard", action="store_true", help="spread the weights over processes, as fsdp.yaml does")
    scale.add_argument("--cpu", action="store_true", help="stay on the CPU")
    watch = parser.add_argument_group("watching")
    watch.add_argument("--tracker", choices=TRACKERS, default="tensorboard", help="default: tensorboard")
    watch.add_argument("--log-every", type=int, default=20, help="steps between points of the curves")
    watch.add_argument("--save-seconds", type=float, default=120.0, help="time between checkpoints")
    watch.add_argument("--validate-every", type=int, default=0, help="steps between sample sheets; 0: none")
    watch.add_argument("--prompts", nargs="+", default=[], help="for the samples; default: captions of the first clips")
    watch.add_argument("--samples", type=int, default=4, help="samples without --prompts (default 4)")
    watch.add_argument("--teacher-steps", type=int, default=25, help="of the teacher's samples (default 25)")


def parser_of(method: str, description: str) -> argparse.ArgumentParser:
    """All options of a distillation by a method."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=method_names(), default=method, help=f"default: {method}")
    parser.add_argument("--teacher", type=Path, required=True, help="any file or folder that training/teachers reads")
    parser.add_argument("--teacher-lora", type=Path, help="a LoRA that is put on the teacher before")
    parser.add_argument("--prediction", help="what the teacher predicts, where its file does not say")
    data = parser.add_argument_group("data", "one of corpus, clips and shards; or a cache alone")
    data.add_argument("--corpus", type=Path, help="the rendered corpus")
    data.add_argument("--clips", type=Path, help="folder of clips and images with captions")
    data.add_argument("--shards", help="WebDataset shards, a folder or a pattern")
    data.add_argument("--cache", type=Path, help="latents and text of clips or shards, made first where needed")
    data.add_argument("--image-set", help="images with captions of their own: a folder, shards, or a corpus")
    data.add_argument("--missing-captions", choices=("error", "skip"), default="error")
    data.add_argument("--vae", type=Path, help="Stable Diffusion's, where the teacher's file has none")
    data.add_argument("--text-encoder", type=Path, help="OpenCLIP's, where the teacher's file has none")
    data.add_argument("--autoencoder", type=Path, help="ours (checkpoint, all-in-one), where the teacher has none")
    data.add_argument("--workers", type=int, default=2, help="threads that read")
    student = parser.add_argument_group("student")
    student.add_argument("--lora", type=int, default=0, metavar="RANK", help="train adapters of this rank only")
    student.add_argument("--lora-alpha", type=float, help="default: the rank")
    student.add_argument("--lora-temporal", action="store_true", help="adapters in the convolutions along time too")
    student.add_argument("--lora-start", type=Path, help="a LoRA of the same rank that the adapters begin at")
    student.add_argument("--export", type=Path, help=".safetensors to write at the end")
    student.add_argument("--export-kohya", type=Path, help="LoRA file for the graph's LoRA loader")
    student.add_argument("--export-peft", type=Path, help="LoRA folder for peft")
    student.add_argument(
        "--export-dtype", choices=CHOICES["teacher_precision"], help="of all; default float16, of peft's float32"
    )
    add_run_arguments(parser)
    add_recipe_arguments(parser, method)
    parser.add_argument("--dry-run", action="store_true", help="show the recipe and its costs; train nothing")
    return parser


def chosen_method(arguments: list[str] | None) -> str:
    """The method that a command line names, which decides what other options there are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", choices=method_names(), default="videolcm")
    return first.parse_known_args(arguments)[0].method
