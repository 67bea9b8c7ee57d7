"""One process or many: the accelerator, each process's share of a step, and states that are spread over processes."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn


def open_accelerator(precision: str = "no", accumulation: int = 1, *, cpu: bool = False) -> Accelerator:
    """The accelerator of this process; ``accelerate launch`` decides how many there are and how they are joined.

    Args:
        precision: "no", "bf16" or "fp16".
        accumulation: micro-batches of a step, one after the other.
        cpu: stay on the CPU where there is a GPU.

    Raises:
        ValueError: float16 without a GPU.
    """
    if precision == "fp16" and (cpu or not torch.cuda.is_available()):
        raise ValueError(
            "precision is 'fp16', which needs a GPU, and there is none; allowed here: no, bf16. Give --precision bf16."
        )
    # One process may make several runs, each with its own precision; the group of processes stays.
    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()
    # Gradients of 1 x 1 convolutions count their strides in another way; their numbers lie the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    ddp = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulation, cpu=cpu, kwargs_handlers=[ddp]
    )
    return accelerator


def launched_sharded(accelerator: Accelerator) -> bool:
    """Whether ``accelerate launch`` was told to spread parameters (``distributed_type: FSDP``)."""
    return accelerator.distributed_type == DistributedType.FSDP


def shard(accelerator: Accelerator, predictor: nn.Module, precision: str) -> nn.Module:
    """Spread a network's parameters over all processes, block by block (torch's fully_shard, "FSDP2").

    Done here and not by accelerate, which spreads the one network that its optimiser trains: the target and the teacher
    are spread too, and gradients are added up in float32, not in bfloat16.

    Args:
        accelerator: of this process.
        predictor: with ``network``, a `UNet3D`.
        precision: that the network computes in.

    Raises:
        ValueError: float16, whose scaler does not know spread gradients.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if precision == "fp16":
        raise ValueError("precision is 'fp16' with spread parameters (FSDP); allowed: no, bf16. Give --precision bf16.")
    # Outputs that are views are changed in place nowhere here.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32,
        output_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    network = predictor.to(accelerator.device).network
    for block in (*network.input_blocks, *network.middle_block, *network.output_blocks):  # type: ignore[union-attr, misc]
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # Without the last argument the outermost part stays whole after a pass without gradient, and could not follow.
    fully_shard(predictor, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return predictor


def is_sharded(module: nn.Module) -> bool:
    """Whether a network's parameters are spread over processes."""
    return any(hasattr(p, "full_tensor") for p in module.parameters())


def average_gradients(accelerator: Accelerator | None, parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the processes in one message, for networks that are called in parts and not as one module.

    A parameter that only some processes used has no gradient in the others, which counts as zero.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=accelerator.device)
    used = accelerator.reduce(used, "sum").bool().tolist()
    for parameter, anywhere in zip(parameters, used, strict=True):
        if anywhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    found = [p.grad for p in parameters if p.grad is not None]
    flat = accelerator.reduce(torch.cat([g.flatten() for g in found]), "mean")
    for gradient, mean in zip(found, flat.split([g.numel() for g in found]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def by_one_process(make: Callable[[], object], look_every: float = 0.2) -> None:
    """Let the first of a run's processes make files, while the others wait; alone, just make them.

    The folder must be one that all of them see. The others ask the run's store how far it is and take no part in a
    collective call, so that waiting ends with the first process and not with the group's timeout.

    Args:
        make: what the first process does.
        look_every: seconds between two looks of a process that waits.

    Raises:
        Exception: what ``make`` raised, in the first process.
        RuntimeError: in the others, with the first one's message; or the first one is gone.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        make()
        return
    number = next(_turns)
    store = distributed.PrefixStore("videolcm", distributed.distributed_c10d._get_default_store())
    answer, alive = f"made{number}", f"alive{number}"
    if distributed.get_rank() == 0:
        _make_and_tell(make, store, answer, alive)
    else:
        _wait_for_first(store, answer, alive, look_every)
    distributed.barrier()


_turns = itertools.count()
_BEAT, _SILENCE = 2.0, 60.0  # seconds: how often the first process says that it lives, how long it may be silent


def _make_and_tell(make: Callable[[], object], store: Any, answer: str, alive: str) -> None:
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            store.add(alive, 1)

    store.add(alive, 1)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    said = "ok"
    try:
        make()
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        raise
    finally:
        done.set()
        thread.join()
        store.set(answer, said)


def _wait_for_first(store: Any, answer: str, alive: str, look_every: float) -> None:
    beats, heard = 0, time.monotonic()
    while not store.check([answer]):
        time.sleep(look_every)
        if (now := store.add(alive, 0)) != beats:
            beats, heard = now, time.monotonic()
        elif time.monotonic() - heard > _SILENCE:
            raise RuntimeError(
                f"the first process has been silent for {_SILENCE:.0f} seconds while the others waited for its files; "
                "look at its own message, and start the run again."
            )
    if (said := store.get(answer).decode(errors="replace")) != "ok":
        raise RuntimeError(f"the first process failed while the others waited for its files: {said}")


def share(size: int, rank: int, processes: int, accumulation: int) -> list[range]:
    """Samples of a step that a process computes, one range for each part.

    Args:
        size: of the global batch.
        rank: of the process.
        processes: how many there are.
        accumulation: parts.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """
    parts = processes * accumulation
    if size % parts:
        raise ValueError(
            f"the batch of a step is {size} samples, to be divided over {processes} processes x {accumulation} "
            f"accumulated parts; allowed: a multiple of {parts}. Change --batch, --image-batch or --accumulation."
        )
    each = size // parts
    return [range((m * processes + rank) * each, (m * processes + rank + 1) * each) for m in range(accumulation)]


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with spread tensors put together on the CPU; every process must call it."""
    return {k: v.full_tensor().cpu() if hasattr(v, "full_tensor") else v for k, v in state.items()}


def fill(module: nn.Module, state: Mapping[str, Tensor], name: str = "network") -> None:
    """Load a state into a network that may be spread over processes.

    Raises:
        ValueError: the state is of another network; the message names what differs.
    """
    check_state(module, state, name)
    if not is_sharded(module):
        module.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True))


def check_state(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Refuse a state of another network.

    Raises:
        ValueError: keys or shapes differ.
    """
    mine = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in state.items()}
    different = [k for k in mine if k in theirs and mine[k] != theirs[k]]
    missing, more = [k for k in mine if k not in theirs], [k for k in theirs if k not in mine]
    if not (different or missing or more):
        return
    told = [f"{k} is {theirs[k]}, here {mine[k]}" for k in different[:2]]
    told += [f"lacks {k}" for k in missing[:2]] + [f"has {k}" for k in more[:2]]
    raise ValueError(
        f"the checkpoint's {name} is of another network: {'; '.join(told)} ({len(different)} shapes differ, "
        f"{len(missing)} missing, {len(more)} unexpected); allowed: one of the same network. Give the teacher and "
        "options that the run began with, or another --out."
    )


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state, put together where it is spread; every process must call it."""
    if not is_sharded(module):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {"by_name": get_optimizer_state_dict(module, optimizer, options=options)}


def fill_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take back what `optimizer_state` gave.

    Raises:
        ValueError: the state is of the other kind, spread or not.
    """
    if is_sharded(module) != ("by_name" in state):
        kinds = ("spread (FSDP)", "not spread") if "by_name" in state else ("not spread", "spread (FSDP)")
        raise ValueError(
            f"the checkpoint's optimiser is {kinds[0]} and this run's is {kinds[1]}; allowed: the same kind, with any "
            "number of processes. Launch with the configuration the run began with."
        )
    if not is_sharded(module):
        optimizer.load_state_dict(dict(state))
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(module, optimizer, state["by_name"], options=options)
