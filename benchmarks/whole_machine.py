"""Both formulations of the distillation step on all cores of a machine, turn by turn; see ``distillation_speed.py``."""

from __future__ import annotations

import tempfile
import time
import warnings
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError

import torch
from torch import distributed, multiprocessing

from benchmarks.distillation_step import AUTHORS, OURS, Step

LONGEST = 1800.0  # seconds of a turn; a process that ended without a word is found out then


def work(rank: int, processes: int, threads: int, batch: int, turns: int, store: Path, barrier: Barrier) -> None:
    """One process of ours: joins the others, then takes its part of a step in every turn and sleeps between.

    Args:
        rank: of this process.
        processes: how many there are.
        threads: of each.
        batch: clips of each.
        turns: how many steps.
        store: file that the processes find each other by.
        barrier: of the processes and the one that measures; passed before and after each turn.
    """
    try:
        torch.set_num_threads(threads)
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        group = distributed.FileStore(str(store), processes)
        distributed.init_process_group("gloo", store=group, rank=rank, world_size=processes)
        step = Step(OURS, batch, torch.device("cpu"), together=True)
        for _ in range(turns):
            barrier.wait(LONGEST)
            step()
            barrier.wait(LONGEST)
        distributed.destroy_process_group()
    except BaseException:
        barrier.abort()
        raise


def compare(batch: int, rounds: int, cores: int, processes: int, threads: int) -> tuple[list[float], list[float]]:
    """Wall seconds of a step of a batch, in turns; the first turn is not counted.

    Args:
        batch: clips, of all processes together.
        rounds: turns that count.
        cores: threads of the one process with the authors' formulation.
        processes: of ours.
        threads: of each of them.

    Returns:
        the authors' times and ours, by turn.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    theirs, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, threads, batch // processes, rounds + 1, Path(folder) / "store", barrier)
        workers = multiprocessing.start_processes(work, arguments, processes, join=False, start_method="spawn")
        try:
            torch.set_num_threads(cores)
            step = Step(AUTHORS, batch, torch.device("cpu"))
            for _ in range(rounds + 1):
                start = time.perf_counter()
                step()
                theirs.append(time.perf_counter() - start)
                barrier.wait(LONGEST)
                start = time.perf_counter()
                barrier.wait(LONGEST)
                ours.append(time.perf_counter() - start)
        except BrokenBarrierError:
            pass  # the worker's own error follows
        except BaseException:
            barrier.abort()
            raise
        while not workers.join():
            pass
    return theirs[1:], ours[1:]
