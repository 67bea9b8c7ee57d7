"""Distil a consistency student: ``python -m training.distill --teacher FILE --corpus DIR --out runs/x``.

On several GPUs or machines: ``accelerate launch --config_file training/configs/ddp.yaml -m training.distill ...``. The
same command resumes; ``--dry-run`` shows the recipe and what it costs. Consistency distillation as in VideoLCM (arXiv
2312.09109), one step of it is held to the authors' code by ``tests/parity.py`` (``distill_step``).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from .data.batches import BatchOptions, SourceBatches
from .data.mixing import Ratio
from .data.opening import DataSpec, open_batches, teacher_sampling
from .distill_options import checkpoint_of, chosen_method, folder_of, parser_of
from .engine import costs
from .engine.caches import digest_of, fingerprint
from .engine.commands import run_command
from .engine.identity import Identity
from .engine.loop import Hook, LoopOptions, run
from .engine.processes import launched_sharded, open_accelerator
from .engine.task import BatchesLike, MethodTask, Scale
from .engine.trackers import check_tracker
from .engine.validation import Validation, decoder
from .methods import Inputs, find_method
from .methods.method import Method
from .methods.parts.previews import Scenes
from .recipes import resolve_recipe
from .recipes.base import DTYPES
from .students import (
    LcmSettings,
    LoraOptions,
    LoraStudent,
    Student,
    export_lora_kohya,
    export_lora_peft,
    export_student,
    full_student,
    lora_student,
    start_at,
    student_metadata,
    target_names,
)
from .teachers import Teacher, load_autoencoder, load_teacher, with_lora


def prepare_teacher(options: argparse.Namespace) -> Teacher:
    """The teacher, with the LoRA and the autoencoder given beside it."""
    teacher = load_teacher(options.teacher, prediction=options.prediction)
    if options.teacher_lora is not None:
        teacher = with_lora(teacher, options.teacher_lora)
    if options.autoencoder is None:
        return teacher
    return replace(teacher, autoencoder=load_autoencoder(options.autoencoder))


def decoder_of(options: argparse.Namespace, recipe: Any, teacher: Teacher) -> torch.nn.Module | None:
    """What decodes latents, where the method looks at frames: the teacher's autoencoder, or Stable Diffusion's."""
    if teacher.autoencoder is not None or options.vae is None or not recipe.real_frames:
        return teacher.autoencoder
    from .data.stable_diffusion import load_autoencoder as load_published

    return load_published(options.vae)


def data_of(options: argparse.Namespace, recipe: Any, teacher: Teacher, device: torch.device) -> SourceBatches:
    """The batches of the run.

    Raises:
        ValueError: images that nothing asks for.
    """
    if options.image_set and not recipe.images and not recipe.real_frames:
        raise ValueError(
            f"--image-set {options.image_set} and a recipe that looks at no image ({recipe.name}); allowed: with steps "
            "on images (--images 1), or with a frame adversary (--method mcm, --adversarial-weight above 0). Leave it "
            "out, or change the recipe."
        )
    sampling = replace(
        teacher_sampling(teacher),
        stride=recipe.frame_stride,
        crop_area=recipe.crop_area,
        image_crop_area=recipe.image_crop_area,
    )
    spec = DataSpec(
        corpus=options.corpus,
        clips=options.clips,
        shards=options.shards,
        cache=options.cache,
        sampling=sampling,
        image_set=options.image_set,
        vae=options.vae,
        missing_captions=options.missing_captions,
        text_encoder=options.text_encoder,
    )
    batching = BatchOptions(
        batch=recipe.batch,
        image_batch=recipe.image_batch,
        ratio=Ratio(images=recipe.images, clips=recipe.videos),
        seed=recipe.seed,
        workers=options.workers,
        pixels=bool(recipe.real_frames) and not options.image_set,
        stills=recipe.real_frames if options.image_set else 0,
    )
    return open_batches(spec, batching, teacher, device=device)


def student_of(options: argparse.Namespace, recipe: Any, teacher: Teacher, accelerator: Accelerator) -> Student:
    """All weights, or adapters.

    Raises:
        ValueError: a combination that does not work.
    """
    if not options.lora:
        if options.lora_start:
            raise ValueError("--lora-start is where adapters begin and all weights train; give --lora RANK.")
        if options.export_kohya or options.export_peft:
            raise ValueError("--export-kohya and --export-peft write LoRAs and all weights train; give --lora RANK.")
        return full_student(teacher)
    if launched_sharded(accelerator) or options.shard:
        raise ValueError(
            "--lora with spread parameters (FSDP); allowed: LoRA on one GPU or with ddp.yaml, where it "
            "needs little memory. Launch with training/configs/ddp.yaml."
        )
    lora = LoraOptions(rank=options.lora, alpha=options.lora_alpha, temporal_convs=options.lora_temporal)
    student = lora_student(teacher, lora, seed=recipe.seed)
    if options.lora_start is not None:
        start_at(student, options.lora_start)
    return student


def describe(recipe: Any, teacher: Teacher, options: argparse.Namespace) -> str:
    """The resolved recipe and what it costs on each GPU."""
    accelerator = Accelerator(cpu=options.cpu)
    processes, spread = accelerator.num_processes, options.shard or launched_sharded(accelerator)
    lora = LoraOptions(temporal_convs=options.lora_temporal)
    network = costs.measure(teacher.config, teacher.latent_shape, adapted=lambda n: target_names(n, lora))
    each = max(1, recipe.batch // (processes * options.accumulation))
    low = 4 if recipe.precision == "no" else 2
    layout = costs.Layout(
        lora_rank=options.lora,
        checkpointing=options.checkpointing,
        processes=processes if spread else 1,
        average=bool(recipe.average_ema),
        teacher_bytes=4 if recipe.teacher_precision == "float32" else 2,
        compute_bytes=low,
    )
    parts = costs.memory(network, layout, each)
    flops = costs.step_flops(network, layout, recipe.batch)
    lines = [
        f"teacher  {teacher.file}: {teacher.settings.family}, predicts {teacher.prediction}, "
        f"conditions: {', '.join(teacher.conditions) or 'text only'}",
        f"recipe   {json.dumps(recipe.settings(), indent=2)}",
        f"network  {network.parameters / 1e6:.1f} M parameters, {network.forward_flops / 1e9:.1f} GFLOP a clip forward",
        f"layout   {processes} processes x {options.accumulation} parts x {each} clips",
        "memory   " + ", ".join(f"{k} {v:.2f}" for k, v in parts.items()) + f" = {sum(parts.values()):.2f} GiB each",
        f"step     {flops / 1e12:.3f} TFLOP, all processes together; {recipe.steps} steps are "
        f"{flops * recipe.steps / 1e15:.2f} PFLOP",
        f"time     {costs.step_seconds(flops / processes)}",
    ]
    return "\n".join(lines)


def export(options: argparse.Namespace, task: MethodTask, teacher: Teacher, student: Student) -> None:
    """Write what was asked for, all of the one network that the recipe releases; every process must call it."""
    state, recipe = task.released_state(), task.recipe
    if not task.accelerator.is_main_process:
        return
    settings = LcmSettings.of(recipe, options.method)
    dtype: dict[str, Any] = {} if options.export_dtype is None else {"dtype": DTYPES[options.export_dtype]}
    if options.export is not None:
        print(export_student(options.export, state, teacher, recipe=recipe.settings(), settings=settings, **dtype))
    if isinstance(student, LoraStudent):
        network, entries = task.method.released_network(), student_metadata(teacher, settings, recipe.settings())
        if (path := options.export_kohya) is not None:
            print(export_lora_kohya(path, student, network, teacher=teacher, metadata=entries, **dtype))
        if (folder := options.export_peft) is not None:
            print(export_lora_peft(folder, student, network, teacher=teacher, metadata=entries, **dtype))


def scenes_of(batches: BatchesLike, uncond: torch.Tensor, options: argparse.Namespace, seed: int) -> Scenes:
    """Scenes of given prompts, or of the first clips' captions and conditions without any.

    Raises:
        ValueError: prompts are given and the data has no text encoder.
    """
    count = min(len(options.prompts) or options.samples, batches.size(0))
    first = batches.batch(0, range(count))
    text, shown = first.context, tuple(options.prompts)[:count]
    if shown:
        text = torch.cat([batches.uncond_context(prompt) for prompt in shown])
    else:
        shown = tuple(first.extra.get("captions", [f"clip {i}" for i in range(count)]))
    noise = torch.randn(first.latents.shape, generator=torch.Generator().manual_seed(seed))
    conditions = first.extra.get("conditions", {})
    return Scenes(prompts=shown, text=text, uncond=uncond, noise=noise, conditions=conditions)


def identity_of(options: argparse.Namespace, teacher: Teacher, student: Student, method: Method) -> Identity:
    """What the run is made from: the teacher by its weights, the student's kind, the method's own; and which data."""
    data = {
        n: str(v) for n in ("corpus", "clips", "shards", "cache", "image_set") if (v := getattr(options, n)) is not None
    }
    for name, encoder in (("text encoder", teacher.text), ("autoencoder", teacher.autoencoder)):
        data[name] = "none" if encoder is None else fingerprint(encoder)
    data |= {f"--{n}": str(v) for n in ("vae", "text_encoder", "lora_start") if (v := getattr(options, n)) is not None}
    fixed = {
        "method": options.method,
        "teacher": fingerprint(teacher.network),
        "prediction": teacher.prediction,
        "schedule": digest_of({"alphas_cumprod": teacher.schedule.alphas_cumprod}),
        **student.identity(),
        **method.identity(),
    }
    return Identity(fixed=fixed, data=data)


def loop_options(
    options: argparse.Namespace, identity: Identity, recipe: Any, task: MethodTask, teacher: Teacher
) -> LoopOptions:
    """Where and how the loop runs, with the sample sheets."""
    folder, hooks = folder_of(options.out), []
    if options.validate_every:
        # Of its own batches: the scenes are the same however far the run is.
        watch = Validation(
            task,
            teacher,
            scenes_of(task.batches, task.uncond, options, recipe.seed),
            folder / "samples",
            decoder(teacher.autoencoder, task.accelerator.device),
            teacher_steps=options.teacher_steps,
            fps=round(teacher.settings.fps),
        )
        hooks.append(Hook(every=options.validate_every, call=watch))
    return LoopOptions(
        checkpoint=checkpoint_of(options.out),
        identity=identity,
        steps=recipe.steps,
        save_seconds=options.save_seconds,
        save_steps=recipe.save_steps,
        seed=recipe.seed,
        log_every=options.log_every,
        tracker=options.tracker,
        events=folder / "events",
        hooks=hooks,
    )


def scale_of(options: argparse.Namespace, accelerator: Accelerator) -> Scale:
    """How the work is laid out."""
    return Scale(
        accumulation=options.accumulation,
        compile=options.compile,
        shard=options.shard or launched_sharded(accelerator),
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    name = chosen_method(arguments)
    options = parser_of(name, __doc__ or "").parse_args(arguments)
    recipe, teacher = resolve_recipe(options, name), prepare_teacher(options)
    if options.dry_run:
        print(describe(recipe, teacher, options))
        return
    check_tracker(options.tracker)
    torch.manual_seed(recipe.seed)
    accelerator = open_accelerator(recipe.precision, options.accumulation, cpu=options.cpu)
    batches = data_of(options, recipe, teacher, accelerator.device)
    student = student_of(options, recipe, teacher, accelerator)
    inputs = Inputs(
        teacher=teacher,
        student=student,
        device=accelerator.device,
        recompute=options.checkpointing,
        autoencoder=decoder_of(options, recipe, teacher),
    )
    method = find_method(name).build(recipe, inputs)
    identity = identity_of(options, teacher, student, method)
    task = MethodTask(batches, method, accelerator, scale_of(options, accelerator))
    run(task, loop_options(options, identity, recipe, task, teacher), accelerator)
    if accelerator.is_main_process and (told := batches.left_out()):
        print(told)
    export(options, task, teacher, student)
    accelerator.end_training()


if __name__ == "__main__":
    run_command(main)
