"""Our distillation step against the authors' formulation of it: same network, batch, precision and hardware.

``python benchmarks/distillation_speed.py`` compares them twice and exits with 1 when ours is not ``--goal`` times as
fast. The authors' loop (``train_videolcm_t2v_entrance.py``): clips through the VAE and captions through the text
encoder in every step, a prompt pass and a negative pass of the teacher, an average updated parameter by parameter; and
layers as they wrote them, for which diffusers' ``UNet3DConditionModel`` stands: the same function of the same weights,
checked here. Ours: our layers, latents and text from the cache, both passes in one batch (which a processor computes in
parts that its cache holds), the teacher in low precision, fused updates.

The whole machine: one process with all cores, which is how the authors' script uses a processor, against ours as it is
launched, ``--processes`` processes that average their gradients, with the same batch together; wall time, turn by turn,
and the ratio is the median of neighbouring turns. This ratio decides. Only a machine that does nothing else
measures it: other programs hold up a process of several threads most, which flatters ours.

Part by part: both and what lies between, turn by turn in one process, on one thread, in seconds of the processor, so
that other programs do not count. ``--device cuda`` has only this comparison, in wall time of finished work.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.distillation_step import AUTHORS, OURS, Step
from benchmarks.whole_machine import compare
from training.mini import family as mini
from training.mini import world

LADDER = {
    "authors' formulation": AUTHORS,
    "+ our layers": replace(AUTHORS, our_layers=True),
    "+ latents from the cache": replace(AUTHORS, our_layers=True, cached_latents=True),
    "+ text from the cache": replace(AUTHORS, our_layers=True, cached_latents=True, cached_text=True),
    "+ prompt and negative prompt in one batch": replace(OURS, frozen_teacher=False, fused_updates=False),
    "+ frozen teacher in bfloat16": replace(OURS, fused_updates=False),
    "+ fused AdamW and average: ours": OURS,
}


def seconds(step: Step) -> float:
    """Time of one step; see the top of this file for which."""
    cuda = step.device.type == "cuda"
    clock = time.process_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
    if cuda:
        torch.cuda.synchronize(step.device)
    start = clock()
    step()
    if cuda:
        torch.cuda.synchronize(step.device)
    return clock() - start


@torch.no_grad()
def largest_difference(first: nn.Module, second: nn.Module, device: torch.device) -> float:
    """Of two networks' outputs for the same input, in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, world.FRAMES, world.SIZE // 8, world.SIZE // 8, generator=generator).to(device)
    context = torch.randn(1, 77, mini.UNET.context_dim, generator=generator).to(device)
    t = torch.tensor([500], device=device)
    return (first(x, t, context) - second(x, t, context)).abs().max().item()


def part_by_part(options: argparse.Namespace) -> float:
    """Print the ladder; returns how many times the authors' speed ours has."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    ladder = LADDER | ({"+ torch.compile": replace(OURS, compiled=True)} if options.compile else {})
    steps = {name: Step(parts, options.batch, device) for name, parts in ladder.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    difference = largest_difference(*(steps[name].teacher for name in list(steps)[:2]), device)
    for step in steps.values():
        step()
    for _ in range(options.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    print(f"part by part, {options.threads} threads; largest difference of the two networks' outputs: {difference:.1e}")
    print("| step | samples/s | times the authors' | times the line above |\n|---|---|---|---|")
    first, before = next(iter(times)), next(iter(times))
    ratio = 1.0
    for name, values in times.items():
        ratio, gain = (statistics.median(a / b for a, b in zip(times[n], values, strict=True)) for n in (first, before))
        rate = options.batch / statistics.median(values)
        print(f"| {name} | {rate:.2f} | {ratio:.2f} | {gain:.2f} |", flush=True)
        before = name
    return ratio


def whole_machine(options: argparse.Namespace, cores: int) -> float:
    """Print both formulations on all cores; returns how many times the authors' speed ours has."""
    each = max(1, cores // options.processes)
    theirs, ours = compare(options.batch, options.rounds, cores, options.processes, each)
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    ratio = statistics.median(ratios)
    print("whole machine, wall time\n| step | samples/s | times the authors' |\n|---|---|---|")
    print(
        f"| authors' formulation, 1 process of {cores} threads | {options.batch / statistics.median(theirs):.2f} | 1 |"
    )
    layout = f"{options.processes} processes of {each} threads"
    print(f"| ours, {layout} | {options.batch / statistics.median(ours):.2f} | {ratio:.2f} |")
    fastest = [options.batch / min(times) for times in (theirs, ours)]
    print(f"turns: {min(ratios):.2f} to {max(ratios):.2f}; fastest: {fastest[0]:.2f} and {fastest[1]:.2f} samples/s")
    sys.stdout.flush()
    return ratio


def main() -> int:
    """Command line; returns the exit code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the comparison part by part")
    parser.add_argument("--processes", type=int, help="ours on the whole machine; default: 2 on two CPU cores or more")
    parser.add_argument("--ladder", action=argparse.BooleanOptionalAction, default=True, help="compare part by part")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also a line with torch.compile (minutes to begin)")
    parser.add_argument("--goal", type=float, default=2.0)
    options = parser.parse_args()
    on_processor = options.device == "cpu"
    if options.processes is None:
        options.processes = min(2, cores) if on_processor else 1
    together = on_processor and options.processes > 1
    if options.batch % options.processes or not (together or options.ladder):
        parser.error("--batch must be a multiple of --processes, and --no-ladder needs 2 processes or more on a CPU")
    hardware = platform.machine() if on_processor else torch.cuda.get_device_name(options.device)
    print(f"{hardware}, {cores} cores, torch {torch.__version__}, batch {options.batch}, bfloat16 autocast", flush=True)
    ratios = [whole_machine(options, cores)] if together else []
    if options.ladder:
        ratios.append(part_by_part(options))
    return 0 if ratios[0] >= options.goal else 1


if __name__ == "__main__":
    sys.exit(main())
