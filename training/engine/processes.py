"""One process or many: the accelerator, each process's share of a step, and states that are spread over processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn


def open_accelerator(
    precision: str = "no", accumulation: int = 1, *, unused_parameters: bool = False, cpu: bool = False
) -> Accelerator:
    """The accelerator of this process; ``accelerate launch`` decides how many there are and how they are joined.

    Args:
        precision: "no", "bf16" or "fp16".
        accumulation: parts that a step's batch is computed in, one after the other.
        unused_parameters: whether a step may leave parameters without gradient (encoders of conditions).
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
    ddp = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters, gradient_as_bucket_view=True)
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


def by_one_process(make: Callable[[], object]) -> None:
    """Let the first of a run's processes make files, while the others wait; alone, just make them.

    The folder must be one that all of them see. Waiting ends after the process group's timeout: encode large data
    before the run (``python -m training.data.cache``).
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        make()
        return
    if distributed.get_rank() == 0:
        make()
    distributed.barrier()


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


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state into a network that may be spread over processes."""
    if not is_sharded(module):
        module.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True))


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
